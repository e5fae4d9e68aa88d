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
        self._seen: dict[int, list[tuple[int, float]]] = {epoch: [] for epoch in self.at}  # rung -> (size, top1) of its trials

    def add(self, epoch: int, size: int, top1: float) -> None:
        """Takes in what a trial of `size` parameters reports after `epoch` epochs; between rungs nothing."""
        if epoch in self._seen:
            self._seen[epoch].append((size, top1))

    def verdict(self, epoch: int, size: int, top1: float) -> Verdict | None:
        """Judges a trial that reaches a rung, before it is added; None between rungs. O(n log n) in the trials at the rung."""
        if epoch not in self._seen:
            return None
        peers = sorted([top1, *(other for its_size, other in self._seen[epoch] if its_size <= size)], reverse=True)
        n_better = sum(other > top1 + self.epsilon for other in peers)
        places = max(1, math.ceil(len(peers) / self.factor))
        return Verdict(n_better < places, len(peers), n_better, peers[places - 1] - self.epsilon)


def _geometric(grace: int, factor: int, epochs: int) -> list[int]:
    rungs = []
    while grace < epochs:
        rungs.append(grace)
        grace *= factor
    return rungs
