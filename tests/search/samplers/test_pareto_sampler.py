"""`auto` in a plain Optuna study: conditional spaces, every kind of trial, and the same proposals as in a study of Paretune."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial

from search.backends.simulated import VirtualClock, create, run
from search.config.loading import check
from search.samplers.pareto_sampler import N_RANDOM, Branches, ParetoSampler
from trainables.simulated.surfaces import Surface, SurfaceTrainable

METHODS = ["lora", "arc", "adapter"]
DIRECTIONS = ["maximize", "minimize"]


def test_the_same_seed_and_history_propose_the_same_as_in_a_study_of_paretune() -> None:
    budget = {"n_trials": 24, "epochs": 1, "max_params": 50_000}
    file = check({"study": "s", "data": {"kind": "synthetic"}, "methods": METHODS, "budget": budget, "search": {"seed": 5}})
    surface, clock = Surface("crossing", 3), VirtualClock()
    ours = create(file, surface, clock)
    run(ours, lambda: SurfaceTrainable(surface), clock, n_workers=1)
    anchor = ours.trials[0]
    assert len(ours.trials) == 24

    space = file.joint_space()
    sampler = ParetoSampler(
        lambda params: surface.count(params)[0], reference=ours.reference_point, space=space, n_trials=24, seed=5
    )
    theirs = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    theirs.add_trial(
        create_trial(values=list(anchor.objectives), params={"anchor": 0.0}, distributions={"anchor": FloatDistribution(0.0, 1.0)})
    )

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        config = space.suggest(trial)
        return next(surface.curve(config, seed=0, epochs=1)), surface.count(config)[0]

    theirs.optimize(objective, n_trials=23)
    assert [trial.params for trial in theirs.trials[1:]] == [trial.config for trial in ours.trials[1:]]


def size(params: Mapping[str, Any]) -> float:
    if params["kind"] == "wide" and params["width"] > 60:
        raise ValueError("too wide")
    return float(params["width"]) if params["kind"] == "wide" else 10.0 * params["depth"]


def conditional(trial: optuna.Trial) -> tuple[float, float]:
    """Wide models are best at a rate of 1e-3, deep ones at 1e-2; above 0.05 a trial fails, and more than 50 break a constraint."""
    kind, rate = trial.suggest_categorical("kind", ["wide", "deep"]), trial.suggest_float("rate", 1e-4, 1e-1, log=True)
    n = trial.suggest_int("width", 1, 64) if kind == "wide" else trial.suggest_int("depth", 1, 6)
    if rate > 0.05:
        raise FloatingPointError("diverged")
    if rate < 2e-4:
        raise optuna.TrialPruned
    trial.set_constraint("width", n - 50.0)
    best = -3 if kind == "wide" else -2
    return 0.95 - 0.2 * (math.log10(rate) - best) ** 2 - 0.4 / (1 + n), size(trial.params)


def searched(sampler: optuna.samplers.BaseSampler, n_trials: int) -> optuna.Study:
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    study.enqueue_trial({"kind": "deep", "rate": 1e-2, "depth": 2})
    distributions = {"kind": CategoricalDistribution(["wide", "deep"]), "rate": FloatDistribution(1e-4, 1e-1, log=True)}
    study.add_trial(create_trial(state=TrialState.FAIL, params={"kind": "wide", "rate": 0.09}, distributions=distributions))
    study.optimize(conditional, n_trials=n_trials, catch=(FloatingPointError,))
    return study


def test_a_conditional_space_is_found_from_its_trials_and_searched_through_every_kind_of_trial() -> None:
    study = searched(ParetoSampler(size, reference=(0.0, 64.0), linear=True, seed=1), 60)
    assert study.trials[0].params == {"kind": "deep", "rate": 1e-2, "depth": 2}
    states = [trial.state for trial in study.trials]
    assert {TrialState.COMPLETE, TrialState.FAIL} <= set(states)
    assert states[40:].count(TrialState.FAIL) <= 2  # it learns what fails
    last = [trial for trial in study.trials[40:] if trial.state is TrialState.COMPLETE]
    assert all({"kind", "rate", "width" if trial.params["kind"] == "wide" else "depth"} == trial.params.keys() for trial in last)
    near = [abs(math.log10(trial.params["rate"]) - (-3 if trial.params["kind"] == "wide" else -2)) < 0.7 for trial in last]
    assert sum(near) >= 0.7 * len(near)
    assert sum(trial.params.get("width", 0) > 50 for trial in study.trials[40:]) <= 2  # infeasible, or invalid


def test_a_sampler_that_is_made_again_continues_as_the_first_would_have() -> None:
    whole = searched(ParetoSampler(size, reference=(0.0, 64.0), linear=True, seed=1), 24)
    study = searched(ParetoSampler(size, reference=(0.0, 64.0), linear=True, seed=1), 18)
    study.sampler = ParetoSampler(size, reference=(0.0, 64.0), linear=True, seed=1)
    study.optimize(conditional, n_trials=6, catch=(FloatingPointError,))
    assert [trial.params for trial in study.trials] == [trial.params for trial in whole.trials]
    assert len(whole.trials) == 25 > N_RANDOM


def test_branches_keep_to_the_choices_that_lead_to_them() -> None:
    kind, act = CategoricalDistribution(["wide", "deep", "new"]), CategoricalDistribution(["gelu", "relu"])
    number = FloatDistribution(0.0, 1.0)
    trials = [
        create_trial(
            values=[0.5, 1.0],
            params={"kind": "wide", "act": "gelu", "w": 0.1},
            distributions={"kind": kind, "act": act, "w": number},
        ),
        create_trial(
            values=[0.5, 1.0],
            params={"kind": "deep", "act": "gelu", "d": 0.1},
            distributions={"kind": kind, "act": act, "d": number},
        ),
    ]
    branches = Branches.found(trials)
    wide, deep = ({knob.key: knob.distribution for knob in branches.space.knobs(name)} for name in branches.space.methods)
    assert wide["branch0.kind"] == CategoricalDistribution(["wide", "new"])
    assert deep["branch1.kind"] == CategoricalDistribution(["deep", "new"])
    assert wide["branch0.act"] == deep["branch1.act"] == act
    assert branches.params(branches.config(trials[0].params) or {}) == trials[0].params
    assert branches.config({"kind": "wide"}) is None


def test_other_directions_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=ParetoSampler(size, reference=(0.0, 64.0)))
    with pytest.raises(ValueError, match=r"must be \[maximize, minimize\]"):
        study.ask().suggest_float("x", 0.0, 1.0)
