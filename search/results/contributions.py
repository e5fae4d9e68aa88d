"""What each method has had of a search and brought to its front, and which of its knobs mattered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.config.study_file import ANCHOR
from search.front import front, hypervolume
from search.trial import State, Trial

N_POINTS, N_PLACES = 512, 8  # of a method's space that importance is averaged over; of a range


@dataclass(frozen=True)
class MethodContribution:
    """One method's part of a study.

    Attributes:
        method: Its name.
        n_trials: Trials that it had.
        n_complete: Those trained to the end.
        n_epochs: Epochs that were spent on it.
        front: Its own front, smallest first.
        hypervolume: Of its own front with head-only, which every method can do.
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
    """Of every method, the largest contribution first."""
    joint, found = hypervolume(trials, reference_point), []
    anchors = [trial for trial in trials if trial.method == ANCHOR]
    for method in dict.fromkeys(trial.method for trial in trials):
        mine = [trial for trial in trials if trial.method == method]
        others = [trial for trial in trials if trial.method != method]
        found.append(
            MethodContribution(
                method,
                len(mine),
                sum(trial.state is State.COMPLETE for trial in mine),
                sum(trial.epochs for trial in mine),
                tuple(front(mine)),
                hypervolume([*mine, *anchors] if method != ANCHOR else mine, reference_point),
                joint - hypervolume(others, reference_point),
            )
        )
    return sorted(found, key=lambda share: -share.contribution)
