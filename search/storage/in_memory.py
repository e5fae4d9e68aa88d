"""A ledger in memory that ends with its process: for simulated studies, which have nothing to lose."""

from __future__ import annotations

import math
import uuid
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any, ClassVar

from search.errors import LedgerError
from search.storage.events import EventKind
from search.storage.rows import Counts, Event, Report, Request, StudyRow, objectives_among
from search.storage.runs import is_repeated, with_runs
from search.storage.writer import LedgerWriter
from search.trial import Metrics, State, Trial

WHO = "simulated"


class InMemoryLedger:
    """A ledger in lists; see `search.storage.ledger.Ledger`. The process that creates it has claimed it.

    Args:
        name: Name of the study.
        file: Resolved study file.
        facts: Facts that were measured when the study was created, as JSON values.
        now: Clock, in seconds.
    """

    is_durable: ClassVar[bool] = False

    def __init__(self, *, name: str, file: Mapping[str, Any], facts: Mapping[str, Any], now: Callable[[], float]) -> None:
        self._now = now
        self._row = StudyRow(name, uuid.uuid4().hex, now(), file, facts, dict(file.get("budget", {})))
        self._rows = _Rows()
        self._claimed = True

    def __str__(self) -> str:
        return f"{self._row.name} (in memory)"

    # -- reading -------------------------------------------------------------------------------------------------------

    def study(self) -> StudyRow:
        """Read what was fixed when the study was made; see `Ledger.study`."""
        row = self._row
        for event in self.events():
            row = row.changed_by(event.kind, event.detail)
        return row

    def trials(self, numbers: Collection[int] | None = None) -> list[Trial]:
        """Read trials; see `Ledger.trials`."""
        read: list[Trial] = []
        file = self._row.file
        repeated, usual = is_repeated(file), file.get("budget", {}).get("epochs", 0)
        for row in self._rows.trials:
            other = None if row.extends is None or row.epochs else read[row.extends].first_run(usual)  # where that ended
            if other is not None:
                read.append(replace(row, epochs=other.epochs, metrics=other.metrics))
            else:
                read.append(with_runs(row, self._reports_of(row.number), file) if repeated else row)
        return [trial for trial in read if numbers is None or trial.number in numbers]

    def counts(self) -> Counts:
        """Count the trials; see `Ledger.counts`."""
        return Counts.of(self._rows.trials)

    def numbers(self, state: State, *, extended: bool = False) -> list[int]:
        """Read the numbers of the trials in a state; see `Ledger.numbers`."""
        of_state = [trial for trial in self._rows.trials if trial.state is state]
        return [trial.number for trial in of_state if not extended or trial.planned_epochs is not None]

    def objectives(self) -> list[tuple[int, float, float]]:
        """Read the objectives of the trials on the front; see `Ledger.objectives`."""
        return objectives_among(self.trials() if is_repeated(self._row.file) else self._rows.trials)

    def states(self, numbers: Collection[int] | None = None) -> dict[int, State]:
        """Read the states of trials; see `Ledger.states`."""
        return {row.number: row.state for row in self._rows.trials if numbers is None or row.number in numbers}

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Read epochs; see `Ledger.reports`."""
        events = self._rows.events
        return [
            Report(event.trial, event.epoch.number, event.time, number, event.epoch.metrics)
            for number, event in enumerate(events[after + 1 :], after + 1)
            if event.epoch is not None and event.trial is not None and trial in (None, event.trial)
        ]

    def _reports_of(self, trial: int) -> dict[int, Metrics]:
        return {event.epoch.number: event.epoch.metrics for event in self._rows.events if event.epoch and event.trial == trial}

    def events(self, *, after: int = -1, kinds: Collection[EventKind] | None = None) -> list[Event]:
        """Read the history; see `Ledger.events`."""
        return [
            Event(number, event.time, event.kind, event.trial, event.who, event.detail)
            for number, event in enumerate(self._rows.events[after + 1 :], after + 1)
            if kinds is None or event.kind in kinds
        ]

    def n_reports(self, *, since: float) -> int:
        """Count epochs; see `Ledger.n_reports`."""
        return sum(event.kind is EventKind.REPORTED and event.time >= since for event in self._rows.events)

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """Read what users asked for; see `Ledger.requests`."""
        return [request for request in self._rows.requests if request.served is None or not waiting]

    def owner(self) -> str | None:
        """Return who drives the study now; see `Ledger.owner`."""
        return WHO if self._claimed else None

    def now(self) -> float:
        """Read the clock."""
        return self._now()

    # -- owning --------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Become the owner; no other process can, because the ledger is in the memory of this one."""
        self._claimed = True

    def beat(self) -> bool:
        """Return whether the study is ours."""
        return self._claimed

    def close(self) -> None:
        """Give the study back; what was written stays as long as the object."""
        self._claimed = False

    # -- writing -------------------------------------------------------------------------------------------------------

    @contextmanager
    def decision(self) -> Iterator[LedgerWriter]:
        """Begin a decision; see `Ledger.decision`."""
        if not self._claimed:
            raise LedgerError("this ledger was opened for reading; claim it before writing")
        writer = _ListWriter(self._rows, self._now())
        try:
            yield writer
        except BaseException:
            writer.undo()
            raise

    def ask_for(
        self, verb: str, trials: Sequence[int | None], detail: Mapping[str, Any], check: Callable[[Mapping[int, State], int], None]
    ) -> list[int]:
        """Ask the owner for something; see `Ledger.ask_for`."""
        check(self.states([number for number in trials if number is not None]), len(self.trials()))
        first = len(self._rows.requests) + 1
        for number, trial in enumerate(trials, first):
            self._rows.requests.append(Request(number, self._now(), WHO, verb, trial, dict(detail)))
        return list(range(first, first + len(trials)))


