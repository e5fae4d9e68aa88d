"""How a worker in the middle of an epoch is told to stop: a file in its trial's folder, which it looks for between two batches.

A file, because it reaches every worker that can reach its checkpoint, whichever back end started it, and costs a `stat`.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FLAG = "stop"  # `trainables.STOP_FLAG` is the same


def trial_folder(study: Path, number: int) -> Path:
    """Where a trial's checkpoint lies, in the study's folder."""
    return study / "trials" / f"{number:04d}"


def has_checkpoint(study: Path, number: int) -> bool:
    """Whether there is anything in a trial's folder but its flag."""
    return any(file.name != FLAG for file in trial_folder(study, number).glob("*"))


def hoist(study: Path, numbers: Iterable[int]) -> None:
    """Tell the workers of trials to stop."""
    for number in numbers:
        folder = trial_folder(study, number)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FLAG).touch()


def lower(study: Path, number: int) -> None:
    """Let a trial's worker train."""
    (trial_folder(study, number) / FLAG).unlink(missing_ok=True)
