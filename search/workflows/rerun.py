"""Training one trial of a study again, from its seed, and comparing: a trial is its configuration and its seed, nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.loading import check
from search.errors import RequestError
from search.results.saved_study import SavedStudy


@dataclass(frozen=True)
class Epoch:
    """One epoch, then and now.

    Attributes:
        epoch: Counted from 1.
        then: What the ledger holds; costs are left out, which are a machine's.
        now: What the same epoch gave again.
    """

    epoch: int
    then: dict[str, float]
    now: dict[str, float]

    @property
    def same(self) -> bool:
        """Whether every number is the same, to the last bit."""
        return self.then == self.now


def rerun(study: SavedStudy, number: int) -> list[Epoch]:
    """Train a trial again, in this process and beside the study, for as many epochs as it had.

    Raises:
        RequestError: if there is no such trial, it has no epoch, or backbone and data are not to be had.
    """
    from trainables import make

    trial = study.trial(number)
    then = {report.epoch: dict(report.metrics) for report in study.epochs if report.trial == number}
    if not then:
        raise RequestError(f"trial {number} has no epoch that could be compared; it is {trial.state}")
    file = check(study.row.file)
    try:
        trainable = make(**file.worker(study.row.facts))
        trainable.start(trial.config, seed=trial.seed, epochs=trial.planned_epochs or file.budget.epochs, folder=None)
    except ValueError as error:
        raise RequestError(str(error)) from error
    found = [Epoch(epoch, _without_costs(then[epoch]), _without_costs(trainable.step())) for epoch in sorted(then)]
    trainable.finish()
    return found


def _without_costs(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith("cost/")}
