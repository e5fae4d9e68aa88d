"""`paretune run` and `resume`: the commands that search."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import (
    DEFAULT_STORAGE,
    MaybeSlots,
    MaybeStorage,
    MaybeStudyFile,
    Overrides,
    Storage,
    StudyName,
    complain,
    folder_of,
)
from search.cli.show import _show_places, show_front
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from search.config.sections import Budget
    from search.config.study_file import StudyFile
    from search.results.overview import Overview
    from search.results.saved_study import SavedStudy
    from search.study.extension import Extension

app = typer.Typer()
Then = Annotated[
    str | None,
    typer.Option("--then", metavar="COMMAND", help="A shell command to run after the search; PARETUNE_STATE says how it ended."),
]
Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        envvar="PARETUNE_NOTIFY",
        show_envvar=True,
        metavar="URL",
        help="An address to which the end is posted as JSON: study, state, reason, answer.",
    ),
]


@app.command()
def run(
    study: MaybeStudyFile = None,
    *,
    overrides: Overrides = None,
    storage: MaybeStorage = None,
    back_end: Annotated[str, typer.Option(help="ray or in-process.")] = "ray",
    cpus: Annotated[int | None, typer.Option(min=1, help="Maximum number of cores; default: all.")] = None,
    slots: MaybeSlots = None,
    then: Then = None,
    notify: Notify = None,
) -> None:
    """Start a search here, or resume it. A finished study prints its front."""
    from search.config import loading
    from search.workflows.notify import check_url

    check_url(notify)
    search(loading.load(study, overrides or (), storage), back_end, cpus, slots=slots, then=then, notify=notify)


def search(
    file: StudyFile,
    back_end: str,
    cpus: int | None,
    extension: Extension | None = None,
    *,
    slots: int | None,
    then: str | None = None,
    notify: str | None = None,
) -> None:
    """Search, show the front and the files, and tell the end. Exit code 1 if no trial is complete, or the study has not ended.

    Neither a message that fails nor a command that fails changes the exit code.
    """
    from search.results.study_state import StudyState

    try:
        study_at_end = search_quietly(file, back_end, cpus, extension, slots=slots)
    except BaseException as error:
        _tell_error(file, error, then=then, notify=notify)
        raise
    show_front(study_at_end)
    _show_places(study_at_end)
    _tell_end(study_at_end, then=then, notify=notify)
    if study_at_end.state is StudyState.INTERRUPTED:
        _say_what_is_left(study_at_end)
        raise typer.Exit(1)
    if not study_at_end.members:
        raise typer.Exit(1)


def _tell_end(study: SavedStudy, *, then: str | None, notify: str | None) -> None:
    """Send the message about a search that has ended by itself, and run the command."""
    if then is None and notify is None:
        return
    from search.workflows import notify as notices

    notice = notices.notice_of(study)
    if notify is not None and (problem := notices.send(notify, notice)) is not None:
        complain(f"--notify: {problem}")
    if then is not None and (problem := notices.run_command(then, notice)) is not None:
        complain(f"--then: {problem}")


def _tell_error(file: StudyFile, error: BaseException, *, then: str | None, notify: str | None) -> None:
    """Send the message about a search that an error or a signal has ended; the command runs after an error only."""
    if then is None and notify is None:
        return
    from search.workflows import notify as notices

    notice = notices.notice_of_error(file.study, str(file.folder), error)
    interrupted = not isinstance(error, Exception)
    patience = notices.SHORT_PATIENCE_SECONDS if interrupted else notices.PATIENCE_SECONDS
    if notify is not None and (problem := notices.send(notify, notice, patience=patience)) is not None:
        complain(f"--notify: {problem}")
    if then is not None and not interrupted and (problem := notices.run_command(then, notice)) is not None:
        complain(f"--then: {problem}")


def search_quietly(
    file: StudyFile,
    back_end: str,
    cpus: int | None,
    extension: Extension | None = None,
    *,
    slots: int | None = None,
    progress_on: Terminal | None = None,
) -> SavedStudy:
    """Search, and show only progress, on standard output or on the given console."""
    from search.backends.choose import make_back_end
    from search.cli.progress import Progress
    from search.cli.signals import interruptible
    from search.study.opening import find_study
    from search.workflows import run as workflow

    driver = make_back_end(back_end, n_cpus=cpus, n_slots=slots)
    progress = Progress(progress_on or Terminal(file=sys.stdout))
    opening = find_study(file)
    progress.announce(file, _announced(file, opening.saved, extension))
    with interruptible():
        return workflow.run(
            file,
            opening=opening,
            back_end=driver,
            watch=progress,
            on_decoded=progress.decoded,
            on_tried=progress.tried,
            say=complain,
            extension=extension,
        )


def _announced(file: StudyFile, saved: Overview | None, extension: Extension | None) -> Budget:
    """Return the budget with which a study starts or continues."""
    from search.config.sections import Budget

    found = dict(file.budget.model_dump() if saved is None else saved.row.budget)
    if extension is not None:
        found["n_trials"] = None if found["n_trials"] is None else found["n_trials"] + extension.more_trials
        found["max_hours"] = extension.max_hours or found.get("max_hours")
    return Budget.model_validate(found)


def _say_what_is_left(study: SavedStudy) -> None:
    """Print why the driver ended before its study: it was stopped by a user, or only paused trials are left."""
    from search.trial import State

    paused = [str(trial.number) for trial in study.history if trial.state is State.PAUSED]
    if paused:
        complain(f"paused: trial {', '.join(paused)}; resume with: paretune unpause {study.name} {' '.join(paused)}")
    complain(f"the study has not ended; nothing is lost; resume it from here: paretune resume {study.name}")


@app.command()
def resume(
    study: StudyName,
    *,
    more_trials: Annotated[int, typer.Option(min=0, help="Number of trials to add to the budget.")] = 0,
    max_hours: Annotated[float | None, typer.Option(help="New limit in hours, over all drivers of the study.")] = None,
    until: Annotated[str | None, typer.Option(metavar="DATE", help="Start nothing after this date: 2026-12-24T18:00.")] = None,
    trial: Annotated[int | None, typer.Option(metavar="T", min=0, help="A trial to continue, with --epochs.")] = None,
    epochs: Annotated[int | None, typer.Option(metavar="E", min=1, help="Total epochs of --trial, from its beginning.")] = None,
    wider: Annotated[Path | None, typer.Option("--file", metavar="STUDY.yaml", help="The study file with a wider space.")] = None,
    storage: Storage = DEFAULT_STORAGE,
    back_end: Annotated[str, typer.Option(help="ray or in-process.")] = "ray",
    cpus: Annotated[int | None, typer.Option(min=1, help="Maximum number of cores; default: all.")] = None,
    slots: MaybeSlots = None,
    then: Then = None,
    notify: Notify = None,
) -> None:
    """Resume a study by its name, after an interruption or to extend it. A running study is extended where it runs."""
    from search.cli import control
    from search.config import loading
    from search.errors import RequestError
    from search.results.overview import overview
    from search.results.study_state import StudyState
    from search.study.extension import Extension, moment
    from search.workflows.notify import check_url

    check_url(notify)
    folder = folder_of(study, storage)
    saved = overview(folder)
    try:
        date = None if until is None else moment(until).isoformat()
    except ValueError as error:
        raise RequestError(f"--until: {error}") from None
    new = None if wider is None else loading.load(wider).resolved()
    extension = Extension(more_trials, max_hours, date, trial, epochs, new)
    if saved.state is StudyState.RUNNING and extension:
        detail = {key: value for key, value in extension.detail().items() if key != "trial"}
        control.ask(study, storage, "extend", [] if trial is None else [trial], **detail)
        return
    file = loading.check_stored(saved.row.file).kept_in(saved.folder.parent, saved.row.facts.checkpoints)
    search(file, back_end, cpus, extension, slots=slots, then=then, notify=notify)
