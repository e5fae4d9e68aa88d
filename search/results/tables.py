"""Showing a study in words and numbers: tables, Markdown and JSON. Pictures are in `front_plot`, Parquet in `arrow_tables`.

Every function is a view of trials that somebody else read from the ledger. Nothing here needs torch, Ray or MLflow; rich is
imported by the functions that print.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.front import beside, front, hypervolume
from search.results.arrow_tables import UNITS
from search.trial import Trial

if TYPE_CHECKING:
    from rich.table import Table

    from search.storage.reader import StudyRecord

# -- words -------------------------------------------------------------------------------------------------------------

METHOD_NAMES = {
    "head_only": "head only",
    "lora": "LoRA",
    "arc": "ARC",
    "lily": "Lily",
    "snell": "SNELL",
    "clora": "CLoRA",
    "serial_lora": "Serial LoRA",
    "heart_lora": "Heart-LoRA",
    "householder": "Householder",
    "fact": "FacT",
    "randlora": "RandLoRA",
    "adaptformer": "AdaptFormer",
    "bitfit": "BitFit",
    "full": "full fine-tuning",
}

_SHORT = {
    "rank": "r",
    "n_experts": "e",
    "extra_rank": "+",
    "n_spaces": "k",
    "temperature": "T=",
    "scale": "s=",
    "dropout": "drop=",
}


def knobs(trial: Trial) -> str:
    """A configuration in a few words, what decides its size first: `r8 e4 kv_mlp last-2 lr=1e-3 s=10`."""
    own = {k.removeprefix(f"{trial.method}."): v for k, v in trial.config.items() if k.startswith(f"{trial.method}.")}
    words = [f"{_SHORT[key]}{_number(own.pop(key))}" for key in ("rank", "extra_rank", "n_experts", "n_spaces") if key in own]
    words += [str(own.pop(key)) for key in ("targets", "position", "level", "layers") if key in own]
    if (lr := trial.config.get("optim.lr")) is not None:
        words.append(f"lr={_number(lr)}")
    return " ".join(words + [f"{_SHORT.get(key, key + '=')}{_number(value)}" for key, value in own.items()])


def percent(top1: float) -> str:
    """A fraction in percent, two decimals: one validation image of 800 is 0.125."""
    return f"{100 * top1:.2f}"


def _number(value: object) -> str:
    if not isinstance(value, float) or value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


# -- tables ------------------------------------------------------------------------------------------------------------


TABLE_WIDTH = 100  # columns of a terminal; across more a row would be hard to follow


def front_table(trials: Iterable[Trial], *, title: str | None = None) -> Table:
    """The front, smallest member first, for a terminal. At 80 columns nothing wraps: the knobs are cut instead."""
    table = _table(title)
    for heading, options in (
        ("trial", _RIGHT),
        ("method", _LEFT),
        ("knobs", _CUT),
        ("adapter", _RIGHT),
        ("head", _RIGHT),
    ):
        table.add_column(heading, **options)
    members = front(trials)
    against = _against(members)
    for key in against:
        table.add_column(key, **_RIGHT)
    table.add_column("val/top1 %", **_RIGHT)
    for trial in members:
        sizes = (f"{trial.adapter_params:,}", f"{trial.head_params:,}", *(quantity(trial.cost(key)) for key in against))
        numbers = (*sizes, percent(trial.metrics["val/top1"]))
        table.add_row(f"{trial.number:04d}", trial.method, knobs(trial), *numbers)
    return table


def _against(trials: Sequence[Trial]) -> list[str]:
    """What accuracy is weighed against, where that has no column already."""
    return [trial.against for trial in trials[:1] if trial.against not in ("adapter_params", "head_params")]


def quantity(value: float) -> str:
    """A cost, to four digits or the whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def extended_table(trials: Iterable[Trial]) -> Table:
    """The trials beside the front: with more epochs than the budget's, and therefore not compared with it."""
    table = _table("Beside the front: extended trials")
    for heading, options in (("trial", _RIGHT), ("extends", _RIGHT), ("method", _LEFT), ("knobs", _CUT), ("epochs", _RIGHT)):
        table.add_column(heading, **options)
    table.add_column("adapter", **_RIGHT)
    table.add_column("val/top1 %", **_RIGHT)
    for trial in beside(trials):
        numbers = (str(trial.epochs), f"{trial.adapter_params:,}", percent(trial.metrics["val/top1"]))
        table.add_row(f"{trial.number:04d}", f"{trial.extends:04d}", trial.method, knobs(trial), *numbers)
    return table


