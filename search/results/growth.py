"""The growth of a study's hypervolume: over ended trials, trained epochs and trained hours.

Trained hours are the seconds of training and validation that epochs report, of all trials together. Hours by the clock would count
the pauses of an interrupted study, and depend on the number of trials at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from search.costs import epoch_seconds
from search.front import front, hypervolume
from search.storage.rows import Report
from search.trial import Trial

UNITS: Final = ("trials", "epochs", "hours", "slot-seconds")  # over which growth is drawn


class Growth(NamedTuple):
    """The hypervolume after the end of a trial.

    Attributes:
        trials: Number of ended trials.
        epochs: Number of epochs of all trials until then.
        seconds: Seconds of training and validation of these epochs; None if trials do not report them.
        hypervolume: Hypervolume of the front.
    """

    trials: int
    epochs: int
    seconds: float | None
    hypervolume: float

    def spent(self, unit: str) -> float | None:
        """Return what was spent until then in one of `UNITS`; None if it is unknown."""
        if unit in ("trials", "epochs"):
            return self.trials if unit == "trials" else self.epochs
        return None if self.seconds is None else self.seconds / (3600.0 if unit == "hours" else 1.0)

    def as_json(self) -> dict[str, float | None]:
        """Return it as plain JSON values."""
        hours = self.spent("hours")
        return {"trials": self.trials, "epochs": self.epochs, "trained_hours": hours, "hypervolume": self.hypervolume}


def growth(trials: Sequence[Trial], reports: Iterable[Report], reference_point: tuple[float, float]) -> list[Growth]:
    """Return how the hypervolume grew: one item after each end of a trial."""
    ends = sorted((t for t in trials if t.finished is not None and t.state.finished), key=lambda t: (t.finished, t.number))
    ordered = sorted(reports, key=lambda report: report.time)
    told = any(epoch_seconds(report.metrics) is not None for report in ordered)
    spent, position, complete = 0.0, 0, list[Trial]()
    grown: list[Growth] = []
    for n_ended, trial in enumerate(ends, 1):
        while position < len(ordered) and ordered[position].time <= (trial.finished or 0.0):
            spent += epoch_seconds(ordered[position].metrics) or 0.0
            position += 1
        complete = front([*complete, trial])
        grown.append(Growth(n_ended, position, spent if told else None, hypervolume(complete, reference_point)))
    return grown


def steps_of(grown: Iterable[Growth]) -> list[Growth]:
    """Keep the items with which the hypervolume grew."""
    found: list[Growth] = []
    for one in grown:
        if one.hypervolume > (found[-1].hypervolume if found else 0.0):
            found.append(one)
    return found
