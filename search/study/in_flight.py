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
        folder: Folder of the study's checkpoints, for the stop flags; None for a study in memory, which has none.
    """

    def __init__(self, folder: Folder | None) -> None:
        self._folder = folder
        self._at_work: set[int] = set()  # trials that were given to a worker that has not left them yet
        self._waiting: deque[int] = deque()

    @property
    def first_waiting(self) -> int | None:
        """The trial that resumes before anything new starts."""
        return self._waiting[0] if self._waiting else None

    def has(self, number: int) -> bool:
        """Return whether a worker has the trial, or it waits for one."""
        return number in self._at_work or number in self._waiting

    def hand_out(self, number: int) -> None:
        """Record that a worker gets the trial."""
        if number in self._waiting:
            self._waiting.remove(number)
        self._clear_stop_flag(number)
        self._at_work.add(number)

    def queue(self, trials: Iterable[Trial]) -> None:
        """Queue RUNNING trials that no worker has."""
        for trial in trials:
            if trial.state is State.RUNNING and trial.number not in self._at_work and trial.number not in self._waiting:
                self._waiting.append(trial.number)

    def leave(self, trial: Trial) -> None:
        """Record that the worker has left the trial."""
        self._at_work.discard(trial.number)
        self._clear_stop_flag(trial.number)
        self.queue([trial])

    def request_stop(self, number: int) -> None:
        """Ask the worker to stop at its next batch, because the trial no longer runs."""
        if number in self._waiting:
            self._waiting.remove(number)
        if number in self._at_work:
            self._set_stop_flags([number])

    def clear_stop(self, trial: Trial) -> None:
        """Undo a stop request, because the trial runs again; if its worker has not left yet, it simply continues."""
        self._clear_stop_flag(trial.number)
        self.queue([trial])

    def request_stop_of_all(self) -> None:
        """Ask every worker to leave its trial at the next batch."""
        self._set_stop_flags(self._at_work)

    def _set_stop_flags(self, numbers: Iterable[int]) -> None:
        if self._folder is not None:
            checkpoints.set_stop_flag(self._folder, numbers)

    def _clear_stop_flag(self, number: int) -> None:
        if self._folder is not None:
            checkpoints.clear_stop_flag(self._folder, number)
