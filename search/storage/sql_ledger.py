"""A ledger in a few SQL tables: an SQLite file (write-ahead log, full synchronisation), or a schema of a PostgreSQL server.

Every decision is one transaction, and every transaction checks that the writer still owns the study. MLflow, Parquet, plots and the
sampler are views that can be rebuilt from here.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa

from search.errors import LedgerError, NoLedger, OutOfReach, OwnedElsewhere
from search.storage import location, owner, schema
from search.storage.address import Address
from search.storage.events import EventKind
from search.storage.owner import HEARTBEAT_SECONDS, LEASE_SECONDS
from search.storage.reader import LedgerReader, read_states
from search.storage.writer import LedgerWriter, finite_or_none
from search.trial import Metrics, State, Trial

PATIENCE_SECONDS = 60.0  # wait of a driver for a server that is restarted


class SqlLedger(LedgerReader):
    """A ledger in SQLite or PostgreSQL; see `search.storage.ledger.Ledger`. As a context manager it closes itself.

    Args:
        path: SQLite file, or pointer file to a server.
        address: Address on a server; None for the one in the pointer file.
        now: Clock, in Unix seconds; tests pass their own.
    """

    is_durable: ClassVar[bool] = True

    def __init__(self, path: Path, *, address: Address | None = None, now: Callable[[], float] | None = None) -> None:
        super().__init__(location.open_database(path, address), now)
        self.path = path
        self._writing = self._database.engine.execution_options(writes=True)
        self._n_events: int | None = None  # known to the owner, which alone increments it; None: to be counted

    def __enter__(self) -> SqlLedger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- creating, opening, owning ---------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        name: str,
        file: Mapping[str, Any],
        facts: Mapping[str, Any],
        address: Address | None = None,
        now: Callable[[], float] | None = None,
    ) -> SqlLedger:
        """Create a ledger, claimed by this process, atomically: a crash leaves none or a complete one.

        Raises:
            LedgerError: If it exists already, or would be on a storage that loses data.
        """
        with cls(path, address=address, now=now)._closed_by_errors() as ledger:
            if ledger._database.exists():
                raise LedgerError(f"{ledger._database} exists already; open it, or choose another study name")
            ledger._database.refuse_unsafe()
            row = {"name": name, "uid": uuid.uuid4().hex, "schema_version": schema.VERSION, "created": ledger.now()}

            def fill(connection: sa.Connection) -> None:
                schema.metadata.create_all(connection, checkfirst=False)
                connection.execute(schema.study.insert().values(**row, file=dict(file), facts=dict(facts)))

            ledger._database.create(fill)
            ledger.claim()
            return ledger

    @classmethod
    def open(cls, path: Path, *, address: Address | None = None, now: Callable[[], float] | None = None) -> SqlLedger:
        """Open an existing ledger for reading; `claim` it to write. One of an older Paretune is read through a migrated copy.

        Raises:
            LedgerError: If it does not exist, cannot be read, or was written by a newer Paretune.
        """
        with cls(path, address=address, now=now)._closed_by_errors() as ledger:
            if not ledger._database.exists():
                raise NoLedger(
                    f"{ledger._database} does not exist (`run` makes it when its checks are done); list the existing studies: "
                    "paretune ls"
                )
            try:
                with ledger._reading.connect() as connection:
                    version = ledger._version(connection)
                if version < schema.VERSION:
                    ledger._reading = ledger._database.copy_in_memory()
            except sa.exc.SQLAlchemyError as error:
                why = ledger._database.describe_error(error) if isinstance(error, sa.exc.DBAPIError) else type(error).__name__
                if isinstance(error, sa.exc.DBAPIError) and ledger._database.is_denied(error):
                    raise LedgerError(f"{ledger._database} cannot be read ({why})") from error
                raise LedgerError(f"{ledger._database} is not a readable ledger ({why}); restore it from a copy") from error
            if version < schema.VERSION:
                ledger._migrate_copy()
            return ledger

    def claim(self, *, wait: Callable[[float], None] = time.sleep) -> None:
        """Become the only driver that may write, and migrate the tables of an older Paretune.

        On one machine it is known whether the owner is alive. An owner elsewhere is watched for the time of a lease: if no
        heartbeat arrives, it is considered dead. The clocks of two machines are never compared.

        Args:
            wait: Function that sleeps for some seconds; tests pass their own.

        Raises:
            OwnedElsewhere: If a live driver holds the study.
            LedgerError: If the ledger is on a storage that loses data, or a newer Paretune has migrated it in the meantime.
        """
        self._database.refuse_unsafe()
        token, seen, waited = uuid.uuid4().hex, None, 0.0
        while True:
            with self._write() as connection:
                row = connection.execute(sa.text("SELECT * FROM owner")).first()  # an older table has fewer columns
                held = row is not None and self._holds(row, seen, waited)
                if not held:
                    self._take(connection, token)
                    break
            seen = row
            wait(HEARTBEAT_SECONDS / 4)
            waited += HEARTBEAT_SECONDS / 4
        self._token = token
        owner.claims.add(token)
        self._reading = self._database.engine
        self._database.patience = PATIENCE_SECONDS

    def _holds(self, row: Any, seen: Any, waited: float) -> bool:
        """Return whether an owner must be watched longer; raise OwnedElsewhere if it is alive."""
        here = owner.is_here(row)
        lives = owner.is_alive(row, self._now()) if here else seen is not None and tuple(row) != tuple(seen)
        if lives:
            raise OwnedElsewhere(
                f"the study is being run by process {row.pid} on {row.host}; "
                "stop that process first, or watch the study: paretune trials"
            )
        return not here and waited < LEASE_SECONDS

    def _take(self, connection: sa.Connection, token: str) -> None:
        schema.migrate(connection, self._version(connection))
        connection.execute(schema.owner.delete())
        connection.execute(schema.owner.insert().values(token=token, heartbeat=self._now(), **owner.this_process()))
        self._n_events = _count_events(connection)

    def _migrate_copy(self) -> None:
        """Migrate the copy in memory."""
        try:
            with self._reading.begin() as connection:  # the driver may have migrated the ledger just before the copy
                schema.migrate(connection, self._version(connection))
        except sa.exc.DBAPIError as error:
            raise LedgerError(
                f"{self._database} is an older ledger that cannot be migrated ({error.orig}); restore it from a copy"
            ) from error

    def _version(self, connection: sa.Connection) -> int:
        """Return the schema's version; raise LedgerError if a newer Paretune wrote it."""
        version: int = connection.execute(sa.select(schema.study.c.schema_version)).scalar_one()
        if version > schema.VERSION:
            raise LedgerError(
                f"{self._database} has schema {version}, this Paretune knows up to {schema.VERSION}; use a newer Paretune"
            )
        return version

    def beat(self) -> bool:
        """Renew the lease, from any thread; return False if the study is no longer ours.

        Raises:
            OutOfReach: If the disk is full or gone, or the server is unreachable.
        """
        mine = schema.owner.update().where(schema.owner.c.token == self._token).values(heartbeat=self._now())
        with self._write() as connection:
            return connection.execute(mine).rowcount == 1

    def now(self) -> float:
        """Return the ledger's clock, in Unix seconds."""
        return self._now()

    def close(self) -> None:
        """Release the study (if it is ours) and close the connections."""
        self._database.patience = 0.0
        if self._token is not None:
            owner.claims.discard(self._token)
            with suppress(OutOfReach), self._write() as connection:  # on a full disk: the lease expires by itself
                connection.execute(schema.owner.delete().where(schema.owner.c.token == self._token))
            self._token = None
        self._reading.dispose()
        self._database.close()

    @contextmanager
    def _closed_by_errors(self) -> Iterator[SqlLedger]:
        try:
            yield self
        except BaseException:
            self.close()
            raise

    # -- writing: one `with ledger.decision()` block is one transaction ----------------------------------------------------------

    @contextmanager
    def decision(self) -> Iterator[LedgerWriter]:
        """Begin a decision: everything written inside is durable together, or not at all.

        A decision waits for a server that is unreachable at its beginning. If the server dies within a decision, it is open whether
        the decision was written: the next process that opens the ledger sees it.

        Raises:
            OwnedElsewhere: If another driver has taken the study over in the meantime; nothing is written then.
            OutOfReach: If the disk is full or gone, or the server is unreachable.
        """
        if self._token is None:
            raise LedgerError("this ledger was opened for reading; claim it before writing")
        now = self._now()
        try:
            with self._write() as connection:
                mine = schema.owner.update().where(schema.owner.c.token == self._token).values(heartbeat=now)
                if connection.execute(mine).rowcount != 1:
                    raise OwnedElsewhere("another driver has taken the study over; this one stops without writing")
                n_events = _count_events(connection) if self._n_events is None else self._n_events
                self._n_events = None  # an error or an interruption may come before or after the commit
                writer = _SqlWriter(connection, now, owner.signature(), n_events)
                yield writer
        except OutOfReach:
            self._database.patience = 0.0  # the driver ends, so no thread may wait any longer
            raise
        self._n_events = writer.n_events

    def ask_for(
        self, verb: str, trials: Sequence[int | None], detail: Mapping[str, Any], check: Callable[[Mapping[int, State], int], None]
    ) -> list[int]:
        """Send a request to the study's driver, without owning the study: one per trial, all or none.

        Args:
            verb: Requested action.
            trials: Numbers of trials; None for the whole study.
            detail: Parameters of the verb, and the reason; JSON values.
            check: Function that receives the states of these trials and the number of all trials, inside the transaction. It raises
                an error if the request is invalid; nothing is written then.

        Returns:
            The numbers of the requests.
        """
        if self._reading is not self._database.engine:
            raise LedgerError("this study was written by an older Paretune; `paretune resume` migrates it")
        row = {"time": self._now(), "who": owner.signature(), "verb": verb, "detail": dict(detail)}
        insert = schema.requests.insert().returning(schema.requests.c.number)
        with self._write() as connection:
            n_trials = connection.execute(sa.select(sa.func.count()).select_from(schema.trials)).scalar_one()
            check(read_states(connection, [number for number in trials if number is not None]), n_trials)
            return [connection.execute(insert.values(**row, trial=number)).scalar_one() for number in trials]

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        """Run one transaction, isolated from all other writers."""
        try:
            with self._writing.begin() as connection:
                yield connection
        except sa.exc.DBAPIError as error:
            if not self._database.is_outage(error):
                raise
            kind = LedgerError if self._token is None and self._database.is_denied(error) else OutOfReach
            raise kind(f"{self._database} cannot be written ({self._database.describe_error(error)})") from error


