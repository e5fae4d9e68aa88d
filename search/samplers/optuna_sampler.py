"""Optuna's multi-objective samplers, made replayable: `tpe`, `nsga2`, `gp` and `grid`.

The Optuna study exists in memory only; the ledger is the truth, and nothing outside it may influence a draw.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from search.samplers.base import Answer, NewConfig, Result
from spaces import Config, JointSpace, Value

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

GRID_POINTS = 5  # values of a range
POPULATION = 24  # of NSGA-II: Optuna's default of 50 exceeds the number of trials of many studies


class OptunaSampler:
    """One of Optuna's samplers on a joint space.

    Args:
        space: The joint space.
        kind: Kind of sampler: `tpe` (multivariate within each method's group of knobs), `nsga2`, `gp` (a study for each method,
            because Optuna's GP draws conditional knobs at random; methods take turns) or `grid` (see `Grid`).
    """

    def __init__(self, space: JointSpace, kind: str) -> None:
        self._space, self._kind = space, kind
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        names = space.methods if kind == "gp" else ("all",)
        self._studies = {name: optuna.create_study(directions=["maximize", "minimize"]) for name in names}
        self._tickets: list[tuple[str, int]] = []  # (study, Optuna's number)
        self._distributions = {method: space.distributions(method) for method in space.methods}
        self._grid = Grid(space) if kind == "grid" else None
        self._nsga2 = optuna.samplers.NSGAIISampler(population_size=POPULATION) if kind == "nsga2" else None

    def ask(self, seed: int) -> Answer:
        """Propose a configuration; the same history and seed propose the same."""
        if self._grid is not None:
            return NewConfig(self._grid.next())
        name = self._space.methods[len(self._tickets) % len(self._space.methods)] if self._kind == "gp" else "all"
        study, space = self._studies[name], self._space.only(name) if self._kind == "gp" else self._space
        study.sampler = self._sampler(seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            trial = study.ask()
            config = space.suggest(trial)
        # Optuna keeps notes on a trial from `ask` (its choices for the other methods' knobs) and uses them while the trial runs.
        # The ledger does not have them. So this trial is discarded, and its configuration is added as a new one.
        study.tell(trial, state=TrialState.FAIL)
        return NewConfig(config)

    def add(self, config: Config, *, drawn: bool) -> int:
        """Register a configuration of the space; return its ticket."""
        method = str(config["method"])
        name = method if self._kind == "gp" else "all"
        if self._grid is not None and drawn:
            self._grid.n_drawn += 1
        distributions = self._distributions[method]
        if self._kind == "gp":
            distributions = distributions | {"method": CategoricalDistribution((method,))}
        params = {key: config[key] for key in distributions}
        study = self._studies[name]
        study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=distributions))
        if self._nsga2 is not None:  # recompute the generation and the parents that Optuna gave the draw
            trial = study.get_trials(deepcopy=False)[-1]
            self._nsga2.get_parent_population(study, self._nsga2.get_trial_generation(study, trial))
        self._tickets.append((name, study.get_trials(deepcopy=False)[-1].number))
        return len(self._tickets) - 1

    def report(self, ticket: int, epoch: int, top1: float, size: float | None, seconds: float | None) -> None:
        """Do nothing: Optuna's multi-objective studies have no intermediate values."""

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Tell Optuna. Rejected configurations and those over a limit are PRUNED and infeasible, so that it avoids similar ones."""
        name, number = self._tickets[ticket]
        study = self._studies[name]
        if result is Result.COMPLETE:
            assert top1 is not None and size is not None  # noqa: S101, PT018 - guaranteed by the protocol
            study.tell(number, (top1, size))
            return
        if result in (Result.REJECTED, Result.OVER_LIMIT):
            optuna.trial.Trial(study, number).set_constraint("feasible", 1.0)
        study.tell(number, state=TrialState.FAIL if result is Result.FAILED else TrialState.PRUNED)

    def promote(self, ticket: int) -> None:
        """Refuse: results in Optuna are final, and it never proposes a promotion."""
        raise NotImplementedError

    def revise(self, ticket: int, top1: float, n_runs: int) -> None:
        """Do nothing: results in Optuna are final."""

    def _sampler(self, seed: int) -> BaseSampler:
        if self._kind == "nsga2":
            return optuna.samplers.NSGAIISampler(seed=seed, population_size=POPULATION)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `multivariate` and `group`: long in use
            if self._kind == "gp":
                return optuna.samplers.GPSampler(seed=seed, deterministic_objective=False)
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


class Grid:
    """All combinations of a joint space, with `GRID_POINTS` values of each range; methods take turns.

    Within a method, successive combinations differ in every knob (the order steps through all of them by a stride that is
    coprime to their number), so that a part of the grid covers all of it thinly.
    """

    def __init__(self, space: JointSpace) -> None:
        self._values = {m: {k.key: _points(k.distribution) for k in space.knobs(m)} for m in space.methods}
        self.n_drawn = 0

    def next(self) -> Config:
        """Return the combination after those that were drawn; it starts over after the last."""
        methods = list(self._values)
        method, turn = methods[self.n_drawn % len(methods)], self.n_drawn // len(methods)
        values = self._values[method]
        n = math.prod(len(points) for points in values.values())
        stride = next(s for s in range(max(1, round(n * 0.618)), 2 * n + 2) if math.gcd(s, n) == 1)  # the golden ratio spreads best
        number, config = turn * stride % n, Config(method=method)
        for key, points in values.items():
            number, index = divmod(number, len(points))
            config[key] = points[index]
        return config


def _points(values: BaseDistribution) -> list[Value]:
    if isinstance(values, CategoricalDistribution):
        return list(values.choices)
    if isinstance(values, IntDistribution | FloatDistribution):
        if values.low == values.high:
            return [values.low]
        parts = [i / (GRID_POINTS - 1) for i in range(GRID_POINTS)]
        if values.log:
            found = [math.exp(math.log(values.low) + p * (math.log(values.high) - math.log(values.low))) for p in parts]
        else:
            found = [values.low + p * (values.high - values.low) for p in parts]
        found = [min(max(index, values.low), values.high) for index in found]
        if values.step is not None:
            found = list(dict.fromkeys(values.low + round((index - values.low) / values.step) * values.step for index in found))
        return list(dict.fromkeys(map(round, found))) if isinstance(values, IntDistribution) else list(found)
    raise TypeError(f"{values!r} is not one of Optuna's three distributions")
