"""`auto` as a sampler of Optuna, for any study of two directions in which one objective is known before the trial runs.

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=ParetoSampler(size, reference=(0.1, 100_000)))

It proposes with the class that answers in a study of Paretune (`search.samplers.auto.Auto`), and depends on the trials in the
storage alone: they are told in the order of their numbers. The space is define-by-run. Trials with the same parameters are a
*branch*, and each branch is to `auto` what a method is in Paretune.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.samplers._base import _process_constraints_after_trial  # what Optuna's own samplers do with constraints
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from search.pareto import Front
from search.samplers.auto import Auto
from search.samplers.base import NewConfig, Result
from search.samplers.candidates import N_DRAWN, N_STRUCTURES
from search.seeds import seed_for
from spaces import Config, JointSpace, Knob, Space, Value

PROPOSED = "paretune:proposed"  # attribute of a trial: the configuration that was proposed for it, as JSON
N_RANDOM = 10  # trials with which a space without a description is found


class ParetoSampler(BaseSampler):
    """A sampler for two objectives, the second of which is a known function of the parameters and is minimised.

    Args:
        size: Function that returns the second objective of parameters; it raises ValueError if they are invalid.
        reference: Worst values of the two objectives that still count: beyond them a trial adds nothing.
        best: Best possible value of the first objective, 1 for accuracies. Steps near it are told apart more finely.
        linear: True if equal steps of the second objective count equally, False if equal factors do (numbers of parameters).
        space: The joint space of a study of Paretune; None to find the space from the trials, of which the first are random.
        n_trials: Number of trials of the study, which the start of a given space fits; None if it is not known.
        constraints_func: Function that returns the constraint values of a finished trial; above 0 is violated. A trial may set
            them itself, too (`trial.set_constraint`).
        seed: Seed of all draws.
    """

    def __init__(
        self,
        size: Callable[[Mapping[str, Any]], float],
        *,
        reference: tuple[float, float],
        best: float = 1.0,
        linear: bool = False,
        space: JointSpace | None = None,
        n_trials: int | None = None,
        constraints_func: Callable[[FrozenTrial], Sequence[float]] | None = None,
        seed: int = 0,
    ) -> None:
        self._size, self._reference, self._best, self._linear = size, reference, best, linear
        self._space, self._n_trials, self._constraints_func, self._seed = space, n_trials, constraints_func, seed
        self._random = RandomSampler(seed)
        self._replay: _Replay | None = None  # of the trials seen so far; a new one is made from them whenever it does not fit

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the distributions of all parameters that may be proposed."""
        if self._space is not None:
            return {key: values for m in self._space.methods for key, values in self._space.distributions(m).items()}
        return {key: values for seen in _complete(study.get_trials(deepcopy=False)) for key, values in seen.distributions.items()}

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Propose the parameters of one branch.

        Raises:
            ValueError: If the study's directions are not those of `reference` and `best`.
        """
        first = StudyDirection.MAXIMIZE if self._best > self._reference[0] else StudyDirection.MINIMIZE
        if study.directions != [first, StudyDirection.MINIMIZE]:
            raise ValueError(f"the study's directions must be [{first.name.lower()}, minimize]; create it with these")
        trials = [seen for seen in study.get_trials(deepcopy=False) if seen.number < trial.number]
        if self._space is None and len(_complete(trials)) < N_RANDOM:
            return {}
        branches = Branches.found(trials) if self._space is None else Branches(self._space, {})
        if self._replay is None or self._replay.study != study.study_name or self._replay.branches != branches:
            self._replay = _Replay(study.study_name, branches, self._auto(branches), self._front(), self._score)
        self._replay.tell(trials)
        n_proposed = sum(PROPOSED in seen.system_attrs for seen in trials)
        answer = self._replay.auto.ask(seed_for(self._seed, "ask", n_proposed))
        assert isinstance(answer, NewConfig)  # noqa: S101 - a pruned trial of Optuna is over, so that none is promoted
        study._storage.set_trial_system_attr(trial._trial_id, PROPOSED, json.dumps(answer.config))
        return branches.params(answer.config)

    def sample_independent(self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Draw a parameter that was not proposed."""
        return self._random.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Store the constraint values of a trial."""
        if self._constraints_func is not None:
            _process_constraints_after_trial(self._constraints_func, study, trial, state)

    def reseed_rng(self) -> None:
        """Reseed the draws of parameters that were not proposed; proposals depend on the seed and the trials alone."""
        self._random.reseed_rng()

    def _front(self) -> Front:
        return Front((self._score(self._reference[0]), self._reference[1]), linear=self._linear)

    def _auto(self, branches: Branches) -> Callable[[Front], Auto]:
        size, is_given = self._size, self._space is not None
        return lambda front: Auto(
            branches.space,
            size=lambda config: float(size(branches.params(config))),
            max_size=self._reference[1],
            front=front,
            n_epochs=1,
            fair=is_given,
            n_trials=self._n_trials,
            n_structures=N_STRUCTURES if is_given else N_DRAWN,
        )

    def _score(self, value: float) -> float:
        """Return the score of a first objective, of which 1 is perfect. Accuracies are scores."""
        worst, best = self._reference[0], self._best
        return value if best == 1.0 and 0.0 <= worst < 1.0 else (value - worst) / (best - worst)


class Branches:
    """The branches of a space: the sets of parameters that occur together.

    Args:
        space: Space whose methods are the branches.
        names: Name of the branch by its set of parameters; empty for a space of Paretune, whose configurations are parameters.
    """

    def __init__(self, space: JointSpace, names: Mapping[frozenset[str], str]) -> None:
        self.space, self._names = space, names

    @classmethod
    def found(cls, trials: Sequence[FrozenTrial]) -> Branches:
        """Find the branches of complete trials.

        A choice whose values never occur in two branches chooses the branch: there it keeps to its own values, and those that no
        trial has had yet.
        """
        names: dict[frozenset[str], str] = {}
        distributions: dict[str, dict[str, BaseDistribution]] = {}
        values: dict[str, dict[str, set[Value]]] = {}  # parameter -> branch -> values
        for trial in _complete(trials):
            name = names.setdefault(frozenset(trial.params), f"branch{len(names)}")
            distributions.setdefault(name, {}).update(trial.distributions)
            for key, value in trial.params.items():
                values.setdefault(key, {}).setdefault(name, set()).add(value)
        spaces = []
        for name, of_params in distributions.items():
            knobs = []
            for key, of_all in sorted(of_params.items()):
                others = set().union(*(seen for other, seen in values[key].items() if other != name))
                own = _without(of_all, others) if not others & values[key][name] else of_all
                knobs.append(Knob(f"{name}.{key}", own, _any_value(own), "A parameter.", "", "the objective"))
            spaces.append(Space(name, tuple(knobs)))
        return cls(JointSpace(tuple(spaces), ()), names)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Branches) and (self.space, self._names) == (other.space, other._names)

    __hash__ = None  # type: ignore[assignment]

    def params(self, config: Config) -> dict[str, Any]:
        """Return the parameters of a configuration."""
        if not self._names:
            return dict(config)
        return {key.partition(".")[2]: value for key, value in config.items() if key != "method"}

    def config(self, params: Mapping[str, Any]) -> Config | None:
        """Return the configuration of parameters; None if they are no point of the space."""
        if not self._names:
            config = dict(params)
        elif (name := self._names.get(frozenset(params))) is not None:
            config = {"method": name} | {f"{name}.{key}": value for key, value in params.items()}
        else:
            return None
        return config if "method" in config and self.space.holds(config) else None


class _Replay:
    """The sampler `auto` with everything that the trials of a study have told it, in the order of their numbers."""

    def __init__(
        self, study: str, branches: Branches, make: Callable[[Front], Auto], front: Front, score: Callable[[float], float]
    ) -> None:
        self.study, self.branches, self.auto = study, branches, make(front)
        self._front, self._score = front, score
        self._tickets: dict[int, int] = {}
        self._told: set[int] = set()

    def tell(self, trials: Sequence[FrozenTrial]) -> None:
        """Tell what has happened since the last call."""
        for trial in trials:
            if trial.number in self._told:
                continue
            config = self._config(trial)
            if config is not None and trial.number not in self._tickets:
                self._tickets[trial.number] = self.auto.add(config, drawn=PROPOSED in trial.system_attrs)
            if trial.state.is_finished():
                self._told.add(trial.number)
                self._tell(trial, self._tickets.get(trial.number))

    def _config(self, trial: FrozenTrial) -> Config | None:
        """Return the configuration of a trial; of one that runs, what was proposed for it."""
        if trial.state.is_finished():
            return self.branches.config(trial.params)
        proposed = trial.system_attrs.get(PROPOSED)
        config = None if proposed is None else json.loads(proposed)
        return config if config is not None and self.branches.space.holds(config) else None

    def _tell(self, trial: FrozenTrial, ticket: int | None) -> None:
        violated = any(value > 0 for value in trial.constraints.values())
        if trial.state is TrialState.COMPLETE and not violated:
            score, size = self._score(trial.values[0]), trial.values[1]
            self._front.add(score, size, trial.number)
            if ticket is not None:
                self.auto.report(ticket, 1, score)
                self.auto.tell(ticket, Result.COMPLETE, top1=score, size=size)
        elif ticket is None:
            return
        elif violated:
            self.auto.tell(ticket, Result.OVER_LIMIT)
        else:
            self.auto.tell(ticket, Result.PRUNED if trial.state is TrialState.PRUNED else Result.FAILED)


def _complete(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state is TrialState.COMPLETE and trial.params]


def _without(distribution: BaseDistribution, values: set[Value]) -> BaseDistribution:
    """Return a choice without some of its values; a range as it is."""
    if not isinstance(distribution, CategoricalDistribution):
        return distribution
    return CategoricalDistribution([choice for choice in distribution.choices if choice not in values])


def _any_value(distribution: BaseDistribution) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[0]
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # noqa: S101 - Optuna has three
    return distribution.low
