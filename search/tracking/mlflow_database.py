"""MLflow's SQLite database in a storage folder: made whole or not at all.

MLflow makes an empty database in two seconds of migrations. Killed within them it leaves one that no MLflow can use or mend. So it
is made under another name and renamed, and one that was left half made, by a server or by an older Paretune, is replaced.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

from search.storage.sqlite_address import sqlite_address, sqlite_path
from search.tracking.mlflow_internals import create_database, newest_version


@contextlib.contextmanager
def whole_database(uri: str) -> Iterator[None]:
    """Make an SQLite database if there is none, or only a half-made one; other processes wait until the block ends.

    MLflow's migrations fail if two studies start a storage at once. For other addresses this does nothing.
    """
    if (database := sqlite_path(uri)) is None:
        yield
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file is closed, even if the process is killed
        if not _is_whole(database):
            _make(database)
        yield


def _is_whole(database: Path) -> bool:
    """Return whether the database exists and has all of MLflow's tables. One with content is never ours to replace."""
    if not database.exists():
        return False
    with contextlib.closing(sqlite3.connect(database, timeout=20)) as connection:
        if _first(connection, "SELECT version_num FROM alembic_version") == newest_version():
            return True
        return bool(
            _first(connection, "SELECT 1 FROM runs LIMIT 1")
            or _first(connection, "SELECT 1 FROM experiments WHERE experiment_id != 0")
        )


def _first(connection: sqlite3.Connection, query: str) -> object:
    """Return the first value of a query; None without a row or without the table."""
    try:
        row = connection.execute(query).fetchone()
    except sqlite3.OperationalError as error:
        if "no such" in str(error):
            return None
        raise
    return None if row is None else row[0]


def _make(database: Path) -> None:
    for left in database.parent.glob(f".{database.name}.*.new*"):  # by a process that was killed; the lock keeps others out
        left.unlink()
    draft = database.with_name(f".{database.name}.{uuid.uuid4().hex[:8]}.new")
    try:
        create_database(sqlite_address(draft))
        for journal in ("-journal", "-wal", "-shm"):  # of the half-made one
            database.with_name(database.name + journal).unlink(missing_ok=True)
        os.replace(draft, database)
    finally:
        for part in database.parent.glob(f"{draft.name}*"):
            part.unlink(missing_ok=True)
