"""A ledger on a PostgreSQL server, for teams. The only file that imports the driver, psycopg: `pip install 'paretune[postgres]'`.

Every study has a schema of its own, `paretune/<study>`, with the tables that the SQLite file has. The study's folder holds a file
that points at it. A password comes from where PostgreSQL's own programs find it, PGPASSWORD or `~/.pgpass`; we never see it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy import event

from search.errors import LedgerError
from search.storage.address import Address, write_pointer
from search.storage.database import Database, in_memory

if TYPE_CHECKING:
    import psycopg

IDLE_SECONDS = 10  # a writer that is frozen within a decision loses its lock then, as it loses its lease
RETRY_SECONDS = 0.5
_SCHEMA = "paretune/"
_CONNECTION = {  # what is not in the address: a server that is gone is noticed, not waited for
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "application_name": "paretune",
}
_PASSWORD = ("28P01", "28000")  # of a role that is refused
_FORBIDDEN = "42501"
_NO_TABLE = "42P01"
_EXISTS = ("42P06", "23505")  # the second one of two that make a schema at the same time


class PostgreSQL(Database):
    """One study's schema on a server. A decision takes a lock that lets others read, and is on disk when it is acknowledged.

    Args:
        pointer: The file in the study's folder that holds the address; written when the ledger is made.
        address: Server and study.
    """

    def __init__(self, pointer: Path, address: Address) -> None:
        self._pointer, self._address = pointer, address
        self._schema = _SCHEMA + address.study
        _driver()
        self.engine = sa.create_engine("postgresql+psycopg://", creator=self._connect, pool_pre_ping=True)
        event.listen(self.engine, "begin", _begin)

    def __str__(self) -> str:
        return str(self._address)

    def exists(self) -> bool:
        """Whether the server has the study; see `Database.exists`.

        Raises:
            LedgerError: if it cannot be asked.
        """
        query = sa.text("SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = :name")
        return bool(self._answer(query.bindparams(name=self._schema)))

    def create(self, fill: Callable[[sa.Connection], None]) -> None:
        """One transaction, which PostgreSQL's own definitions belong to, and then the pointer; see `Database.create`."""
        try:
            with self.engine.begin() as connection:
                connection.exec_driver_sql(f'CREATE SCHEMA "{self._schema}"')
                fill(connection)
        except sa.exc.DBAPIError as error:
            if _state(error) in _EXISTS:
                raise LedgerError(f"{self} has just been made by another driver; open it instead") from None
            raise LedgerError(f"{self} cannot be made ({self.describe_error(error)})") from error
        write_pointer(self._pointer, self._address)

    def refuse_unsafe(self) -> None:
        """A server that does not wait for its disk loses what it has acknowledged; see `Database.refuse`."""
        if self._answer(sa.text("SHOW fsync")) != "on":
            raise LedgerError(f"{self}: the server runs with fsync off and loses data when it dies; switch it on")

    def copy_in_memory(self) -> sa.Engine:
        """Table by table, as one moment shows them; see `Database.copy_in_memory`."""
        made, tables = in_memory(), sa.MetaData()
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as source, made.begin() as target:
            tables.reflect(source)
            for column in (column for table in tables.tables.values() for column in table.columns):
                column.server_default = None  # a sequence of the server's
            tables.create_all(target)
            for table in tables.sorted_tables:
                if rows := [dict(row) for row in source.execute(sa.select(table)).mappings()]:
                    target.execute(table.insert(), rows)
        return made

    def is_outage(self, error: sa.exc.DBAPIError) -> bool:
        """The server is away or stops, its disk is full, a lock is held for long; or we have not the right to it."""
        return isinstance(error, sa.exc.OperationalError | sa.exc.InternalError) or self.is_denied(error)

    def is_denied(self, error: sa.exc.DBAPIError) -> bool:
        """A schema that may not be used looks like one without tables."""
        return _state(error) in (_FORBIDDEN, _NO_TABLE)

    def describe_error(self, error: sa.exc.DBAPIError) -> str:
        """The server's own words, and what mends it."""
        state, lines = _state(error), [line.strip() for line in str(error.orig).splitlines() if line.strip()]
        words = next((line for line in lines if "FATAL" in line), lines[0] if lines else type(error.orig).__name__)
        if state in _PASSWORD or "password" in words:
            return f"{words}; the password comes from PGPASSWORD or ~/.pgpass, the name from the address or PGUSER"
        if state in (_FORBIDDEN, _NO_TABLE):
            right = "CREATE on the database to make a study, and USAGE on the study's schema and all rights on its tables"
            return f"{words}; a role needs {right} (docs/reliability.md)"
        return words if state else f"{words}; is the server up, and is the address right?"

    def clock(self) -> float:
        """The server's: what the machines' own clocks differ by is no matter."""
        return time.time() + self._ahead

    @cached_property
    def _ahead(self) -> float:
        """Seconds that the server's clock is ahead of ours."""
        before = time.time()
        now = float(self._answer(sa.text("SELECT extract(epoch FROM clock_timestamp())")))
        return now - (before + time.time()) / 2

    def _answer(self, query: sa.Executable) -> Any:
        try:
            with self.engine.connect() as connection:
                return connection.execute(query).scalar_one()
        except sa.exc.DBAPIError as error:
            raise LedgerError(f"{self} cannot be read ({self.describe_error(error)})") from error

    def _connect(self) -> psycopg.Connection[Any]:
        """A new connection; waits for a server that is away, as long as we are patient."""
        driver = _driver()
        given = driver.conninfo.conninfo_to_dict(self._address.server)
        began = time.monotonic()
        while True:
            try:
                made: psycopg.Connection[Any] = driver.connect(**_CONNECTION | given)
                break
            except driver.OperationalError:
                if time.monotonic() - began >= self.patience:  # it may be lost while we wait
                    raise
            time.sleep(RETRY_SECONDS)
        made.execute(
            f"SET search_path = \"{self._schema}\"; SET synchronous_commit = on; SET lock_timeout = '30s';"
            f"SET idle_in_transaction_session_timeout = '{IDLE_SECONDS}s';"
            "SET default_transaction_isolation = 'read committed'"
        )
        made.commit()
        return made


def list_studies(server: str) -> list[Address]:
    """The studies that a database holds.

    Args:
        server: Checked by `search.storage.address.check_server`.

    Raises:
        LedgerError: if it cannot be asked.
    """
    names = sa.text(
        "SELECT coalesce(json_agg(nspname ORDER BY nspname), '[]') FROM pg_catalog.pg_namespace WHERE nspname LIKE :like"
    )
    with closing(PostgreSQL(Path(), Address(server, ""))) as database:
        found = database._answer(names.bindparams(like=f"{_SCHEMA}%"))
    return [Address(server, name) for name in (full.removeprefix(_SCHEMA) for full in found) if "/" not in name]


def _begin(connection: sa.Connection) -> None:
    """A writer takes the lock at once, so that what it checks stays true until it commits; readers need none."""
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("LOCK TABLE owner IN EXCLUSIVE MODE")


def _state(error: sa.exc.DBAPIError) -> str | None:
    """PostgreSQL's five letters for what went wrong; None if no server has answered."""
    return getattr(error.orig, "sqlstate", None)


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        raise LedgerError("a ledger on PostgreSQL needs the driver psycopg: pip install 'paretune[postgres]'") from None
    return psycopg
