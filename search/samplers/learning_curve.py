"""Learning-curve extrapolation: predict a trial's final accuracy from its first epochs, and the hypervolume it would add.

Accuracy is modelled as its *goodness* -log(error), in which halving the error is the same step everywhere. A small constant
keeps it finite at an error of zero. The error is 1 minus the score of the study's metric (`search.metrics`): of a loss, the loss.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from search.pareto import Front

Array = NDArray[np.float64]
LEAST_ERROR = 0.005  # added to every error before its logarithm
SPREAD = 0.35  # prior standard deviation of the gain in goodness from the first epoch to the end
CLIP = 2.0  # an end further below the median than this many times the best tenth is above it is clipped
LEAST_CLIP = 0.1  # in goodness: the least that the best tenth counts as above the median
SEED_SPREAD = 0.01  # standard deviation of an accuracy from seed to seed, where the error is `SEED_ERROR` (our recorded table)
SEED_ERROR = 0.05
WEIGHT = 4.0  # weight of this prior, in trials
N_CURVES = 200  # newest complete trials that are used
UNKNOWN = (1.0, 0.0, SPREAD**2)  # slope, shift, variance
NODES, NODE_WEIGHTS = np.polynomial.hermite_e.hermegauss(8)
NODE_WEIGHTS = NODE_WEIGHTS / NODE_WEIGHTS.sum()


def goodness(top1: float) -> float:
    """Return -log(error) of an accuracy (fraction), about 5.3 at most."""
    return -math.log(1.0 + LEAST_ERROR - min(top1, 1.0))


def accuracy_of(ends: float) -> float:
    """Return the accuracy of a goodness."""
    return 1.0 + LEAST_ERROR - math.exp(-ends)


def standings(top1: Sequence[float]) -> Array:
    """Return the standardised goodness (n,) of each of a study's accuracies (n,) among all of them."""
    values = clipped(np.array([goodness(value) for value in top1]))
    found: Array = (values - values.mean()) / max(float(values.std()), 1e-3)
    return found


def clipped(ends: Array) -> Array:
    """Return goodness (n,) at least `CLIP` times as far below the median as the best tenth is above it.

    A trial that diverged says that its like diverge. How far it fell says nothing, and would set the scale of all others.
    """
    middle = float(np.median(ends))
    above = max(float(np.quantile(ends, 0.9)) - middle, LEAST_CLIP)
    found: Array = np.maximum(ends, middle - CLIP * above)
    return found


def noise_variance(ends: Array, n_images: int, n_runs: NDArray[np.int64], *, folds: bool) -> Array:
    """Return the variances (n,) of goodness that was measured on so many images as the mean of runs with other seeds.

    The images give an accuracy p the variance p (1 - p) / n_images. That of a seed is taken to be proportional to its error.

    Args:
        ends: Goodness (n,).
        n_images: Number of images of a validation split.
        n_runs: Number (n,) of runs of each trial.
        folds: True if each run is measured on other images.
    """
    error = np.clip((np.exp(-ends) - LEAST_ERROR) * n_images + 0.5, 0.5, n_images) / (n_images + 1.0)  # no error is exactly 0
    images, seed = error * (1.0 - error) / n_images, SEED_SPREAD**2 * np.minimum(error / SEED_ERROR, 2.0)
    found: Array = (images / (n_runs if folds else 1) + seed / n_runs) / (error + LEAST_ERROR) ** 2
    return found


class Extrapolation:
    """The prediction of a trial's end from an early value: for each epoch, a regression line over the completed trials."""

    def __init__(self) -> None:
        self._curves: list[list[float]] = []
        self._lines: Array | None = None  # cached result of `lines`, until the next curve

    def add(self, curve: list[float]) -> None:
        """Learn from a complete trial: its goodness after each epoch."""
        if curve and (not self._curves or len(curve) == len(self._curves[0])):
            self._curves.append(curve)
            self._lines = None

    def __call__(self, last: Array, n_epochs: NDArray[np.int64]) -> tuple[Array, Array]:
        """Return (mean, variance) of the goodness at the end of unfinished trials, each (n,).

        Args:
            last: Goodness (n,) after the last epoch.
            n_epochs: Number (n,) of that epoch, at least 1.
        """
        if self._lines is None:
            self._lines = lines(np.array(self._curves[-N_CURVES:]))
        known = len(self._lines)
        line = self._lines[np.minimum(n_epochs, known) - 1] if known else np.tile(UNKNOWN, (len(last), 1))
        slope, shift, variance = np.where((n_epochs <= known)[:, None], line, UNKNOWN).T
        return shift + slope * last, variance


def lines(curves: Array) -> Array:
    """Return (slope, shift, variance) of the end given each epoch's value: (epochs, 3), from complete curves (n, epochs)."""
    n, n_epochs = curves.shape if curves.ndim == 2 else (0, 0)
    if n < 2:
        return np.tile(UNKNOWN, (n_epochs, 1))
    middle, end = curves.mean(0), curves[:, -1]
    away, end_away = curves - middle, end - end.mean()
    slope = np.clip((end_away @ away + 0.5) / ((away**2).sum(0) + 0.5), 0.2, 1.5)  # ridge towards 1
    left = ((end_away[:, None] - slope * away) ** 2).sum(0)
    prior = WEIGHT * (SPREAD * (1.0 - np.arange(1, n_epochs + 1) / n_epochs)) ** 2
    return np.stack([slope, end.mean() - slope * middle, (left + prior) / (n + WEIGHT)], axis=1)


def expected_gain(front: Front, mean: Array, std: Array, positions: Array) -> Array:
    """Compute the expected hypervolume improvement of points of known size.

    Args:
        front: Current front.
        mean: Mean (n,) of -log(error), normally distributed.
        std: Standard deviation (n,) of the same.
        positions: Positions (n,) of the sizes (`pareto.Axis`).

    Returns:
        (n,) in accuracy x decades: the mean over Gauss-Hermite nodes of the area between the accuracy and the front, to the right.
    """
    edges, levels = front.strips()
    top1 = 1.0 + LEAST_ERROR - np.exp(-(mean[:, None] + std[:, None] * NODES[None, :]))  # (n, nodes)
    widths = np.diff(edges)
    before = np.concatenate(([0.0], np.cumsum(widths))), np.concatenate(([0.0], np.cumsum(widths * levels)))
    first = np.clip(np.searchsorted(edges, positions, side="right") - 1, 0, len(levels) - 1)  # the strip that contains the point
    last = np.maximum(np.searchsorted(levels, top1.ravel(), side="left").reshape(top1.shape), first[:, None])  # levels rise
    cut = np.where(last > first[:, None], (positions - edges[first])[:, None] * (top1 - levels[first][:, None]), 0.0)
    area = top1 * (before[0][last] - before[0][first][:, None]) - (before[1][last] - before[1][first][:, None]) - cut
    gain: Array = np.maximum(area, 0.0) @ NODE_WEIGHTS
    return gain
