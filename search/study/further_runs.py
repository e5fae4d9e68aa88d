"""The choice of the trial that is trained again, on another fold or from another seed, and how much of a budget that may take.

One run of each trial settles most of them: they are far from the front. A further run is worth most where the *answer* depends on
it. The belief about the true scores (`search.results.belief`) says what a run would change: with it, the expected score of the
trial moves by a random amount, and those of similar trials with it. The trial is chosen for which the expected area below the
front of expected scores grows most (the knowledge gradient). A run of a trial that cannot change the front grows it by nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.config.study_file import ANCHOR, StudyFile
from search.pareto import Axis
from search.results.belief import POINT, Posterior, drawn, posterior
from search.samplers.auto import fair_start
from search.samplers.learning_curve import LEAST_ERROR
from search.storage.facts import Facts
from search.study.state import SearchState
from search.trial import State, Trial

Array = NDArray[np.float64]
RACING = 0.5  # share of what further runs may take that they may take while new configurations are started
MOST_SEEDS = 8  # runs of a trial in a study without folds
WORTH = 1e-5  # area, in score x share of the axis of sizes, below which a run changes nothing: a thousandth of a point everywhere
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(9)


class FurtherRuns:
    """The choice of further runs in one study.

    Args:
        file: Study file.
        facts: Facts of the study.
    """

    def __init__(self, file: StudyFile, facts: Facts) -> None:
        self._file, self._facts = file, facts
        self._known: tuple[tuple[int, int], Posterior] | None = None  # the belief, and the numbers of trials and runs it rests on

    def choose(self, state: SearchState, is_free: Callable[[int], bool]) -> tuple[Trial | None, str]:
        """Return the trial that is to be trained again now, None if none is; and why none is, in words.

        Args:
            state: State of the search.
            is_free: Function that returns whether no worker has the trial of a number.
        """
        racing = state.confirming is None
        if n_affordable(self._file, state.trials, racing=racing) < 1:
            return None, f"further runs have had their share (budget.confirm: {self._file.confirm:g})"
        found = choose_trial(
            self._posterior(state), state.front.axis, lambda trial: is_free(trial.number) and may_continue(trial, self._file)
        )
        return found, "no further run would change the answer"

    def why_sure(self, state: SearchState) -> str | None:
        """Return why the study ends, if its answer is as sure as `budget.sure` requires and each method had its fair start."""
        level, methods = self._file.budget.sure, [method for method in self._file.methods if method != ANCHOR]
        if level is None or sum(trial.state.finished for trial in state.trials) < fair_start(len(methods)):
            return None
        found = self._posterior(state)
        choice = drawn(found, seed=self._file.search.seed).choose(within=POINT, level=level) if found.trials else None
        if choice is None or not choice.holds:
            return None
        return (
            f"the answer is sure: trial {found.trials[choice.index].number} loses at most a point against the best with "
            f"probability {choice.probability:.2f} (budget.sure: {level:g})"
        )

    def _posterior(self, state: SearchState) -> Posterior:
        key = sum(trial.is_complete for trial in state.trials), sum(len(trial.runs) for trial in state.trials)
        if self._known is None or self._known[0] != key:
            space = self._file.joint_space(with_anchor=True)
            self._known = key, posterior(space, state.trials, self._facts.n_validation)
        return self._known[1]


def most_runs(file: StudyFile) -> int:
    """Return how many runs a trial has at most."""
    return MOST_SEEDS if file.data.folds is None else file.data.folds


def epochs_spent(trials: Sequence[Trial], epochs: int) -> tuple[int, int]:
    """Return the epochs of first runs, and those of further runs, which count in full once they are started.

    Args:
        trials: All trials.
        epochs: Epochs of a complete run.
    """
    first = sum(epochs if trial.runs else trial.epochs for trial in trials)
    further = 0
    for trial in trials:
        if trial.runs:
            further += trial.epochs - epochs if trial.state.finished else epochs * len(trial.runs)
    return first, further


def n_affordable(file: StudyFile, trials: Sequence[Trial], *, racing: bool) -> int:
    """Return how many further runs may start now.

    Of all epochs, at most the share `confirm` is for further runs. If only hours limit the study, this holds while new
    configurations are started, and afterwards the hours do.

    Args:
        file: Study file.
        trials: All trials.
        racing: True while new configurations are started.
    """
    if racing and file.data.folds is None:
        return 0
    if not racing and file.budget.n_trials is None:
        return sum(trial.is_complete for trial in trials)
    first, further = epochs_spent(trials, file.budget.epochs)
    allowed = file.confirm / (1.0 - file.confirm) * first * (RACING if racing else 1.0)
    return max(0, math.floor((allowed - further) / file.budget.epochs + 1e-9))


def choose_trial(found: Posterior, axis: Axis, may_run: Callable[[Trial], bool]) -> Trial | None:
    """Return the trial whose further run is worth most; None if none is worth anything, or none may run.

    Args:
        found: Belief about the complete trials.
        axis: Axis of sizes.
        may_run: Function that returns whether a trial may be trained again now.
    """
    if len(found.trials) < 2:
        return None
    ends = np.minimum(axis.positions(np.array([trial.size for trial in found.trials])) / axis.end, 1.0)
    widths = np.diff(np.append(ends, 1.0))  # of the strip in which a trial, or a smaller one, is the best
    before = _area(found.mean[None, :], np.diag(found.covariance), widths)[0]
    best, gain = None, WORTH
    for n, trial in enumerate(found.trials):
        if not may_run(trial):
            continue
        column = found.covariance[:, n]
        total = column[n] + found.of_a_run[n]
        after = found.mean + _NODES[:, None] * (column / math.sqrt(total))
        areas = _area(after, np.diag(found.covariance) - column**2 / total, widths)
        grown = float(areas @ _WEIGHTS) / float(_WEIGHTS.sum()) - float(before)
        if grown > gain:
            best, gain = trial, grown
    return best


def _area(goodness: Array, variance: Array, widths: Array) -> Array:
    """Return the area (m,) below the fronts of expected scores, for m rows of expected goodness (m, n) with the same variances."""
    scores = 1.0 + LEAST_ERROR - np.exp(-goodness + np.maximum(variance, 0.0) / 2)
    area: Array = np.maximum.accumulate(scores, axis=1) @ widths
    return area


def may_continue(trial: Trial, file: StudyFile) -> bool:
    """Return whether a trial may be trained again: it is complete, no further run of it has ended early, and it has runs left."""
    usual = trial.state is State.COMPLETE and trial.planned_epochs is None
    return usual and trial.reason is None and len(trial.values) < most_runs(file)
