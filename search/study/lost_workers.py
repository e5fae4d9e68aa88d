"""Trials that lose their workers without a fault of their own: how often they may, and what a fresh worker gets."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable


class WorkerLoss(enum.Enum):
    """How a trial can lose its worker, and with which loss it is FAILED."""

    DEATH = ("the worker died", 3)
    MEMORY = ("out of memory", 2)

    def __init__(self, words: str, limit: int) -> None:
        self.words, self.limit = words, limit


class LostWorkers:
    """What the trials of a study have lost so far.

    Args:
        share: Of a GPU, by the trial's number.
    """

    def __init__(self, share: Callable[[int], float]) -> None:
        self._share = share
        self._counts: Counter[tuple[int, WorkerLoss]] = Counter()

    def count(self, number: int, loss: WorkerLoss) -> int:
        """How often the trial has lost its worker in this way."""
        return self._counts[number, loss]

    def record(self, number: int, loss: WorkerLoss) -> None:
        """Once more."""
        self._counts[number, loss] += 1

    def gpu_share(self, number: int) -> float:
        """The share of a GPU that the trial's next worker gets: twice the usual once memory was short, where trials share one."""
        share = self._share(number)
        return min(1.0, 2 * share) if 0.0 < share < 1.0 and self.count(number, WorkerLoss.MEMORY) else share