def trials_table(trials: Sequence[Trial], *, title: str | None = None) -> Table:
    """All trials in the order of their numbers, members of the front marked with a star."""
    members = {trial.number for trial in front(trials)}
    table = _table(title)
    for heading, options in (("trial", _LEFT), ("state", _LEFT), ("method", _LEFT), ("knobs", _CUT), ("epoch", _RIGHT)):
        table.add_column(heading, **options)
    table.add_column("adapter", **_RIGHT)
    table.add_column("top1 %", **_RIGHT)
    for trial in trials:
        top1 = trial.metrics.get("val/top1", math.nan)
        number = f"{trial.number:04d}{'*' if trial.number in members else ''}"
        shown = percent(top1) if math.isfinite(top1) else ""
        table.add_row(number, trial.state, trial.method, knobs(trial), str(trial.epochs), f"{trial.adapter_params:,}", shown)
    return table


_LEFT: dict[str, Any] = {"no_wrap": True}
_RIGHT: dict[str, Any] = {"no_wrap": True, "justify": "right"}
_CUT: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis", "min_width": 8, "ratio": 1}


def _table(title: str | None) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, expand=True)


def front_markdown(trials: Iterable[Trial], *, links: Mapping[int, str] | None = None) -> str:
    """The front as a Markdown table, smallest member first.

    Args:
        trials: Any trials; members of the front are shown.
        links: Trial number to address: such a trial's number becomes a link.
    """
    members = front(trials)
    against = _against(members)
    lines = [
        "".join(["| trial | method | knobs | adapter | head |", *(f" {key} |" for key in against), " val/top1 |"]),
        "".join(["|:--|:--|:--|--:|--:|", *("--:|" for _ in against), "--:|"]),
    ]
    for trial in members:
        label = f"{trial.number:04d}"
        if links and trial.number in links:
            label = f"[{label}]({links[trial.number]})"
        top1 = f"{percent(trial.metrics['val/top1'])} %"
        name = METHOD_NAMES.get(trial.method, trial.method)
        sizes = [f"{trial.adapter_params:,}", f"{trial.head_params:,}", *(quantity(trial.cost(key)) for key in against)]
        lines.append("| " + " | ".join([label, name, knobs(trial), *sizes, top1]) + " |")
    return "\n".join(lines)


def front_html(trials: Iterable[Trial]) -> str:
    """The front as an HTML table, smallest member first."""
    import html

    rows = []
    for trial in front(trials):
        name = METHOD_NAMES.get(trial.method, trial.method)
        sizes = (f"{trial.adapter_params:,}", f"{trial.head_params:,}", f"{percent(trial.metrics['val/top1'])} %")
        rows.append((f"{trial.number:04d}", name, knobs(trial), *sizes))
    heads = ("trial", "method", "knobs", "adapter", "head", "val/top1")
    lines = ["".join(f"<th>{head}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def costs(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """What a trial's last epoch cost, each as (metric, value with its unit)."""
    found = {key: value for key, value in metrics.items() if key.startswith("cost/")}
    return [(key, f"{quantity(value)} {UNITS.get(key, '')}".rstrip()) for key, value in found.items()]


# -- JSON --------------------------------------------------------------------------------------------------------------


def trial_json(trial: Trial) -> dict[str, Any]:
    """One trial as plain JSON values (NaN is null). Others build on these fields: more may be added, these stay."""
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "method": trial.method,
        "config": dict(trial.config),
        "epochs": trial.epochs,
        "rung": trial.rung,
        "reason": trial.reason,
        "n_attempts": trial.n_attempts,
        "extends": trial.extends,
        "adapter_params": trial.adapter_params,
        "head_params": trial.head_params,
        "metrics": {key: value if math.isfinite(value) else None for key, value in trial.metrics.items()},
    }


def front_json(study: StudyRecord, trials: Sequence[Trial]) -> dict[str, Any]:
    """The front as plain JSON values: `reference_point` [top1, params], `members` as `trial_json`, smallest first."""
    reference_point = reference(study)
    return {
        "study": study.name,
        "objectives": list(study.file.get("objectives", ("val/top1", "adapter_params"))),
        "reference_point": list(reference_point),
        "hypervolume": hypervolume(trials, reference_point),
        "members": [trial_json(trial) for trial in front(trials)],
        "extended": [trial_json(trial) for trial in beside(trials)],
    }


def limits_in_words(study: StudyRecord) -> str:
    """`adapters up to 50,000 parameters, cost/gflops up to 1.2`."""
    others = [f"{key} up to {value:,.6g}" for key, value in study.budget.get("limits", {}).items()]
    return ", ".join([f"adapters up to {int(study.facts['max_params']):,} parameters", *others])


def reference(study: StudyRecord) -> tuple[float, float]:
    """(chance level, largest size that is wanted): the study's reference point, fixed when it was made."""
    top1, params = study.facts["reference_point"]
    return float(top1), float(params)


def n_validation(study: StudyRecord) -> int | None:
    """Images that the study's accuracies were measured on; None where that is not known, or they are exact."""
    known: int | None = study.facts.get("n_validation")
    return known
