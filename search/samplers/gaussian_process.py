"""A Gaussian process for the accuracy of configurations that were not trained: small data, many discrete knobs, several methods.

The covariance of two points x, x' (features of `search.samplers.encoding`, each column in a group g with weight w_g) is

    k(x, x') = a_0 + a_1 exp(-1/2 sum over shared g of w_g d_g(x, x')) + a_2 exp(-1/2 sum over all g of w_g d_g(x, x'))

with d_g the squared distance in the columns of group g: a constant, what all methods have in common (size, learning rate, ...), and
what is a method's own. Weights, amplitudes and noise maximise the marginal likelihood (Rasmussen and Williams 2006, equation 5.9)
times log-normal priors that make ten observations enough to begin with.
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
    """What a fit chooses; all positive.

    Attributes:
        weights: (G,) of the groups.
        amplitudes: (3,) a_0, a_1, a_2.
        noise: Variance of an exact observation.
    """

    weights: Array
    amplitudes: Array
    noise: float

    @classmethod
    def prior(cls, weights: Sequence[float]) -> Hyperparameters:
        """Where the priors have their middle."""
        return cls(np.asarray(weights, dtype=np.float64), np.asarray(AMPLITUDES), NOISE)

    def logs(self) -> Array:
        """(G + 4,) their logarithms, in which they are fitted."""
        logs: Array = np.log(np.concatenate([self.weights, self.amplitudes, [self.noise]]))
        return logs

    @classmethod
    def _of_logs(cls, logs: Array) -> Hyperparameters:
        values = np.exp(logs)
        return cls(values[:-4], values[-4:-1], float(values[-1]))


class Kernel:
    """The covariance.

    Args:
        groups: (F,) the group of each feature column, counted from 0.
        shared: (F,) whether the column belongs to what all methods have in common.
    """

    def __init__(self, groups: NDArray[np.int64], shared: NDArray[np.bool_]) -> None:
        self.groups, self.shared = groups, shared

    def parts(self, x: Array, other: Array, hyperparameters: Hyperparameters) -> tuple[Array, Array]:
        """The two exponentials without their amplitudes, each (n, m), for features (n, F) and (m, F)."""
        scale = np.sqrt(hyperparameters.weights[self.groups])
        a, b = x * scale, other * scale
        common = squared(a[:, self.shared], b[:, self.shared])
        everything = common + squared(a[:, ~self.shared], b[:, ~self.shared])
        return np.exp(-0.5 * common), np.exp(-0.5 * everything)

    def __call__(self, x: Array, other: Array, by: Hyperparameters) -> Array:
        """The covariance of every pair, (n, m)."""
        common, everything = self.parts(x, other, by)
        covariance: Array = by.amplitudes[0] + by.amplitudes[1] * common + by.amplitudes[2] * everything
        return covariance


class Surrogate:
    """The process given observations.

    Args:
        kernel: The covariance.
        by: Its hyperparameters.
        x: (n, F) features.
        y: (n,) targets.
        extra: (n,) variance of each observation beyond the noise (0 where the target was seen itself).
        pending: (m, F) features of points that are being observed now: nobody need observe them again, so they lessen the
            uncertainty near them (as observations that will turn out as expected: they change no mean).
        pending_extra: Variance of their observations beyond the noise.
    """

    def __init__(
        self, kernel: Kernel, by: Hyperparameters, x: Array, y: Array, extra: Array, *, pending: Array, pending_extra: float
    ) -> None:
        self._kernel, self._hyperparameters = kernel, by
        self._mean, self._std = _standard(y)
        n = len(x)
        self._x = np.concatenate([x, pending])
        covariance = kernel(self._x, self._x, by)
        noise = by.noise + np.concatenate([extra, np.full(len(pending), pending_extra)]) / self._std**2
        covariance[np.diag_indices(len(self._x))] += noise
        self._inverse = np.linalg.inv(covariance)
        alpha = np.linalg.solve(covariance[:n, :n], (y - self._mean) / self._std)
        self._alpha = np.concatenate([alpha, np.zeros(len(pending))])

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation, each (m,), of the noise-free target at features (m, F)."""
        cross = self._kernel(x, self._x, self._hyperparameters)
        variance = self._hyperparameters.amplitudes.sum() - ((cross @ self._inverse) * cross).sum(1)
        return self._mean + self._std * (cross @ self._alpha), self._std * np.sqrt(np.maximum(variance, 1e-10))


def fit(kernel: Kernel, prior: Hyperparameters, x: Array, y: Array, extra: Array) -> Hyperparameters:
    """The most probable hyperparameters for n observations; O(n^3) for each of 30 steps. Arguments as in `Surrogate`."""
    return Hyperparameters._of_logs(_descend(evidence(kernel, prior, x, y, extra), prior.logs()))


def evidence(kernel: Kernel, prior: Hyperparameters, x: Array, y: Array, extra: Array) -> Callable[[Array], tuple[float, Array]]:
    """What a fit makes small: minus the logarithm of marginal likelihood times prior, up to a constant, and its gradient.

    Both as a function of the hyperparameters' logarithms; the other arguments as in `Surrogate`.
    """
    mean, std = _standard(y)
    target, extra = (y - mean) / std, extra / std**2
    middle = prior.logs()
    n_groups, n = len(prior.weights), len(x)
    squares = x**2

    def loss(logs: Array) -> tuple[float, Array]:
        by = Hyperparameters._of_logs(logs)
        common, everything = kernel.parts(x, x, by)
        covariance = by.amplitudes[0] + by.amplitudes[1] * common + by.amplitudes[2] * everything
        covariance[np.diag_indices(n)] += by.noise + extra
        lower = np.linalg.cholesky(covariance)
        half = np.linalg.inv(lower)
        inverse = half.T @ half
        alpha = inverse @ target
        outer = inverse - np.outer(alpha, alpha)  # 2 dL/dK
        value = 0.5 * float(target @ alpha) + float(np.log(np.diag(lower)).sum())
        gradient = np.zeros(len(logs))
        gradient[n_groups:-1] = 0.5 * by.amplitudes * np.array([outer.sum(), (outer * common).sum(), (outer * everything).sum()])
        gradient[-1] = 0.5 * by.noise * np.trace(outer)
        own = by.amplitudes[2] * outer * everything
        both = own + by.amplitudes[1] * outer * common
        for columns, weight in ((kernel.shared, both), (~kernel.shared, own)):
            # sum over i, j of weight_ij (x_i - x_j)^2 = 2 (x^2 . row sums - x' weight x), for each column
            part = x[:, columns]
            moved = 2.0 * (squares[:, columns].T @ weight.sum(1) - np.einsum("nf,nf->f", part, weight @ part))
            np.add.at(gradient, kernel.groups[columns], -0.25 * by.weights[kernel.groups[columns]] * moved)
        away = (logs - middle) / PRIOR_SPREAD
        return value + 0.5 * float(away @ away), gradient + away / PRIOR_SPREAD

    return loss


def _descend(loss: Callable[[Array], tuple[float, Array]], start: Array) -> Array:
    """The best point that resilient backpropagation finds (Riedmiller and Braun 1993).

    Each coordinate has a step of its own, longer while the gradient keeps its sign, shorter when that turns: free of scale, and of
    line searches.
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
    """Squared distances of the rows, (n, m)."""
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1)[None, :] - 2.0 * (a @ b.T)
    positive: Array = np.maximum(squares, 0.0)
    return positive


def _standard(y: Array) -> tuple[float, float]:
    return float(y.mean()), max(float(y.std()), 1e-3)
