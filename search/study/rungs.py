"""Pareto rungs: the early stopping of trials when both accuracy and size count.

A trial's accuracy is compared when it reaches a rung, after `grace`, `grace factor`, `grace factor^2`, ... epochs, as in
asynchronous successive halving (ASHA: Li et al., MLSys 2020, arXiv 1810.05934). Its size never changes while it trains, so
non-dominated sorting of (accuracy, size) could never stop the smallest trial, however bad. Here a trial is judged on accuracy
alone, among the n trials of the same or a smaller size that have reached the rung, itself included (its peers):

    it continues  if fewer than max(1, ceil(n / factor)) of its peers are more than epsilon above it.

The rule has these consequences:

- Every trial on the rung's own front (no peer is more accurate) continues, so the survivors are spread along the front.
- A trial is never compared with larger ones, but with all smaller ones: size must pay.
- Head-only, of size zero, has no smaller rivals and is a rival of every adapter: one that is no better than head-only is stopped at
  the first rung, unless a third (factor 3) of its peers are no better either.
- If the budget is in hours, slow trials are judged more strictly: one whose epoch takes twice the median at its rung must be among
  the better half of those that would continue. The rung's own front continues all the same.
- No trial waits: an early trial has few rivals and is judged mildly. The rungs never resume a stopped trial.

The module is pure, without clock, trial or ledger. Adding the same reports rebuilds the same rungs.
"""

from __future__ import annotations

import bisect
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRICTEST = 8.0  # of slow trials about one in so many continues, if the budget is in hours


@dataclass(frozen=True)
class Verdict:
    """The decision of a rung about a trial.

    Attributes:
        goes_on: True if it is trained further.
        n_peers: Number of trials of its size or smaller that have reached the rung, itself included.
        n_better: Number of them that are more than epsilon more accurate.
        bar: Accuracy (fraction) that it would have needed to continue.
    """

    goes_on: bool
    n_peers: int
    n_better: int
    bar: float


class Rungs:
    """The accuracies at each rung.

    Args:
        grace: Epochs before the first rung, at least 1.
        factor: Ratio of the epochs of successive rungs, at least 2; about one in `factor` trials at a rung continues.
        epsilon: Accuracy (fraction) by which a peer must be ahead to count as better: about the noise of the validation split.
        epochs: Epochs of a complete trial; a rung at or beyond them decides nothing and does not exist.
    """

    def __init__(self, *, grace: int, factor: int, epsilon: float, epochs: int) -> None:
        self.factor, self.epsilon = factor, epsilon
        self.at: tuple[int, ...] = tuple(_geometric(grace, factor, epochs))  # epochs
        self._seen = {epoch: _Seen() for epoch in self.at}

    def add(self, epoch: int, size: float, top1: float, seconds: float | None = None) -> None:
        """Add the report of a trial of `size` parameters after `epoch` epochs; between rungs it is ignored.

        Args:
            epoch: Number of epochs.
            size: Size of the trial.
            top1: Accuracy (fraction), or the score of another metric (`search.metrics`).
            seconds: Seconds of an epoch, if the study's budget is in hours.
        """
        if epoch in self._seen:
            self._seen[epoch].append(size, top1, seconds)

    def verdict(self, epoch: int, size: float, top1: float, seconds: float | None = None) -> Verdict | None:
        """Judge a trial that reaches a rung, before it is added; return None between rungs. O(n) in the trials at the rung.

        The arguments are those of `add`.
        """
        if epoch not in self._seen:
            return None
        peers = np.append(self._seen[epoch].not_larger(size), top1)
        n_better = int(np.count_nonzero(peers > top1 + self.epsilon))
        factor: float = self.factor
        if seconds and (middle := self._seen[epoch].middle_seconds):
            slower = max(1.0, seconds / middle)
            factor = min(self.factor * slower, max(STRICTEST, self.factor))
        last_place = len(peers) - max(1, math.ceil(len(peers) / factor))  # counted from the worst
        bar = float(np.partition(peers, last_place)[last_place]) - self.epsilon
        return Verdict(n_better < len(peers) - last_place, len(peers), n_better, bar)


class _Seen:
    """The pairs (size, top1) of the trials that have reached a rung, in two arrays that grow by doubling, and their seconds."""

    def __init__(self) -> None:
        self._n, self._sizes, self._top1s = 0, np.empty(64), np.empty(64)
        self._seconds: list[float] = []  # of this epoch, sorted

    def append(self, size: float, top1: float, seconds: float | None) -> None:
        """Add one trial."""
        if seconds:
            bisect.insort(self._seconds, seconds)
        if self._n == len(self._sizes):
            self._sizes, self._top1s = (np.append(values, np.empty(self._n)) for values in (self._sizes, self._top1s))
        self._sizes[self._n], self._top1s[self._n] = size, top1
        self._n += 1

    @property
    def middle_seconds(self) -> float | None:
        """The median of the seconds of this epoch; None if no trial has reported them."""
        return self._seconds[len(self._seconds) // 2] if self._seconds else None

    def not_larger(self, size: float) -> NDArray[np.float64]:
        """Return the accuracies of the trials up to a size."""
        found: NDArray[np.float64] = self._top1s[: self._n][self._sizes[: self._n] <= size]
        return found


def _geometric(grace: int, factor: int, epochs: int) -> list[int]:
    rungs = []
    while grace < epochs:
        rungs.append(grace)
        grace *= factor
    return rungs
