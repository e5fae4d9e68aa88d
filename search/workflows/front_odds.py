"""The probability of each retrained member of being on the front, by bootstrap over its seeds and over the test images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search import pareto
from search.metrics import Metric
from trainables.tasks.quality import Answers, measure

__all__ = ["Answers", "p_front", "p_front_by"]

N_BOOTSTRAP = 2000
N_REDRAWN = 400  # draws if each of them takes a metric of redrawn answers, about 2 ms
Drawn = NDArray[np.int64]


def p_front(sizes: Sequence[float], correct: Sequence[NDArray[np.bool_]], *, seed: int, n: int = N_BOOTSTRAP) -> list[float]:
    """Return the probability of each member of being non-dominated, by bootstrap over its seeds and over the test images.

    The drawn images are the same for all members (all were tested on the same ones); the seeds are drawn for each member
    separately.

    Args:
        sizes: Adapter parameters of each member, or the study's other second objective.
        correct: Correctness of each member's models, as arrays (seeds, images).
        seed: Seed of the draws.
        n: Number of draws.
    """
    if not correct:
        return []
    n_images = correct[0].shape[1]

    def accuracy(member: int, seeds: Drawn, images: Drawn) -> float:
        weights = np.bincount(images, minlength=n_images) / n_images
        return float(correct[member][seeds].mean(axis=0) @ weights)

    return _odds(sizes, [len(models) for models in correct], n_images, accuracy, seed=seed, n=n)


def p_front_by(
    metric: Metric, sizes: Sequence[float], answers: Sequence[Sequence[Answers]], *, seed: int, n: int = N_REDRAWN
) -> list[float]:
    """Return the same as `p_front` for a metric that is computed again from the drawn images.

    Args:
        metric: Metric of the study.
        sizes: The `sizes` argument of `p_front`.
        answers: Probabilities and labels of each member's models.
        seed: Seed of the draws.
        n: Number of draws.
    """
    if not answers:
        return []

    def score(member: int, seeds: Drawn, images: Drawn) -> float:
        of_seed = {s: measure(metric.name, *(part[images] for part in answers[member][s])) for s in dict.fromkeys(seeds.tolist())}
        return metric.score(float(np.mean([of_seed[s] for s in seeds.tolist()])))

    return _odds(sizes, [len(models) for models in answers], len(answers[0][0][1]), score, seed=seed, n=n)


def _odds(
    sizes: Sequence[float],
    n_models: Sequence[int],
    n_images: int,
    score: Callable[[int, Drawn, Drawn], float],
    *,
    seed: int,
    n: int,
) -> list[float]:
    """Return how often each member is on the front of n draws; `score` gets a member, its drawn models and the drawn images."""
    rng, hits = np.random.default_rng(seed), np.zeros(len(sizes))
    for _ in range(n):
        images = rng.integers(n_images, size=n_images)
        scores = [score(member, rng.integers(k, size=k), images) for member, k in enumerate(n_models)]
        hits += pareto.non_dominated([(a, float(size)) for a, size in zip(scores, sizes, strict=True)])
    return [float(hit) for hit in hits / n]
