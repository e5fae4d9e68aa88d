"""A prior from finished studies: what to try first on other data, and what to believe before anything was trained there.

The first configurations are a portfolio: each next one is that which adds most to the share of their fronts that the configurations
before it would have reached on all studies, on average. What a configuration reaches on a study that did not train it is what that
study's surrogate expects, at a size that grows with the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

import spaces
from search.config.prior_file import Prior, Standing
from search.errors import RequestError
from search.front import compared
from search.metrics import TOP1
from search.pareto import hypervolume
from search.results.saved_study import SavedStudy
from search.samplers.base import ALL_PARTS
from search.samplers.encoding import Array
from search.samplers.learning_curve import accuracy_of, standings
from search.samplers.observations import Observations
from search.samplers.predicted_accuracy import N_ELSEWHERE, N_LEAST, PredictedAccuracy, evenly
from search.samplers.shared_columns import SharedColumns
from search.trial import PARAMETERS, Trial
from spaces import JointSpace, key_of

N_FIRST = 10
LEAST_GAIN = 1e-3  # share of the front that one more configuration has to add, on average


@dataclass(frozen=True)
class Learnt:
    """A prior, and what it rests on.

    Attributes:
        prior: The prior.
        portfolio: Trials whose configurations come first.
        n_trials: Number of complete trials that it was learnt from.
        shares: Mean share of the studies' hypervolumes that is expected of head-only and the first k + 1 configurations.
    """

    prior: Prior
    portfolio: list[Trial]
    n_trials: int
    shares: list[float]


def learn_prior(studies: Sequence[SavedStudy], *, n_first: int = N_FIRST) -> Learnt:
    """Learn a prior from the complete trials of studies, each of other data.

    Args:
        studies: Studies, in any state.
        n_first: Largest number of configurations to try first.

    Raises:
        RequestError: If a study has too few complete trials of packaged methods, or weighs accuracy against something else than
            parameters.
    """
    space = spaces.joint(list(spaces.SPACES))
    tasks = [_Task(study, space) for study in studies]
    candidates = {key_of(trial.config): (trial, task) for task in tasks for trial in task.on_front}
    portfolio, shares = _portfolio(tasks, list(candidates.values()), n_first)
    of_each = max(1, N_ELSEWHERE // len(tasks))
    prior = Prior(
        studies=[study.name for study in studies],
        first=[dict(trial.config) for trial in portfolio],
        trials=[standing for task in tasks for standing in task.good_and_bad(of_each)],
    )
    return Learnt(prior, portfolio, sum(len(task.trials) for task in tasks), shares)


class _Task:
    """One study, which can tell what other configurations would have reached on it."""

    def __init__(self, study: SavedStudy, space: JointSpace) -> None:
        self.study = study
        kept = [(trial, space.nearest(trial.config)) for trial in study.history if compared(trial)]
        usable = [(trial, config) for trial, config in kept if config is not None]
        self.trials = [trial for trial, _ in usable]
        if self.trials and self.trials[0].against not in PARAMETERS:
            raise RequestError(
                f"learn: {study.name} weighs its metric against {self.trials[0].against}, which another machine or data set does "
                "not have; name studies whose second objective is a number of parameters"
            )
        if len(self.trials) < N_LEAST:
            raise RequestError(
                f"learn: {study.name} has {len(self.trials)} complete trials of packaged methods, and {N_LEAST} are the least that "
                "teach something; let it run, or leave it out"
            )
        scores = [trial.objectives[0] for trial in self.trials]
        self._standings = standings(scores)
        self._coding = SharedColumns(space)
        self._backbone = study.row.facts.backbone_params
        self._known = {key_of(trial.config): score for trial, score in zip(self.trials, scores, strict=True)}
        self._moved = {key_of(trial.config): config for trial, config in usable}
        n_images = study.n_validation if study.metric.key == TOP1 else None
        observations, accuracy = Observations(len(self._coding.groups)), PredictedAccuracy(self._coding, ALL_PARTS, n_images)
        for (trial, config), score in zip(usable, scores, strict=True):
            code, size = self._coding.code(config), np.array([float(trial.size)])
            ticket = observations.add(trial.method, code, 0.0, self._coding.features(trial.method, code[None, :], size)[0])
            observations.complete(ticket, score)
            accuracy.ended(observations)
        surrogate = accuracy.learn(observations, np.arange(len(self.trials)), np.zeros(len(self.trials)))
        assert surrogate is not None  # noqa: S101 - there are enough observations
        self._surrogate = surrogate

    def good_and_bad(self, n: int) -> list[Standing]:
        """Return the standings of at most n trials, evenly from the worst to the best."""
        order = np.argsort(self._standings, kind="stable")[evenly(len(self.trials), n)]
        return [Standing(config=dict(self.trials[i].config), standing=round(float(self._standings[i]), 3)) for i in order]

    @property
    def on_front(self) -> list[Trial]:
        """The members of the front that another study can try first: not head-only, which every study trains."""
        members = {trial.number for trial in self.study.members}
        return [trial for trial in self.trials if trial.number in members and trial.method != "head_only"]

    @property
    def anchors(self) -> list[tuple[float, float]]:
        """The points of head-only."""
        return [(trial.objectives[0], float(trial.size)) for trial in self.trials if trial.method == "head_only"]

    def expected(self, candidates: Sequence[tuple[Trial, _Task]]) -> list[tuple[float, float]]:
        """Return the expected (score, size) of trials of this study and others, here."""
        sizes = [trial.size * self._backbone / max(1, task._backbone) for trial, task in candidates]
        rows = []
        for (trial, task), size in zip(candidates, sizes, strict=True):
            code = self._coding.code(task._moved[key_of(trial.config)])
            rows.append(self._coding.features(trial.method, code[None, :], np.array([size]))[0])
        expected = [accuracy_of(value) for value in self._surrogate.predict(np.array(rows))[0]]
        measured = [self._known.get(key_of(trial.config)) for trial, _ in candidates]
        return [(e if m is None else m, size) for e, m, size in zip(expected, measured, sizes, strict=True)]

    def share(self, points: Sequence[tuple[float, float]]) -> float:
        """Return the share of the study's own hypervolume that points reach."""
        return hypervolume(points, self.study.reference_point) / max(self.study.hypervolume, 1e-12)


def _portfolio(tasks: Sequence[_Task], candidates: Sequence[tuple[Trial, _Task]], n: int) -> tuple[list[Trial], list[float]]:
    """Return the portfolio, and the mean share that is reached with each more of its configurations."""
    if not candidates:
        return [], []
    expected, points = [task.expected(candidates) for task in tasks], [list(task.anchors) for task in tasks]
    reached = float(np.mean([task.share(known) for task, known in zip(tasks, points, strict=True)]))
    chosen: list[int] = []
    shares: list[float] = []
    while len(chosen) < min(n, len(candidates)):
        with_each: Array = np.array(
            [
                np.mean([task.share([*known, of[i]]) for task, known, of in zip(tasks, points, expected, strict=True)])
                for i in range(len(candidates))
            ]
        )
        best = int(with_each.argmax())
        if with_each[best] < reached + LEAST_GAIN:
            break
        chosen.append(best)
        reached = float(with_each[best])
        shares.append(reached)
        for known, of in zip(points, expected, strict=True):
            known.append(of[best])
    return [candidates[i][0] for i in chosen], shares
