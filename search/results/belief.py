"""The belief about the true accuracies of a study's trials, and the choice among them that follows.

An accuracy is measured on a few hundred images, after one training from one seed. The best of many such numbers is best in part by
chance, and is expected to be lower on other images (the winner's curse). The belief here is the posterior of the Gaussian process
that `auto` predicts with (`search.samplers.gaussian_process`): it knows the noise of the images and of a seed, and draws trials of
similar configurations towards each other. The mean of several runs (`Trial.runs`) has less noise: of seeds in any case, of images
if the runs are on different folds. The noise of a seed is `SEEDS` until further runs tell more (`seed_deviation`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.config.loading import check_stored
from search.errors import RequestError
from search.front import front
from search.metrics import TOP1
from search.results.noise import seed_deviation
from search.samplers.encoding import Coding
from search.samplers.gaussian_process import Hyperparameters, Kernel, fit
from search.samplers.learning_curve import LEAST_ERROR, goodness
from search.storage.rows import StudyRow
from search.trial import PARAMETERS, Trial
from spaces import JointSpace

Array = NDArray[np.float64]
N_DRAWS = 4000
N_LEAST = 4  # complete trials, below which only the noise of the images is known
N_KNOWN = 512  # complete trials that are used: the newest, and all of the front
TIE = 0.001  # accuracy (fraction) below which two trials are equally good
POINT = 0.01  # score that is a point of accuracy
LEVEL = 0.9  # probability with which an answer holds


@dataclass(frozen=True)
class Belief:
    """The joint belief about the true scores of complete trials: accuracies, or what `search.metrics` makes of another metric.

    The true score of a trial is that of its configuration over all seeds, on images without end.

    Attributes:
        trials: Complete trials, smallest first.
        draws: Scores (draws, trials), in the order of the trials.
    """

    trials: tuple[Trial, ...]
    draws: Array

    def odds(self) -> dict[int, float]:
        """Return `p_front` of each trial by its number."""
        return {trial.number: float(p) for trial, p in zip(self.trials, self.p_front(), strict=True)}

    @property
    def mean(self) -> Array:
        """The expected score (trials,) of each trial, corrected for the choice of the best ones."""
        mean: Array = self.draws.mean(0)
        return mean

    def interval(self, index: int, level: float = LEVEL) -> tuple[float, float]:
        """Return the central interval that holds the true score of a trial with a probability."""
        low, high = np.quantile(self.draws[:, index], [0.5 - level / 2, 0.5 + level / 2])
        return float(low), float(high)

    def p_front(self) -> Array:
        """Return the probability (trials,) that no trial of the same size or smaller is truly better by `TIE` or more."""
        best_so_far = np.maximum.accumulate(self.draws, axis=1)
        sizes = np.array([trial.size for trial in self.trials])
        ends = np.searchsorted(sizes, sizes, side="right") - 1  # the last trial of the same size
        found: Array = (self.draws > best_so_far[:, ends] - TIE).mean(0)
        return found

    def choose(self, *, within: float, max_size: float = math.inf, level: float = LEVEL) -> Choice | None:
        """Choose the smallest trial that truly loses at most so much against the best one.

        Args:
            within: Score that may be lost.
            max_size: Largest size of a trial that may be chosen; the best one is the best of these.
            level: Probability with which the choice must hold.

        Returns:
            The choice; None if there is no trial of this size.
        """
        allowed = [i for i, trial in enumerate(self.trials) if trial.size <= max_size]
        if not allowed:
            return None
        draws = self.draws[:, allowed]
        best = draws.max(1)
        odds = (draws >= best[:, None] - within).mean(0)
        kept = [n for n in range(len(allowed)) if odds[n] >= level]
        chosen = kept[0] if kept else int(draws.mean(0).argmax())
        smaller = [n for n in range(chosen) if self.trials[allowed[n]].size < self.trials[allowed[chosen]].size]
        rival = max(smaller, key=lambda n: (odds[n], -n), default=None)
        return Choice(
            index=allowed[chosen],
            probability=float(odds[chosen]),
            holds=bool(kept),
            rival=None if rival is None else allowed[rival],
            rival_probability=0.0 if rival is None else float(odds[rival]),
        )

    def gain(self, index: int, points: float) -> int | None:
        """Return the smallest larger trial whose score is more likely than not so much better than a trial's; None if none is."""
        for other in range(index + 1, len(self.trials)):
            larger = self.trials[other].size > self.trials[index].size
            if larger and (self.draws[:, other] - self.draws[:, index] >= points).mean() >= 0.5:
                return other
        return None


@dataclass(frozen=True)
class Choice:
    """A trial that was chosen, and the next smaller candidate.

    Attributes:
        index: Index of the trial in the belief.
        probability: Probability that it loses at most what was allowed.
        holds: True if that probability reaches the level; otherwise the trial is the one that is expected to be best.
        rival: Index of the smaller trial that is most likely to do as well; None if there is none.
        rival_probability: Probability that the rival loses at most what was allowed.
    """

    index: int
    probability: float
    holds: bool
    rival: int | None
    rival_probability: float


def belief_of(study: StudyRow, trials: Iterable[Trial]) -> Belief:
    """Return the belief about a study's complete trials, with the draws of the study's seed.

    Raises:
        RequestError: If this version does not know all knobs of the study.
    """
    file = check_stored(study.file)
    return believe(file.joint_space(with_anchor=True), trials, study.facts.n_validation, seed=file.search.seed)


