"""Commands that read a study: its front, its trials, its events. None needs torch or Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.constrain import Constrain
from rich.table import Table
from rich.text import Text

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, TrialNumber, folder_of, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from search.results.growth import Growth
    from search.results.overview import Overview
    from search.results.saved_study import SavedStudy
    from search.storage.rows import Report
    from search.trial import Trial

app = typer.Typer()
Sort = Literal["number", "accuracy", "size"]


@app.command()
def front(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    *,
    at: Annotated[float | None, typer.Option(metavar="SIZE", min=0, help="Only the best member of at most this size.")] = None,
    growth: Annotated[bool, typer.Option("--growth", help="Also how the hypervolume grew: over epochs and trained hours.")] = False,
    as_json: Json = False,
) -> None:
    """Print the Pareto front of a study; the size is the number of adapter parameters, or the study's other cost."""
    from search.errors import RequestError
    from search.results.as_json import front_json
    from search.results.overview import overview

    found = overview(folder_of(study, storage))
    if at is not None:
        small = [member for member in found.members if member.size <= at]
        if not small:
            smallest = f"; its smallest member has {found.members[0].size:,.6g}" if found.members else ""
            raise RequestError(f"--at {at:,.6g}: the front of {found.row.name} has no member of at most this size{smallest}")
        found = replace(found, members=(small[-1],), extended=())  # the largest of these is the most accurate
    grown = _growth(folder_of(study, storage), found.row.facts.reference_point) if growth else None
    if as_json:
        more = {} if grown is None else {"growth": [one.as_json() for one in grown]}
        print_json(front_json(found.row, [*found.members, *found.extended], _p_front(found)) | more)
        return
    show_front(found, _p_front(found))
    if grown:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("hypervolume", "trials ended", "epochs", "trained hours"):
            table.add_column(name, justify="right")
        for one in grown:
            hours = one.spent("hours")
            table.add_row(f"{one.hypervolume:.4f}", f"{one.trials:,}", f"{one.epochs:,}", "-" if hours is None else f"{hours:,.3f}")
        Terminal().print(table)


def _p_front(study: Overview) -> dict[int, float]:
    """Return the probability that a trial is truly on the front, by its number; it takes all trials of the study, and no epochs."""
    from search.results.belief import odds_of
    from search.storage.sql_ledger import open_ledger

    if not study.members:
        return {}
    with open_ledger(study.folder) as ledger:
        return odds_of(study.row, ledger.trials())


def _growth(folder: Path, reference_point: tuple[float, float]) -> list[Growth]:
    """Read the steps of the hypervolume of a study, which takes all its epochs."""
    from search.results.growth import growth, steps_of
    from search.storage.sql_ledger import open_ledger

    with open_ledger(folder) as ledger:
        return steps_of(growth(ledger.trials(), ledger.reports(), reference_point))