class _Row:
    """One event; small, because a simulation has many."""

    __slots__ = ("_detail", "epoch", "kind", "time", "trial", "who")

    def __init__(self, time: float, kind: EventKind, trial: int | None, who: str, detail: Mapping[str, Any]) -> None:
        self.time, self.kind, self.trial, self.who = time, kind, trial, who
        self.epoch: _Epoch | None = None
        self._detail: Mapping[str, Any] | None = detail

    def hold(self, epoch: _Epoch) -> None:
        """Keep the epoch that the event reports; its detail follows from it."""
        self.epoch, self._detail = epoch, None

    @property
    def detail(self) -> Mapping[str, Any]:
        if self._detail is not None:
            return self._detail
        assert self.epoch is not None  # noqa: S101 - one of the two is there
        return {"epoch": self.epoch.number}


class _Epoch:
    """One report; small, because a simulation has many."""

    __slots__ = ("_names", "_values", "number")

    def __init__(self, number: int, metrics: Metrics) -> None:
        self.number, self._names = number, _one(tuple(metrics))
        self._values = array("d", [value if math.isfinite(value) else math.nan for value in metrics.values()])

    @property
    def metrics(self) -> Metrics:
        """The metrics as they were reported."""
        return dict(zip(self._names, self._values, strict=True))


@cache
def _one(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the same object for equal names."""
    return names


class _Rows:
    """The rows of the ledger, as lists."""

    def __init__(self) -> None:
        self.events: list[_Row] = []
        self.trials: list[Trial] = []
        self.requests: list[Request] = []


class _ListWriter(LedgerWriter):
    """The writer of one decision, which can take it back."""

    def __init__(self, rows: _Rows, now: float) -> None:
        super().__init__(now, WHO, len(rows.events))
        self._rows = rows
        self._before = len(rows.events), len(rows.trials)
        self._replaced: list[tuple[list[Any], int, Any]] = []  # list, index, what was there

    def undo(self) -> None:
        """Restore the rows as they were before the decision."""
        for rows, index, value in reversed(self._replaced):
            rows[index] = value
        n_events, n_trials = self._before
        del self._rows.events[n_events:], self._rows.trials[n_trials:]

    def _set(self, rows: list[Any], index: int, value: Any) -> None:
        self._replaced.append((rows, index, rows[index]))
        rows[index] = value

    def _insert_event(self, number: int, kind: EventKind, trial: int | None, detail: Mapping[str, Any]) -> None:
        self._rows.events.append(_Row(self._now, kind, trial, self._who, detail))

    def _insert_trial(self, trial: Trial) -> None:
        self._rows.trials.append(trial)

    def _update_trial(self, number: int, values: Mapping[str, Any]) -> None:
        self._set(self._rows.trials, number, replace(self._rows.trials[number], **values))

    def _insert_report(self, trial: int, epoch: int, event: int, metrics: Metrics) -> None:
        held = _Epoch(epoch, metrics)
        self._rows.events[event].hold(held)
        self._set(self._rows.trials, trial, replace(self._rows.trials[trial], epochs=epoch, metrics=held.metrics))

    def _answer_request(self, number: int, refusal: str | None) -> None:
        index = number - 1  # requests are counted from 1, as databases do
        self._set(self._rows.requests, index, replace(self._rows.requests[index], served=self._now, refusal=refusal))
