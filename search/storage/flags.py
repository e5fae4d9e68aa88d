"""How a worker in the middle of an epoch is told to stop: a file in its trial's folder, which it looks for between two batches.

A file, because it reaches every worker that can reach its checkpoint, whichever back end started it, and costs a `stat`; on an
object store a request, which is made once a second.
"""

from __future__ import annotations

from collections.abc import Iterable

from search.storage.checkpoints import Folder, Remote

FLAG = "stop"  # `trainables.STOP_FLAG` is the same


def trial_folder(study: Folder, number: int) -> Folder:
    """Where a trial's checkpoint lies, in the place of the study's checkpoints."""
    return study / "trials" / f"{number:04d}"


def has_checkpoint(study: Folder, number: int) -> bool:
    """Whether there is anything in a trial's folder but its flag."""
    folder = trial_folder(study, number)
    names = folder.sizes() if isinstance(folder, Remote) else [file.name for file in folder.glob("*")]
    return any(name != FLAG for name in names)


def hoist(study: Folder, numbers: Iterable[int], *, patient: bool = True) -> None:
    """Tell the workers of trials to stop.

    Args:
        study: Where its checkpoints lie.
        numbers: Of the trials.
        patient: Whether an object store that is away is waited for.
    """
    for number in numbers:
        folder = trial_folder(study, number)
        if isinstance(folder, Remote):
            (folder if patient else folder.impatient()).write(FLAG, b"")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FLAG).touch()


def lower(study: Folder, number: int) -> None:
    """Let a trial's worker train."""
    folder = trial_folder(study, number)
    if isinstance(folder, Remote):
        folder.delete(FLAG)
    else:
        (folder / FLAG).unlink(missing_ok=True)
