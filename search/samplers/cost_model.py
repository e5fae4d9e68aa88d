"""The prediction of a cost that only training can measure: time, memory, latency.

It is a Gaussian process (`search.samplers.gaussian_process`) on the cost's logarithm, because costs differ by factors, and a
knob changes a cost by a factor too. It learns from all measurements, including those of trials that were stopped or exceeded a
limit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.samplers.encoding import Coding
from search.samplers.gaussian_process import Hyperparameters, Kernel, Surrogate, fit
from search.samplers.shared_columns import STEP

Array = NDArray[np.float64]
N_KNOWN = 128  # measurements that are used: the newest, and evenly spaced others
N_LEAST = 4  # measurements required for predictions
LEAST = 1e-9  # of the limit: lower bound of a measured cost

# Initial squared inverse length scales of a fit, by group (as in `auto`): a cost depends on the structure of a model, not on
# knobs that only affect its training.
PRIOR_WEIGHTS = {"size": 8.0, "method": 2.0, "shared lr": 1e-3, "shared weight_decay": 1e-3, "scale": 1e-3, "dropout": 1e-3}
PRIOR_WEIGHTS |= {STEP: 1e-3}
PRIOR_WEIGHT_OF_OTHERS = 0.5

NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(3)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


class PredictedCost:
    """The predicted costs of configurations, as shares of the limit, learnt from measurements."""

    def __init__(self, coding: Coding) -> None:
        self._kernel = Kernel(coding.groups, coding.shared)
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, PRIOR_WEIGHT_OF_OTHERS) for name in coding.names])
        self._hyperparameters = self._prior
        self._to_fit: tuple[Array, Array] | None = None
        self._surrogate: Surrogate | None = None

    def fit_to(self, features: Array, shares: Array) -> None:
        """Schedule a fit of the hyperparameters to these measurements, features (n, F) and shares (n,), for their next use."""
        if len(shares) >= N_LEAST:
            taken = _part(len(shares))
            self._to_fit = features[taken], _logs(shares[taken])

    def learn(self, features: Array, shares: Array) -> bool:
        """Learn all current measurements, features (n, F) and shares (n,); return whether they suffice for predictions."""
        if len(shares) < N_LEAST:
            return False
        if self._to_fit is not None:
            self._hyperparameters, self._to_fit = (
                fit(self._kernel, self._prior, *self._to_fit, np.zeros(len(self._to_fit[1]))),
                None,
            )
        taken = _part(len(shares))
        nothing = np.empty((0, features.shape[1]))
        x, y, exact = features[taken], _logs(shares[taken]), np.zeros(len(taken))
        self._surrogate = Surrogate(self._kernel, self._hyperparameters, x, y, exact, pending=nothing, pending_extra=0.0)
        return True

    def nodes(self, features: Array) -> tuple[Array, Array]:
        """Return the predicted cost distribution of points (n, F): shares (3, n), and the probability (3,) of each node."""
        if self._surrogate is None:
            raise RuntimeError("a cost can be predicted only after learn returned True")
        mean, std = self._surrogate.predict(features)
        shares: Array = np.exp(mean[None, :] + NODES[:, None] * std[None, :])
        return shares, NODE_WEIGHTS


def _part(n: int) -> NDArray[np.int64]:
    """Return the indices of the used measurements among `n`, in order."""
    if n <= N_KNOWN:
        return np.arange(n)
    n_new = N_KNOWN // 2
    return np.concatenate([np.linspace(0, n - n_new - 1, N_KNOWN - n_new).astype(np.int64), np.arange(n - n_new, n)])


def _logs(shares: Array) -> Array:
    logs: Array = np.log(np.maximum(shares, LEAST))
    return logs
