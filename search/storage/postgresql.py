"""A ledger on a PostgreSQL server, for teams. The only file that imports the driver, psycopg: `pip install 'psycopg[binary]'`.

Every study has its own schema, `paretune/<study>`, with the same tables as the SQLite file. The study's folder contains a
pointer file with the address. PostgreSQL's client library reads the password from PGPASSWORD or `~/.pgpass`; Paretune never
sees it.
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
from search.names import is_study_name, shortened
from search.storage.address import Address, write_pointer
from search.storage.database import Database, in_memory

if TYPE_CHECKING:
    import psycopg

IDLE_SECONDS = 10  # a writer that freezes within a decision loses its lock after this time, as it loses its lease
RETRY_SECONDS = 0.5
_SCHEMA, _FINAL = "paretune/", "/final"
_CONNECTION = {  # defaults for the address: a lost server must be detected, not waited for
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,  # milliseconds
    "application_name": "paretune",
}
_PASSWORD = ("28P01", "28000")  # states of a rejected role
_FORBIDDEN = "42501"
_NO_TABLE = "42P01"
_EXISTS = ("42P06", "23505")  # states of the second of two processes that create a schema at the same time


class PostgreSQL(Database):
    """One study's schema on a server. A decision takes a lock that still allows reading, and is on disk when it is acknowledged.

    Args:
        pointer: Pointer file in the study's folder; written when the ledger is created.
        address: Address of server and study.
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
        """Return whether the server has the study; see `Database.exists`.

        Raises:
            LedgerError: If the server cannot be queried.
        """
        query = sa.text("SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = :name")
        return bool(self._answer(query.bindparams(name=self._schema)))

    def create(self, fill: Callable[[sa.Connection], None]) -> None:
        """Create the schema in one transaction, then write the pointer; see `Database.create`."""
        try:
            with self.engine.begin() as connection:
                connection.exec_driver_sql(self._sql("CREATE SCHEMA {}"))
                fill(connection)
        except sa.exc.DBAPIError as error:
            if _state(error) in _EXISTS:
                raise LedgerError(f"{self} has just been created by another driver; open it instead") from None
            raise LedgerError(f"{self} cannot be created ({self.describe_error(error)})") from error
        write_pointer(self._pointer, self._address)

    def refuse_unsafe(self) -> None:
        """Refuse a server that does not wait for its disk, and so loses acknowledged data."""
        if self._answer(sa.text("SHOW fsync")) != "on":
            raise LedgerError(f"{self}: the server runs with fsync off and loses data when it crashes; switch it on")

    def copy_in_memory(self) -> sa.Engine:
        """Copy all tables in one snapshot; see `Database.copy_in_memory`."""
        made, tables = in_memory(), sa.MetaData()
        with self.engine.connect().execution_options(isolation_level="REPEATABLE READ") as source, made.begin() as target:
            tables.reflect(source)
            for column in (column for table in tables.tables.values() for column in table.columns):
                column.server_default = None  # a sequence of the server
            tables.create_all(target)
            for table in tables.sorted_tables:
                if rows := [dict(row) for row in source.execute(sa.select(table)).mappings()]:
                    target.execute(table.insert(), rows)
        return made

    def is_outage(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether the server is down or stopping, its disk is full, a lock is held for long, or permissions are missing."""
        return isinstance(error, sa.exc.OperationalError | sa.exc.InternalError) or self.is_denied(error)

    def is_denied(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether permissions are missing; a schema without permission looks like one without tables."""
        return _state(error) in (_FORBIDDEN, _NO_TABLE)

    def describe_error(self, error: sa.exc.DBAPIError) -> str:
        """Return the server's message, and the remedy."""
        return _describe(error.orig)

    def clock(self) -> float:
        """Return the server's time, which does not depend on the machines' own clocks."""
        return time.time() + self._ahead

    @cached_property
    def _ahead(self) -> float:
        """The seconds by which the server's clock is ahead of ours."""
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
        """Open a new connection, waiting for an unreachable server for up to `patience` seconds."""
        began = time.monotonic()
        while True:
            try:
                made = _open(self._address.server)
                break
            except _driver().OperationalError:
                if time.monotonic() - began >= self.patience:  # `patience` may be reset during the wait
                    raise
            time.sleep(RETRY_SECONDS)
        settings = {
            "search_path": self._sql("{}"),
            "synchronous_commit": "on",
            "lock_timeout": "30s",
            "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
            "default_transaction_isolation": "read committed",
        }
        try:
            self._refuse_programs(made)
            for name, value in settings.items():
                made.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
            made.commit()
        except BaseException:
            made.close()
            raise
        return made

    def _refuse_programs(self, made: psycopg.Connection[Any]) -> None:
        """Refuse a schema that would run its owner's programs with our permissions: a view for a table, a trigger, an operator.

        Every role with CREATE on the database can make a schema with a name like ours.
        """
        made.execute("SELECT pg_catalog.set_config('search_path', '', false)")  # an operator of the schema could answer
        [found] = made.execute(_PROGRAMS, {"schema": self._schema}).fetchone() or [None]
        if found is not None:
            raise LedgerError(
                f"{self} is no ledger of Paretune: its schema holds {shortened(found)}, which may run programs of the "
                "schema's owner with your permissions; have the schema removed"
            )

    def _sql(self, template: str) -> str:
        """Return a statement with the schema's name in place of `{}`, quoted by the driver."""
        from psycopg import sql

        return sql.SQL(template).format(sql.Identifier(self._schema)).as_string()


# The first object of a schema that is neither a plain table of built-in types nor an index or a sequence of one.
_PROGRAMS = """
WITH ours AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = %(schema)s),
     relations AS (SELECT c.* FROM pg_catalog.pg_class c JOIN ours ON c.relnamespace = ours.oid)
SELECT pg_catalog.min(what) FROM (
    SELECT 'the relation ' || relname AS what FROM relations
        WHERE relkind NOT IN ('r', 'i', 'S', 't') OR relhasrules OR relrowsecurity OR relispartition OR relhassubclass
    UNION ALL SELECT 'the function ' || proname FROM pg_catalog.pg_proc JOIN ours ON pronamespace = ours.oid
    UNION ALL SELECT 'the operator ' || oprname FROM pg_catalog.pg_operator JOIN ours ON oprnamespace = ours.oid
    UNION ALL SELECT 'the trigger ' || tgname FROM pg_catalog.pg_trigger JOIN relations r ON tgrelid = r.oid WHERE NOT tgisinternal
    UNION ALL SELECT 'the constraint ' || conname FROM pg_catalog.pg_constraint
        JOIN relations r ON conrelid = r.oid WHERE contype NOT IN ('p', 'u', 'f', 'n')
    UNION ALL SELECT 'the statistics ' || stxname FROM pg_catalog.pg_statistic_ext JOIN relations r ON stxrelid = r.oid
    UNION ALL SELECT 'the index ' || r.relname FROM pg_catalog.pg_index JOIN relations r ON indexrelid = r.oid
        WHERE indexprs IS NOT NULL OR indpred IS NOT NULL
    UNION ALL SELECT 'the default of ' || attname FROM pg_catalog.pg_attrdef
        JOIN relations r ON adrelid = r.oid JOIN pg_catalog.pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE pg_catalog.pg_get_expr(adbin, adrelid) !~ '^nextval\\(''[^'']*''::regclass\\)$'
    UNION ALL SELECT 'the column ' || attname FROM pg_catalog.pg_attribute JOIN relations r ON attrelid = r.oid
        JOIN pg_catalog.pg_type t ON t.oid = atttypid
        WHERE r.relkind = 'r' AND NOT attisdropped AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace
) AS found
"""


def list_names(server: str) -> list[str]:
    """Return the names after our prefix in a database's schemas. Every role that may create a schema chooses one.

    Args:
        server: Address of the database, checked by `search.storage.address.check_server`.

    Raises:
        LedgerError: If the server cannot be queried.
    """
    driver = _driver()
    query = "SELECT nspname FROM pg_catalog.pg_namespace WHERE pg_catalog.starts_with(nspname, %s)"
    try:
        with closing(_open(server)) as connection:
            found = [str(name).removeprefix(_SCHEMA) for (name,) in connection.execute(query, [_SCHEMA])]
    except driver.Error as error:
        raise LedgerError(f"{server} cannot be read ({_describe(error)})") from error
    return [name for name in found if not (name.endswith(_FINAL) and is_study_name(name.removesuffix(_FINAL)))]


def _open(server: str) -> psycopg.Connection[Any]:
    """Open a connection."""
    driver = _driver()
    made: psycopg.Connection[Any] = driver.connect(**_CONNECTION | driver.conninfo.conninfo_to_dict(server))
    return made


def _begin(connection: sa.Connection) -> None:
    """Let a writer take the lock at once, so that its checks stay valid until it commits; readers need none."""
    if connection.get_execution_options().get("writes"):
        connection.exec_driver_sql("LOCK TABLE owner IN EXCLUSIVE MODE")


def _describe(error: BaseException | None) -> str:
    """Return the message of the driver's error, and the remedy."""
    state, lines = getattr(error, "sqlstate", None), [line.strip() for line in str(error).splitlines() if line.strip()]
    words = next((line for line in lines if "FATAL" in line), lines[0] if lines else type(error).__name__)
    if state in _PASSWORD or "password" in words:
        return f"{words}; the password comes from PGPASSWORD or ~/.pgpass, the name from the address or PGUSER"
    if state in (_FORBIDDEN, _NO_TABLE):
        right = "CREATE on the database to create a study, and USAGE on the study's schema and all rights on its tables"
        return f"{words}; a role needs {right} (docs/reliability.md)"
    return words if state else f"{words}; is the server up, and is the address right?"


def _state(error: sa.exc.DBAPIError) -> str | None:
    """Return PostgreSQL's five-letter error code; None if no server has answered."""
    return getattr(error.orig, "sqlstate", None)


def _driver() -> Any:
    try:
        import psycopg
    except ImportError:
        raise LedgerError("a ledger on PostgreSQL needs the driver psycopg: pip install 'psycopg[binary]'") from None
    return psycopg
