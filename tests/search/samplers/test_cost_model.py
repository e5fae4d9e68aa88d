"""What a cost will be: learnt on its logarithm from whatever was measured."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

import spaces
from search.samplers.cost_model import PredictedCost
from search.samplers.encoding import Coding
from search.samplers.random_sampler import draw_uniformly
from spaces import Config

SPACE = spaces.joint(["lora", "arc"])
CODING = Coding(SPACE)


def share(config: Config) -> float:
    """A law of factors: the method's, three tenths for every doubling of the rank, half for half of the blocks."""
    method = config["method"]
    layers = str(config[f"{method}.layers"])
    part = 1.0 if layers == "all" else 0.5 if layers.endswith("4") else 0.25
    return (0.1 if method == "lora" else 0.2) * float(str(config[f"{method}.rank"])) ** math.log2(1.3) * part


def measured(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    by = random.Random(seed)
    configs = [draw_uniformly(SPACE, by) for _ in range(n)]
    features = [CODING.features(str(c["method"]), CODING.code(c)[None, :], np.zeros(1))[0] for c in configs]
    return np.stack(features), np.array([share(config) for config in configs])


def test_a_law_of_factors_is_learnt_from_sixty_measurements_to_a_tenth() -> None:
    cost = PredictedCost(CODING)
    cost.fit_to(*measured(60, seed=0))
    assert cost.learn(*measured(60, seed=0))
    features, truth = measured(200, seed=1)
    shares, weights = cost.nodes(features)
    guess = np.exp(weights @ np.log(shares))
    assert np.median(np.abs(np.log(guess / truth))) < 0.1
    inside = (shares[0] <= truth) & (truth <= shares[-1])  # 1.73 standard deviations on either side: 92 % of a normal variable
    assert inside.mean() > 0.75


def test_what_was_measured_is_told_again_and_the_weights_are_those_of_a_mean() -> None:
    cost = PredictedCost(CODING)
    features, truth = measured(30, seed=2)
    cost.fit_to(features, truth)
    cost.learn(features, truth)
    shares, weights = cost.nodes(features)
    assert weights.sum() == pytest.approx(1.0)
    assert np.abs(np.log(np.exp(weights @ np.log(shares)) / truth)).max() < 0.15


def test_of_many_measurements_the_newest_count_although_not_all_are_looked_at() -> None:
    """The same configurations, ten times dearer since a while: what is told follows the newest."""
    cost = PredictedCost(CODING)
    features, truth = measured(200, seed=3)
    cost.learn(np.concatenate([features] * 2), np.concatenate([truth, 10 * truth]))
    guess = np.median(np.exp(cost.nodes(features)[1] @ np.log(cost.nodes(features)[0])) / truth)
    alone = PredictedCost(CODING)
    alone.learn(features, truth)
    before = np.median(np.exp(alone.nodes(features)[1] @ np.log(alone.nodes(features)[0])) / truth)
    assert guess > 2.0 * before


def test_fewer_than_four_measurements_say_nothing() -> None:
    cost = PredictedCost(CODING)
    assert not cost.learn(*measured(3, seed=0))
    with pytest.raises(RuntimeError, match="only after learn returned True"):
        cost.nodes(measured(1, seed=0)[0])