def _count_events(connection: sa.Connection) -> int:
    return int(connection.execute(sa.select(sa.func.count()).select_from(schema.events)).scalar_one())


def open_ledger(folder: Path) -> SqlLedger:
    """Open the ledger of a study's folder for reading; use it as a context manager.

    Raises:
        LedgerError: If the folder has no ledger, or it cannot be read.
    """
    return SqlLedger.open(location.ledger_in(folder))


class _SqlWriter(LedgerWriter):
    """The writer of one transaction."""

    def __init__(self, connection: sa.Connection, now: float, who: str, n_events: int) -> None:
        super().__init__(now, who, n_events)
        self._connection = connection

    def _insert_event(self, number: int, kind: EventKind, trial: int | None, detail: Mapping[str, Any]) -> None:
        row = {"number": number, "time": self._now, "kind": kind.value, "trial": trial, "who": self._who, "detail": detail}
        self._connection.execute(schema.events.insert().values(**row))

    def _insert_trial(self, trial: Trial) -> None:
        row = {column.name: getattr(trial, column.name) for column in schema.trials.columns}
        self._connection.execute(schema.trials.insert().values(**row))

    def _update_trial(self, number: int, values: Mapping[str, Any]) -> None:
        self._connection.execute(schema.trials.update().where(schema.trials.c.number == number).values(**values))

    def _insert_report(self, trial: int, epoch: int, event: int, metrics: Metrics) -> None:
        row = {"trial": trial, "epoch": epoch, "event": event, "metrics": finite_or_none(metrics)}
        self._connection.execute(schema.reports.insert().values(**row))

    def _answer_request(self, number: int, refusal: str | None) -> None:
        request = schema.requests.update().where(schema.requests.c.number == number)
        self._connection.execute(request.values(served=self._now, refusal=refusal))
