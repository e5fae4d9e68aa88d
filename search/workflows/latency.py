"""The measurement of trials' latency while nothing else runs; a search has no quiet moment for it.

The result is an event `measured` in the study's ledger, and is shown together with the metrics that the trial reported itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search.config.loading import check_stored
from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.storage.events import EventKind
from search.storage.location import ledger_in
from search.storage.sql_ledger import SqlLedger
from search.trial import Trial
from search.workflows.export_adapter import refuse_changed


@dataclass(frozen=True)
class Measured:
    """The measured latency of one trial.

    Attributes:
        trial: Trial of the search.
        found: Result of `trainables.measure_latency`.
    """

    trial: Trial
    found: dict[str, Any]

    def json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {"trial": self.trial.number, "method": self.trial.method, "config": dict(self.trial.config)} | self.found


def measure(study: SavedStudy, numbers: Sequence[int], *, busy_cores: float | None = None) -> Iterator[Measured]:
    """Measure trials one after the other, and write each result to the ledger at once.

    Args:
        study: Study in any state that no driver is running.
        numbers: Numbers of the trials; empty for the members of the front.
        busy_cores: Cores that other programs keep busy, which is stored with the result; None if the machine is quiet.

    Raises:
        RequestError: If a trial does not exist, there is no front, or nothing can be measured.
        LedgerError: If a driver is running the study.
    """
    from trainables import measure_latency

    trials = [study.trial(number) for number in numbers] or list(study.members)
    if not trials:
        raise RequestError(f"study {study.name} has no front yet: no trial is complete; name trials to measure")
    worker, n_classes = check_stored(study.row.file).worker(study.row.facts), study.row.facts.n_classes
    refuse_changed(study)
    ledger = SqlLedger.open(ledger_in(study.folder))
    ledger.claim()
    try:
        for trial in trials:
            try:
                found = measure_latency(**worker, config=trial.config, n_classes=n_classes)
            except ValueError as error:
                raise RequestError(str(error)) from error
            found |= {} if busy_cores is None else {"busy_cores": round(busy_cores, 1)}
            with ledger.decision() as writer:
                writer.event(EventKind.MEASURED, trial.number, **found)
            yield Measured(trial, found)
    finally:
        ledger.close()
