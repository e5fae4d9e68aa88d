"""The commands that read a study: its front, its trials, what happened to it. Only `export-adapter` needs torch, none needs Ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.constrain import Constrain
from rich.table import Table

from search.cli import run
from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, TrialNumber, complain, folder_of, print_json

if TYPE_CHECKING:
    from search.results.saved_study import SavedStudy

app = typer.Typer()


@app.command()
def front(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Print the Pareto front of a study."""
    from search.results import tables

    saved = _load(study, storage)
    if as_json:
        print_json(tables.front_json(saved.record, saved.history))
    else:
        run.show_front(saved)


@app.command()
def events(study: StudyName, storage: Storage = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Print everything that happened in a study, in order: when, who, what, why."""
    from datetime import datetime

    from search.storage.ledger import Ledger
    from search.storage.location import ledger_in

    history = Ledger.open(ledger_in(folder_of(study, storage))).events()
    if as_json:
        print_json([vars(event) for event in history])
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    for event in history:
        when = datetime.fromtimestamp(event.time).isoformat(" ", "seconds")
        trial = "" if event.trial is None else f"{event.trial:04d}"
        why = ", ".join(f"{key} {value}" for key, value in event.detail.items())
        console.print(f"{when}  {event.kind:<10} {trial:<4}  {why or '-'}  ({event.who})")


@app.command()
def trials(
    study: StudyName,
    storage: Storage = DEFAULT_STORAGE,
    rejected: Annotated[bool, typer.Option("--rejected", help="The configurations refused before training, and why.")] = False,
    as_json: Json = False,
) -> None:
    """List the trials of a study."""
    from search.results import tables

    saved = _load(study, storage)
    if rejected:
        if as_json:
            print_json([{"config": config, "reason": reason} for config, reason in saved.rejections])
            return
        table = Table("configuration", "reason", box=None)
        for config, reason in saved.rejections:
            table.add_row(" ".join(f"{key}={value}" for key, value in config.items()), reason)
        Console().print(table)
    elif as_json:
        print_json([tables.trial_json(trial) for trial in saved.history])
    else:
        Console().print(Constrain(tables.trials_table(saved.history), tables.TABLE_WIDTH))


@app.command()
def show(
    study: StudyName,
    trial: TrialNumber,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show one trial: configuration, metrics per epoch, what happened to it."""
    from search.errors import RequestError
    from search.results import tables

    saved = _load(study, storage)
    if trial >= len(saved.history):
        raise RequestError(f"study {saved.name} has no trial {trial}; it has {len(saved.history)}, counted from 0")
    one = saved.history[trial]
    reports = [r for r in saved.epochs if r.trial == trial]
    if as_json:
        history = [{"epoch": r.epoch, "metrics": dict(r.metrics)} for r in reports]
        print_json(tables.trial_json(one) | {"reports": history})
        return
    console = Console()
    console.print(f"[bold]{one.label}[/]  {one.state}" + (f": {one.reason}" if one.reason else ""), highlight=False)
    facts = Table(box=None, show_header=False)
    for key, value in one.config.items():
        facts.add_row(key, str(value))
    facts.add_row("adapter_params", f"{one.adapter_params:,}")
    facts.add_row("head_params", f"{one.head_params:,}")
    for key, value in tables.costs(one.metrics):
        facts.add_row(key, value)
    console.print(facts)
    keys = [key for key in (reports[-1].metrics if reports else {}) if not key.startswith("cost/")]
    curve = Table("epoch", *keys, box=None)
    for r in reports:
        curve.add_row(str(r.epoch), *(f"{r.metrics[key]:.4f}" for key in keys))
    console.print(curve)


@app.command("export-adapter")
def export(
    study: StudyName,
    trial: TrialNumber,
    to: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")],
    *,
    merge: Annotated[bool, typer.Option("--merge", help="Fold the adapter into the weights: a plain timm model.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Take a trial's adapter home: safetensors and a card that says what it is; prints the lines that load it."""
    from dataclasses import asdict

    from search.trial import State
    from search.workflows.export_adapter import export_adapter

    saved = _load(study, storage)
    card = export_adapter(saved, trial, to, merged=merge)
    if card.origin["state"] != State.COMPLETE:
        done = "{done} of {planned} epochs".format(**card.epochs)
        complain(f"trial {trial} is {card.origin['state']}: what was written has {done}")
    if as_json:
        print_json({"path": str(to), "file": card.file, "card": asdict(card), "load": card.lines(to)})
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"{to / card.file} and {to / 'card.json'} written; to load it:\n\n{card.lines(to)}")


@app.command("ls")
def list_studies(
    server: Annotated[
        str | None, typer.Argument(metavar="[ADDRESS]", help="A PostgreSQL database, instead of the storage.")
    ] = None,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """List the studies under the storage, or in a database."""
    from search.config.study_file import packaged_names
    from search.errors import LedgerError
    from search.results.saved_study import load
    from search.storage.location import places

    found, problems = [], []
    for place in places(storage, server):
        name, state, where = place.folder.name, "unreadable", str(place.address or place.folder)
        try:
            saved = load(place.folder, place.address)
            name, state = saved.name, saved.state.lower()
        except LedgerError as error:
            problems.append(str(error))
        found.append({"name": name, "state": state, "path": where})
    if as_json:
        print_json({"studies": found, "packaged": packaged_names()})
    else:
        table = Table("study", "state", "folder", box=None)
        for one in found:
            table.add_row(one["name"], one["state"], one["path"])
        console = Console(highlight=False)
        console.print(table if found else f"No study in {server or storage}.")
        console.print(f"Packaged: {', '.join(packaged_names())} (paretune run NAME, paretune cp NAME)", soft_wrap=True)
    if problems:
        raise LedgerError("\n".join(problems))


def _load(study: str, storage: Path) -> SavedStudy:
    from search.results.saved_study import load

    return load(folder_of(study, storage))
