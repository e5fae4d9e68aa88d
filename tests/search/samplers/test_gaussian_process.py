"""The Gaussian process against a dense oracle, its gradient against differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.samplers.gaussian_process import AMPLITUDES, Array, Hyperparameters, Kernel, Surrogate, evidence, fit

GROUPS, SHARED = np.array([0, 1, 1, 2]), np.array([True, False, False, True])
KERNEL, PRIOR = Kernel(GROUPS, SHARED), Hyperparameters.prior([2.0, 0.5, 1.0])


def data(seed: int, n: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    return random.random((n, 4)), random.standard_normal(n), random.random(n) * (random.random(n) < 0.5)


def naive_kernel(x: Array, other: Array) -> Array:
    found = np.empty((len(x), len(other)))
    for i, a in enumerate(x):
        for j, b in enumerate(other):
            terms = PRIOR.weights[GROUPS] * (a - b) ** 2
            found[i, j] = (
                AMPLITUDES[0] + AMPLITUDES[1] * np.exp(-terms[SHARED].sum() / 2) + AMPLITUDES[2] * np.exp(-terms.sum() / 2)
            )
    return found


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_the_prediction_is_the_normal_distribution_given_the_observations(seed: int) -> None:
    x, y, extra = data(seed, 12)
    new = data(seed + 1, 5)[0]
    middle, scale = y.mean(), y.std()
    covariance = naive_kernel(x, x) + np.diag(PRIOR.noise + extra / scale**2)
    cross = naive_kernel(new, x)
    mean = middle + scale * cross @ np.linalg.solve(covariance, (y - middle) / scale)
    variance = np.diag(naive_kernel(new, new) - cross @ np.linalg.solve(covariance, cross.T)) * scale**2
    found, std = Surrogate(KERNEL, PRIOR, x, y, extra, pending=new[:0], pending_extra=0.0).predict(new)
    np.testing.assert_allclose(found, mean, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std**2, variance, rtol=1e-6, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_pending_points_are_observations_that_turn_out_as_expected(seed: int) -> None:
    x, y, extra = data(seed, 12)
    new, pending = data(seed + 1, 5)[0], data(seed + 2, 3)[0]
    without = Surrogate(KERNEL, PRIOR, x, y, extra, pending=pending[:0], pending_extra=0.0)
    mean, std = Surrogate(KERNEL, PRIOR, x, y, extra, pending=pending, pending_extra=0.2).predict(new)
    np.testing.assert_allclose(mean, without.predict(new)[0], rtol=1e-9, atol=1e-9)
    together, scale = np.concatenate([x, pending]), y.std()
    noise = PRIOR.noise + np.concatenate([extra, np.full(3, 0.2)]) / scale**2
    cross = naive_kernel(new, together)
    reduced = cross @ np.linalg.solve(naive_kernel(together, together) + np.diag(noise), cross.T)
    np.testing.assert_allclose(std**2, np.diag(naive_kernel(new, new) - reduced) * scale**2, rtol=1e-6, atol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**32))
def test_the_gradient_of_the_evidence_is_its_derivative(seed: int) -> None:
    loss = evidence(KERNEL, PRIOR, *data(seed, 15))
    at = PRIOR.logs() + 0.3 * np.random.default_rng(seed).standard_normal(7)
    _, gradient = loss(at)
    for i, step in enumerate(1e-5 * np.eye(7)):
        assert (loss(at + step)[0] - loss(at - step)[0]) / 2e-5 == pytest.approx(gradient[i], rel=1e-4, abs=1e-5)


def test_a_fit_finds_the_knob_that_matters() -> None:
    random = np.random.default_rng(0)
    x = random.random((60, 4))
    y = np.sin(6.0 * x[:, 3])
    found = fit(KERNEL, PRIOR, x, y, np.zeros(60))
    assert found.weights[2] > 4 * found.weights[0]  # the last column is group 2
    assert found.weights[2] > 4 * found.weights[1]
    loss = evidence(KERNEL, PRIOR, x, y, np.zeros(60))
    assert loss(found.logs())[0] < loss(PRIOR.logs())[0] - 10.0
