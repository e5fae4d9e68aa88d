"""Commands that control a running study from another terminal: prune, pause, unpause, stop; and gc."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, folder_of, print_json
from search.cli.terminal import Terminal

PATIENCE_SECONDS = 10.0  # wait for a driver that answers slowly; the request stays in the ledger
app = typer.Typer()

Trials = Annotated[list[int], typer.Argument(metavar="T [T...]", min=0, help="Numbers of the trials.")]
MaybeTrials = Annotated[list[int] | None, typer.Argument(metavar="[T...]", min=0, help="Numbers of the trials; none: the study.")]
Reason = Annotated[str | None, typer.Option(help="The reason, which is stored.")]


@app.command()
def prune(study: StudyName, trials: Trials, *, reason: Reason = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """End trials now, while the study runs. They become PRUNED with the reason, and their slots are free at their next batch."""
    ask(study, storage, "prune", trials, reason=reason)


@app.command()
def pause(study: StudyName, trials: MaybeTrials = None, *, reason: Reason = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Pause trials: they free their slots and keep their checkpoints. Without trials, the study starts nothing new."""
    ask(study, storage, "pause", trials or [], reason=reason)


@app.command()
def unpause(study: StudyName, trials: MaybeTrials = None, *, reason: Reason = None, storage: Storage = DEFAULT_STORAGE) -> None:
    """Resume paused trials before anything new starts. Without trials, a paused study starts trials again."""
    ask(study, storage, "unpause", trials or [], reason=reason)


@app.command()
def stop(
    study: StudyName,
    *,
    now: Annotated[bool, typer.Option("--now", help="Leave running trials at their last checkpoints.")] = False,
    reason: Reason = None,
    storage: Storage = DEFAULT_STORAGE,
) -> None:
    """Stop a study's driver. Running trials are trained to their end, or left with --now; `resume` continues the study."""
    ask(study, storage, "stop", [], reason=reason, now=now)


@app.command()
def gc(
    study: StudyName,
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    complete: Annotated[
        bool, typer.Option("--complete", help="Also those of complete trials outside of the front, which cannot be exported then.")
    ] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Delete checkpoints that are not needed: all except those of unfinished and of complete trials.

    Half-written files of killed processes are deleted as well.
    """
    from dataclasses import asdict

    from search.workflows import collect_checkpoints

    found = collect_checkpoints.collect(folder_of(study, storage), dry_run=dry_run, complete=complete)
    if as_json:
        print_json(asdict(found))
        return
    drafts = f" and {found.drafts} half-written files" if found.drafts else ""
    what = f"{len(found.trials)} checkpoints{drafts}, {collect_checkpoints.mebibytes(found.freed_bytes)}"
    words = "would be deleted" if dry_run else "deleted"
    console = Terminal(soft_wrap=True)
    console.print(f"{what} {words}; {collect_checkpoints.mebibytes(found.kept_bytes)} kept")
    if found.complete:
        size = collect_checkpoints.mebibytes(found.complete_bytes)
        console.print(
            f"Of these, {size} are of {len(found.complete)} complete trials outside of the front: --complete deletes them."
        )


def ask(study: str, storage: Path, verb: str, trials: list[int], **detail: Any) -> None:
    """Write the request, wait a while for its answer, and print it.

    Raises:
        Refused: If the request is impossible; nothing was changed.
    """
    from search.study import user_requests

    folder = folder_of(study, storage)
    numbers = user_requests.write_requests(folder, verb, trials, {key: value for key, value in detail.items() if value is not None})
    console = Terminal(soft_wrap=True)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (answers := user_requests.read_answers(folder, numbers)) is None:
        if time.monotonic() > deadline:
            console.print("Request recorded. The driver has not picked it up yet; it will at its next check.")
            return
        time.sleep(0.1)
    refusals = [answer.refusal for answer in answers if answer.refusal is not None]
    if refusals:
        raise user_requests.Refused("; ".join(refusals))
    console.print(f"{study}: {user_requests.DONE[verb]}" + "".join(f" trial {number}" for number in trials))
