"""The database under a ledger: SQLite with a write-ahead log and full synchronisation, on a disk of this machine."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

# File systems whose locks and shared memory do not reach the other machines: SQLite's write-ahead log is torn on them.
NETWORK = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "beegfs", "glusterfs", "9p", "afs", "ncpfs"})
NETWORK_FUSE = ("fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone", "fuse.gcsfuse", "fuse.juicefs")


def engine(path: Path) -> sa.Engine:
    """Connections to a file. One with the execution option `writes` takes the write lock when it begins."""
    made = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 30.0})
    event.listen(made, "connect", _configure)
    event.listen(made, "begin", _begin)
    return made


def copy_in_memory(path: Path) -> sa.Engine:
    """A private copy of a file as it stands; what is written to it is forgotten."""
    made = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False})
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as source, made.connect() as connection:
        source.backup(connection.connection.driver_connection)  # type: ignore[arg-type]
    return made


def network_file_system(path: Path, mounts: str | None = None) -> str | None:
    """The kind of network file system that a file lies (or would lie) on, None for a local one.

    Args:
        path: The file; it need not exist.
        mounts: The mounts table in the form of `/proc/mounts`, which is read when it is None.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/mounts").read_text()
        except OSError:  # not Linux: nobody tells
            return None
    target, kind, longest = os.path.realpath(path), "", -1
    for line in mounts.splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")  # spaces are written \040
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # the last of equals hides the ones before
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
    """A writer takes the lock at once, so that what it checks stays true until it commits; a reader takes none."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
