"""What early values promise, against closed forms and a naive oracle."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pareto import Front
from search.samplers.learning_curve import (
    LEAST_ERROR,
    SEED_ERROR,
    SEED_SPREAD,
    SPREAD,
    Extrapolation,
    expected_gain,
    goodness,
    noise_variance,
)

TOP1 = st.floats(0.0, 1.0)
SIZES = st.integers(0, 200_000)


def front_of(points: list[tuple[float, int]]) -> Front:
    front = Front((0.1, 100_000.0))
    for number, (top1, size) in enumerate(points):
        front.add(top1, size, number)
    return front


@given(st.lists(st.tuples(TOP1, SIZES), max_size=12), TOP1, SIZES)
def test_where_nothing_is_uncertain_the_expected_gain_is_the_gain(points: list[tuple[float, int]], top1: float, size: int) -> None:
    front = front_of(points)
    found = expected_gain(front, np.array([goodness(top1)]), np.array([0.0]), np.array([math.log10(1 + size)]))
    assert found[0] == pytest.approx(front.gain(top1, size), abs=1e-9)


def test_the_expected_gain_is_the_mean_of_the_gains() -> None:
    random = np.random.default_rng(0)
    front = front_of([(0.6, 0), (0.7, 500), (0.72, 500), (0.9, 20_000)])
    mean, std, size = goodness(0.75), 0.3, 2_000
    gains = [front.gain(1 + LEAST_ERROR - math.exp(-value), size) for value in random.normal(mean, std, 40_000)]
    found = expected_gain(front, np.array([mean]), np.array([std]), np.array([math.log10(1 + size)]))
    assert found[0] == pytest.approx(np.mean(gains), rel=0.05)


def end(extrapolation: Extrapolation, *curve: float) -> tuple[float, float]:
    mean, variance = extrapolation(np.array([curve[-1]]), np.array([len(curve)]))
    return float(mean[0]), float(variance[0])


def test_before_any_completion_an_early_value_is_taken_as_it_is_with_the_prior_spread() -> None:
    assert end(Extrapolation(), 1.0, 1.5) == pytest.approx((1.5, SPREAD**2))


def test_many_parallel_curves_teach_the_distance_to_the_end_and_its_certainty() -> None:
    extrapolation = Extrapolation()
    for start in np.linspace(0.0, 1.0, 50):
        extrapolation.add([start, start + 1.0, start + 1.5])
    mean, variance = end(extrapolation, 0.3)
    assert mean == pytest.approx(1.8, abs=0.05)
    assert variance < 0.1 * SPREAD**2
    assert end(extrapolation, 0.3, 1.3, 1.8)[0] == pytest.approx(1.8, abs=0.05)
    assert end(extrapolation, 0.3, 1.3, 1.8)[1] < variance


def test_curves_of_another_length_teach_nothing() -> None:
    extrapolation = Extrapolation()
    extrapolation.add([0.0, 1.0])
    before = end(extrapolation, 0.5)
    extrapolation.add([0.0, 1.0, 5.0])
    extrapolation.add([])
    assert end(extrapolation, 0.5) == before


def test_a_mean_of_runs_is_as_noisy_as_drawn_means_are() -> None:
    """Images are others in each fold; runs without folds share them."""
    random, n_images, n_runs, n = np.random.default_rng(0), 500, 4, 20_000
    accuracy = 1 - SEED_ERROR
    seeds = random.normal(0.0, SEED_SPREAD, (n, n_runs)).mean(1)
    images = {True: random.binomial(n_images, accuracy, (n, n_runs)).mean(1), False: random.binomial(n_images, accuracy, n)}
    for folds, n_right in images.items():
        drawn = [goodness(value) for value in n_right / n_images + seeds]
        found = noise_variance(np.array([goodness(accuracy)]), n_images, np.array([n_runs]), folds=folds)
        assert found[0] == pytest.approx(np.var(drawn), rel=0.15)
