"""What a cost that only training can tell will be: time, memory, latency.

A Gaussian process (`search.samplers.gaussian_process`) on the cost's logarithm, because costs differ by factors, and what a knob
does to one is a factor too. It learns from whatever was measured: also from trials that were stopped, or that cost too much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.samplers.encoding import Coding
from search.samplers.gaussian_process import Hyperparameters, Kernel, Surrogate, fit

Array = NDArray[np.float64]
N_KNOWN = 128  # measurements that are looked at: the newest, and an even part of the others
N_LEAST = 4  # measurements without which nothing is predicted
LEAST = 1e-9  # of the limit: no measured cost is nothing

# Squared inverse length scales that a fit begins with, by group (as in `auto`): how a model is built says what it costs,
# what only training sees says nothing.
PRIOR_WEIGHTS = {"size": 8.0, "method": 2.0, "shared lr": 1e-3, "shared weight_decay": 1e-3, "scale": 1e-3, "dropout": 1e-3}
PRIOR_WEIGHT_OF_OTHERS = 0.5

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


class PredictedCost:
    """Costs of configurations as shares of the limit, learnt from those that were measured."""

    def __init__(self, coding: Coding) -> None:
        self._kernel = Kernel(coding.groups, coding.shared)
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, PRIOR_WEIGHT_OF_OTHERS) for name in coding.names])
        self._by = self._prior
        self._to_fit: tuple[Array, Array] | None = None
        self._surrogate: Surrogate | None = None

    def fit_to(self, features: Array, shares: Array) -> None:
        """Choose hyperparameters anew, when they are next needed, by these measurements: (n, F) and (n,)."""
        if len(shares) >= N_LEAST:
            taken = _part(len(shares))
            self._to_fit = features[taken], _logs(shares[taken])

    def learn(self, features: Array, shares: Array) -> bool:
        """Take in all that is measured now, (n, F) and (n,); whether that is enough to predict others."""
        if len(shares) < N_LEAST:
            return False
        if self._to_fit is not None:
            self._by, self._to_fit = fit(self._kernel, self._prior, *self._to_fit, np.zeros(len(self._to_fit[1]))), None
        taken = _part(len(shares))
        nothing = np.empty((0, features.shape[1]))
        x, y, exact = features[taken], _logs(shares[taken]), np.zeros(len(taken))
        self._surrogate = Surrogate(self._kernel, self._by, x, y, exact, pending=nothing, pending_extra=0.0)
        return True

    def nodes(self, features: Array) -> tuple[Array, Array]:
        """Where the costs of (n, F) points may lie: shares (3, n), and how likely each of the three is (3,)."""
        if self._surrogate is None:
            raise RuntimeError("a cost is predicted after it was learnt")
        mean, std = self._surrogate.predict(features)
        shares: Array = np.exp(mean[None, :] + NODES[:, None] * std[None, :])
        return shares, NODE_WEIGHTS


def _part(n: int) -> NDArray[np.int64]:
    """Which of `n` measurements, in their order, are looked at."""
    if n <= N_KNOWN:
        return np.arange(n)
    n_new = N_KNOWN // 2
    return np.concatenate([np.linspace(0, n - n_new - 1, N_KNOWN - n_new).astype(np.int64), np.arange(n - n_new, n)])


def _logs(shares: Array) -> Array:
    logs: Array = np.log(np.maximum(shares, LEAST))
    return logs
