"""The pages of the reference, made from the code: commands, events, metrics and costs, and what a user imports in Python.

A name of the Python page is the one that a user writes after `from`: the page can be searched for it. `tests/test_docs.py` finds
names that another page imports and this list leaves out.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

PYTHON: dict[str, tuple[str, tuple[str, ...]]] = {  # heading -> (a sentence, the names)
    "Search, and read what was found": (
        "Paretune as a library: run a study, load one, compare several.",
        (
            "search.run",
            "search.load",
            "search.compare",
            "search.results.saved_study.SavedStudy",
            "search.results.comparison.SideBySide",
            "search.results.sure_answer.SureAnswer",
            "search.trial.Trial",
            "search.trial.State",
        ),
    ),
    "Take an adapter home": (
        "What `paretune export-adapter` and `paretune predict` do, and how an export is loaded.",
        (
            "search.workflows.export_adapter.export_adapter",
            "search.workflows.export_adapter.Format",
            "trainables.export.adapter.load_adapter",
            "trainables.export.read_card",
            "trainables.export.Card",
            "trainables.export.predict.predict",
            "trainables.export.predict.Answer",
            "trainables.backbones.create",
        ),
    ),
    "Adapt a timm model without a search": (
        "The methods work on any supported timm model in a training loop of one's own.",
        (
            "trainables.adapters.adapt",
            "trainables.adapters.merge",
            "trainables.adapters.unmergeable",
            "trainables.adapters.remove",
            "trainables.adapters.regulariser",
            "trainables.adapters.trainable_parameters",
            "trainables.adapters.trainable_state",
            "trainables.adapters.load_trainable_state",
            "trainables.adapters.method_of",
            "trainables.adapters.peft_method",
        ),
    ),
    "Bring a method": (
        "What the file of a method of one's own imports; see [Bring your own method](../developing.md).",
        (
            "trainables.adapters.Method",
            "trainables.adapters.Layer",
            "trainables.adapters.base.zeros",
            "spaces.Space",
            "spaces.Knob",
            "spaces.shared.layers",
            "trainables.check_method",
        ),
    ),
    "Search something else": (
        "The sampler `auto` in a plain Optuna study; see [The sampler in Optuna](../optuna.md).",
        ("search.samplers.pareto_sampler.ParetoSampler", "spaces.joint", "spaces.JointSpace"),
    ),
    "Errors": (
        "Everything that a request can get wrong; the command line prints their messages.",
        (
            "search.errors.RequestError",
            "search.errors.StudyFileError",
            "search.errors.LedgerError",
            "search.errors.NoLedger",
            "search.errors.OwnedElsewhere",
            "search.errors.OutOfReach",
        ),
    ),
}
MADE = ("Format", "Layer", "Space", "Knob", "JointSpace", "ParetoSampler")  # classes of which a user makes objects


def pages() -> dict[str, Iterator[str]]:
    """Return the lines of each page of the reference, by its name."""
    return {"commands": commands(), "events": events(), "metrics": metrics(), "python": python()}


def commands() -> Iterator[str]:
    """Yield the page of the commands, from Typer."""
    import typer

    from search.cli.app import app

    yield "# Commands\n\n`paretune COMMAND --help` prints the same. Most commands print JSON with `--json`."
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        if command.hidden:
            continue
        arguments = " ".join(one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument")
        yield f"\n## {name}\n\n{command.help}\n\n    paretune {name} {arguments}\n"
        rows = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        if rows:
            yield "| option | meaning |\n|---|---|"
        for one in rows:
            yield f"| `{'`, `'.join(one.opts)}` | {_cell(one.help or '')} |"


def events() -> Iterator[str]:
    """Yield the page of the events."""
    from search.storage.events import EVENTS

    yield "# Events\n\nThe lines of a study's history, as `paretune events STUDY --json` prints them.\n"
    yield "| event | of | meaning | detail |\n|---|---|---|---|"
    for kind, spec in EVENTS.items():
        keys = [f"`{key}`" for key in spec.required] + [f"`{key}` (some)" for key in spec.optional]
        yield f"| `{kind}` | {spec.subject} | {spec.meaning} | {', '.join(keys)} |"


def metrics() -> Iterator[str]:
    """Yield the page of what epochs report: metrics that may judge a study, and costs."""
    from search.costs import COSTS, KNOWN
    from search.metrics import METRICS, MULTILABEL, TASKS
    from search.results.arrow_tables import UNITS

    yield "# Metrics and costs\n"
    yield "The first objective of a study is a metric ([Metrics](../metrics.md)), the second one a cost"
    yield "([Costs and limits](../cost.md)). Tables, `--json`, Parquet and MLflow have these names and units.\n"
    yield "| metric | meaning | better | unit | a guess among 10 classes | labels of an image |\n|---|---|---|---|---|---|"
    for key, metric in METRICS.items():
        of_one = next((task for task in metric.chances if task != MULTILABEL), None)
        guess = "" if of_one is None else metric.words(metric.guess(10, of_one))
        kinds = [TASKS[task].labels for task in metric.chances]
        better = "larger" if metric.larger_is_better else "smaller"
        yield f"| `{key}` | {metric.label} | {better} | {UNITS[key]} | {guess} | {', '.join(kinds)} |"
    yield "\n| cost | unit | known |\n|---|---|---|"
    for key in COSTS:
        known = "before training" if key in KNOWN else "when a trial has measured it"
        yield f"| `{key}` | {UNITS.get(key, 'parameters')} | {known} |"


def python() -> Iterator[str]:
    """Yield the page of what a user imports, from the docstrings."""
    import search

    yield f"# Python\n\n{_prose(search)}\n\n| to import | what it is |\n|---|---|"
    for _, names in PYTHON.values():
        for name in names:
            module, _, own = name.rpartition(".")
            yield f"| [`from {module} import {own}`](#{_anchor(name)}) | {_cell(_first_line(found(name)))} |"
    for heading, (sentence, names) in PYTHON.items():
        yield f"\n## {heading}\n\n{sentence}"
        for name in names:
            yield from _entry(name)
    yield from _methods()


def found(name: str) -> Any:
    """Return what a dotted name stands for."""
    module, _, own = name.rpartition(".")
    return getattr(import_module(module), own)


def _methods() -> Iterator[str]:
    """Yield the classes of the methods with their hyperparameters."""
    from trainables.adapters import METHODS

    yield "\n## The classes of the methods\n\n`from trainables.adapters import LoRA`, and `adapt(model, LoRA(rank=8))`. What each"
    yield "one computes is in [Methods](../methods.md).\n\n| class | in a study file | hyperparameters and their defaults |\n|---|---|---|"
    for name, kind in METHODS.items():
        fields = ", ".join(f"`{one.name}={one.default!r}`" for one in dataclasses.fields(kind))
        yield f"| `{kind.__name__}` | `{name}` | {_cell(fields)} |"


def _entry(name: str) -> Iterator[str]:
    """Yield a heading, how it is imported and called, and the docstring; for a class also its public members."""
    thing, (module, _, own) = found(name), name.rpartition(".")
    called = "" if inspect.isclass(thing) and own not in MADE else f"\n\n{_signature(own, thing)}"
    yield f"\n### {name}\n\n```python\nfrom {module} import {own}{called}\n```\n\n{_prose(thing)}\n"
    if _is_enum(thing):
        yield "".join(f"- `{member.name}`\n" for member in thing)
    elif inspect.isclass(thing):
        for key, member in vars(thing).items():
            if not key.startswith("_") and (line := _first_line(member)) and _is_member(member):
                yield f"- **`{key}{_call(member)}`**: {line}"


def _is_enum(thing: Any) -> bool:
    return inspect.isclass(thing) and hasattr(thing, "__members__")


def _is_member(member: Any) -> bool:
    return inspect.isfunction(member) or isinstance(member, property | classmethod | staticmethod)


def _call(member: Any) -> str:
    """Return the parameters of a method by name, in parentheses; nothing for a property."""
    if isinstance(member, property):
        return ""
    names = [one for one in inspect.signature(getattr(member, "__func__", member)).parameters if one not in ("self", "cls")]
    return f"({', '.join(names)})"


class _Annotation(str):
    """An annotation that is shown without quotation marks."""

    __slots__ = ()
    __repr__ = str.__str__


def _signature(name: str, thing: Any) -> str:
    """Return a signature as it is written, on several lines if it is long."""
    signature = inspect.signature(thing)
    parts = [one.replace(annotation=_plain(one.annotation)) for one in signature.parameters.values()]
    returned = signature.replace(parameters=parts, return_annotation=_plain(signature.return_annotation))
    if inspect.isclass(thing):
        returned = returned.replace(return_annotation=inspect.Signature.empty)
    line = f"{name}{returned}".replace("<factory>", "...")
    if len(line) <= 90:
        return line
    after = "" if returned.return_annotation is inspect.Signature.empty else f" -> {returned.return_annotation}"
    shown, keyword_only = [], False
    for one in parts:
        if one.kind is inspect.Parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            shown.append("*")
        shown.append(str(one))
    return f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){after}"


def _plain(annotation: Any) -> Any:
    return _Annotation(annotation) if isinstance(annotation, str) else annotation


def _prose(thing: Any) -> str:
    """Return a docstring as Markdown: its sections as bold words with lists."""
    text = re.sub(r"^(Args|Returns|Raises|Attributes):$", r"\n**\1**\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    text = re.sub(r"^    (\S[\w., ]*): ", r"- `\1`: ", text, flags=re.MULTILINE)
    return re.sub(r"\n        +", " ", text)


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _anchor(heading: str) -> str:
    """Return the anchor that the site gives a heading."""
    return re.sub(r"[^\w\s-]", "", heading).strip().lower()
