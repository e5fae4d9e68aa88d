"""The checkpoints of a study's trials, as far as a driver decides by them: whether they fit a ledger that may be a restored copy.

A ledger that was restored from a copy is older than the checkpoints. A checkpoint that it does not know is deleted, and the trial
trains the same epochs again.
"""

from __future__ import annotations

from pathlib import Path

from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.trial import Trial


class TrialCheckpoints:
    """The folders of the trials' checkpoints.

    Args:
        folder: Folder of the study's checkpoints.
        is_durable: False for a study in memory, which has no files.

    Attributes:
        folder: Folder of the study's checkpoints.
    """

    def __init__(self, folder: Folder, *, is_durable: bool) -> None:
        self.folder = folder
        self._is_durable = is_durable
        self._dropped: set[int] = set()  # trials whose checkpoint was ahead of the ledger; they wait for a worker

    def of_trial(self, number: int) -> Folder:
        """Return the folder of a trial's checkpoint, in a form that every process of the machine or cluster can use."""
        folder = checkpoints.trial_folder(self.folder, number)
        return folder.absolute() if isinstance(folder, Path) else folder

    def is_gone(self, trial: Trial, epochs: int) -> bool:
        """Return whether a trial with so many epochs in its current run has lost their checkpoint, and not by `drop`."""
        gone = epochs > 0 and not checkpoints.has_checkpoint(self.folder, trial.number, trial.run)
        return gone and trial.number not in self._dropped

    def resumed(self, number: int) -> None:
        """Record that a trial has a worker again."""
        self._dropped.discard(number)

    def drop(self, trial: Trial) -> None:
        """Delete the checkpoint of a trial's current run, because it is ahead of the ledger."""
        checkpoints.remove_run(self.folder, trial.number, trial.run)
        self._dropped.add(trial.number)

    def clear_folder(self, number: int) -> bool:
        """Delete a checkpoint in the folder of a trial that starts only now; return whether there was one."""
        foreign = self._is_durable and checkpoints.has_checkpoint(self.folder, number)
        if foreign:
            checkpoints.remove_folder(checkpoints.trial_folder(self.folder, number))
        return foreign

    def clear_run(self, number: int, run: int) -> None:
        """Delete the checkpoint of a further run that starts only now, if there is one."""
        if self._is_durable:
            checkpoints.remove_run(self.folder, number, run)

    def clear_further_runs(self, trial: Trial) -> None:
        """Delete the checkpoint of the further run that has just ended: complete, or early."""
        if self._is_durable:
            for run in range(max(2, len(trial.runs)), len(trial.runs) + 2):
                checkpoints.remove_run(self.folder, trial.number, run)
