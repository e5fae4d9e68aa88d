"""The prediction of accuracy for the sampler `auto`: what its Gaussian process learns from the trials, and when it is fitted."""

from __future__ import annotations

import numpy as np

from search.samplers.base import Part
from search.samplers.encoding import Array, Coding
from search.samplers.gaussian_process import Hyperparameters, Kernel, Surrogate, fit, squared
from search.samplers.learning_curve import SPREAD, clipped, noise_variance
from search.samplers.observations import Observations, Tickets
from search.samplers.shared_columns import STEP

N_LEAST = 4  # observations required for predictions
N_KNOWN, N_RUNNING = 256, 48  # maximum numbers of trials for the surrogate: with reports, and running without any
N_FIT_FIRST, N_FIT = 12, 192  # observations for the first fit of hyperparameters, and at most

# Initial squared inverse length scales of a fit, by group; the unit is a knob's whole range, and four decades of size.
PRIOR_WEIGHTS = {"size": 8.0, "shared lr": 12.0, "method": 1.0, "rank": 1.0, "scale": 3.0, "layers": 1.0, STEP: 3.0}
PRIOR_WEIGHT_OF_OTHERS, PRIOR_WEIGHT_OF_OTHERS_SHARED = 0.3, 0.15


class PredictedAccuracy:
    """The predicted accuracies of configurations, as goodness, learnt from trials.

    Args:
        coding: Coding of the joint space.
        parts: Parts of `auto` with which the study began.
        n_images: Number of images that accuracies are measured on; None if they count as exact.
    """

    def __init__(self, coding: Coding, parts: frozenset[Part], n_images: int | None) -> None:
        self._clips, self._n_images = Part.CLIPPED in parts, n_images if Part.NOISE in parts else None
        self._kernel = Kernel(coding.groups, coding.shared)
        others = PRIOR_WEIGHT_OF_OTHERS_SHARED if Part.SHARED in parts else PRIOR_WEIGHT_OF_OTHERS
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, others) for name in coding.names])
        self._hyperparameters = self._prior
        self._nearness = np.sqrt(self._prior.weights)[coding.groups]
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
            self._to_fit = known.features(observed), *self._targets(*known.ends(observed))
        return True

    def learn(self, known: Observations, observed: Tickets, below: Array) -> Surrogate | None:
        """Return the surrogate of the current observations; None if there are too few.

        Args:
            known: Observations.
            observed: Tickets (n,) with at least one epoch.
            below: How far (n,) they end below the front: of too many, the nearest are used, and an even part of the others.
        """
        if len(observed) < N_LEAST:
            return None
        if self._to_fit is not None:
            self._hyperparameters, self._to_fit = fit(self._kernel, self._prior, *self._to_fit), None
        ends, variances = self._targets(*known.ends(observed))
        if len(observed) > N_KNOWN:
            order = np.argsort(below, kind="stable")
            near, others = order[: N_KNOWN // 2], np.sort(order[N_KNOWN // 2 :])
            part = others[np.linspace(0, len(others) - 1, N_KNOWN - len(near)).astype(np.int64)]
            taken = np.concatenate([near, part])
            observed, ends, variances = observed[taken], ends[taken], variances[taken]
        silent = known.features(known.silent()[-N_RUNNING:])
        return Surrogate(
            self._kernel,
            self._hyperparameters,
            known.features(observed),
            ends,
            variances,
            pending=silent,
            pending_extra=SPREAD**2,
        )

    def works(self, features: Array, known: Observations) -> Array:
        """Return the probability (n,) that points do not fail, from nearby trials that did or did not."""
        failed = known.failed()
        if not len(failed) or not self._clips:
            return np.ones(len(features))
        return likely(features, known.features(failed), known.features(known.observed()), self._nearness)

    def _targets(self, ends: Array, variances: Array) -> tuple[Array, Array]:
        """Return what the surrogate learns: ends (n,) and their variances."""
        if self._n_images is not None:
            variances = variances + noise_variance(ends, self._n_images)
        return (clipped(ends) if self._clips and len(ends) else ends), variances


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
