"""The ledger: the durable history of a study, and the one truth about it.

A few tables in SQLite (write-ahead log, full synchronisation). Every decision is one transaction, and every transaction checks that
the writer still owns the study. MLflow, Parquet and the pictures are views that can be rebuilt from here; so is the sampler.

Two kinds of user: one `Ledger` per driver that has claimed the study and writes, any number of them that only read.
"""

from __future__ import annotations

import getpass
import math
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from search.errors import RequestError
from search.trial import Metrics, State, Trial

if TYPE_CHECKING:
    from spaces import Config

SCHEMA_VERSION = 1

_schema = sa.MetaData()

_study = sa.Table(
    "study",
    _schema,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("uid", sa.String, nullable=False),  # tells two studies of one name apart
    sa.Column("schema_version", sa.Integer, nullable=False),
    sa.Column("created", sa.Float, nullable=False),
    sa.Column("file", sa.JSON, nullable=False),  # the resolved study file
    sa.Column("facts", sa.JSON, nullable=False),  # what was measured once: n_classes, backbone_params, reference_point, versions
)
_trials = sa.Table(
    "trials",
    _schema,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("state", sa.String, nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("adapter_params", sa.Integer, nullable=False),
    sa.Column("head_params", sa.Integer, nullable=False),
    sa.Column("reason", sa.String),
    sa.Column("rung", sa.Integer),
    sa.Column("n_attempts", sa.Integer, nullable=False),
    sa.Column("started", sa.Float, nullable=False),
    sa.Column("finished", sa.Float),
)
_reports = sa.Table(
    "reports",
    _schema,
    sa.Column("trial", sa.Integer, sa.ForeignKey("trials.number"), primary_key=True),
    sa.Column("epoch", sa.Integer, primary_key=True),
    sa.Column("event", sa.Integer, nullable=False, unique=True),
    sa.Column("metrics", sa.JSON, nullable=False),
)
_events = sa.Table(
    "events",
    _schema,
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("time", sa.Float, nullable=False),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("trial", sa.Integer),
    sa.Column("who", sa.String, nullable=False),
    sa.Column("detail", sa.JSON, nullable=False),
)
_owner = sa.Table(
    "owner",
    _schema,
    sa.Column("token", sa.String, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_start", sa.String, nullable=False),  # tells a reused process number from the owner's
    sa.Column("heartbeat", sa.Float, nullable=False),
)

LEASE_SECONDS = 10.0  # a silent owner on another host counts as dead after this


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
    """What is fixed when a study is made, and the budget, which can be extended.

    Attributes:
        name: The study's name.
        uid: Tells it from another study of the same name.
        created: Unix time.
        file: The resolved study file that it was made from.
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
        self._who = f"{_user()}@{socket.gethostname()}:{os.getpid()}"
        self._engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30.0})
        event.listen(self._engine, "connect", _configure_sqlite)
        event.listen(self._engine, "begin", _begin)
        self._writing = self._engine.execution_options(writes=True)
        self._n_events: int | None = None  # known to the owner, who alone counts it up

    # -- making, opening, owning -----------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, path: Path, *, name: str, file: Mapping[str, Any], facts: Mapping[str, Any], now: Callable[[], float] = time.time
    ) -> Ledger:
        """A new ledger, claimed by this process. Written beside its place and renamed, so that a crash leaves none or a whole one.

        Raises:
            LedgerError: if there is one already.
        """
        if path.exists():
            raise LedgerError(f"{path} exists already; open it, or choose another study name")
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        maker = cls(draft, now=now)
        _schema.create_all(maker._engine)
        with maker._writing.begin() as connection:
            row = {"name": name, "uid": uuid.uuid4().hex, "schema_version": SCHEMA_VERSION, "created": now()}
            connection.execute(_study.insert().values(**row, file=dict(file), facts=dict(facts)))
        with maker._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        maker._engine.dispose()
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
        """An existing ledger, to read; `claim` it to write.

        Raises:
            LedgerError: if there is none, it cannot be read, or a newer Paretune wrote it.
        """
        if not path.exists():
            raise LedgerError(f"{path} does not exist; `paretune ls` shows the studies that do")
        ledger = cls(path, now=now)
        try:
            with ledger._engine.connect() as connection:
                version = connection.execute(sa.select(_study.c.schema_version)).scalar_one()
        except sa.exc.SQLAlchemyError as error:
            raise LedgerError(f"{path} is not a readable ledger ({error.__class__.__name__}); restore it from a copy") from error
        if version > SCHEMA_VERSION:
            raise LedgerError(f"{path} has schema {version}, this Paretune knows up to {SCHEMA_VERSION}; use a newer Paretune")
        return ledger

    def claim(self) -> None:
        """Become the one driver that may write.

        Raises:
            OwnedElsewhere: if a live driver holds the study.
        """
        token = uuid.uuid4().hex
        with self._writing.begin() as connection:
            row = connection.execute(sa.select(_owner)).first()
            if row is not None and _alive(row, self._now()):
                raise OwnedElsewhere(
                    f"the study is being run by process {row.pid} on {row.host}; "
                    "stop that one first, or watch it with `paretune trials`"
                )
            connection.execute(_owner.delete())
            me = {"host": socket.gethostname(), "pid": os.getpid(), "process_start": _process_start(os.getpid())}
            connection.execute(_owner.insert().values(token=token, heartbeat=self._now(), **me))
            self._n_events = connection.execute(sa.select(sa.func.count()).select_from(_events)).scalar_one()
        self._token = token

    def now(self) -> float:
        """The ledger's clock, in Unix seconds."""
        return self._now()

    def close(self) -> None:
        """Give the study back (if it is ours) and close the file."""
        if self._token is not None:
            with suppress(sa.exc.OperationalError), self._writing.begin() as connection:  # a full disk: the lease dies with us
                connection.execute(_owner.delete().where(_owner.c.token == self._token))
            self._token = None
        self._engine.dispose()

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
                mine = _owner.update().where(_owner.c.token == self._token).values(heartbeat=now)
                if connection.execute(mine).rowcount != 1:
                    raise OwnedElsewhere("another driver has taken the study over; this one stops without writing")
                writer = Writer(connection, now, self._who, self._n_events)
                yield writer
        except sa.exc.OperationalError as error:
            raise CannotWrite(f"{self.path} cannot be written ({error.orig})") from error
        self._n_events = writer.n_events

    # -- reading ---------------------------------------------------------------------------------------------------------------

    def study(self) -> StudyRecord:
        """What was fixed when the study was made, and its budget now."""
        extensions = sa.select(_events.c.detail).where(_events.c.kind == "extended").order_by(_events.c.number)
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_study)).one()
            budget = dict(row.file.get("budget", {}))
            for (changes,) in connection.execute(extensions):
                budget |= changes
        return StudyRecord(row.name, row.uid, row.created, row.file, row.facts, budget)

    def owner(self) -> str | None:
        """Who runs the study now (`process 12 on host`), or None."""
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(_owner)).first()
        return f"process {row.pid} on {row.host}" if row is not None and _alive(row, self._now()) else None

    def trials(self) -> list[Trial]:
        """All trials in the order of their numbers, each with its last epoch's metrics."""
        last = sa.select(_reports.c.trial, sa.func.max(_reports.c.epoch).label("epoch")).group_by(_reports.c.trial).subquery()
        joined = _trials.outerjoin(last, last.c.trial == _trials.c.number).outerjoin(
            _reports, (_reports.c.trial == _trials.c.number) & (_reports.c.epoch == last.c.epoch)
        )
        query = sa.select(_trials, _reports.c.epoch, _reports.c.metrics).select_from(joined).order_by(_trials.c.number)
        with self._engine.connect() as connection:
            return [_trial(row) for row in connection.execute(query)]

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Epochs in the order of arrival.

        Args:
            trial: Only this trial's.
            after: Only those whose event number is larger (a reader's place in the history).
        """
        query = (
            sa.select(_reports, _events.c.time)
            .join(_events, _events.c.number == _reports.c.event)
            .where(_reports.c.event > after)
            .order_by(_reports.c.event)
        )
        if trial is not None:
            query = query.where(_reports.c.trial == trial)
        with self._engine.connect() as connection:
            return [Report(r.trial, r.epoch, r.time, r.event, _read(r.metrics)) for r in connection.execute(query)]

    def events(self, *, after: int = -1) -> list[Event]:
        """Everything that happened, in order; `after` as in `reports`."""
        query = sa.select(_events).where(_events.c.number > after).order_by(_events.c.number)
        with self._engine.connect() as connection:
            return [Event(r.number, r.time, r.kind, r.trial, r.who, r.detail) for r in connection.execute(query)]


class Writer:
    """What one decision may write. Only `Ledger.decision` makes one."""

    def __init__(self, connection: sa.Connection, now: float, who: str, n_events: int) -> None:
        self._connection = connection
        self._now = now
        self._who = who
        self.n_events = n_events

    def event(self, kind: str, trial: int | None = None, **detail: Any) -> int:
        """Write one event and return its number."""
        number = self.n_events
        row = {"number": number, "time": self._now, "kind": kind, "trial": trial, "who": self._who, "detail": detail}
        self._connection.execute(_events.insert().values(**row))
        self.n_events += 1
        return number

    def reject(self, rejections: Iterable[tuple[Config, str]]) -> None:
        """Configurations refused before training, with the reasons."""
        for config, reason in rejections:
            self.event("rejected", config=config, reason=reason)

    def start(self, trial: Trial) -> Trial:
        """A new trial; returned with its starting time."""
        self._connection.execute(
            _trials.insert().values(
                number=trial.number,
                state=trial.state.value,
                config=trial.config,
                seed=trial.seed,
                adapter_params=trial.adapter_params,
                head_params=trial.head_params,
                n_attempts=trial.n_attempts,
                started=self._now,
            )
        )
        self.event("started", trial.number, config=trial.config)
        return replace(trial, started=self._now)

    def attempt(self, trial: Trial) -> Trial:
        """The trial goes on, on a new worker; returned with its attempts counted up."""
        again = replace(trial, n_attempts=trial.n_attempts + 1)
        self._connection.execute(_trials.update().where(_trials.c.number == trial.number).values(n_attempts=again.n_attempts))
        self.event("resumed", trial.number, epochs=trial.epochs, n_attempts=again.n_attempts)
        return again

    def report(self, trial: Trial, epoch: int, metrics: Metrics) -> Trial:
        """One more epoch; returned with it."""
        number = self.event("reported", trial.number, epoch=epoch)
        row = {"trial": trial.number, "epoch": epoch, "event": number, "metrics": _finite_json(metrics)}
        self._connection.execute(_reports.insert().values(**row))
        return replace(trial, epochs=epoch, metrics=dict(metrics))

    def finish(self, trial: Trial, state: State, *, reason: str | None = None, rung: int | None = None) -> Trial:
        """The end of a trial; returned with its state, reason and finishing time."""
        self._connection.execute(
            _trials.update()
            .where(_trials.c.number == trial.number)
            .values(state=state.value, reason=reason, rung=rung, finished=self._now)
        )
        kind = {State.COMPLETE: "completed", State.PRUNED: "pruned", State.FAILED: "failed"}[state]
        self.event(kind, trial.number, **{k: v for k, v in (("reason", reason), ("rung", rung)) if v is not None})
        return replace(trial, state=state, reason=reason, rung=rung, finished=self._now)


def _trial(row: Any) -> Trial:
    return Trial(
        number=row.number,
        state=State(row.state),
        config=row.config,
        seed=row.seed,
        adapter_params=row.adapter_params,
        head_params=row.head_params,
        epochs=row.epoch or 0,
        metrics=_read(row.metrics),
        reason=row.reason,
        rung=row.rung,
        n_attempts=row.n_attempts,
        started=row.started,
        finished=row.finished,
    )


def _finite_json(metrics: Metrics) -> dict[str, float | None]:
    """JSON has no NaN: a number that is not finite is kept as null and read back as NaN (the trial's reason tells which it was)."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def _read(metrics: Mapping[str, float | None] | None) -> Metrics:
    return {key: math.nan if value is None else value for key, value in (metrics or {}).items()}


def _configure_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN, below, decides when a transaction starts
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    """A writer takes the lock at once, so that what it checks stays true until it commits; a reader takes none."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _alive(row: Any, now: float) -> bool:
    """Whether an owner lives: exactly known on this host, by the heartbeat's age elsewhere."""
    if row.host == socket.gethostname() and row.process_start:
        return bool(_process_start(row.pid) == row.process_start)
    return bool(now - row.heartbeat < LEASE_SECONDS)


def _process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks: a process number alone can be reused.

    Empty if the process has ended (a zombie, whose parent has not taken notice, has ended too) or the system cannot tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        return "unknown"
