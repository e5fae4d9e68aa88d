"""Read access to a ledger: study, owner, trials, epochs, events."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from search.errors import LedgerError, OutOfReach
from search.metrics import METRICS
from search.names import LAW, is_study_name, shortened
from search.storage import owner, schema
from search.storage.database import Database
from search.storage.events import EventKind
from search.storage.rows import Counts, Event, Report, Request, StudyRow, objectives_among, objectives_of
from search.storage.runs import is_repeated, with_runs
from search.storage.writer import none_to_nan
from search.trial import Metrics, State, Trial


class LedgerReader:
    """The read operations of a ledger.

    Args:
        database: Database of its tables.
        now: Clock, in Unix seconds; None for the database's.
    """

    def __init__(self, database: Database, now: Callable[[], float] | None = None) -> None:
        self._database = database
        self._now = now or database.clock
        self._reading = database.engine  # an older ledger is read from a migrated copy
        self._token: str | None = None  # token of a ledger that this process has claimed

    def study(self) -> StudyRow:
        """Read the fixed properties of the study, and its current budget."""
        events = schema.events.c
        changed = (
            sa.select(events.kind, events.detail)
            .where(events.kind.in_((EventKind.EXTENDED.value, EventKind.WIDENED.value, EventKind.PINNED.value)))
            .order_by(events.number)
        )
        with self._read() as connection:
            row = connection.execute(sa.select(schema.study)).one()
            if not is_study_name(row.name.removesuffix("-final")) or not row.uid.isalnum():
                raise LedgerError(f"{self._database} is the ledger of no study: {LAW}, got {shortened(row.name)}")
            study = StudyRow(row.name, row.uid, row.created, row.file, row.facts, dict(row.file.get("budget", {})))
            for kind, detail in connection.execute(changed):
                study = study.changed_by(kind, detail)
        return study

    def owner(self) -> str | None:
        """Return the driver of the study (`process 12 on host`), or None."""
        with self._read() as connection:
            row = connection.execute(sa.select(schema.owner)).first()
        return f"process {row.pid} on {row.host}" if row is not None and owner.is_alive(row, self._now()) else None

    def trials(self, numbers: Collection[int] | None = None) -> list[Trial]:
        """Read trials in the order of their numbers, each with its last epoch's metrics; None for all."""
        with self._read() as connection:
            return read_trials(connection, numbers)

    def counts(self) -> Counts:
        """Count the trials by their states."""
        state, extends, number = schema.trials.c.state, schema.trials.c.extends, schema.trials.c.number
        counted = sa.select(state, sa.func.count(), sa.func.count(extends)).group_by(state).order_by(sa.func.min(number))
        with self._read() as connection:
            found = connection.execute(counted).all()
        return Counts({State(name): n for name, n, _ in found}, sum(n - n_extend for _, n, n_extend in found))

    def numbers(self, state: State, *, extended: bool = False) -> list[int]:
        """Read the numbers of the trials in a state; see `Ledger.numbers`."""
        trials = schema.trials.c
        query = sa.select(trials.number).where(trials.state == state.value).order_by(trials.number)
        if extended:
            query = query.where(trials.planned_epochs.is_not(None))
        with self._read() as connection:
            return list(connection.execute(query).scalars())

    def objectives(self) -> list[tuple[int, float, float]]:
        """Read (number, score, size) of the COMPLETE trials that are compared on the front; see `Ledger.objectives`."""
        trials, reports = schema.trials.c, schema.reports.c
        is_last = reports.epoch == (
            sa.select(sa.func.max(reports.epoch)).where(reports.trial == trials.number).correlate(schema.trials).scalar_subquery()
        )
        with self._read() as connection:
            if is_repeated(_file(connection)):
                return objectives_among(read_trials(connection))
            objective, against = _objectives(connection)
            counted = {
                "adapter_params": trials.adapter_params,
                "head_params": trials.head_params,
                "trainable_params": trials.adapter_params + trials.head_params,
            }
            size = counted.get(against, reports.metrics[against].as_float())
            query = (
                sa.select(trials.number, reports.metrics[objective].as_float(), size)
                .join_from(schema.trials, schema.reports, (reports.trial == trials.number) & is_last)
                .where(trials.state == State.COMPLETE.value, trials.planned_epochs.is_(None))
                .order_by(trials.number)
            )
            return [
                (number, METRICS[objective].score(float(value)), float(size))
                for number, value, size in connection.execute(query)
                if value is not None and size is not None
            ]

    def states(self, numbers: Collection[int] | None = None) -> dict[int, State]:
        """Read the states of trials, and nothing else of them; None for all."""
        with self._read() as connection:
            return read_states(connection, numbers)

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Read epochs in the order of arrival.

        Args:
            trial: Number of the only trial to read; None for all.
            after: Number of an event; only epochs reported after it are read.
        """
        reports, events = schema.reports, schema.events
        joined = sa.select(reports, events.c.time).join(events, events.c.number == reports.c.event)
        query = joined.where(reports.c.event > after).order_by(reports.c.event)
        if trial is not None:
            query = query.where(reports.c.trial == trial)
        with self._read() as connection:
            return [Report(r.trial, r.epoch, r.time, r.event, none_to_nan(r.metrics)) for r in connection.execute(query)]

    def events(self, *, after: int = -1, kinds: Collection[EventKind] | None = None) -> list[Event]:
        """Read events in order: all, or those of some kinds; `after` as in `reports`."""
        query = sa.select(schema.events).where(schema.events.c.number > after).order_by(schema.events.c.number)
        if kinds is not None:
            query = query.where(schema.events.c.kind.in_([kind.value for kind in kinds]))
        with self._read() as connection:
            rows = connection.execute(query).all()
            if unknown := next((row.kind for row in rows if row.kind not in _KINDS), None):
                raise LedgerError(
                    f"{self._database} holds an event {shortened(unknown)!r}, which this Paretune does not know and must not pass "
                    f"over; use {_version_needed(connection)}"
                )
        return [Event(row.number, row.time, EventKind(row.kind), row.trial, row.who, row.detail) for row in rows]

    def n_reports(self, *, since: float) -> int:
        """Count the epochs that were reported at a time or later."""
        events = schema.events.c
        last = sa.select(sa.func.max(events.number)).scalar_subquery()
        query = sa.select(sa.func.count()).where(
            events.kind == EventKind.REPORTED.value, events.time >= since, events.number > last - _MOST_RECENT
        )
        with self._read() as connection:
            return int(connection.execute(query).scalar_one())

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """Read the requests of users, in order; only unanswered ones if `waiting`."""
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


def read_states(connection: sa.Connection, numbers: Collection[int] | None = None) -> dict[int, State]:
    """Read the states of trials, as far as they exist; None for all."""
    query = sa.select(schema.trials.c.number, schema.trials.c.state).order_by(schema.trials.c.number)
    if numbers is not None:
        query = query.where(schema.trials.c.number.in_(numbers))
    return {number: State(state) for number, state in connection.execute(query)}


def read_trials(connection: sa.Connection, numbers: Collection[int] | None = None) -> list[Trial]:
    """Read trials in the order of their numbers, each with its last epoch's metrics and its study's objectives.

    Args:
        connection: Connection to the ledger.
        numbers: Trials to read, as far as they exist; None for all.
    """
    trials, reports = schema.trials, schema.reports
    objectives = _objectives(connection)
    last = sa.select(reports.c.trial, sa.func.max(reports.c.epoch).label("epoch")).group_by(reports.c.trial)
    if numbers is not None:
        last = last.where(reports.c.trial.in_(numbers))
    known = last.subquery()
    joined = trials.outerjoin(known, known.c.trial == trials.c.number).outerjoin(
        reports, (reports.c.trial == trials.c.number) & (reports.c.epoch == known.c.epoch)
    )
    query = sa.select(trials, reports.c.epoch, reports.c.metrics).select_from(joined).order_by(trials.c.number)
    if numbers is not None:
        query = query.where(trials.c.number.in_(numbers))
    read = {row.number: _trial_of(row, *objectives) for row in connection.execute(query)}
    file = _file(connection)
    if is_repeated(file):
        read = _with_runs(connection, read, file)
    begun = {n: t.extends for n, t in read.items() if t.extends is not None and not t.epochs}  # they continue where others ended
    others = read if numbers is None or not begun else {t.number: t for t in read_trials(connection, set(begun.values()))}
    for number, extends in begun.items():
        other = others[extends].first_run(file.get("budget", {}).get("epochs", 0))
        read[number] = replace(read[number], epochs=other.epochs, metrics=other.metrics)
    return list(read.values())


def _with_runs(connection: sa.Connection, trials: Mapping[int, Trial], file: Mapping[str, Any]) -> dict[int, Trial]:
    """Return trials with the runs that some of them have had; the metrics of the last epoch of each run are read."""
    reports = schema.reports.c
    query = sa.select(reports.trial, reports.epoch, reports.metrics).where(reports.epoch % int(file["budget"]["epochs"]) == 0)
    ends: dict[int, dict[int, Metrics]] = {}
    for trial, epoch, metrics in connection.execute(query):
        ends.setdefault(trial, {})[epoch] = none_to_nan(metrics)
    return {number: with_runs(trial, ends.get(number, {}), file) for number, trial in trials.items()}


def _file(connection: sa.Connection) -> Mapping[str, Any]:
    """Return the stored study file."""
    file: Mapping[str, Any] = connection.execute(sa.select(schema.study.c.file)).scalar_one()
    return file


def _objectives(connection: sa.Connection) -> tuple[str, str]:
    """Return both objectives of the study."""
    return objectives_of(_file(connection))


def _trial_of(row: Any, objective: str, against: str) -> Trial:
    """Return a row of `trials`, joined with its last report, as a trial."""
    columns = {column.name: getattr(row, column.name) for column in schema.trials.columns if column.name != "state"}
    last: dict[str, Any] = {"epochs": row.epoch or 0, "metrics": none_to_nan(row.metrics)}
    return Trial(**columns, **last, state=State(row.state), objective=objective, against=against)


_MOST_RECENT = 100_000  # events among which recent epochs are counted, so that the whole history is not read for them
_KINDS = frozenset(kind.value for kind in EventKind)


def _version_needed(connection: sa.Connection) -> str:
    """Return which Paretune knows all events of a ledger: the version of the last driver."""
    opened = sa.select(schema.events.c.detail).where(schema.events.c.kind == EventKind.OPENED.value)
    versions = [
        row.detail["version"] for row in connection.execute(opened.order_by(schema.events.c.number)) if "version" in row.detail
    ]
    return f"Paretune {shortened(str(versions[-1]))} or a later one, which wrote it" if versions else "a newer Paretune"
