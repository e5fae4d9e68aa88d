"""Which RUNNING trials a worker has, and which wait for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.trial import State, Trial


class InFlight:
    """The trials that are at work; a driver's own, and gone with it.

    Args:
        folder: Where the study's checkpoints lie.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._at_work: set[int] = set()  # handed to a worker that has not left it yet
        self._waiting: deque[int] = deque()

    @property
    def first_waiting(self) -> int | None:
        """The trial that goes on before anything new starts."""
        return self._waiting[0] if self._waiting else None

    def hand_out(self, number: int) -> None:
        """A worker gets the trial."""
        if number in self._waiting:
            self._waiting.remove(number)
        checkpoints.clear_stop_flag(self._folder, number)
        self._at_work.add(number)

    def queue(self, trials: Iterable[Trial]) -> None:
        """Those that are RUNNING and on no worker wait for one."""
        for trial in trials:
            if trial.state is State.RUNNING and trial.number not in self._at_work and trial.number not in self._waiting:
                self._waiting.append(trial.number)

    def leave(self, trial: Trial) -> None:
        """Its worker has left the trial."""
        self._at_work.discard(trial.number)
        checkpoints.clear_stop_flag(self._folder, trial.number)
        self.queue([trial])

    def request_stop(self, number: int) -> None:
        """The trial no longer runs: its worker is told at its next batch."""
        if number in self._waiting:
            self._waiting.remove(number)
        if number in self._at_work:
            checkpoints.set_stop_flag(self._folder, [number])

    def clear_stop(self, trial: Trial) -> None:
        """The trial runs again; if its worker has not left yet, as if nothing had happened."""
        checkpoints.clear_stop_flag(self._folder, trial.number)
        self.queue([trial])

    def request_stop_of_all(self) -> None:
        """Every worker leaves its trial at the next batch."""
        checkpoints.set_stop_flag(self._folder, self._at_work)
