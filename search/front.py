"""The front of a study: the COMPLETE trials that no other COMPLETE trial beats in both accuracy and size.

Accuracy means the study's metric (`search.metrics`), compared by its score.
Size means adapter parameters, unless the study weighs accuracy against another cost (`Trial.against`).

Only trials with equal epochs are compared: a trial that was extended beyond the budget's epochs is excluded from the front.
"""

from __future__ import annotations

from collections.abc import Iterable

from search import pareto
from search.metrics import METRICS, TOP1, Metric
from search.trial import PARAMETERS, State, Trial


def judged_by(trials: Iterable[Trial]) -> Metric:
    """Return the metric of a study's trials; without trials, accuracy."""
    return next((trial.metric for trial in trials), METRICS[TOP1])


def front(trials: Iterable[Trial]) -> list[Trial]:
    """Return the non-dominated COMPLETE trials, smallest first. Equal objectives stay together, in the order of numbers."""
    complete = [trial for trial in trials if compared(trial)]
    mask = pareto.non_dominated([trial.objectives for trial in complete])
    members = [trial for trial, survives in zip(complete, mask, strict=True) if survives]
    return sorted(members, key=lambda trial: (trial.size, trial.number))


def ranks(trials: Iterable[Trial]) -> dict[int, int]:
    """Return the rank of each compared trial by its number: 1 on the front, 2 on the front of the rest, and so on."""
    complete = [trial for trial in trials if compared(trial)]
    found = pareto.ranks([trial.objectives for trial in complete])
    return {trial.number: 1 + int(rank) for trial, rank in zip(complete, found, strict=True)}


def hypervolume(trials: Iterable[Trial], reference_point: tuple[float, float]) -> float:
    """Compute the hypervolume of the COMPLETE trials: score x decades of parameters, or x shares of another cost's limit."""
    complete = [trial for trial in trials if compared(trial)]
    linear = any(trial.against not in PARAMETERS for trial in complete[:1])
    return pareto.hypervolume([trial.objectives for trial in complete], reference_point, linear=linear)


def compared(trial: Trial) -> bool:
    """Return whether a trial is complete with the epochs of the budget."""
    return trial.is_complete and trial.planned_epochs is None


def beside(trials: Iterable[Trial]) -> list[Trial]:
    """Return the COMPLETE trials with more epochs than the budget's, smallest first."""
    longer = [trial for trial in trials if trial.state is State.COMPLETE and trial.planned_epochs is not None]
    return sorted(longer, key=lambda trial: (trial.size, trial.number))