@app.command()
def events(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Print everything that happened in a study, in order: when, who, what, why."""
    from datetime import datetime

    from search.storage.sql_ledger import open_ledger

    with open_ledger(folder_of(study, storage)) as ledger:
        history = ledger.events()
    if as_json:
        print_json([vars(event) for event in history])
        return
    console = Terminal(soft_wrap=True)
    for event in history:
        when = datetime.fromtimestamp(event.time).isoformat(" ", "seconds")
        trial = "" if event.trial is None else f"{event.trial:04d}"
        why = ", ".join(f"{key} {value}" for key, value in event.detail.items())
        console.print(f"{when}  {event.kind:<10} {trial:<4}  {why or '-'}  ({event.who})")


@app.command()
def trials(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    *,
    top: Annotated[int | None, typer.Option(metavar="N", min=1, help="Only the N most accurate complete trials.")] = None,
    method: Annotated[str | None, typer.Option(help="Only trials of this method.")] = None,
    sort: Annotated[
        Sort, typer.Option(help="Order: by number, accuracy (the best first), or size (the smallest first).")
    ] = "number",
    rejected: Annotated[bool, typer.Option("--rejected", help="List configurations rejected before training, and why.")] = False,
    as_json: Json = False,
) -> None:
    """List the trials of a study."""
    from search.errors import RequestError
    from search.results import tables
    from search.results.as_json import trial_json

    if rejected:
        _show_rejections(folder_of(study, storage), as_json=as_json)
        return
    if top is None:
        from search.results.saved_study import load

        saved = load(folder_of(study, storage))
        history, members = list(saved.history), {trial.number for trial in saved.members}
    else:
        from search.results.overview import best
        from search.storage.sql_ledger import open_ledger

        with open_ledger(folder_of(study, storage)) as ledger:
            history, members = best(ledger, top, method=method)
    if method is not None:
        history = [trial for trial in history if trial.method == method]
        if not history:
            raise RequestError(f"--method {method}: study {folder_of(study, storage).name} has no trial of this method")
    if sort != "number":
        history.sort(key=lambda trial: trial.size if sort == "size" else _worst_last(trial))
    if as_json:
        print_json([trial_json(trial) for trial in history])
    else:
        Terminal().print(Constrain(tables.trials_table(history, members), tables.TABLE_WIDTH))


def _worst_last(trial: Trial) -> float:
    score = trial.objectives[0]
    return -score if math.isfinite(score) else math.inf


@app.command()
def show(
    study: StudyName,
    trial: TrialNumber,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show one trial: configuration, metrics per epoch, history."""
    from search.metrics import METRICS
    from search.results import tables
    from search.results.as_json import trial_json
    from search.results.noise import standard_error
    from search.results.words import format_value, sparkline

    one, reports, n_validation = _read_trial(folder_of(study, storage), trial)
    if as_json:
        history = [{"epoch": r.epoch, "metrics": dict(r.metrics)} for r in reports]
        print_json(trial_json(one) | {"reports": history})
        return
    console = Terminal()
    console.print(Text(one.label, style="bold"), f" {one.state}" + (f": {one.reason}" if one.reason else ""))
    facts = Table(box=None, show_header=False)
    for key, value in one.config.items():
        facts.add_row(key, format_value(value))
    facts.add_row("adapter_params", f"{one.adapter_params:,}")
    facts.add_row("head_params", f"{one.head_params:,}")
    for key, value in tables.costs(one.metrics):
        facts.add_row(key, value)
    if one.runs:
        error = standard_error(one, n_validation)
        facts.add_row(one.objective, one.metric.words(one.quality) + ("" if error is None else f" ± {one.metric.format(error)}"))
        facts.add_row("runs", f"{tables.n_runs(one)} ({', '.join(map(one.metric.format, one.values))})")
    console.print(facts)
    keys = [key for key in (reports[-1].metrics if reports else {}) if not key.startswith("cost/")]
    curve = Table("epoch", *(METRICS[key].heading if key in METRICS else key for key in keys), box=None)
    for r in reports:
        curve.add_row(str(r.epoch), *(METRICS[k].format(r.metrics[k]) if k in METRICS else f"{r.metrics[k]:.4f}" for k in keys))
    console.print(curve)
    if len(reports) > 1 and one.objective in keys:
        console.print(f"{one.objective}  {sparkline([r.metrics[one.objective] for r in reports])}", style="dim")


def _read_trial(folder: Path, number: int) -> tuple[Trial, list[Report], int | None]:
    """Read one trial, with costs measured after its end, its epochs, and the number of images that they were measured on.

    Raises:
        RequestError: If the study has no such trial.
    """
    from search.errors import RequestError
    from search.results.study_state import with_measured
    from search.storage.events import EventKind
    from search.storage.sql_ledger import open_ledger
    from search.trial import no_trial

    with open_ledger(folder) as ledger:
        if not (found := ledger.trials([number])):
            raise RequestError(no_trial(number, ledger.counts().n_trials, f"study {ledger.study().name}"))
        [one] = with_measured(found, ledger.events(kinds=[EventKind.MEASURED]))
        return one, ledger.reports(trial=number), ledger.study().facts.n_validation


def _show_rejections(folder: Path, *, as_json: bool) -> None:
    from search.storage.events import EventKind
    from search.storage.sql_ledger import open_ledger

    with open_ledger(folder) as ledger:
        rejections = [event.detail for event in ledger.events(kinds=[EventKind.REJECTED])]
    if as_json:
        print_json([{"config": detail["config"], "reason": detail["reason"]} for detail in rejections])
        return
    if not rejections:
        Terminal().print("No configuration was rejected.")
        return
    table = Table("configuration", "reason", box=None)
    for detail in rejections:
        table.add_row(" ".join(f"{key}={value}" for key, value in detail["config"].items()), detail["reason"])
    Terminal().print(table)


def show_front(study: Overview | SavedStudy, odds: Mapping[int, float] | None = None) -> None:
    """Print the front as a table, with the probability that a member is truly on it if it is known, and the extended trials."""
    from search.results import tables, words

    console = Terminal()
    if not study.members:
        console.print("No trial is complete: the front is empty.")
        return
    table = tables.front_table(study.members, odds=odds, n_validation=study.row.facts.n_validation)
    console.print(Constrain(table, tables.TABLE_WIDTH))
    if study.extended:
        console.print(Constrain(tables.extended_table(study.extended), tables.TABLE_WIDTH))
    console.print(f"Hypervolume {study.hypervolume:.4f}", style="dim")
    if odds:
        console.print("P(front): probability that no trial of its size or smaller is truly better.", style="dim")
    if study.ended:
        console.print(words.format_end(study.row.budget["n_trials"], study.ended), soft_wrap=True)


def _show_places(study: SavedStudy) -> None:
    from search.storage.location import ledger_in
    from search.workflows import collect_checkpoints

    where = Table.grid(padding=(0, 2))
    for what, name in (
        ("picture", "front.png"),
        ("tables", "front.parquet"),
        ("", "trials.parquet"),
        ("ledger", ledger_in(study.folder).name),
        ("log", "paretune.log"),
    ):
        if (study.folder / name).exists():
            where.add_row(what, str(study.folder / name))
    checkpoints = collect_checkpoints.collect(study.folder, dry_run=True)
    spare = f"; `paretune gc` frees {collect_checkpoints.mebibytes(checkpoints.freed_bytes)}" if checkpoints.trials else ""
    where.add_row("checkpoints", f"{collect_checkpoints.mebibytes(checkpoints.freed_bytes + checkpoints.kept_bytes)}{spare}")
    where.add_row("MLflow", f"paretune ui {study.name} --storage {study.folder.parent}")
    Terminal(soft_wrap=True).print(where)
