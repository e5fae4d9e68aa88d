"""The noise of a measured score: that of its images, and that of a seed, which further runs show."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable

from search.metrics import TOP1
from search.trial import Trial

SEEDS = 0.01  # standard deviation of an accuracy (fraction) from seed to seed; that of our recorded table
SEEDS_WEIGHT = 8  # further runs that tell as much about it as the line above


def seed_deviation(trials: Iterable[Trial], n_validation: int | None) -> float:
    """Return the standard deviation of a score from seed to seed, estimated from further runs and drawn towards `SEEDS`.

    The spread between the runs of a trial is that of seeds; between folds also that of images, which is known and subtracted. All
    trials have the same deviation: the estimate is the mean of their variances and of that of `SEEDS`, which weighs as much as
    `SEEDS_WEIGHT` further runs.

    Args:
        trials: Complete trials.
        n_validation: Number of images of a validation split; None if their noise is not known.
    """
    total, weight = SEEDS_WEIGHT * SEEDS**2, float(SEEDS_WEIGHT)
    for trial in trials:
        if (n_further := len(trial.values) - 1) == 0:
            continue
        of_images = 0.0
        if trial.n_folds is not None and n_validation is not None:
            of_images = (trial.metric.standard_error(statistics.fmean(trial.values), n_validation) or 0.0) ** 2
        total += n_further * (statistics.variance(trial.values) - of_images)
        weight += n_further
    return math.sqrt(max(total / weight, (SEEDS / 4) ** 2))


def standard_error(trial: Trial, n_validation: int | None) -> float | None:
    """Return the standard error of a trial's first objective, in its own unit; None if it is unknown or none.

    After one run it is that of the images. The mean of several runs has that of the images, which are others in each fold, and that
    of the spread between the runs, which is drawn towards `SEEDS`. Where the noise of the images is not known, it is the spread's.
    """
    of_images = trial.metric.standard_error(trial.quality, n_validation)
    if (n := len(trial.values)) == 1:
        return of_images
    if of_images is None and trial.metric.key != TOP1:
        return statistics.stdev(trial.values) / math.sqrt(n)
    of_seeds = seed_deviation([trial], n_validation)
    return math.sqrt((of_images or 0.0) ** 2 / (1 if trial.n_folds is None else n) + of_seeds**2 / n)
