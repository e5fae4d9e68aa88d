"""The commands that reach into a study while it runs, from another terminal: prune, pause, unpause, stop; and gc."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, folder_of, print_json

PATIENCE_SECONDS = 10.0  # for a driver that is slow to answer; the request stays
app = typer.Typer()

Trials = Annotated[list[int], typer.Argument(metavar="T [T...]", min=0, help="The trials' numbers.")]
MaybeTrials = Annotated[list[int] | None, typer.Argument(metavar="[T...]", min=0, help="Trials' numbers; none: the whole study.")]
Reason = Annotated[str | None, typer.Option(help="Why; kept with it.")]


@app.command()
def prune(study: StudyName, trials: Trials, *, reason: Reason = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """End trials now, while the study runs: PRUNED, with the reason; their slots are free at their next batch."""
    ask(study, storage, "prune", trials, reason=reason)


@app.command()
def pause(study: StudyName, trials: MaybeTrials = None, *, reason: Reason = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Let trials give up their slots and keep their checkpoints; without trials: let the study start nothing new."""
    ask(study, storage, "pause", trials or [], reason=reason)


@app.command()
def unpause(study: StudyName, trials: MaybeTrials = None, *, reason: Reason = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Let paused trials go on, before anything new starts; without trials: let a paused study start trials again."""
    ask(study, storage, "unpause", trials or [], reason=reason)


@app.command()
def stop(
    study: StudyName,
    *,
    now: Annotated[bool, typer.Option("--now", help="Leave running trials at their checkpoints.")] = False,
    reason: Reason = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Stop a study's driver: nothing new starts, and what runs is trained to its end, or left with --now. `resume` goes on."""
    ask(study, storage, "stop", [], reason=reason, now=now)


@app.command()
def gc(
    study: StudyName,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Remove the checkpoints that nobody needs: all but those of trials that go on, of the front and of extended trials."""
    from dataclasses import asdict

    from search.workflows import collect_checkpoints

    found = collect_checkpoints.collect(folder_of(study, storage), dry_run=dry_run)
    if as_json:
        print_json(asdict(found))
        return
    what = f"{len(found.trials)} checkpoints, {collect_checkpoints.mebibytes(found.freed_bytes)}"
    words = "would be removed" if dry_run else "removed"
    Console(highlight=False, soft_wrap=True).print(f"{what} {words}; {collect_checkpoints.mebibytes(found.kept_bytes)} kept")


def ask(study: str, storage: Path, verb: str, trials: list[int], **detail: Any) -> None:
    """Write the request, wait a while for its answer, and say what became of it.

    Raises:
        Refused: if it is not possible; nothing was changed.
    """
    from search.study import user_requests

    folder = folder_of(study, storage)
    numbers = user_requests.write_requests(folder, verb, trials, {key: value for key, value in detail.items() if value is not None})
    console = Console(soft_wrap=True, highlight=False, markup=False)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answers := user_requests.read_answers(folder, numbers)) is None:
        if time.monotonic() > deadline:
            console.print(f"{verb} is written down; the driver has not answered yet, and will carry it out when it looks.")
            return
        time.sleep(0.1)
    refusals = [answer.refusal for answer in answers if answer.refusal is not None]
    if refusals:
        raise user_requests.Refused("; ".join(refusals))
    console.print(f"{study}: {user_requests.DONE[verb]}" + "".join(f" trial {number}" for number in trials))
