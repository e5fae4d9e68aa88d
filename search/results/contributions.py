"""The share of each method in a search, and its contribution to the joint front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.config.study_file import ANCHOR
from search.front import front, hypervolume
from search.trial import Trial

N_POINTS, N_PLACES = 512, 8  # averaged over by importance: points of a method's space, values of a range


@dataclass(frozen=True)
class MethodContribution:
    """The share of one method in a study.

    Attributes:
        method: Name of the method.
        n_trials: Number of its trials.
        n_complete: Number of its trials that were trained to the end.
        n_epochs: Epochs spent on it.
        front: Front of its own trials, smallest first.
        hypervolume: Hypervolume of its own front together with head-only, which is available to every method.
        contribution: Hypervolume that the joint front would lose without the method's trials.
    """

    method: str
    n_trials: int
    n_complete: int
    n_epochs: int
    front: tuple[Trial, ...]
    hypervolume: float
    contribution: float


def contributions(trials: Sequence[Trial], reference_point: tuple[float, float]) -> list[MethodContribution]:
    """Return the share of every method, the largest contribution first."""
    joint, found = hypervolume(trials, reference_point), []
    anchors = [trial for trial in trials if trial.method == ANCHOR]
    for method in dict.fromkeys(trial.method for trial in trials):
        mine = [trial for trial in trials if trial.method == method]
        others = [trial for trial in trials if trial.method != method]
        found.append(
            MethodContribution(
                method,
                len(mine),
                sum(trial.is_complete for trial in mine),
                sum(trial.epochs for trial in mine),
                tuple(front(mine)),
                hypervolume([*mine, *anchors] if method != ANCHOR else mine, reference_point),
                joint - hypervolume(others, reference_point),
            )
        )
    return sorted(found, key=lambda share: -share.contribution)
