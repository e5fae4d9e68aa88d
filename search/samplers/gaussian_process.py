"""A Gaussian process for the accuracy of untrained configurations, with few data, many discrete knobs and several methods.

The covariance of two points x, x' (features of `search.samplers.encoding`, each column in a group g with weight w_g) is

    k(x, x') = a_0 + a_1 exp(-1/2 sum over shared g of w_g d_g(x, x')) + a_2 exp(-1/2 sum over all g of w_g d_g(x, x'))

where d_g is the squared distance in the columns of group g. Its terms are a constant, the part that all methods have in common
(size, learning rate, ...), and the part of each method. Weights, amplitudes and noise maximise the marginal likelihood
(Rasmussen and Williams 2006, equation 5.9) times log-normal priors, with which ten observations are enough to start.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
PRIOR_SPREAD = 1.0  # standard deviation of the logarithm of every hyperparameter
AMPLITUDES = (0.5, 0.5, 0.5)  # a_0, a_1, a_2 of standardised targets
NOISE = 0.03  # variance of a complete trial's standardised target
MAX_STEPS = 30  # of the optimiser


@dataclass(frozen=True)
class Hyperparameters:
    """The hyperparameters chosen by a fit; all are positive.

    Attributes:
        weights: Weights (G,) of the groups.
        amplitudes: Amplitudes (3,): a_0, a_1, a_2.
        noise: Variance of an exact observation.
    """

    weights: Array
    amplitudes: Array
    noise: float

    @classmethod
    def prior(cls, weights: Sequence[float]) -> Hyperparameters:
        """Return the centre of the priors."""
        return cls(np.asarray(weights, dtype=np.float64), np.asarray(AMPLITUDES), NOISE)

    def logs(self) -> Array:
        """Return the logarithms (G + 4,), which are the fitted variables."""
        logs: Array = np.log(np.concatenate([self.weights, self.amplitudes, [self.noise]]))
        return logs

    @classmethod
    def _of_logs(cls, logs: Array) -> Hyperparameters:
        values = np.exp(logs)
        return cls(values[:-4], values[-4:-1], float(values[-1]))


class Kernel:
    """The covariance function.

    Args:
        groups: Group (F,) of each feature column, counted from 0.
        shared: Flags (F,), true for columns of the part that all methods have in common.
    """

    def __init__(self, groups: NDArray[np.int64], shared: NDArray[np.bool_]) -> None:
        self.groups, self.shared = groups, shared

    def parts(self, x: Array, other: Array, hyperparameters: Hyperparameters) -> tuple[Array, Array]:
        """Return the two exponentials without their amplitudes, each (n, m), for features (n, F) and (m, F)."""
        scale = np.sqrt(hyperparameters.weights[self.groups])
        a, b = x * scale, other * scale
        common = squared(a[:, self.shared], b[:, self.shared])
        everything = common + squared(a[:, ~self.shared], b[:, ~self.shared])
        return np.exp(-0.5 * common), np.exp(-0.5 * everything)

    def __call__(self, x: Array, other: Array, hyperparameters: Hyperparameters) -> Array:
        """Return the covariance (n, m) of every pair."""
        common, everything = self.parts(x, other, hyperparameters)
        covariance: Array = (
            hyperparameters.amplitudes[0] + hyperparameters.amplitudes[1] * common + hyperparameters.amplitudes[2] * everything
        )
        return covariance


class Surrogate:
    """The Gaussian process conditioned on observations.

    Args:
        kernel: Covariance function.
        hyperparameters: Hyperparameters of the covariance.
        x: Features (n, F).
        y: Targets (n,).
        extra: Variance (n,) of each observation in addition to the noise (0 for a directly observed target).
        pending: Features (m, F) of points whose observation is in progress. They reduce the uncertainty near them, so that similar
            points are not observed at the same time; they change no mean, as if they turned out exactly as expected.
        pending_extra: Variance of the pending observations in addition to the noise.
    """

    def __init__(
        self,
        kernel: Kernel,
        hyperparameters: Hyperparameters,
        x: Array,
        y: Array,
        extra: Array,
        *,
        pending: Array,
        pending_extra: float,
    ) -> None:
        self._kernel, self._hyperparameters = kernel, hyperparameters
        self._mean, self._std = _standard(y)
        n = len(x)
        self._x = np.concatenate([x, pending])
        covariance = kernel(self._x, self._x, hyperparameters)
        noise = hyperparameters.noise + np.concatenate([extra, np.full(len(pending), pending_extra)]) / self._std**2
        covariance[np.diag_indices(len(self._x))] += noise
        self._inverse = np.linalg.inv(covariance)
        alpha = np.linalg.solve(covariance[:n, :n], (y - self._mean) / self._std)
        self._alpha = np.concatenate([alpha, np.zeros(len(pending))])

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Predict mean and standard deviation, each (m,), of the noise-free target at features (m, F)."""
        cross = self._kernel(x, self._x, self._hyperparameters)
        variance = self._hyperparameters.amplitudes.sum() - ((cross @ self._inverse) * cross).sum(1)
        return self._mean + self._std * (cross @ self._alpha), self._std * np.sqrt(np.maximum(variance, 1e-10))


