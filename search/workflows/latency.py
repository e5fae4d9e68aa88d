"""Measuring how long trials take to answer, when nothing else runs: a search has no quiet moment for it.

What is found is an event of the study's ledger, `measured`; from there it is shown beside what the trial reported itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from search.config.loading import check
from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.storage.events import EventKind
from search.storage.location import ledger_in
from search.storage.sql_ledger import SqlLedger
from search.trial import Trial


@dataclass(frozen=True)
class Measured:
    """One trial's latency.

    Attributes:
        trial: As the search left it.
        found: See `trainables.measure_latency`.
    """

    trial: Trial
    found: dict[str, Any]

    def json(self) -> dict[str, Any]:
        """As plain values."""
        return {"trial": self.trial.number, "method": self.trial.method, "config": dict(self.trial.config)} | self.found


def measure(study: SavedStudy, numbers: Sequence[int]) -> Iterator[Measured]:
    """Measure trials one after the other, each written into the ledger when it is known.

    Args:
        study: Of any state, but nobody may be running it.
        numbers: Of the trials; none for the members of the front.

    Raises:
        RequestError: There is no such trial, no front, or nothing to measure.
        LedgerError: Somebody runs the study.
    """
    from trainables import measure_latency

    trials = [study.trial(number) for number in numbers] or list(study.members)
    if not trials:
        raise RequestError(f"study {study.name} has no front yet: no trial is complete; name trials to measure")
    worker, n_classes = check(study.row.file).worker(study.row.facts), study.row.facts.n_classes
    ledger = SqlLedger.open(ledger_in(study.folder))
    ledger.claim()
    try:
        for trial in trials:
            try:
                found = measure_latency(**worker, config=trial.config, n_classes=n_classes)
            except ValueError as error:
                raise RequestError(str(error)) from error
            with ledger.decision() as writer:
                writer.event(EventKind.MEASURED, trial.number, **found)
            yield Measured(trial, found)
    finally:
        ledger.close()
