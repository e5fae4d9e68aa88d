"""The text form of a study: tables and Markdown. Plots are in `front_plot`, Parquet in `arrow_tables`, JSON in `as_json`.

Every function shows trials that its caller has read from the ledger. This module needs neither torch nor Ray nor MLflow; the
functions that print import rich.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.front import beside, front, judged_by
from search.results.arrow_tables import UNITS
from search.results.noise import standard_error
from search.results.words import METHOD_NAMES, describe_knobs, format_quantity, telling_apart
from search.trial import Trial

if TYPE_CHECKING:
    from rich.table import Table


# -- words -------------------------------------------------------------------------------------------------------------


# -- tables ------------------------------------------------------------------------------------------------------------
TABLE_WIDTH = 100  # terminal columns; a wider row would be hard to follow


def front_table(
    trials: Iterable[Trial],
    *,
    title: str | None = None,
    odds: Mapping[int, float] | None = None,
    n_validation: int | None = None,
) -> Table:
    """Return the front, smallest member first, for a terminal. At 80 columns nothing wraps: the knobs are cut instead.

    If members were trained again, the table has their standard errors and their runs.

    Args:
        trials: Trials of a study; only members of the front are shown.
        title: Title of the table.
        odds: Probability that a trial is truly on the front, by its number; shown if there are any.
        n_validation: Number of images that accuracies were measured on.
    """
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
    against, repeated = _against(members), any(trial.runs for trial in members)
    for key in against:
        table.add_column(key, **_RIGHT)
    watched = _watched(members)
    further = [*(("±", "runs") if repeated else ()), *watched, *(["P(front)"] if odds else [])]
    for heading in (judged_by(members).heading, *further):
        table.add_column(heading, **_RIGHT)
    for trial in members:
        sizes = (f"{trial.adapter_params:,}", f"{trial.head_params:,}", *(format_quantity(trial.cost(key)) for key in against))
        runs = (_spread(trial, n_validation), n_runs(trial)) if repeated else ()
        numbers = (*sizes, trial.metric.format(trial.quality), *runs, *_watched_cells(trial, watched))
        table.add_row(f"{trial.number:04d}", trial.method, describe_knobs(trial), *numbers, *_odds_cell(trial, odds))
    return table


def n_runs(trial: Trial) -> str:
    """Return how many runs of a trial are complete: `3`, or `3 of 5` folds."""
    done = len(trial.values) if trial.is_complete else 0
    return f"{done}" if trial.n_folds is None else f"{done} of {trial.n_folds}"


def _spread(trial: Trial, n_validation: int | None) -> str:
    error = standard_error(trial, n_validation)
    return "" if error is None else trial.metric.format(error)


def _odds_cell(trial: Trial, odds: Mapping[int, float] | None) -> list[str]:
    if not odds:
        return []
    return [f"{odds[trial.number]:.2f}" if trial.number in odds else ""]


def _against(trials: Sequence[Trial]) -> list[str]:
    """Return the second objective, if it has no column already."""
    return [trial.against for trial in trials[:1] if trial.against not in ("adapter_params", "head_params")]


def _watched(trials: Sequence[Trial]) -> list[str]:
    """Return the names of the watched data sets on which some of the trials were scored."""
    return sorted({name for trial in trials for name in trial.metric.on_watched(trial.metrics)})


def _watched_cells(trial: Trial, names: Sequence[str]) -> list[str]:
    scores = trial.metric.on_watched(trial.metrics)
    return [trial.metric.format(scores[name]) if name in scores else "" for name in names]


def extended_table(trials: Iterable[Trial]) -> Table:
    """Return the extended trials, whose epochs exceed the budget's, so that they are not compared with the front."""
    table = _table("Extended trials (not compared with the front)")
    for heading, options in (("trial", _RIGHT), ("extends", _RIGHT), ("method", _LEFT), ("knobs", _CUT), ("epochs", _RIGHT)):
        table.add_column(heading, **options)
    table.add_column("adapter", **_RIGHT)
    longer = beside(trials)
    table.add_column(judged_by(longer).heading, **_RIGHT)
    for trial in longer:
        numbers = (str(trial.epochs), f"{trial.adapter_params:,}", trial.metric.format(trial.quality))
        table.add_row(f"{trial.number:04d}", f"{trial.extends:04d}", trial.method, describe_knobs(trial), *numbers)
    return table


