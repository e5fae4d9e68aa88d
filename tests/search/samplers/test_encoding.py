"""Points of a space as numbers: nothing is lost, and what is drawn or changed stays in the space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

import spaces
from search.samplers.encoding import Coding, Column
from search.samplers.finite_pool import FinitePool
from search.samplers.random_sampler import draw_uniformly
from search.samplers.sampler import SAMPLERS
from spaces import Knob

METHODS = [method for method in spaces.SPACES if method not in ("head_only", "full")]
SPACE = spaces.joint(METHODS)
CODING = Coding(SPACE)


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(METHODS), st.integers(0, 2**32))
def test_what_is_drawn_or_changed_is_a_point_of_the_space_and_its_code_gives_it_back(method: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    drawn = CODING.draw(method, 5, random)
    for code in (*drawn, *CODING.change(method, drawn, random)):
        config = CODING.config(method, code)
        assert SPACE.holds(config)
        again = CODING.config(method, CODING.code(config))
        assert {k: v for k, v in again.items() if not isinstance(v, float)} == {
            k: v for k, v in config.items() if not isinstance(v, float)
        }
        floats = {k: v for k, v in config.items() if isinstance(v, float)}
        assert {k: again[k] for k in floats} == pytest.approx(floats, rel=1e-9)


@given(st.integers(0, 2**32))
def test_a_neighbour_differs_in_something_and_is_mostly_the_same(seed: int) -> None:
    random = np.random.default_rng(seed)
    codes = CODING.draw("lora", 200, random)
    touched = CODING.change("lora", codes, random) != codes
    assert 0.4 < touched.sum(1).mean() < 3.5


@pytest.mark.parametrize(
    ("values", "places"),
    [
        (FloatDistribution(1e-4, 1e-2, log=True), {0.0: 1e-4, 0.5: 1e-3, 1.0: 1e-2}),
        (FloatDistribution(0.0, 1.0, step=0.25), {0.0: 0.0, 0.3: 0.25, 1.0: 1.0}),
        (IntDistribution(2, 6, step=2), {0.0: 2, 0.45: 4, 1.0: 6}),
        (IntDistribution(1, 100, log=True), {0.0: 1, 0.5: 10, 1.0: 100}),
    ],
)
def test_ranges_are_laid_out_evenly_or_in_the_logarithm(
    values: FloatDistribution | IntDistribution, places: dict[float, float]
) -> None:
    column = Column(Knob("m.k", values, values.low, "A knob.", "", "here"))
    assert {code: column.value(code) for code in places} == pytest.approx(places, rel=1e-12)


def test_all_methods_have_the_same_features_and_equal_knob_names_one_weight() -> None:
    features = [
        CODING.features(method, CODING.draw(method, 2, np.random.default_rng(0)), np.array([0.25, 0.75])) for method in METHODS
    ]
    assert {f.shape[1] for f in features} == {len(CODING.groups)}
    assert CODING.names.count("rank") == 1
    assert features[0][:, 0].tolist() == [0.25, 0.75]


def test_uniform_draws_are_points_of_the_space_and_reach_every_method() -> None:
    import random

    by = random.Random(0)
    drawn = [draw_uniformly(SPACE, by) for _ in range(300)]
    assert all(SPACE.holds(config) for config in drawn)
    assert {config["method"] for config in drawn} == set(METHODS)


def test_a_pool_gives_each_configuration_once_nearest_first_within_its_method() -> None:
    space = spaces.joint(["lora", "arc"])
    coding = Coding(space)
    random = np.random.default_rng(1)
    configs = [coding.config(m, code) for m in ("lora", "arc") for code in coding.draw(m, 10, random)]
    pool, wanted = FinitePool(space, configs), configs[3]
    assert pool.nearest(wanted) == wanted
    given_out = []
    for _ in configs:
        found = pool.nearest(wanted)
        given_out.append(found)
        pool.take(found)
    assert {config["method"] for config in given_out[:10]} == {"lora"}
    assert sorted(map(str, given_out)) == sorted(map(str, configs))
    assert pool.nearest(wanted) in configs  # nothing is left: whoever asks finds a duplicate


def test_the_names_of_the_samplers_are_those_that_a_study_file_may_say() -> None:
    from search.config.study_file import Search

    assert set(SAMPLERS) == set(Search.model_fields["sampler"].annotation.__args__)  # type: ignore[union-attr]
