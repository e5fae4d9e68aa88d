"""Laws of the packaged spaces and of joining and overriding them."""

import dataclasses
import math
import re

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import spaces


@pytest.mark.parametrize("method", spaces.SPACES)
def test_every_knob_says_what_it_means_and_where_it_comes_from(method: str) -> None:
    for knob in (*spaces.SPACES[method].knobs, *spaces.SHARED):
        assert knob.meaning.endswith(".")
        assert knob.source
    assert all(knob.key.startswith(f"{method}.") for knob in spaces.SPACES[method].knobs)
    assert set(spaces.SPACES[method].recipe) <= {knob.key for knob in spaces.SHARED}


@pytest.mark.parametrize("method", spaces.SPACES)
def test_every_method_has_an_adapter_whose_fields_and_defaults_are_the_spaces(method: str) -> None:
    from trainables.adapters import METHODS

    defaults = {f"{method}.{f.name}": f.default for f in dataclasses.fields(METHODS[method])}
    for knob in spaces.SPACES[method].knobs:
        assert knob.default == defaults[knob.key], knob.key


@pytest.mark.parametrize("method", spaces.SPACES)
def test_the_bounds_of_a_knob_are_those_of_its_adapter(method: str) -> None:
    from trainables.adapters import method_of

    for knob in spaces.SPACES[method].knobs:
        assert bool(knob.bounds) is (knob.kind in (int, float))
        if not knob.bounds:
            continue
        for bracket, text, away in zip(knob.bounds[:: len(knob.bounds) - 1], knob.bounds[1:-1].split(","), (-1, 1), strict=True):
            if math.isinf(end := float(text)):
                continue
            outside = end + away if knob.kind is int else math.nextafter(end, away * math.inf)
            closed = bracket in "[]"
            inside = knob.kind(end if closed else math.nextafter(end, -away * math.inf))
            if knob.key != "snell.rank":  # which depends on the kernel as well
                method_of({"method": method, knob.key: knob.typed(inside)})
            refused = knob.kind(outside if closed else end)
            with pytest.raises(ValueError, match=f"{knob.key} must be"):
                method_of({"method": method, knob.key: refused})
            with pytest.raises(ValueError, match=f"must be in {re.escape(knob.bounds)}, got"):
                knob.typed(refused)


def test_every_adapter_has_a_space() -> None:
    from trainables.adapters import METHODS

    assert set(METHODS) == set(spaces.SPACES)


def test_the_default_of_a_method_is_the_papers_in_knobs_and_recipe() -> None:
    joint = spaces.joint(["lora", "arc"])
    assert joint.default("arc")["optim.lr"] == 1e-2
    assert joint.default("lora")["optim.lr"] == 1e-3
    assert joint.default("arc")["arc.rank"] == 50


@pytest.mark.parametrize(
    ("value", "distribution"),
    [
        ([1, 2, 4], CategoricalDistribution((1, 2, 4))),
        (4, CategoricalDistribution((4,))),
        ({"low": 1, "high": 8}, IntDistribution(1, 8)),
        ({"low": 1, "high": 64, "log": True}, IntDistribution(1, 64, log=True)),
        ({"low": 1e-4, "high": 1e-2, "log": True}, FloatDistribution(1e-4, 1e-2, log=True)),
    ],
)
def test_an_override_is_a_list_a_range_or_a_fixed_value(value: object, distribution: object) -> None:
    joint = spaces.joint(["lora"]).with_overrides({"lora.rank": value})
    assert joint.distributions("lora")["lora.rank"] == distribution


def test_a_default_outside_an_override_moves_to_the_nearest_value() -> None:
    assert spaces.joint(["arc"]).with_overrides({"arc.rank": [2, 30, 45]}).default("arc")["arc.rank"] == 45
    assert spaces.joint(["arc"]).with_overrides({"arc.rank": {"low": 1, "high": 20}}).default("arc")["arc.rank"] == 20
    assert spaces.joint(["lora"]).with_overrides({"lora.targets": ["qkv", "qkvo"]}).default("lora")["lora.targets"] == "qkv"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lora.rnak": 4}, "lora.rnak: no such knob; did you mean lora.rank?"),
        ({"lora.rank": []}, "a list of values must not be empty"),
        ({"optim.lr": {"low": 1.0, "high": 0.1}}, "low <= high"),
        ({"optim.lr": {"low": 0.0, "high": 0.1, "log": True}}, "low > 0 when log"),
        ({"optim.lr": {"low": 0.1, "high": float("inf")}}, "low and high must be finite numbers"),
        ({"optim.lr": float("nan")}, "a knob's value must be finite"),
        ({"lora.rank": [[1]]}, "a knob's value must be a number, a word"),
        ({"lora.rank": {"low": 1, "high": 8, "step": 0}}, "a step must be a number above 0"),
        ({"optim.lr": {"min": 0.0}}, "a range must be {low, high, log, step}"),
        ({"optim.lr": {"low": "a", "high": 1}}, "low and high must be finite numbers"),
    ],
)
def test_an_override_that_says_nothing_is_refused_with_the_law(overrides: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("{", r"\{").replace("}", r"\}").replace("?", r"\?")):
        spaces.joint(["lora"]).with_overrides(overrides)


def test_an_unknown_method_is_named_with_its_nearest_neighbour() -> None:
    with pytest.raises(ValueError, match=r"loar: no such method; did you mean lora\?"):
        spaces.joint(["loar"])


def test_the_imported_packages_are_ours() -> None:
    from pathlib import Path

    import cluster
    import search
    import trainables

    here = Path(spaces.__file__).parents[1]
    assert {Path(str(p.__file__)).parents[1] for p in (cluster, search, trainables)} == {here}
    assert hasattr(spaces, "joint")


def test_the_largest_value_of_a_knob_is_that_of_its_choices_or_the_end_of_its_range() -> None:
    batch = next(knob for knob in spaces.SHARED if knob.key == "optim.batch_size")
    assert batch.largest == 64
    assert batch.overridden([8, 24, 16]).largest == 24
    assert batch.overridden({"low": 8, "high": 100}).largest == 100
    assert batch.overridden(5).largest == 5


def test_the_shared_ranges_are_those_with_which_studies_began() -> None:
    """A study reads them again when it resumes, unless its file names others; the methods' own are in tests/search/old."""
    assert {knob.key: knob.distribution for knob in spaces.SHARED} == {
        "optim.lr": FloatDistribution(1e-4, 2e-2, log=True),
        "optim.weight_decay": CategoricalDistribution((0.0, 1e-4, 1e-3, 1e-2)),
        "optim.batch_size": CategoricalDistribution((16, 32, 64)),
        "recipe.drop_path": CategoricalDistribution((0.0, 0.1)),
    }


def test_a_default_that_is_no_step_of_a_range_becomes_the_nearest_one() -> None:
    overrides = {"lora.rank": {"low": 1, "high": 9, "step": 4}, "recipe.drop_path": {"low": 0.03, "high": 0.23, "step": 0.05}}
    space = spaces.joint(["lora"]).with_overrides(overrides)
    default = space.default("lora")
    assert space.holds(default)
    assert default["lora.rank"] == 9  # of 1, 5 and 9; the paper's is 8
