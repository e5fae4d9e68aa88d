"""A ledger as whoever reads it sees it: the study, its owner, its trials, their epochs, and everything that happened."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from search.errors import LedgerError, OutOfReach
from search.storage import owner, schema
from search.storage.database import Database
from search.storage.events import EventKind
from search.storage.writer import Request, metrics_of, trial_of
from search.trial import Metrics, Trial


@dataclass(frozen=True)
class Event:
    """One state change or decision: `rejected`, `started`, `resumed`, `reported`, `completed`, `pruned`, `failed` ..."""

    number: int
    time: float
    kind: EventKind
    trial: int | None
    who: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """One epoch of one trial."""

    trial: int
    epoch: int  # counts from 1
    time: float  # Unix time of arrival
    event: int  # number of its event
    metrics: Metrics


@dataclass(frozen=True)
class StudyRow:
    """What is fixed when a study is made; but the space can be widened, and the budget extended.

    Attributes:
        name: The study's name.
        uid: Tells it from another study of the same name.
        created: Unix time.
        file: The resolved study file that it was made from, or that it was widened to since.
        facts: What was measured then: number of classes, reference point, ...
        budget: The file's `budget`, with what `extended` events have changed since.
    """

    name: str
    uid: str
    created: float
    file: Mapping[str, Any]
    facts: Mapping[str, Any]
    budget: Mapping[str, Any]

    @property
    def against(self) -> str:
        """What accuracy is weighed against, the second objective."""
        return str(self.file.get("objectives", (..., Trial.against))[1])


class LedgerReader:
    """What can be read of a ledger.

    Args:
        database: Where its tables lie.
        now: The clock, in Unix seconds; None for the database's.
    """

    def __init__(self, database: Database, now: Callable[[], float] | None = None) -> None:
        self._database = database
        self._now = now or database.clock
        self._reading = database.engine  # an older ledger is read from a migrated copy
        self._token: str | None = None  # of a ledger that we have claimed

    def study(self) -> StudyRow:
        """What was fixed when the study was made, and its budget now."""
        events = schema.events.c
        changed = (
            sa.select(events.kind, events.detail)
            .where(events.kind.in_((EventKind.EXTENDED.value, EventKind.WIDENED.value)))
            .order_by(events.number)
        )
        with self._read() as connection:
            row = connection.execute(sa.select(schema.study)).one()
            file, budget = row.file, dict(row.file.get("budget", {}))
            for kind, detail in connection.execute(changed):
                if kind == EventKind.WIDENED:
                    file, budget = detail["file"], dict(detail["file"]["budget"])
                else:
                    budget |= detail
        return StudyRow(row.name, row.uid, row.created, file, row.facts, budget)

    def owner(self) -> str | None:
        """Who runs the study now (`process 12 on host`), or None."""
        with self._read() as connection:
            row = connection.execute(sa.select(schema.owner)).first()
        return f"process {row.pid} on {row.host}" if row is not None and owner.is_alive(row, self._now()) else None

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers, each with its last epoch's metrics."""
        with self._read() as connection:
            file, trials = connection.execute(sa.select(schema.study.c.file)).scalar_one(), read_trials(connection)
        against = file.get("objectives", (..., Trial.against))[1]
        return trials if against == Trial.against else [replace(trial, against=against) for trial in trials]

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Epochs in the order of arrival.

        Args:
            trial: Only this trial's.
            after: Only those whose event number is larger (a reader's place in the history).
        """
        reports, events = schema.reports, schema.events
        joined = sa.select(reports, events.c.time).join(events, events.c.number == reports.c.event)
        query = joined.where(reports.c.event > after).order_by(reports.c.event)
        if trial is not None:
            query = query.where(reports.c.trial == trial)
        with self._read() as connection:
            return [Report(r.trial, r.epoch, r.time, r.event, metrics_of(r.metrics)) for r in connection.execute(query)]

    def events(self, *, after: int = -1) -> list[Event]:
        """Everything that happened, in order; `after` as in `reports`."""
        query = sa.select(schema.events).where(schema.events.c.number > after).order_by(schema.events.c.number)
        with self._read() as connection:
            return [Event(r.number, r.time, EventKind(r.kind), r.trial, r.who, r.detail) for r in connection.execute(query)]

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """What people asked for, in order; only what is not answered yet if `waiting`."""
        query = sa.select(schema.requests).order_by(schema.requests.c.number)
        if waiting:
            query = query.where(schema.requests.c.served.is_(None))
        with self._read() as connection:
            rows = connection.execute(query)
            return [Request(r.number, r.time, r.who, r.verb, r.trial, r.detail, r.served, r.refusal) for r in rows]

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        try:
            with self._reading.connect() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            if not self._database.is_outage(error):
                raise
            kind = LedgerError if self._token is None else OutOfReach
            raise kind(f"{self._database} cannot be read ({self._database.describe_error(error)})") from error


def read_trials(connection: sa.Connection) -> list[Trial]:
    """All trials in the order of their numbers, each with its last epoch's metrics."""
    trials, reports = schema.trials, schema.reports
    last = sa.select(reports.c.trial, sa.func.max(reports.c.epoch).label("epoch")).group_by(reports.c.trial).subquery()
    joined = trials.outerjoin(last, last.c.trial == trials.c.number).outerjoin(
        reports, (reports.c.trial == trials.c.number) & (reports.c.epoch == last.c.epoch)
    )
    query = sa.select(trials, reports.c.epoch, reports.c.metrics).select_from(joined).order_by(trials.c.number)
    found: list[Trial] = []
    for row in connection.execute(query):
        trial = trial_of(row)
        if trial.extends is not None and not trial.epochs:  # it goes on where the other one ended
            trial = replace(trial, epochs=found[trial.extends].epochs, metrics=found[trial.extends].metrics)
        found.append(trial)
    return found


def describe_limits(study: StudyRow) -> str:
    """`adapters up to 50,000 parameters, cost/gflops up to 1.2`."""
    others = [f"{key} up to {value:,.6g}" for key, value in study.budget.get("limits", {}).items()]
    return ", ".join([f"adapters up to {int(study.facts['max_params']):,} parameters", *others])


def reference_point(study: StudyRow) -> tuple[float, float]:
    """(chance level, largest size that is wanted): the study's reference point, fixed when it was made."""
    top1, params = study.facts["reference_point"]
    return float(top1), float(params)


def n_validation(study: StudyRow) -> int | None:
    """Images that the study's accuracies were measured on; None where that is not known, or they are exact."""
    known: int | None = study.facts.get("n_validation")
    return known
