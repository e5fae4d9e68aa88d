"""A ledger in an SQLite file on a disk of this machine."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from search.errors import LedgerError
from search.storage.database import Database, in_memory

# File systems whose locks and shared memory do not reach other machines, so that SQLite's write-ahead log is corrupted on them.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "9p", "afs", "ncpfs"})
NETWORK_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs")


class SQLite(Database):
    """An SQLite file with write-ahead log and full synchronisation, on a local disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), connect_args={"timeout": 30.0})
        event.listen(self.engine, "connect", _configure)
        event.listen(self.engine, "begin", _begin)

    def __str__(self) -> str:
        return str(self._path)

    def exists(self) -> bool:
        """Return whether the path exists."""
        return self._path.exists()

    def create(self, fill: Callable[[sa.Connection], None]) -> None:
        """Create the file under a temporary name and link it to its path; see `Database.create`."""
        path = self._path
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
        maker = SQLite(draft).engine
        with maker.execution_options(writes=True).begin() as connection:
            fill(connection)
        with maker.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
        maker.dispose()
        try:
            os.link(draft, path)
        except FileExistsError:
            raise LedgerError(f"{path} has just been created by another driver; open it instead") from None
        finally:
            for suffix in ("", "-wal", "-shm"):
                draft.with_name(draft.name + suffix).unlink(missing_ok=True)

    def refuse_unsafe(self) -> None:
        """Refuse a network file system: SQLite's write-ahead log needs the memory and the locks of one machine."""
        if (kind := network_file_system(self._path)) is not None:
            raise LedgerError(
                f"{self._path} is on a network file system ({kind}), where SQLite loses data; "
                "keep it on a local disk of the driver (`ledger: FOLDER` in the study file), or on a PostgreSQL server (`ledger: postgresql://...`)"
            )

    def copy_in_memory(self) -> sa.Engine:
        """Copy the ledger; see `Database.copy_in_memory`."""
        made = in_memory()
        with contextlib.closing(sqlite3.connect(self._path, timeout=30.0)) as source, made.connect() as connection:
            source.backup(connection.connection.driver_connection)  # type: ignore[arg-type]
        return made

    def is_outage(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether the error is a full disk, a long-held lock or a damaged file."""
        return isinstance(error, sa.exc.OperationalError) or type(error) is sa.exc.DatabaseError


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """Return the kind of network file system that a file is (or would be) on, None for a local one.

    Args:
        path: Path of the file, which need not exist.
        mounts: Mounts table in the format of `/proc/mounts`; None to read that file.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:  # not Linux: the file system is unknown
            return None
    target, kind, longest = os.path.realpath(path), "", -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")  # spaces are written \040
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # the last mount of a path hides earlier ones
            kind, longest = fields[2], len(point)
    return kind if kind in NETWORK or kind.startswith(NETWORK_FUSE) else None


def _configure(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # SQLAlchemy's own BEGIN, below, decides when a transaction starts
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    cursor.close()


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction: a writer takes the lock at once, so that its checks stay valid until it commits; a reader takes none."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
