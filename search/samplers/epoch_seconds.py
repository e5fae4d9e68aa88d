"""The seconds of an epoch of a configuration, for the sampler `auto` of a study whose budget is in hours.

They are learnt from what trials report: a linear model of their logarithm, over size, method and knobs, which methods have in
common by name (`layers`, `rank`). A trial that has reported its seconds is known. All depends only on the reports in their order.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from search.samplers.encoding import Coding

Array = NDArray[np.float64]
Tickets = NDArray[np.int64]
RIDGE = 8.0  # ratio of the variances of a trial's logarithm and of a coefficient: chosen on the recorded table
N_KNOWN = 512  # newest trials that are used
CHEAPEST = 0.1  # of the geometric mean of all trials: nothing counts less, because a trial takes more than its epochs


class EpochSeconds:
    """The seconds of epochs: measured, or else predicted.

    Args:
        coding: Coding of the joint space.
    """

    def __init__(self, coding: Coding) -> None:
        self._columns = _common_columns(coding)
        self._features: dict[int, Array] = {}
        self._sums: dict[int, tuple[float, int]] = {}  # seconds and number of the epochs of each ticket
        self._model: tuple[float, Array, float] | None = None  # intercept, coefficients (C,), smallest logarithm

    def report(self, ticket: int, features: Array, epoch: int, seconds: float) -> None:
        """Learn from one epoch of a trial with features (F,). The first epoch warms up, and is forgotten with the second."""
        if seconds <= 0.0:
            return
        total, n = self._sums.get(ticket, (0.0, 0)) if epoch != 2 else (0.0, 0)
        self._sums[ticket] = total + seconds, n + 1
        self._features[ticket] = features @ self._columns
        self._model = None

    def of(self, features: Array) -> Array:
        """Predict the seconds (n,) of an epoch of untried points with features (n, F); 1 before any trial has reported."""
        intercept, coefficients, least = self._fitted()
        found: Array = np.exp(np.maximum(intercept + features @ self._columns @ coefficients, least))
        return found

    def of_trials(self, tickets: Tickets, features: Array) -> Array:
        """Return the seconds (n,) of an epoch of trials with features (n, F): measured as far as they have reported any."""
        found, least = self.of(features), np.exp(self._fitted()[2])
        for i, ticket in enumerate(tickets.tolist()):
            if ticket in self._sums:
                total, n = self._sums[ticket]
                found[i] = max(total / n, least)
        return found

    def _fitted(self) -> tuple[float, Array, float]:
        if self._model is None:
            self._model = self._fit()
        return self._model

    def _fit(self) -> tuple[float, Array, float]:
        tickets = list(self._sums)[-N_KNOWN:]
        if not tickets:
            return 0.0, np.zeros(self._columns.shape[1]), -np.inf
        x = np.stack([self._features[ticket] for ticket in tickets])
        y = np.log([self._sums[ticket][0] / self._sums[ticket][1] for ticket in tickets])
        middle, level = x.mean(0), float(y.mean())
        away = x - middle
        coefficients = np.linalg.solve(away.T @ away + RIDGE * np.eye(x.shape[1]), away.T @ (y - level))
        return level - float(middle @ coefficients), coefficients, level + math.log(CHEAPEST)


def _common_columns(coding: Coding) -> Array:
    """Return a matrix (F, C) that adds up the columns of knobs that methods have in common by name."""
    found: dict[tuple[object, ...], list[int]] = {}
    for i, label in enumerate(coding.labels):
        found.setdefault(label, []).append(i)
    matrix = np.zeros((len(coding.labels), len(found)))
    for j, columns in enumerate(found.values()):
        matrix[columns, j] = 1.0
    return matrix
