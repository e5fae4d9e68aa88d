"""Trials that lose their workers through no fault of their own: how often they may, and the GPU share of their next worker."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable


class WorkerLoss(enum.Enum):
    """The ways in which a trial can lose its worker, each with the number of losses at which it is FAILED."""

    DEATH = ("the worker died", 3)
    MEMORY = ("out of memory", 2)

    def __init__(self, words: str, limit: int) -> None:
        self.words, self.limit = words, limit


class LostWorkers:
    """The lost workers of a study's trials.

    Args:
        share: Function that returns a trial's share of a GPU, by its number.
    """

    def __init__(self, share: Callable[[int], float]) -> None:
        self._share = share
        self._counts: Counter[tuple[int, WorkerLoss]] = Counter()

    def count(self, number: int, loss: WorkerLoss) -> int:
        """Return how often the trial has lost its worker in this way."""
        return self._counts[number, loss]

    def record(self, number: int, loss: WorkerLoss) -> None:
        """Count one more loss."""
        self._counts[number, loss] += 1

    def gpu_share(self, number: int) -> float:
        """Return the GPU share of the trial's next worker: twice the usual after an out-of-memory loss, if trials share a GPU."""
        share = self._share(number)
        return min(1.0, 2 * share) if 0.0 < share < 1.0 and self.count(number, WorkerLoss.MEMORY) else share
