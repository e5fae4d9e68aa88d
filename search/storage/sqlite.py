"""A ledger in an SQLite file on a disk of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event

from search.errors import LedgerError
from search.storage.database import Database, in_memory

# File systems whose locks and shared memory are those of this machine, as SQLite's write-ahead log needs them. Linux refuses to
# put the writable layer of an overlay on a network file system. What is not listed may reach other machines, and is refused.
LOCAL = frozenset(
    {
        *(
            "ext2",
            "ext3",
            "ext4",
            "xfs",
            "btrfs",
            "zfs",
            "f2fs",
            "bcachefs",
            "jfs",
            "nilfs2",
            "reiserfs",
            "tmpfs",
            "ramfs",
            "rootfs",
        ),
        *("overlay", "ecryptfs", "ntfs", "ntfs3", "fuseblk", "vfat", "exfat", "msdos"),
        *("apfs", "hfs", "ufs"),  # macOS, BSD
    }
)
WORD = "PARETUNE_LOCAL_FILE_SYSTEMS"  # environment variable: further kinds, separated by commas, that are local on this machine


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
        """Refuse a file system that is not known to be local: SQLite's log needs the memory and the locks of one machine."""
        if not is_local(kind := file_system(self._path)):
            raise LedgerError(
                f"{self._path} is on a file system that is not known to be local ({kind}); on a network file system SQLite loses "
                "data. Keep it on a local disk of the driver (`ledger: FOLDER` in the study file), or on a PostgreSQL server "
                f"(`ledger: postgresql://...`); or, if {kind} is a local disk here, set {WORD}={kind}"
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


def is_local(kind: str) -> bool:
    """Return whether a kind of file system is known to be local, or declared to be on this machine."""
    return kind in LOCAL or kind in os.environ.get(WORD, "").split(",")


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the kind of file system that a file is (or would be) on, `unknown` if the system does not tell.

    Args:
        path: Path of the file, which need not exist.
        mounts: Mounts table in the format of `/proc/mounts`; None to read the system's.
    """
    target, kind, longest = os.path.realpath(path), "unknown", -1
    for line in (_mounts() if mounts is None else mounts).splitlines():
        fields = line.split()
        if len(fields) < 3:
            continue
        point = fields[1].encode().decode("unicode_escape")  # spaces are written \040
        inside = target == point or target.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:  # the last mount of a path hides earlier ones
            kind, longest = fields[2], len(point)
    return kind


def _mounts() -> str:
    """Return the system's mounts table."""
    try:
        return Path("/proc/mounts").read_text()
    except OSError:  # not Linux
        done = subprocess.run(["/sbin/mount"], capture_output=True, text=True, check=False)
        return from_mount(done.stdout)


def from_mount(printed: str) -> str:
    """Return the output of `mount` on macOS and BSD, `DEVICE on POINT (KIND, ...)`, in the format of `/proc/mounts`."""
    lines = re.findall(r"^.* on (/.*) \((\w+)", printed, re.MULTILINE)
    return "\n".join(f"- {point.replace(' ', chr(92) + '040')} {kind}" for point, kind in lines)


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
