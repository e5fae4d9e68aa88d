"""The disk usage of a study's checkpoints, and the deletion of those that are not needed."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from search.front import front
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage import checkpoints
from search.trial import State, Trial

# Names before a file is whole: `.1a2b3c4d.front.parquet`, `.ledger.db.1a2b3c4d-wal`, `.0003.1a2b3c4d`, `.mlflow.db.1a2b3c4d.new`.
_DRAFT = re.compile(r"\.(?:[0-9a-f]{8}\..+|.+\.[0-9a-f]{8}(?:\.new)?(?:-wal|-shm|-journal)?)")
_ABANDONED_SECONDS = 3600.0  # without a change, after which a draft is one of a process that was killed


@dataclass(frozen=True)
class Collection:
    """The result of a deletion, or of a dry run.

    Attributes:
        trials: Numbers of the trials whose checkpoints are deleted.
        freed_bytes: Size of the deleted checkpoints.
        kept_bytes: Size of the remaining checkpoints.
        drafts: Number of half-written files, of processes that were killed, which are deleted as well.
        complete: Numbers of COMPLETE trials outside of the front whose checkpoints are kept, so that they can be exported.
        complete_bytes: Size of these.
    """

    trials: tuple[int, ...]
    freed_bytes: int
    kept_bytes: int
    drafts: int = 0
    complete: tuple[int, ...] = ()
    complete_bytes: int = 0


def needed(trials: Iterable[Trial], *, finished: bool) -> set[int]:
    """Return the trials whose checkpoints are always kept: unfinished ones (RUNNING, PAUSED), front members, and extended trials.

    Until the study has finished, trials stopped by a rung are kept as well, because they may be promoted.

    COMPLETE trials are never deleted from the ledger, so a dominated trial never returns to the front.
    """
    trials = list(trials)
    going_on = {trial.number for trial in trials if not trial.state.finished}
    if not finished:
        going_on |= {trial.number for trial in trials if trial.state is State.PRUNED and trial.rung is not None}
    extended = {trial.number for trial in trials if trial.extends is not None and trial.state is State.COMPLETE}
    return going_on | extended | {trial.number for trial in front(trials)}


def collect(study: Path, *, dry_run: bool = False, complete: bool = False) -> Collection:
    """Delete the checkpoints that are not needed; safe while the study runs.

    Args:
        study: Folder of the study.
        dry_run: True to only report what would be deleted.
        complete: True to delete those of COMPLETE trials outside of the front as well, which cannot be exported then.

    Raises:
        LedgerError: If the checkpoints are another study's, or in use by another copy of its ledger; nothing was deleted.
    """
    saved = load(study)
    trials = saved.history
    keep = needed(trials, finished=saved.state is StudyState.FINISHED)
    taken = checkpoints.folder_sizes(saved.checkpoints / "trials")
    sizes = {trial.number: taken.get(f"{trial.number:04d}", 0) for trial in trials}
    spare = {number: size for number, size in sizes.items() if number not in keep and size}
    weights = () if complete else tuple(t.number for t in trials if t.state is State.COMPLETE and t.number in spare)
    gone = tuple(number for number in spare if number not in weights)
    found = {} if saved.state is StudyState.RUNNING else checkpoints.find_drafts(saved.checkpoints)
    drafts = {path: size for path, size in found.items() if int(path.parent.name) not in gone}
    others = _abandoned(study, time.time() - _ABANDONED_SECONDS)
    if not dry_run:
        if gone or drafts:
            folder = saved.own_checkpoints()
            for number in gone:
                checkpoints.remove_folder(checkpoints.trial_folder(folder, number))
        for draft in (*drafts, *others):
            if draft.is_dir():
                shutil.rmtree(draft, ignore_errors=True)
            else:
                draft.unlink(missing_ok=True)
    freed = sum(sizes[number] for number in gone) + sum(drafts.values())
    kept = sum(sizes.values()) - freed
    n_drafts, complete_bytes = len(drafts) + len(others), sum(sizes[number] for number in weights)
    return Collection(gone, freed + sum(others.values()), kept, n_drafts, weights, complete_bytes)


def _abandoned(study: Path, before: float) -> dict[Path, int]:
    """Return drafts next to a study's ledger, among its adapters and of MLflow's database, that nothing has changed for long."""
    found = {}
    places = [*study.glob(".*"), *study.glob("adapters/.*"), *study.parent.glob(".mlflow.db.*")]
    for path in places:
        with suppress(OSError):  # finished or removed at this moment
            if _DRAFT.fullmatch(path.name) and path.lstat().st_mtime < before:
                files = [path] if not path.is_dir() else [file for file in path.rglob("*") if file.is_file()]
                found[path] = sum(file.lstat().st_size for file in files)
    return found


def mebibytes(n_bytes: int) -> str:
    """Format a number of bytes as MiB."""
    return f"{n_bytes / 2**20:,.1f} MiB"
