"""Writes docs/papers.md from the protocols in search/protocols. A test keeps the page current.

python docs/make_papers.py
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

import spaces
from search.config.protocols import Protocol, Row, packaged_names, protocol
from search.results.words import format_value

COLUMNS = 100
PAGE = Path(__file__).parent / "papers.md"
INTRODUCTION = """# Published numbers and their recipes

Every table of VTAB-1k on ViT-B/16 rests on a recipe: weights, normalisation, schedule, what is decayed, how the head begins, and what \
selects. The recipes differ by as much as the methods: ImageNet's normalisation instead of raw pixels is worth about 1.8 points \
with LoRA, AugReg's weights instead of the original ones 0.6 to 1.0, the best test epoch instead of the last 0.3 to 0.8; methods differ \
by 0.2 to 1.5. So a number is valid only beside others of its recipe.

A study or suite follows a recipe with one key, `protocol: adapter_plus`. What the study file says itself comes first, and `paretune \
validate` prints the differences. What a protocol sets becomes part of the study, which goes on as it began. The numbers below are the \
papers'; none of them has been measured again with Paretune.

Three things are the same under every protocol here. The last epoch counts, and not the best one. Validation images choose, and only \
`--finalize` sees test images, after the choice. A last incomplete batch is dropped.

Some of the papers also adapt diffusion models and language models: Serial LoRA generates images, and Lily also answers questions of \
common sense and generates images. A trial of these takes hours of a large GPU, and its metric is another network's opinion or a benchmark \
of text, so they are out of scope: no data set, loss or metric of theirs is here, and none of their numbers can be compared with ours. \
What there is: the layers of PEFT that [the bridge](peft.md) offers, among them `peft.lora` and `peft.lily`, are PEFT's own, which PEFT \
puts on such models without Paretune (Serial LoRA is not among them; ours is written for the linears of a Vision Transformer); and \
[the sampler](optuna.md) searches their ranks and rates in an Optuna study of your own, against the number of parameters. Segmentation, \
on which Serial LoRA is shown, too, is [a task](segmentation.md)."""


def page() -> str:
    """Return the text of docs/papers.md."""
    known = {name: protocol(name) for name in packaged_names()}
    title, *paragraphs = INTRODUCTION.split("\n\n")
    wrapped = [textwrap.fill(paragraph, COLUMNS, break_on_hyphens=False) for paragraph in paragraphs]
    sections = (section for name, found in known.items() for section in _sections(name, found))
    return "\n\n".join([title, *wrapped, "\n".join(_overview(known)), *sections]) + "\n"


def _overview(known: Mapping[str, Protocol]) -> Iterator[str]:
    yield "| row | mean of groups | mean of tasks | protocol | normalisation | learning rate | selected by |"
    yield "|---|---|---|---|---|---|---|"
    rows = [(row, name, found) for name, found in known.items() for row in found.published]
    for row, name, found in sorted(rows, key=lambda entry: -(entry[0].groups or 0)):
        optimiser = found.settings["recipe"].get("optimizer", "adamw")
        rate = found.settings["space"]["optim.lr"]
        rates = f"{optimiser}, {format_value(rate)}" if isinstance(rate, float) else f"{optimiser}, a grid"
        means = f"{_number(row.groups)} | {_number(row.tasks)}"
        yield f"| {row.row} | {means} | `{name}` | {found.settings['data']['normalize']} | {rates} | {found.selected_by} |"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _sections(name: str, found: Protocol) -> Iterator[str]:
    yield f"## `{name}`: {found.title}"
    yield f"{found.source}."
    yield "\n".join(["| key | value |", "|---|---|", *_recipe(found.settings)])
    yield textwrap.fill(f"The published accuracy is of {found.selection}.", COLUMNS, break_on_hyphens=False)
    if found.differs:
        yield "Still different here:\n\n" + "\n".join(_item(sentence) for sentence in found.differs)
    for row in found.published:
        yield f"**{row.row}**, {_means(row)}:"
        yield "\n".join(["```", *command(name, row, found), "```"])


def _means(row: Row) -> str:
    told = ((row.groups, "mean of the groups"), (row.tasks, "mean of the tasks"))
    return ", ".join(f"{_number(mean)} % {words}" for mean, words in told if mean is not None)


def _recipe(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for section, values in settings.items():
        for key, value in values.items():
            if value is not None:
                yield f"| `{section}.{key}` | {format_value(value)} |"


def _item(sentence: str) -> str:
    return textwrap.fill(sentence, COLUMNS, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)


def command(name: str, row: Row, found: Protocol) -> list[str]:
    """Return the lines of the command that searches the grid of a row, and retrains and tests what it found.

    Knobs that neither the row nor the protocol names have the paper's defaults.
    """
    open_knobs = {key: value for key, value in found.settings["space"].items() if isinstance(value, list)}
    own = {knob.key: row.space.get(knob.key, open_knobs.get(knob.key, knob.default)) for knob in spaces.space_of(row.method).knobs}
    written = yaml.safe_dump(own, default_flow_style=True, width=10_000, sort_keys=False).strip()
    written = textwrap.fill(written, COLUMNS - len("  --set 'space=' \\"), subsequent_indent="    ", break_on_hyphens=False)
    shared = [value for key, value in open_knobs.items() if key.partition(".")[0] in ("optim", "recipe")]
    n_points = math.prod(len(value) for value in [*own.values(), *shared] if isinstance(value, list))
    sets = [
        f"protocol={name}",
        f"'methods=[{row.method}]'",
        f"'space={written}'",
        "'search={sampler: grid}'",
        f"'budget={{n_trials: {n_points + 1}}}'",  # and head-only
    ]
    first, *others = (f"--set {part}" for part in sets)
    return [
        f"paretune suite vtab1k --root DATA --finalize 3 {first} \\",
        *(f"  {part} \\" for part in others[:-1]),
        f"  {others[-1]}",
    ]


if __name__ == "__main__":
    PAGE.write_text(page())
