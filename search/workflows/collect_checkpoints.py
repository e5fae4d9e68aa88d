"""The disk usage of a study's checkpoints, and the deletion of those that are not needed."""

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
    """The result of a deletion, or of a dry run.

    Attributes:
        trials: Numbers of the trials whose checkpoints are deleted.
        freed_bytes: Size of the deleted checkpoints.
        kept_bytes: Size of the remaining checkpoints.
        drafts: Number of half-written files, of workers that were killed, which are deleted as well.
    """

    trials: tuple[int, ...]
    freed_bytes: int
    kept_bytes: int
    drafts: int = 0


def needed(trials: Iterable[Trial], *, finished: bool) -> set[int]:
    """Return the trials whose checkpoints are kept: unfinished ones (RUNNING, PAUSED), front members, and extended trials.

    Until the study has finished, trials stopped by a rung are kept as well, because they may be promoted.

    COMPLETE trials are never deleted from the ledger, so a dominated trial never returns to the front.
    """
    trials = list(trials)
    going_on = {trial.number for trial in trials if not trial.state.finished}
    if not finished:
        going_on |= {trial.number for trial in trials if trial.state is State.PRUNED and trial.rung is not None}
    extended = {trial.number for trial in trials if trial.extends is not None and trial.state is State.COMPLETE}
    return going_on | extended | {trial.number for trial in front(trials)}


def collect(study: Path, *, dry_run: bool = False) -> Collection:
    """Delete the checkpoints that are not needed; safe while the study runs.

    Args:
        study: Folder of the study.
        dry_run: True to only report what would be deleted.

    Raises:
        LedgerError: If the checkpoints are another study's, or in use by another copy of its ledger; nothing was deleted.
    """
    saved = load(study)
    trials = saved.history
    keep = needed(trials, finished=saved.state is StudyState.FINISHED)
    taken = checkpoints.folder_sizes(saved.checkpoints / "trials")
    sizes = {trial.number: taken.get(f"{trial.number:04d}", 0) for trial in trials}
    gone = tuple(number for number, size in sizes.items() if number not in keep and size)
    found = {} if saved.state is StudyState.RUNNING else checkpoints.find_drafts(saved.checkpoints)
    drafts = {path: size for path, size in found.items() if int(path.parent.name) not in gone}
    if (gone or drafts) and not dry_run:
        folder = saved.own_checkpoints()
        for number in gone:
            checkpoints.remove_folder(checkpoints.trial_folder(folder, number))
        for draft in drafts:
            draft.unlink(missing_ok=True)
    freed = sum(sizes[number] for number in gone) + sum(drafts.values())
    return Collection(gone, freed, sum(sizes.values()) - freed, len(drafts))


def mebibytes(n_bytes: int) -> str:
    """Format a number of bytes as MiB."""
    return f"{n_bytes / 2**20:,.1f} MiB"