def fit(kernel: Kernel, prior: Hyperparameters, x: Array, y: Array, extra: Array) -> Hyperparameters:
    """Return the most probable hyperparameters for n observations, as in `Surrogate`; O(n^3) for each of 30 steps."""
    return Hyperparameters._of_logs(_descend(evidence(kernel, prior, x, y, extra), prior.logs()))


def evidence(kernel: Kernel, prior: Hyperparameters, x: Array, y: Array, extra: Array) -> Callable[[Array], tuple[float, Array]]:
    """Return the objective of a fit: minus the logarithm of marginal likelihood times prior, up to a constant, and its gradient.

    It is a function of the hyperparameters' logarithms; the other arguments are those of `Surrogate`.
    """
    mean, std = _standard(y)
    target, extra = (y - mean) / std, extra / std**2
    middle = prior.logs()
    n_groups, n = len(prior.weights), len(x)
    squares = x**2

    def loss(logs: Array) -> tuple[float, Array]:
        hyperparameters = Hyperparameters._of_logs(logs)
        common, everything = kernel.parts(x, x, hyperparameters)
        covariance = (
            hyperparameters.amplitudes[0] + hyperparameters.amplitudes[1] * common + hyperparameters.amplitudes[2] * everything
        )
        covariance[np.diag_indices(n)] += hyperparameters.noise + extra
        lower = np.linalg.cholesky(covariance)
        half = np.linalg.inv(lower)
        inverse = half.T @ half
        alpha = inverse @ target
        outer = inverse - np.outer(alpha, alpha)  # 2 dL/dK
        value = 0.5 * float(target @ alpha) + float(np.log(np.diag(lower)).sum())
        gradient = np.zeros(len(logs))
        gradient[n_groups:-1] = (
            0.5 * hyperparameters.amplitudes * np.array([outer.sum(), (outer * common).sum(), (outer * everything).sum()])
        )
        gradient[-1] = 0.5 * hyperparameters.noise * np.trace(outer)
        own = hyperparameters.amplitudes[2] * outer * everything
        both = own + hyperparameters.amplitudes[1] * outer * common
        for columns, weight in ((kernel.shared, both), (~kernel.shared, own)):
            # sum over i, j of weight_ij (x_i - x_j)^2 = 2 (x^2 . row sums - x' weight x), for each column
            part = x[:, columns]
            moved = 2.0 * (squares[:, columns].T @ weight.sum(1) - np.einsum("nf,nf->f", part, weight @ part))
            np.add.at(gradient, kernel.groups[columns], -0.25 * hyperparameters.weights[kernel.groups[columns]] * moved)
        away = (logs - middle) / PRIOR_SPREAD
        return value + 0.5 * float(away @ away), gradient + away / PRIOR_SPREAD

    return loss


def _descend(loss: Callable[[Array], tuple[float, Array]], start: Array) -> Array:
    """Minimise a function by resilient backpropagation (Riedmiller and Braun 1993); return the best point.

    Each coordinate has its own step, which grows while the gradient keeps its sign and shrinks when the sign changes. The
    method needs neither scaling nor line searches.
    """
    at, steps, before = start.copy(), np.full(len(start), 0.3), np.zeros(len(start))
    best, least = start, np.inf
    for _ in range(MAX_STEPS):
        value, gradient = loss(at)
        if value < least:
            best, least = at.copy(), value
        turned = gradient * before
        steps = np.clip(np.where(turned > 0, 1.2 * steps, np.where(turned < 0, 0.5 * steps, steps)), 1e-3, 1.0)
        before = np.where(turned < 0, 0.0, gradient)
        at = np.clip(at - np.sign(before) * steps, start - 5.0, start + 5.0)
    return best


def squared(a: Array, b: Array) -> Array:
    """Return the squared distances (n, m) of the rows."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * (a @ b.T)
    positive: Array = np.maximum(squares, 0.0)
    return positive


def _standard(y: Array) -> tuple[float, float]:
    return float(y.mean()), max(float(y.std()), 1e-3)
