"""The reproduction of a trial: training it again from configuration and seed, which determine it, and comparing every epoch."""

from __future__ import annotations

from dataclasses import dataclass

from search.config.loading import check_stored
from search.errors import RequestError
from search.results.saved_study import SavedStudy


@dataclass(frozen=True)
class Epoch:
    """The metrics of one epoch in both trainings.

    Attributes:
        epoch: Number of the epoch, counted from 1.
        then: Metrics in the ledger, without costs, which depend on the machine.
        now: Metrics of the same epoch in the new training.
    """

    epoch: int
    then: dict[str, float]
    now: dict[str, float]

    @property
    def same(self) -> bool:
        """True if every number is identical to the last bit."""
        return self.then == self.now


def rerun(study: SavedStudy, number: int) -> list[Epoch]:
    """Train a trial again, in this process and without changing the study, for as many epochs as it had.

    Raises:
        RequestError: If the trial does not exist or has no epoch, or backbone or data are unavailable.
    """
    from trainables import make

    trial = study.trial(number)
    then = {report.epoch: dict(report.metrics) for report in study.epochs if report.trial == number}
    if not then:
        raise RequestError(f"trial {number} has no epoch to compare; it is {trial.state}")
    file = check_stored(study.row.file)
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
