"""What the search relies on in Optuna, and that a rebuilt sampler goes on exactly."""

import math

import pytest

import spaces
from search.pareto import Front
from search.samplers.base import Result
from search.samplers.sampler import SAMPLERS, SeededSampler
from spaces import Config

from .drawing import draw, make_sampler

SPACE = spaces.joint(["lora", "arc", "lily"])


def size(config: Config) -> int:
    return 1_000 * int(str(config[f"{config['method']}.rank"]))


def accuracy(config: Config) -> float:
    return 0.9 - 0.1 * abs(math.log10(float(str(config["optim.lr"]))) + 3) - 0.1 / int(str(config[f"{config['method']}.rank"]))


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_sampler_rebuilt_by_the_same_calls_draws_the_same(kind: str) -> None:
    def told(sampler: SeededSampler, ticket: int, config: Config, n: int) -> None:
        if n % 5 == 3:
            sampler.tell(ticket, Result.REJECTED)
        elif n % 7 == 4:
            sampler.tell(ticket, Result.FAILED)
        elif n % 7 != 5:  # every seventh stays running
            sampler.tell(ticket, Result.COMPLETE, top1=accuracy(config), size=size(config))

    def new() -> SeededSampler:
        return make_sampler(SPACE, kind, seed=5, size=size, max_size=100_000, front=Front((0.1, 100_000.0)))

    first = new()
    drawn = []
    for n in range(40):
        ticket, config = draw(first)
        told(first, ticket, config, n)
        drawn.append(config)
    second = new()
    for n, config in enumerate(drawn[:30]):
        taken_up = second.add(config, drawn=True)
        assert taken_up is not None
        told(second, taken_up, config, n)
    for n in range(30, 40):
        ticket, config = draw(second)
        assert config == drawn[n]
        told(second, ticket, config, n)


def test_a_grid_keeps_to_the_steps_of_a_range() -> None:
    overrides = {"recipe.drop_path": {"low": 0, "high": 0.2, "step": 0.1}, "lora.rank": {"low": 1, "high": 9, "step": 4}}
    space = spaces.joint(["lora"]).with_overrides(overrides)
    sampler = make_sampler(space, "grid", seed=0)
    drawn = [draw(sampler)[1] for _ in range(60)]
    assert all(space.holds(config) for config in drawn)
    assert {config["lora.rank"] for config in drawn} == {1, 5, 9}
    assert {config["recipe.drop_path"] for config in drawn} == {0.0, 0.1, 0.2}


def test_only_the_chosen_methods_knobs_are_drawn() -> None:
    sampler = make_sampler(SPACE, seed=1)
    seen = set()
    for _ in range(40):
        _, config = draw(sampler)
        seen.add(config["method"])
        own = {key for key in config if not key.startswith(("optim.", "recipe."))} - {"method"}
        assert own == {knob.key for knob in SPACE.knobs(str(config["method"]))} & own
        assert {key.split(".")[0] for key in own} == {config["method"]}
    assert seen == {"lora", "arc", "lily"}


def test_rejections_teach_the_sampler() -> None:
    """Optuna: a PRUNED trial with a violated constraint makes its like less likely (contract)."""
    limit = 4_000

    def asks_per_feasible(kind: str) -> float:
        sampler = make_sampler(spaces.joint(["lora"]), kind)
        asks = feasible = 0
        while feasible < 40:
            ticket, config = draw(sampler)
            asks += 1
            if size(config) > limit:
                sampler.tell(ticket, Result.REJECTED)
            else:
                feasible += 1
                sampler.tell(ticket, Result.COMPLETE, top1=accuracy(config), size=size(config))
        return asks / feasible

    assert asks_per_feasible("tpe") < 0.8 * asks_per_feasible("random")


def test_pruned_trials_teach_the_sampler() -> None:
    """Optuna: a PRUNED trial without values makes its like less likely in a multi-objective study (contract)."""

    def share_of_arc(prune: bool) -> float:
        sampler, n_arc = make_sampler(spaces.joint(["lora", "arc"]), "tpe"), 0
        for n in range(80):
            ticket, config = draw(sampler)
            n_arc += n >= 30 and config["method"] == "arc"
            if prune and config["method"] == "arc":
                sampler.tell(ticket, Result.PRUNED)
            else:
                sampler.tell(ticket, Result.COMPLETE, top1=accuracy(config), size=size(config))
        return n_arc / 50

    assert share_of_arc(prune=True) < 0.5 * share_of_arc(prune=False)


def test_a_configuration_outside_the_space_is_kept_from_the_sampler() -> None:
    sampler = make_sampler(SPACE)
    anchor = spaces.joint(["head_only"]).default("head_only")
    assert sampler.add(anchor, drawn=False) is None
    foreign = SPACE.default("lora") | {"lora.rank": 3}
    assert sampler.add(foreign, drawn=False) is None
