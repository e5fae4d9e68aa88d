"""A ledger that lives in memory and ends with its process: for simulated studies, which have nothing to lose.

It holds what the ledger on disk holds, in the same order; the study that writes it does not know the difference.
"""

from __future__ import annotations

import uuid
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from search.storage.events import EventKind
from search.storage.ledger import Ledger
from search.storage.reader import Event, Report, StudyRow
from search.storage.writer import LedgerWriter, Request
from search.trial import Metrics, Trial

WHO = "simulated"


class InMemoryLedger(Ledger):
    """See `search.storage.ledger.Ledger`; claimed by whoever makes it.

    Args:
        name: The study's name.
        file: The resolved study file.
        facts: What was measured when the study was made.
        now: The clock, in seconds.
    """

    def __init__(self, *, name: str, file: Mapping[str, Any], facts: Mapping[str, Any], now: Callable[[], float]) -> None:
        self.path = Path(f"{name} (in memory)")
        self._now = now
        self._record = StudyRow(name, uuid.uuid4().hex, now(), file, facts, dict(file.get("budget", {})))
        self._writer = InMemoryWriter()

    @contextmanager
    def decision(self) -> Iterator[LedgerWriter]:
        """One decision."""
        self._writer.set_time(self._now())
        yield self._writer

    def study(self) -> StudyRow:
        """What was fixed when the study was made, and its budget now."""
        budget = dict(self._record.budget)
        for event in self.events():
            budget |= event.detail if event.kind is EventKind.EXTENDED else {}
        return replace(self._record, budget=budget)

    def owner(self) -> str | None:
        """The process that made it."""
        return WHO

    def beat(self) -> bool:
        """Nobody else can own it."""
        return True

    def close(self) -> None:
        """Nothing to give back."""

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers."""
        return list(self._writer.trials)

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Epochs in the order of arrival; see `Ledger.reports`."""
        found = ((number, row) for number, row in enumerate(self._writer.rows) if number > after and isinstance(row[3], _Epoch))
        return [
            Report(row[2], row[3].epoch, row[0], number, row[3].metrics)
            for number, row in found
            if row[2] is not None and isinstance(row[3], _Epoch) and trial in (None, row[2])
        ]

    def events(self, *, after: int = -1) -> list[Event]:
        """Everything that happened, in order."""
        return [
            Event(number, time, kind, trial, WHO, {"epoch": detail.epoch} if isinstance(detail, _Epoch) else detail)
            for number, (time, kind, trial, detail) in enumerate(self._writer.rows)
            if number > after
        ]

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """Nobody can ask anything of it."""
        return []


class _Epoch:
    """What is kept of one report: small, because there are many."""

    __slots__ = ("_names", "_values", "epoch")

    def __init__(self, epoch: int, metrics: Metrics) -> None:
        self.epoch, self._names, self._values = epoch, _one(tuple(metrics)), array("d", metrics.values())

    @property
    def metrics(self) -> Metrics:
        """As they were reported."""
        return dict(zip(self._names, self._values, strict=True))


@cache
def _one(names: tuple[str, ...]) -> tuple[str, ...]:
    """The same object for equal names."""
    return names


class InMemoryWriter(LedgerWriter):
    """Appends to lists what `Writer` puts into tables."""

    def __init__(self) -> None:
        self.rows: list[
            tuple[float, EventKind, int | None, _Epoch | Mapping[str, Any]]
        ] = []  # of events: time, kind, trial, detail
        self.trials: list[Trial] = []

    def set_time(self, now: float) -> None:
        """Set the time of what is written next."""
        self._now = now

    def event(self, kind: EventKind, trial: int | None = None, **detail: Any) -> int:
        """See `Writer.event`."""
        self.rows.append((self._now, kind, trial, detail))
        return len(self.rows) - 1

    def start(self, trial: Trial) -> Trial:
        """See `Writer.start`."""
        self.trials.append(trial)
        self.event(EventKind.STARTED, trial.number, config=trial.config)
        self._update(trial, started=self._now)
        return self.trials[trial.number]

    def report(self, trial: Trial, epoch: int, metrics: Metrics) -> Trial:
        """See `Writer.report`."""
        self.rows.append((self._now, EventKind.REPORTED, trial.number, _Epoch(epoch, metrics)))
        self._update(trial, epochs=epoch, metrics=metrics)
        return self.trials[trial.number]

    def _update(self, trial: Trial, **values: Any) -> None:
        state = values.pop("state", None)
        self.trials[trial.number] = (
            replace(trial, **values) if state is None else replace(trial, state=type(trial.state)(state), **values)
        )
