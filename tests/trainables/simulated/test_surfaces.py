"""The synthetic families: their fronts are what they say, and their members differ."""

import random

import pytest
from optuna.distributions import CategoricalDistribution

import spaces
from search.samplers.random_sampler import draw_uniformly
from spaces import Config
from trainables.simulated.surfaces import CHANCE, FAMILIES, Surface, SurfaceTrainable, moves_size

METHODS = [method for method in spaces.SPACES if method not in ("head_only", "layer_norm", "bitfit", "full")]
SPACE = spaces.joint(METHODS)


def front_of(surface: Surface, method: str) -> list[tuple[float, int]]:
    choices = {
        knob.key: list(knob.distribution.choices) if isinstance(knob.distribution, CategoricalDistribution) else None
        for knob in SPACE.knobs(method)
    }
    return surface.best({"method": [method]} | choices)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_configuration_is_above_the_known_front_and_some_are_near_it(family: str) -> None:
    surface, by = Surface(family, 3), random.Random(0)
    for method in METHODS:
        best = dict.fromkeys((size for _, size in front_of(surface, method)), 0.0)
        for top1, size in front_of(surface, method):
            best[size] = max(best[size], top1)
        below = []
        for _ in range(300):
            config = draw_uniformly(SPACE.only(method), by)
            below.append(best[surface.count(config)[0]] - surface.final(config))
        assert min(below) >= -1e-12
        assert min(below) < 0.06


@pytest.mark.parametrize("against", ["cost/latency_ms", "cost/gflops", "cost/peak_memory_bytes"])
def test_no_configuration_is_above_the_known_front_of_another_cost(against: str) -> None:
    surface, by = Surface("crossing", 2), random.Random(3)
    for method in METHODS:
        choices = {
            knob.key: list(knob.distribution.choices) if isinstance(knob.distribution, CategoricalDistribution) else None
            for knob in SPACE.knobs(method)
        }
        front = surface.best({"method": [method]} | choices, against)
        for _ in range(50):
            config = draw_uniformly(SPACE.only(method), by)
            cost = surface.costs(config)[against]
            assert surface.final(config) <= max(top1 for top1, its in front if its <= cost * (1 + 1e-12)) + 1e-12


def test_what_takes_longer_is_not_what_is_larger_and_head_only_is_the_backbone_alone() -> None:
    surface, by = Surface("valley", 0), random.Random(4)
    trials = [draw_uniformly(SPACE, by) for _ in range(200)]
    sizes, times = [surface.count(c)[0] for c in trials], [surface.costs(c)["cost/latency_ms"] for c in trials]
    pairs = [(i, j) for i in range(200) for j in range(i) if sizes[i] != sizes[j]]
    turned = sum((sizes[i] < sizes[j]) == (times[i] > times[j]) for i, j in pairs)
    assert turned > 0.2 * len(pairs)
    head_only = surface.costs({"method": "head_only"})
    assert head_only["cost/latency_ms"] == head_only["cost/latency_merged_ms"] == head_only["cost/gflops"] == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_curve_ends_at_the_final_value_and_repeats_exactly(family: str) -> None:
    surface, by = Surface(family, 1), random.Random(1)
    for _ in range(20):
        config = draw_uniformly(SPACE, by)
        curve = list(surface.curve(config, seed=5, epochs=12))
        assert curve == list(surface.curve(config, seed=5, epochs=12))
        assert curve[-1] == pytest.approx(surface.final(config), abs=1e-12)
        assert all(0.0 <= value <= 1.0 for value in curve)
        assert len(curve) == 12


def test_members_of_a_family_are_different_questions() -> None:
    config = SPACE.default("lora")
    assert len({Surface("valley", n).final(config) for n in range(5)}) == 5
    assert len({Surface("valley", n).count(config) for n in range(5)}) == 5


def test_the_early_order_tells_the_late_one_unless_curves_cross() -> None:
    def swapped(family: str) -> float:
        surface, by = Surface(family, 0), random.Random(2)
        curves = [list(surface.curve(draw_uniformly(SPACE, by), seed=n, epochs=30)) for n in range(60)]
        pairs = [(a, b) for i, a in enumerate(curves) for b in curves[:i] if abs(a[-1] - b[-1]) > 0.02]
        return sum((a[2] - b[2]) * (a[-1] - b[-1]) < 0 for a, b in pairs) / len(pairs)

    assert swapped("valley") < 0.2
    assert swapped("crossing") > 1.3 * swapped("valley")


def test_head_only_has_no_adapter_and_nothing_is_below_chance() -> None:
    anchor: Config = spaces.joint(["head_only"]).default("head_only")
    assert Surface("valley").count(anchor) == (0, 650)
    assert Surface("valley").final(anchor | {"optim.lr": 1e-9}) == CHANCE


def test_a_size_depends_on_exactly_the_knobs_that_are_said_to_move_it() -> None:
    surface, by = Surface("valley", 2), random.Random(3)
    for _ in range(200):
        config = draw_uniformly(SPACE, by)
        other = draw_uniformly(SPACE.only(str(config["method"])), by)
        same = {key: value for key, value in config.items() if moves_size(key)}
        assert surface.count(other | same) == surface.count(config)


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="valley, crossing, got 'moon'"):
        Surface("moon")


def test_the_trainable_reports_the_curve() -> None:
    surface = Surface("crossing", 4)
    trainable, config = SurfaceTrainable(surface), SPACE.default("arc")
    assert trainable.start(config, seed=9, epochs=3, folder=None) == 0
    assert trainable.replay() is None
    assert [trainable.step()["val/top1"] for _ in range(3)] == list(surface.curve(config, seed=9, epochs=3))
