"""The RUNNING trials: those that a worker has, and those that wait for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.trial import State, Trial


class InFlight:
    """The trials in flight, kept only in the driver's memory.

    Args:
        folder: Folder of the study's checkpoints.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._at_work: set[int] = set()  # trials that were given to a worker that has not left them yet
        self._waiting: deque[int] = deque()

    @property
    def first_waiting(self) -> int | None:
        """The trial that resumes before anything new starts."""
        return self._waiting[0] if self._waiting else None

    def hand_out(self, number: int) -> None:
        """Record that a worker gets the trial."""
        if number in self._waiting:
            self._waiting.remove(number)
        checkpoints.clear_stop_flag(self._folder, number)
        self._at_work.add(number)

    def queue(self, trials: Iterable[Trial]) -> None:
        """Queue RUNNING trials that no worker has."""
        for trial in trials:
            if trial.state is State.RUNNING and trial.number not in self._at_work and trial.number not in self._waiting:
                self._waiting.append(trial.number)

    def leave(self, trial: Trial) -> None:
        """Record that the worker has left the trial."""
        self._at_work.discard(trial.number)
        checkpoints.clear_stop_flag(self._folder, trial.number)
        self.queue([trial])

    def request_stop(self, number: int) -> None:
        """Ask the worker to stop at its next batch, because the trial no longer runs."""
        if number in self._waiting:
            self._waiting.remove(number)
        if number in self._at_work:
            checkpoints.set_stop_flag(self._folder, [number])

    def clear_stop(self, trial: Trial) -> None:
        """Undo a stop request, because the trial runs again; if its worker has not left yet, it simply continues."""
        checkpoints.clear_stop_flag(self._folder, trial.number)
        self.queue([trial])

    def request_stop_of_all(self) -> None:
        """Ask every worker to leave its trial at the next batch."""
        checkpoints.set_stop_flag(self._folder, self._at_work)