def trials_table(trials: Sequence[Trial], members: Collection[int]) -> Table:
    """Return trials in the given order; those whose numbers are among `members` of the front are marked by a star.

    The knobs that tell the trials of a method apart come first, because a narrow terminal cuts the last ones.
    """
    table = _table(None)
    first = {method: telling_apart([trial for trial in trials if trial.method == method]) for method in {t.method for t in trials}}
    for heading, options in (("trial", _LEFT), ("state", _LEFT), ("method", _LEFT), ("knobs", _CUT), ("epoch", _RIGHT)):
        table.add_column(heading, **options)
    table.add_column("adapter", **_RIGHT)
    table.add_column(judged_by(trials).heading.removeprefix("val/"), **_RIGHT)
    if repeated := any(trial.runs for trial in trials):
        table.add_column("runs", **_RIGHT)
    for trial in trials:
        number = f"{trial.number:04d}{'*' if trial.number in members else ''}"
        shown = trial.metric.format(trial.quality) if math.isfinite(trial.quality) else ""
        knobs = describe_knobs(trial, first[trial.method])
        numbers = (str(trial.epochs), f"{trial.adapter_params:,}", shown, *((n_runs(trial),) if repeated else ()))
        table.add_row(number, trial.state, trial.method, knobs, *numbers)
    return table


def numbers_table(names: Sequence[str], n_words: int) -> Table:
    """Return a table without rules whose first columns hold words and the others numbers.

    No heading and no number is cut at 80 columns: the words of a first column continue on the next line instead.

    Args:
        names: Headings of the columns; a space may break one.
        n_words: Number of the first columns, which hold words; the last of these is a method or a state.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False, collapse_padding=True)
    for name in names[: n_words - 1]:
        table.add_column(name, overflow="fold")
    table.add_column(names[n_words - 1], no_wrap=True)
    for name in names[n_words:]:
        table.add_column(name.replace(" ", "\n"), justify="right", no_wrap=True, vertical="bottom")
    return table


_LEFT: dict[str, Any] = {"no_wrap": True}
_RIGHT: dict[str, Any] = {"no_wrap": True, "justify": "right"}
_CUT: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis", "min_width": 8, "ratio": 1}


def _table(title: str | None) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, expand=True)


def front_markdown(
    trials: Iterable[Trial], *, links: Mapping[int, str] | None = None, odds: Mapping[int, float] | None = None
) -> str:
    """Return the front as a Markdown table, smallest member first.

    Args:
        trials: Trials of a study; only members of the front are shown.
        links: Address of some trials, whose number becomes a link.
        odds: Probability that a trial is truly on the front, by its number; shown if there are any.
    """
    members = front(trials)
    against, watched = _against(members), _watched(members)
    headings = [*against, judged_by(members).key, *watched, *(["P(front)"] if odds else [])]
    lines = [
        "".join(["| trial | method | knobs | adapter | head |", *(f" {heading} |" for heading in headings)]),
        "".join(["|:--|:--|:--|--:|--:|", *("--:|" for _ in headings)]),
    ]
    for trial in members:
        label = f"{trial.number:04d}"
        if links and trial.number in links:
            label = f"[{label}]({links[trial.number]})"
        name = METHOD_NAMES.get(trial.method, trial.method)
        sizes = [f"{trial.adapter_params:,}", f"{trial.head_params:,}", *(format_quantity(trial.cost(key)) for key in against)]
        scores = [trial.metric.words(trial.quality), *_watched_cells(trial, watched), *_odds_cell(trial, odds)]
        lines.append("| " + " | ".join([label, name, describe_knobs(trial), *sizes, *scores]) + " |")
    return "\n".join(lines)


def front_html(trials: Iterable[Trial]) -> str:
    """Return the front as an HTML table, smallest member first."""
    import html

    rows, members = [], front(trials)
    watched = _watched(members)
    for trial in members:
        name = METHOD_NAMES.get(trial.method, trial.method)
        sizes = (f"{trial.adapter_params:,}", f"{trial.head_params:,}", trial.metric.words(trial.quality))
        rows.append((f"{trial.number:04d}", name, describe_knobs(trial), *sizes, *_watched_cells(trial, watched)))
    heads = ("trial", "method", "knobs", "adapter", "head", judged_by(members).key, *map(html.escape, watched))
    lines = ["".join(f"<th>{head}</th>" for head in heads)]
    lines += ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"


def costs(metrics: Mapping[str, float]) -> list[tuple[str, str]]:
    """Return the costs of a trial's last epoch, each as (metric, value with its unit)."""
    found = {key: value for key, value in metrics.items() if key.startswith("cost/")}
    return [(key, _with_unit(value, UNITS.get(key, ""))) for key, value in found.items()]


def _with_unit(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / 2**30:.2f} GiB"
    return f"{format_quantity(value)} {unit}".rstrip()


# -- JSON --------------------------------------------------------------------------------------------------------------
