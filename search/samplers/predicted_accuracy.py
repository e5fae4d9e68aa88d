"""The prediction of accuracy for the sampler `auto`: what its Gaussian process learns from the trials, and when it is fitted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from search.samplers.base import Part
from search.samplers.encoding import Array, Coding
from search.samplers.gaussian_process import Hyperparameters, Kernel, Surrogate, fit, squared
from search.samplers.learning_curve import SPREAD, clipped, noise_variance
from search.samplers.observations import Observations, Tickets
from search.samplers.shared_columns import STEP

N_LEAST = 4  # observations required for predictions
N_KNOWN, N_RUNNING = 256, 48  # maximum numbers of trials for the surrogate: with reports, and running without any
N_ELSEWHERE = 128  # trials of studies with other data
# Correlation of what they say with this study's trials: before any is known, with the weight of that many trials, and the least.
AGREEMENT, N_AGREEMENT, LEAST_AGREEMENT = math.sqrt(0.5), 8, 0.1
ELSEWHERE = 1.0  # standard deviation of what such a trial says, in standard deviations of this study's trials, at that correlation
N_FIT_FIRST, N_FIT = 12, 192  # observations for the first fit of hyperparameters, and at most

# Initial squared inverse length scales of a fit, by group; the unit is a knob's whole range, and four decades of size.
PRIOR_WEIGHTS = {"size": 8.0, "shared lr": 12.0, "method": 1.0, "rank": 1.0, "scale": 3.0, "layers": 1.0, STEP: 3.0}
PRIOR_WEIGHT_OF_OTHERS, PRIOR_WEIGHT_OF_OTHERS_SHARED = 0.3, 0.15
# The same for predicting whether a trial fails, which is not fitted.
FAILURE_WEIGHTS = {"size": 4.0, "shared lr": 12.0, "method": 1.0, "scale": 6.0, STEP: 12.0}
FAILURE_WEIGHT_OF_OTHERS = 3.0
DOUBT = 0.05  # least probability that a trial works, and standard deviation of what one trial says


class PredictedAccuracy:
    """The predicted accuracies of configurations, as goodness, learnt from trials.

    Args:
        coding: Coding of the joint space.
        parts: Parts of `auto` with which the study began.
        n_images: Number of images that accuracies are measured on; None if they count as exact.
        elsewhere: Features (F,) of trials of studies with other data, and the standardised goodness of each.
        folds: True if each run of a trial is measured on other images.
    """

    def __init__(
        self,
        coding: Coding,
        parts: frozenset[Part],
        n_images: int | None,
        elsewhere: Sequence[tuple[Array, float]] = (),
        *,
        folds: bool = False,
    ) -> None:
        part = [elsewhere[i] for i in evenly(len(elsewhere), N_ELSEWHERE)]
        self._elsewhere = np.array([row for row, _ in part]).reshape(-1, len(coding.groups)), np.array([z for _, z in part])
        self._clips, self._n_images = Part.CLIPPED in parts, n_images if Part.NOISE in parts else None
        self._counts_runs, self._folds, self._compares = Part.RUNS in parts, folds, Part.AGREEMENT in parts
        self._kernel = Kernel(coding.groups, coding.shared)
        others = PRIOR_WEIGHT_OF_OTHERS_SHARED if Part.SHARED in parts else PRIOR_WEIGHT_OF_OTHERS
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, others) for name in coding.names])
        self._hyperparameters = self._prior
        self._of_failures = Hyperparameters.prior([FAILURE_WEIGHTS.get(name, FAILURE_WEIGHT_OF_OTHERS) for name in coding.names])
        self._n_ended, self._next_fit = 0, N_FIT_FIRST
        self._to_fit: tuple[Array, Array, Array] | None = None  # features, values and variances for the next fit

    def ended(self, known: Observations) -> bool:
        """Count an ended trial; return whether hyperparameters are due to a fit, as whenever the ended trials grew by half.

        They are fitted to the results of now, for the next prediction.
        """
        self._n_ended += 1
        if self._n_ended != self._next_fit:
            return False
        self._next_fit = self._next_fit * 3 // 2 if self._next_fit * 3 // 2 <= N_FIT else 0
        observed = known.observed()[-N_FIT:]
        if len(observed) >= N_LEAST:
            self._to_fit = known.features(observed), *self._targets(known, observed)
        return True

    def learn(self, known: Observations, observed: Tickets, below: Array) -> Surrogate | None:
        """Return the surrogate of the current observations; None if there are too few.

        Args:
            known: Observations.
            observed: Tickets (n,) with at least one epoch.
            below: Distances (n,) of their ends below the front: of too many, the nearest are used, and an even part of the others.
        """
        if len(observed) < N_LEAST:
            return None
        if self._to_fit is not None:
            self._hyperparameters, self._to_fit = fit(self._kernel, self._prior, *self._to_fit), None
        ends, variances = self._targets(known, observed)
        doubt = self._doubt(known.features(observed), ends)
        if len(observed) > N_KNOWN:
            order = np.argsort(below, kind="stable")
            near, others = order[: N_KNOWN // 2], np.sort(order[N_KNOWN // 2 :])
            taken = np.concatenate([near, others[evenly(len(others), N_KNOWN - len(near))]])
            observed, ends, variances = observed[taken], ends[taken], variances[taken]
        spread = float(ends.std())
        silent = known.features(known.silent()[-N_RUNNING:])
        return Surrogate(
            self._kernel,
            self._hyperparameters,
            np.concatenate([known.features(observed), self._elsewhere[0]]),
            np.concatenate([ends, ends.mean() + spread * self._elsewhere[1]]),
            np.concatenate([variances, np.full(len(self._elsewhere[1]), (doubt * spread) ** 2)]),
            pending=silent,
            pending_extra=SPREAD**2,
        )

    def _doubt(self, features: Array, ends: Array) -> float:
        """Return the standard deviation of what a trial on other data says, in standard deviations of this study's ends (n,)."""
        if not self._compares or self._other is None:
            return ELSEWHERE
        expected = self._other.predict(features)[0]
        spreads = float(expected.std() * ends.std())
        agreement = float(np.mean((expected - expected.mean()) * (ends - ends.mean()))) / spreads if spreads > 0 else 0.0
        trust = (N_AGREEMENT * AGREEMENT + len(ends) * max(agreement, LEAST_AGREEMENT)) / (N_AGREEMENT + len(ends))
        return math.sqrt(1.0 / trust**2 - 1.0)

    @cached_property
    def _other(self) -> Surrogate | None:
        """The surrogate of the trials on other data alone; None if there are too few."""
        features, standings = self._elsewhere
        if len(standings) < N_LEAST:
            return None
        variances = np.full(len(standings), ELSEWHERE**2)
        return Surrogate(self._kernel, self._prior, features, standings, variances, pending=features[:0], pending_extra=0.0)

    def works(self, features: Array, known: Observations) -> Array:
        """Return the probability (n,) that points do not fail: a regression over the trials that did or did not."""
        failed, observed = known.failed()[-N_RUNNING:], known.observed()[-N_FIT:]
        if not len(failed) or not len(observed) or not self._clips:
            return np.ones(len(features))
        x = known.features(np.concatenate([failed, observed]))
        y = np.repeat([0.0, 1.0], [len(failed), len(observed)])
        surrogate = Surrogate(self._kernel, self._of_failures, x, y, np.full(len(y), DOUBT**2), pending=x[:0], pending_extra=0.0)
        return np.clip(surrogate.predict(features)[0], DOUBT, 1.0)

    def _targets(self, known: Observations, observed: Tickets) -> tuple[Array, Array]:
        """Return what the surrogate learns: ends (n,) and their variances."""
        ends, variances = known.ends(observed)
        if self._n_images is not None:
            n_runs = known.n_runs(observed) if self._counts_runs else np.ones(len(observed), dtype=np.int64)
            variances = variances + noise_variance(ends, self._n_images, n_runs, folds=self._folds)
        return (clipped(ends) if self._clips and len(ends) else ends), variances


def evenly(n: int, most: int) -> NDArray[np.int64]:
    """Return the indices of at most so many of n things, in order."""
    return np.linspace(0, n - 1, min(n, most)).astype(np.int64)


def likely(features: Array, bad: Array, good: Array, scale: Array) -> Array:
    """Return the probability (n,) that points are good, from the features (m, F) of bad and good ones near them.

    Args:
        features: Features (n, F) of the points.
        bad: Features of bad points.
        good: Features of good points.
        scale: Inverse length scales (F,).
    """
    near = [np.exp(-squared(features * scale, others * scale)).sum(1) for others in (bad, good)]
    found: Array = (0.5 + near[1]) / (0.5 + near[0] + near[1])
    return found
