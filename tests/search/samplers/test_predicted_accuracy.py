"""What the surrogate of `auto` learns from results that are not exact."""

import numpy as np
import pytest

import spaces
from search.samplers.base import ALL_PARTS, Part
from search.samplers.observations import Observations
from search.samplers.predicted_accuracy import PredictedAccuracy
from search.samplers.shared_columns import SharedColumns

CODING = SharedColumns(spaces.joint(["lora"]))


def uncertainty(n_runs: int, parts: frozenset[Part]) -> float:
    """The standard deviation where the last of eight trials is the mean of so many runs."""
    random, known = np.random.default_rng(0), Observations(len(CODING.groups))
    codes = CODING.draw("lora", 8, random)
    for code, features in zip(codes, CODING.features("lora", codes, np.full(8, 1_000.0)), strict=True):
        known.complete(known.add("lora", code, 0.5, features), 0.7 + 0.1 * random.random())
    known.revise(7, 0.75, n_runs)
    surrogate = PredictedAccuracy(CODING, parts, 200, folds=True).learn(known, np.arange(8), np.zeros(8))
    assert surrogate is not None
    return float(surrogate.predict(known.features(np.array([7])))[1][0])


def test_the_mean_of_more_runs_is_believed_more() -> None:
    once, often = uncertainty(1, ALL_PARTS), uncertainty(4, ALL_PARTS)
    assert often < 0.9 * once


def test_a_study_that_began_before_runs_counted_continues_so() -> None:
    parts = ALL_PARTS - {Part.RUNS}
    assert uncertainty(4, parts) == pytest.approx(uncertainty(1, parts), rel=1e-12)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_trials_on_other_data_count_as_far_as_ours_agree_with_them(sign: float) -> None:
    random = np.random.default_rng(0)
    rows = CODING.features("lora", CODING.draw("lora", 60, random), np.full(60, 1_000.0))
    rate = rows[:, list(CODING.groups).index(CODING.names.index("shared lr"))]
    standings = -((rate - 0.6) ** 2)
    standings = (standings - standings.mean()) / standings.std()
    known = Observations(len(CODING.groups))
    for row, standing in zip(rows[:20], standings[:20], strict=True):
        known.complete(known.add("lora", np.zeros(0), 0.5, row), 0.8 + 0.05 * sign * standing)
    elsewhere = list(zip(rows[:40], standings[:40], strict=True))
    found = {}
    for parts in (ALL_PARTS, ALL_PARTS - {Part.AGREEMENT}):
        surrogate = PredictedAccuracy(CODING, parts, None, elsewhere).learn(known, np.arange(20), np.zeros(20))
        assert surrogate is not None
        found[parts] = np.corrcoef(surrogate.predict(rows[20:])[0], sign * standings[20:])[0, 1]
    now, before = found.values()
    assert now > max(before, 0.8)
