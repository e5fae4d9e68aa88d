"""The sampler `auto`: fair to every method, never twice the same, and drawn to what adds to the front."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

import spaces
from search.backends.simulated import VirtualClock, create, run
from search.config.loading import check
from search.pareto import Front, hypervolume
from search.samplers.base import Result
from search.samplers.start import SUITS, n_start
from search.study.study import Study
from search.trial import State
from spaces import Config
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from .drawing import draw, make_sampler

pytestmark = pytest.mark.slow

METHODS = ("lora", "arc", "lily", "fact", "adapter")


def searched(seed: int, n_trials: int, methods: tuple[str, ...] = METHODS, *, workers: int = 1, **search: object) -> Study:
    file = check(
        {
            "study": "s",
            "data": {"kind": "synthetic"},
            "methods": list(methods),
            "budget": {"n_trials": n_trials, "epochs": 9, "max_params": 50_000},
            "search": {"seed": seed} | search,
        }
    )
    surface, clock = Surface("valley", seed), VirtualClock()
    study = create(file, surface, clock)
    run(study, lambda: SurfaceTrainable(surface), clock, n_workers=workers)
    return study


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 1000),
    methods=st.lists(st.sampled_from(METHODS), min_size=1, max_size=5, unique=True),
    n_trials=st.integers(20, 32),
    workers=st.sampled_from([1, 4]),
    rungs=st.sampled_from([None, {"grace": 1, "factor": 3}]),
)
def test_the_start_keeps_its_promise_in_every_budget_from_20_trials(
    seed: int, methods: list[str], n_trials: int, workers: int, rungs: dict[str, int] | None
) -> None:
    """Smallest sensible size first, default next, both within three quarters; and no method is given up for its rate alone."""
    study = searched(seed, n_trials, tuple(methods), workers=workers, rungs=rungs)
    space, trials = study.file.joint_space(), study.trials
    configs = [trial.config for trial in trials]
    for method in methods:
        mine = [config for config in configs if config["method"] == method]
        ranks = [knob for knob in space.knobs(method) if knob.sizes and knob.kind in (int, float)]
        assert all(mine[0][knob.key] == min(knob.distribution.choices) for knob in ranks)
        assert configs.index(mine[0]) < max(1 + len(methods), 0.75 * n_trials)
        default = space.default(method)
        if study._sizes.count(default)[0] <= 50_000 and n_start(len(methods)) <= 0.75 * n_trials:
            assert configs.index(default) < 0.75 * n_trials
        if len(trials) > 0.75 * n_trials and all(trial.state.finished for trial in trials):
            complete = any(trial.state is State.COMPLETE for trial in trials if trial.config["method"] == method)
            rates = [float(str(config["optim.lr"])) for config in mine]
            leaders = [float(str(trial.config["optim.lr"])) for trial in trials if trial.config["method"] != "head_only"]
            assert complete or any(leader / SUITS <= rate <= leader * SUITS for rate in rates for leader in leaders)


def test_a_method_whose_trials_all_fail_does_not_eat_the_budget() -> None:
    space = spaces.joint(["lora", "arc"])
    sampler = make_sampler(space, "auto", size=lambda config: 100, max_size=1000, front=Front((0.1, 1000.0)), n_epochs=9)
    drawn = []
    for n in range(20):
        ticket, config = draw(sampler)
        drawn.append(config["method"])
        if config["method"] == "lora":
            sampler.tell(ticket, Result.FAILED)
        else:
            sampler.tell(ticket, Result.COMPLETE, top1=0.5 + n / 100, size=100)
    assert drawn.count("lora") < 12


def test_afterwards_the_budget_follows_promise() -> None:
    """Of two methods with equal sizes one is always worse; it gets its share and hardly more."""
    space, front = spaces.joint(["adapter", "adaptformer"]), Front((0.1, 100_000.0))

    def size(config: Config) -> int:
        return 100 * int(str(config[f"{config['method']}.rank"]))

    sampler, n = make_sampler(space, "auto", size=size, max_size=100_000, front=front), {"adapter": 0, "adaptformer": 0}
    for number in range(60):
        ticket, config = draw(sampler)
        n[str(config["method"])] += 1
        top1 = 0.5 + 0.05 * math.log10(size(config)) + (0.2 if config["method"] == "adapter" else 0.0)
        front.add(top1, size(config), number)
        sampler.tell(ticket, Result.COMPLETE, top1=top1, size=size(config))
    assert n["adaptformer"] <= 15


def test_what_is_too_large_impossible_or_known_is_hardly_ever_drawn() -> None:
    study = searched(3, 60)
    rejections = [event for event in study._ledger.events() if event.kind == "rejected"]
    assert len(rejections) <= 6  # the papers' defaults above the limit
    assert len({str(sorted(trial.config.items())) for trial in study.trials}) == 60


def test_it_finds_a_better_front_than_random_search_in_as_many_trials() -> None:
    auto, random = ([searched(seed, 50, sampler=kind).hypervolume() for seed in range(2)] for kind in ("auto", "random"))
    assert all(a > r for a, r in zip(auto, random, strict=True))


# -- a cost that only training tells -----------------------------------------------------------------------------------------------

LATENCY = "cost/latency_ms"


def epochs_to(share: float, seed: int, sampler: str, *, limit: float = 4.0) -> tuple[float, int]:
    """Epochs until so much of the known front of accuracy against latency is reached, and how many trials broke the limit."""
    surface, clock = Surface("valley", seed), VirtualClock()
    file = check(
        {
            "study": "s",
            "data": {"kind": "synthetic", "surface": "valley", "instance": seed},
            "methods": list(METHODS),
            "objectives": ["val/top1", LATENCY],
            "budget": {"n_trials": 60, "epochs": 9, "limits": {LATENCY: limit}},
            "search": {"seed": seed, "sampler": sampler, "rungs": {"grace": 1, "factor": 3} if sampler == "auto" else None},
        }
    )
    study = create(file, surface, clock)
    known = [surface.best(dict.fromkeys(["method"], ("head_only",)), LATENCY)[0]]
    for method in METHODS:
        knobs = spaces.joint([method]).knobs(method)
        values = {k.key: k.distribution.choices if isinstance(k.distribution, CategoricalDistribution) else None for k in knobs}
        known += surface.best({"method": (method,)} | values, LATENCY)
    heights: list[float] = []
    run(study, lambda: SurfaceTrainable(surface), clock, n_workers=1, on_event=lambda: heights.append(study.hypervolume()))
    best, least = hypervolume(known, study.reference_point, linear=True), heights[8]  # after head-only's nine epochs
    reached = (n for n, height in enumerate(heights, 1) if height - least >= share * (best - least))
    return next(reached, math.inf), sum("allows" in str(trial.reason) for trial in study.trials)


def test_it_reaches_the_front_of_a_measured_cost_in_fewer_epochs_than_random_search() -> None:
    for seed in range(2):
        assert epochs_to(0.95, seed, "auto")[0] < epochs_to(0.95, seed, "random")[0]


def test_it_learns_what_breaks_the_limit_of_the_cost_that_it_predicts() -> None:
    """Both begin with the papers' defaults, and with what no trial has told of yet."""
    broke = {sampler: sum(epochs_to(0.95, seed, sampler, limit=1.3)[1] for seed in range(2)) for sampler in ("auto", "random")}
    assert broke["auto"] < 0.5 * broke["random"]


def test_with_a_pool_every_configuration_is_drawn_once_and_only_those() -> None:
    space, surface = spaces.joint(["lora", "arc"]), Surface("valley")
    pool = list(make_sampler(space, seed=1).draws(12))
    file = check({"study": "s", "data": {"kind": "synthetic"}, "methods": ["lora", "arc"], "budget": {"n_trials": 40, "epochs": 2}})
    study = create(file, surface, clock := VirtualClock(), pool=pool)
    run(study, lambda: SurfaceTrainable(surface), clock, n_workers=1)
    drawn = [trial.config for trial in study.trials if trial.config in pool]
    assert sorted(map(str, drawn)) == sorted(map(str, pool))
    assert study.ended is not None
    assert all(trial.state is State.COMPLETE for trial in study.trials)


def test_it_cannot_be_made_without_what_it_needs_to_know() -> None:
    with pytest.raises(ValueError, match="needs the sizes of configurations, their limit, and the front"):
        make_sampler(spaces.joint(["lora"]), "auto")
