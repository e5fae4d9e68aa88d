"""What a study's checkpoints take of the disk, and which of them nobody needs any more."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from search.front import front
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage import checkpoints
from search.trial import State, Trial


@dataclass(frozen=True)
class Collection:
    """What was, or would be, removed.

    Attributes:
        trials: Whose checkpoints.
        freed_bytes: What they took.
        kept_bytes: What the others take.
    """

    trials: tuple[int, ...]
    freed_bytes: int
    kept_bytes: int


def needed(trials: Iterable[Trial], *, finished: bool) -> set[int]:
    """Whose checkpoints are kept: trials that go on (RUNNING, PAUSED), members of the front, and extended trials.

    While the study has not finished also those of trials that a rung has stopped, because they may be promoted.

    Whatever a COMPLETE trial is dominated by stays, so one that is not on the front never comes back to it.
    """
    trials = list(trials)
    going_on = {trial.number for trial in trials if not trial.state.finished}
    if not finished:
        going_on |= {trial.number for trial in trials if trial.state is State.PRUNED and trial.rung is not None}
    extended = {trial.number for trial in trials if trial.extends is not None and trial.state is State.COMPLETE}
    return going_on | extended | {trial.number for trial in front(trials)}


def collect(study: Path, *, dry_run: bool = False) -> Collection:
    """Remove the checkpoints that nobody needs; safe while the study runs.

    Args:
        study: The study's folder.
        dry_run: Only say what would be removed.
    """
    saved = load(study)
    trials = saved.history
    keep = needed(trials, finished=saved.state is StudyState.FINISHED)
    taken = checkpoints.folder_sizes(saved.checkpoints / "trials")
    sizes = {trial.number: taken.get(f"{trial.number:04d}", 0) for trial in trials}
    gone = tuple(number for number, size in sizes.items() if number not in keep and size)
    if not dry_run:
        for number in gone:
            checkpoints.remove_folder(checkpoints.trial_folder(saved.checkpoints, number))
    return Collection(gone, sum(sizes[n] for n in gone), sum(size for n, size in sizes.items() if n not in gone))


def mebibytes(n_bytes: int) -> str:
    """As a person reads it."""
    return f"{n_bytes / 2**20:,.1f} MiB"
