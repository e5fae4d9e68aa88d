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

import sqlalchemy as sa
from sqlalchemy import event

from search.errors import LedgerError
from search.storage.database import Database, in_memory
from search.storage.whole_file import synchronise

# File systems whose locks and shared memory are those of this machine, as SQLite's write-ahead log needs them. Linux refuses to
# put the writable layer of an overlay on a network file system. What is not listed may reach other machines, and is refused.
_LINUX = "ext2 ext3 ext4 xfs btrfs zfs f2fs bcachefs jfs nilfs2 reiserfs tmpfs ramfs rootfs overlay ecryptfs"
_FOREIGN = "ntfs ntfs3 fuseblk vfat exfat msdos apfs hfs ufs"
LOCAL = frozenset(f"{_LINUX} {_FOREIGN}".split())
_PATIENCE = 30.0  # seconds that a connection waits for another one's lock
_DENIED = (sqlite3.SQLITE_PERM, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
WORD = "PARETUNE_LOCAL_FILE_SYSTEMS"  # environment variable: further kinds, separated by commas, that are local on this machine


class SQLite(Database):
    """An SQLite file with write-ahead log and full synchronisation, on a local disk. Who may only read it, reads it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.engine = sa.create_engine(sa.URL.create("sqlite", database=str(path)), creator=self._connect)
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
            synchronise(path.parent)
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
        with contextlib.closing(self._connect()) as source, made.connect() as connection:
            source.backup(connection.connection.driver_connection)  # type: ignore[arg-type]
        return made

    def is_outage(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether the error is a full disk, a long-held lock or a damaged file."""
        return isinstance(error, sa.exc.OperationalError) or type(error) is sa.exc.DatabaseError

    def is_denied(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether permissions are missing."""
        return getattr(error.orig, "sqlite_errorcode", 0) & 0xFF in _DENIED and self._permission() != "read and write"

    def describe_error(self, error: sa.exc.DBAPIError) -> str:
        """Return SQLite's message, and the permission that is missing."""
        if not self.is_denied(error):
            return str(error.orig)
        return f"{error.orig}; you may {self._permission()}: its owner can give access to the file, its folder and those next to it"

    def _permission(self) -> str:
        """Return what this process may do with the file: a writer also makes files next to it."""
        if not _may(self._path, os.R_OK):
            return "not read it"
        return "read and write" if _may(self._path, os.W_OK) and _may(self._path.parent, os.W_OK) else "only read it"

    def _connect(self) -> sqlite3.Connection:
        if self._path.exists() and self._permission() == "only read it":
            journals = [self._path.with_name(self._path.name + end) for end in ("-wal", "-shm")]
            how = "?mode=ro" if any(journal.exists() for journal in journals) else "?mode=ro&immutable=1"  # no driver writes now
            made = sqlite3.connect(self._path.absolute().as_uri() + how, uri=True, timeout=_PATIENCE, check_same_thread=False)
            made.isolation_level = None
            return made
        made = sqlite3.connect(self._path, timeout=_PATIENCE, check_same_thread=False)
        made.isolation_level = None  # SQLAlchemy's own BEGIN, below, decides when a transaction starts
        for setting in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            try:
                made.execute(f"PRAGMA {setting}")
            except BaseException:
                made.close()
                raise
        return made


def _may(path: Path, mode: int) -> bool:
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


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


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction: a writer takes the lock at once, so that its checks stay valid until it commits; a reader takes none."""
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")
