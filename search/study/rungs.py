"""Pareto rungs: which trials are stopped early, when accuracy and size both count.

A trial's accuracy is looked at when it reaches a rung, after `grace`, `grace factor`, `grace factor^2`, ... epochs, as in
asynchronous successive halving (ASHA: Li et al., MLSys 2020, arXiv 1810.05934). Its size never changes while it trains, so that
non-dominated sorting of (accuracy, size) could never stop the smallest trial, however bad. Here a trial is judged on accuracy
alone, among those of the same or a smaller size that have reached the rung, itself included. Of n such peers

    it goes on  if fewer than max(1, ceil(n / factor)) of them are more than epsilon above it.

What follows from the rule:

- Whatever is on the rung's own front (no peer is more accurate) goes on: the survivors are spread along the front.
- A larger trial is nobody's rival, and has all smaller ones as its own: size must pay.
- Head-only, of size zero, has no rivals and is every adapter's: one that does no better than head-only is stopped at the first
  rung, unless a third (factor 3) of its peers do no better either.
- Nobody waits: who comes early has few rivals and is judged mildly; nothing that was stopped is taken up again.

Pure: no clock, no trial, no ledger. The same rungs are rebuilt by adding the same reports.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Verdict:
    """What a rung says of a trial.

    Attributes:
        goes_on: Whether it is trained further.
        n_peers: How many trials of its size or smaller have reached the rung, itself included.
        n_better: How many of them are more than epsilon more accurate.
        bar: The accuracy that it would have needed to go on (fraction).
    """

    goes_on: bool
    n_peers: int
    n_better: int
    bar: float


class Rungs:
    """The accuracies seen at each rung.

    Args:
        grace: Epochs before the first rung, at least 1.
        factor: Of the trials at a rung about one in `factor` goes on, and the next rung is `factor` times as far; at least 2.
        epsilon: Accuracy (fraction) by which a peer must be ahead to count as better: about the noise of the validation split.
        epochs: Budget of a trial; a rung at or beyond it decides nothing and does not exist.
    """

    def __init__(self, *, grace: int, factor: int, epsilon: float, epochs: int) -> None:
        self.factor, self.epsilon = factor, epsilon
        self.at: tuple[int, ...] = tuple(_geometric(grace, factor, epochs))  # epochs
        self._seen = {epoch: _Seen() for epoch in self.at}

    def add(self, epoch: int, size: float, top1: float) -> None:
        """Takes in what a trial of `size` parameters reports after `epoch` epochs; between rungs nothing."""
        if epoch in self._seen:
            self._seen[epoch].append(size, top1)

    def verdict(self, epoch: int, size: float, top1: float) -> Verdict | None:
        """Judges a trial that reaches a rung, before it is added; None between rungs. O(n) in the trials at the rung."""
        if epoch not in self._seen:
            return None
        peers = np.append(self._seen[epoch].not_larger(size), top1)
        n_better = int(np.count_nonzero(peers > top1 + self.epsilon))
        last_place = len(peers) - max(1, math.ceil(len(peers) / self.factor))  # counted from the worst
        bar = float(np.partition(peers, last_place)[last_place]) - self.epsilon
        return Verdict(n_better < len(peers) - last_place, len(peers), n_better, bar)


class _Seen:
    """(size, top1) of the trials that have reached a rung: two arrays that grow by doubling."""

    def __init__(self) -> None:
        self._n, self._sizes, self._top1s = 0, np.empty(64), np.empty(64)

    def append(self, size: float, top1: float) -> None:
        """One more trial."""
        if self._n == len(self._sizes):
            self._sizes, self._top1s = (np.append(values, np.empty(self._n)) for values in (self._sizes, self._top1s))
        self._sizes[self._n], self._top1s[self._n] = size, top1
        self._n += 1

    def not_larger(self, size: float) -> NDArray[np.float64]:
        """The accuracies of the trials of at most a size."""
        found: NDArray[np.float64] = self._top1s[: self._n][self._sizes[: self._n] <= size]
        return found


def _geometric(grace: int, factor: int, epochs: int) -> list[int]:
    rungs = []
    while grace < epochs:
        rungs.append(grace)
        grace *= factor
    return rungs