def odds_of(study: StudyRow, trials: Iterable[Trial]) -> dict[int, float]:
    """Return the probability that a complete trial is truly on the front, by its number.

    It is empty if this version does not know all knobs of the study.
    """
    try:
        return belief_of(study, trials).odds()
    except RequestError:
        return {}


def believe(
    space: JointSpace, trials: Iterable[Trial], n_validation: int | None, *, seed: int = 0, n_draws: int = N_DRAWS
) -> Belief:
    """Return the belief about the complete trials of a study.

    Args:
        space: Space of the study; trials outside it are left out.
        trials: Trials of the study.
        n_validation: Number of images that accuracies were measured on; None if they are exact.
        seed: Seed of the draws.
        n_draws: Number of draws.
    """
    return drawn(posterior(space, trials, n_validation), seed=seed, n_draws=n_draws)


def drawn(found: Posterior, *, seed: int = 0, n_draws: int = N_DRAWS) -> Belief:
    """Return a belief as draws; the arguments are those of `believe`."""
    if not found.trials:
        return Belief((), np.zeros((n_draws, 0)))
    draws = np.random.default_rng(seed).multivariate_normal(found.mean, found.covariance, size=n_draws, method="eigh")
    return Belief(found.trials, np.minimum(1.0 + LEAST_ERROR - np.exp(-draws), 1.0))


@dataclass(frozen=True)
class Posterior:
    """The belief about the true goodness (`learning_curve.goodness`) of complete trials, before draws.

    Attributes:
        trials: Complete trials, smallest first.
        mean: Expected goodness (n,).
        covariance: Covariance (n, n).
        of_a_run: Variance (n,) that a measurement by one more run adds.
    """

    trials: tuple[Trial, ...]
    mean: Array
    covariance: Array
    of_a_run: Array


def posterior(space: JointSpace, trials: Iterable[Trial], n_validation: int | None) -> Posterior:
    """Return the belief about the complete trials of a study as a normal distribution; the arguments are those of `believe`."""
    complete = [t for t in trials if t.is_complete and t.planned_epochs is None and space.holds(t.config)]
    used = {t.number: t for t in (*front(complete), *complete[-N_KNOWN:])}
    complete = sorted(used.values(), key=lambda t: (t.size, t.number))
    if not complete:
        return Posterior((), np.zeros(0), np.zeros((0, 0)), np.zeros(0))
    scores = [t.objectives[0] for t in complete]
    y = np.array([goodness(score) for score in scores])
    known = complete[0].metric.key == TOP1 or n_validation is None  # the noise of another metric is estimated with that of seeds
    of_a_split = np.array([_variance(score, n_validation) if known else 0.0 for score in scores])
    deviation, n_runs = seed_deviation(complete, n_validation if known else None), np.array([len(t.values) for t in complete])
    of_a_seed = np.array([(deviation / (1.0 + LEAST_ERROR - score)) ** 2 for score in scores])
    folded = complete[0].n_folds is not None
    of_images = of_a_split / n_runs if folded else of_a_split
    measured = of_images + of_a_seed / n_runs
    if len(complete) < N_LEAST:
        mean, covariance = y, np.diag(measured)
    else:
        mean, covariance = _posterior(space, complete, y, measured, of_images, known=known, n_runs=n_runs)
    return Posterior(tuple(complete), mean, covariance, of_a_seed + of_a_split if folded else of_a_seed)


def _posterior(
    space: JointSpace,
    trials: Sequence[Trial],
    y: Array,
    measured: Array,
    of_images: Array,
    *,
    known: bool,
    n_runs: NDArray[np.int64],
) -> tuple[Array, Array]:
    """Return mean (n,) and covariance (n, n) of the true goodness of the trials.

    The process is fitted with a noise of its own in addition to that of the images. As much of it as seeds do not explain is what
    configurations have to themselves: it is true, not noise.
    """
    coding = Coding(space)
    sizes = np.array([math.log1p(t.size) if t.against in PARAMETERS else t.size for t in trials])
    sizes /= max(sizes.max(), 1e-9)
    codes = [coding.code(t.config)[None, :] for t in trials]
    x = np.concatenate([coding.features(t.method, code, size[None]) for t, code, size in zip(trials, codes, sizes, strict=True)])
    kernel, prior = Kernel(coding.groups, coding.shared), Hyperparameters.prior(np.ones(len(coding.names)).tolist())
    fitted = fit(kernel, prior, x, y, of_images)
    mean, scale = float(y.mean()), max(float(y.std()), 1e-3)
    noise = fitted.noise * scale**2
    own = max(noise - float(np.median(measured - of_images)), 0.0) if known else 0.0
    covariance = scale**2 * kernel(x, x, fitted) + own * np.eye(len(y))
    gain = np.linalg.solve(covariance + np.diag(measured if known else np.maximum(measured, noise / n_runs)), covariance).T
    return mean + gain @ (y - mean), covariance - gain @ covariance


def _variance(top1: float, n_validation: int | None) -> float:
    """Return the variance of the goodness of an accuracy that was measured on n images."""
    if n_validation is None:
        return 0.0
    error = (1.0 - top1) * n_validation + 0.5  # half an error more: no accuracy is exact because no image was wrong
    wrong = error / (n_validation + 1.0)
    return wrong * (1.0 - wrong) / n_validation / (wrong + LEAST_ERROR) ** 2
