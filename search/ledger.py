"""The ledger: the durable history of a study, and the one truth about it.

A few tables in SQLite (write-ahead log, full synchronisation). Every decision is one transaction, and every transaction checks that
the writer still owns the study. MLflow, Parquet and the pictures are views that can be rebuilt from here; so is the sampler.

Three kinds of user: one `Ledger` per driver that has claimed the study and writes, any number of them that only read, and people
who ask the driver for something by a row in `requests`.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from search import database, owner, schema
from search.errors import RequestError
from search.owner import HEARTBEAT_SECONDS, LEASE_SECONDS
from search.trial import Metrics, Trial
from search.writer import Request, Writer, metrics_of, trial_of


class LedgerError(RequestError):
    """The ledger cannot be used as asked; the message names the law and the remedy."""


class OwnedElsewhere(LedgerError):
    """Another driver holds the study."""


class CannotWrite(OSError):
    """The ledger's disk is full or gone."""


@dataclass(frozen=True)
class Event:
    """One state change or decision: `rejected`, `started`, `resumed`, `reported`, `completed`, `pruned`, `failed` ..."""

    number: int
    time: float
    kind: str
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
class StudyRecord:
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


class Ledger:
    """One study's tables.

    Args:
        path: The SQLite file.
        now: The clock, in Unix seconds; a test passes its own.
    """

    def __init__(self, path: Path, *, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now = now
        self._token: str | None = None
        self._file = database.engine(path)
        self._reading = self._file  # an older ledger is read from a migrated copy
        self._writing = self._file.execution_options(writes=True)
        self._n_events: int | None = None  # known to the owner, who alone counts it up

    # -- making, opening, owning -----------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: Path, *, name: str, file: Mapping[str, Any], facts: Mapping[str, Any], now: Callable[[], float] = time.time
    ) -> Ledger:
        """A new ledger, claimed by this process. Written beside its place and renamed, so that a crash leaves none or a whole one.

        Raises:
            LedgerError: if there is one already, or the place is on a network file system.
        """
        if path.exists():
            raise LedgerError(f"{path} exists already; open it, or choose another study name")
        refuse_network(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        maker = cls(draft, now=now)
        schema.metadata.create_all(maker._file)
        with maker._writing.begin() as connection:
            row = {"name": name, "uid": uuid.uuid4().hex, "schema_version": schema.VERSION, "created": now()}
            connection.execute(schema.study.insert().values(**row, file=dict(file), facts=dict(facts)))
        with maker._file.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        maker._file.dispose()
        try:
            os.link(draft, path)
        except FileExistsError:
            raise LedgerError(f"{path} has just been made by another driver; open it instead") from None
        finally:
            for suffix in ("", "-wal", "-shm"):
                draft.with_name(draft.name + suffix).unlink(missing_ok=True)
        ledger = cls(path, now=now)
        ledger.claim()
        return ledger

    @classmethod
    def open(cls, path: Path, *, now: Callable[[], float] = time.time) -> Ledger:
        """An existing ledger, to read; `claim` it to write. One of an older Paretune is read as it would be when migrated.

        Raises:
            LedgerError: if there is none, it cannot be read, or a newer Paretune wrote it.
        """
        if not path.exists():
            raise LedgerError(f"{path} does not exist; `paretune ls` shows the studies that do")
        ledger = cls(path, now=now)
        try:
            with ledger._file.connect() as connection:
                version = connection.execute(sa.select(schema.study.c.schema_version)).scalar_one()
        except sa.exc.SQLAlchemyError as error:
            raise LedgerError(f"{path} is not a readable ledger ({error.__class__.__name__}); restore it from a copy") from error
        _refuse_newer(path, version)
        if version < schema.VERSION:
            ledger._reading = database.copy_in_memory(path)
            with ledger._reading.begin() as connection:
                schema.migrate(connection, version)
        return ledger

    def claim(self, *, wait: Callable[[float], None] = time.sleep) -> None:
        """Become the one driver that may write, and bring the tables of an older Paretune up to date.

        On one machine it is known whether the owner lives. An owner elsewhere is watched, for as long as a lease: when its heart
        does not beat in that time it is dead. No two machines' clocks are compared.

        Args:
            wait: Passes seconds; a test passes its own.

        Raises:
            OwnedElsewhere: if a live driver holds the study.
            LedgerError: if it lies on a network file system, or a newer Paretune has migrated it in the meantime.
        """
        refuse_network(self.path)
        token, seen, waited = uuid.uuid4().hex, None, 0.0
        while True:
            with self._writing.begin() as connection:
                row = connection.execute(sa.text("SELECT * FROM owner")).first()  # an older one has fewer columns
                held = row is not None and self._holds(row, seen, waited)
                if not held:
                    self._take(connection, token)
                    break
            seen = row
            wait(HEARTBEAT_SECONDS / 4)
            waited += HEARTBEAT_SECONDS / 4
        self._token = token
        self._reading = self._file

    def _holds(self, row: Any, seen: Any, waited: float) -> bool:
        """Whether an owner must be waited for; OwnedElsewhere if it lives."""
        here = owner.is_here(row)
        lives = owner.is_alive(row, self._now()) if here else seen is not None and tuple(row) != tuple(seen)
        if lives:
            raise OwnedElsewhere(
                f"the study is being run by process {row.pid} on {row.host}; "
                "stop that one first, or watch it with `paretune trials`"
            )
        return not here and waited < LEASE_SECONDS

    def _take(self, connection: sa.Connection, token: str) -> None:
        version = connection.execute(sa.select(schema.study.c.schema_version)).scalar_one()
        _refuse_newer(self.path, version)
        if version < schema.VERSION:
            schema.migrate(connection, version)
        connection.execute(schema.owner.delete())
        connection.execute(schema.owner.insert().values(token=token, heartbeat=self._now(), **owner.me()))
        self._n_events = connection.execute(sa.select(sa.func.count()).select_from(schema.events)).scalar_one()

    def beat(self) -> bool:
        """Tell other machines that this driver lives; from any thread. False if the study is no longer its own."""
        mine = schema.owner.update().where(schema.owner.c.token == self._token).values(heartbeat=self._now())
        with self._writing.begin() as connection:
            return connection.execute(mine).rowcount == 1

    def now(self) -> float:
        """The ledger's clock, in Unix seconds."""
        return self._now()

    def close(self) -> None:
        """Give the study back (if it is ours) and close the file."""
        if self._token is not None:
            with suppress(sa.exc.OperationalError), self._writing.begin() as connection:  # a full disk: the lease dies with us
                connection.execute(schema.owner.delete().where(schema.owner.c.token == self._token))
            self._token = None
        self._reading.dispose()
        self._file.dispose()

    # -- writing: one `with ledger.decision()` block is one transaction ----------------------------------------------------------

    @contextmanager
    def decision(self) -> Iterator[Writer]:
        """One decision: everything written inside is durable together, or not at all.

        Raises:
            OwnedElsewhere: if another driver has taken the study over in the meantime; nothing is written then.
            CannotWrite: if the disk is full or gone; nothing is written then.
        """
        if self._token is None or self._n_events is None:
            raise LedgerError("this ledger was opened for reading; claim it before writing")
        now = self._now()
        try:
            with self._writing.begin() as connection:
                mine = schema.owner.update().where(schema.owner.c.token == self._token).values(heartbeat=now)
                if connection.execute(mine).rowcount != 1:
                    raise OwnedElsewhere("another driver has taken the study over; this one stops without writing")
                writer = Writer(connection, now, owner.signature(), self._n_events)
                yield writer
        except sa.exc.OperationalError as error:
            raise CannotWrite(f"{self.path} cannot be written ({error.orig})") from error
        self._n_events = writer.n_events

    def ask_for(
        self, verb: str, trials: Sequence[int | None], detail: Mapping[str, Any], allow: Callable[[list[Trial]], None]
    ) -> list[int]:
        """Ask the study's driver for something, without owning the study: one request per trial, all or none.

        Args:
            verb: What is asked for.
            trials: Numbers; None for the whole study.
            detail: What the verb needs, and the reason; JSON values.
            allow: Sees all trials inside the transaction, and raises what is wrong with the request; nothing is written then.

        Returns:
            The requests' numbers.
        """
        if self._reading is not self._file:
            raise LedgerError("this study was written by an older Paretune; `paretune resume` brings it up to date")
        row = {"time": self._now(), "who": owner.signature(), "verb": verb, "detail": dict(detail)}
        insert = schema.requests.insert().returning(schema.requests.c.number)
        try:
            with self._writing.begin() as connection:
                allow(_trials(connection))
                return [connection.execute(insert.values(**row, trial=number)).scalar_one() for number in trials]
        except sa.exc.OperationalError as error:
            raise CannotWrite(f"{self.path} cannot be written ({error.orig})") from error

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def study(self) -> StudyRecord:
        """What was fixed when the study was made, and its budget now."""
        events = schema.events.c
        changed = sa.select(events.kind, events.detail).where(events.kind.in_(("extended", "widened"))).order_by(events.number)
        with self._reading.connect() as connection:
            row = connection.execute(sa.select(schema.study)).one()
            file, budget = row.file, dict(row.file.get("budget", {}))
            for kind, detail in connection.execute(changed):
                if kind == "widened":
                    file, budget = detail["file"], dict(detail["file"]["budget"])
                else:
                    budget |= detail
        return StudyRecord(row.name, row.uid, row.created, file, row.facts, budget)

    def owner(self) -> str | None:
        """Who runs the study now (`process 12 on host`), or None."""
        with self._reading.connect() as connection:
            row = connection.execute(sa.select(schema.owner)).first()
        return f"process {row.pid} on {row.host}" if row is not None and owner.is_alive(row, self._now()) else None

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers, each with its last epoch's metrics."""
        with self._reading.connect() as connection:
            return _trials(connection)

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
        with self._reading.connect() as connection:
            return [Report(r.trial, r.epoch, r.time, r.event, metrics_of(r.metrics)) for r in connection.execute(query)]

    def events(self, *, after: int = -1) -> list[Event]:
        """Everything that happened, in order; `after` as in `reports`."""
        query = sa.select(schema.events).where(schema.events.c.number > after).order_by(schema.events.c.number)
        with self._reading.connect() as connection:
            return [Event(r.number, r.time, r.kind, r.trial, r.who, r.detail) for r in connection.execute(query)]

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """What people asked for, in order; only what is not answered yet if `waiting`."""
        query = sa.select(schema.requests).order_by(schema.requests.c.number)
        if waiting:
            query = query.where(schema.requests.c.served.is_(None))
        with self._reading.connect() as connection:
            rows = connection.execute(query)
            return [Request(r.number, r.time, r.who, r.verb, r.trial, r.detail, r.served, r.refusal) for r in rows]


def refuse_network(path: Path) -> None:
    """SQLite's write-ahead log needs the memory and the locks of one machine.

    Raises:
        LedgerError: if the file would lie on a network file system.
    """
    if (kind := database.network_file_system(path)) is not None:
        raise LedgerError(
            f"{path} lies on a network file system ({kind}), where SQLite loses data; keep it on a local disk of the driver"
        )


def _refuse_newer(path: Path, version: int) -> None:
    if version > schema.VERSION:
        raise LedgerError(f"{path} has schema {version}, this Paretune knows up to {schema.VERSION}; use a newer Paretune")


def _trials(connection: sa.Connection) -> list[Trial]:
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
