"""The database under a ledger: an SQLite file on a disk of this machine, or a PostgreSQL server named by a pointer file."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import sqlalchemy as sa


class Database(ABC):
    """The operations that a ledger needs from its database. `str` names it in messages, without secrets."""

    engine: sa.Engine  # a connection with the execution option `writes` is the only writer until it commits
    patience: float = 0.0  # seconds that a new connection waits for an unreachable server

    @abstractmethod
    def exists(self) -> bool:
        """Return whether the ledger exists."""

    @abstractmethod
    def create(self, fill: Callable[[sa.Connection], None]) -> None:
        """Create the ledger, atomically: a crash leaves none.

        Args:
            fill: Function that creates the tables and their initial rows.

        Raises:
            LedgerError: If the ledger exists already.
        """

    @abstractmethod
    def refuse_unsafe(self) -> None:
        """Raise LedgerError if the database could lose acknowledged data."""

    @abstractmethod
    def copy_in_memory(self) -> sa.Engine:
        """Return a private copy of the current ledger; changes to it are lost."""

    @abstractmethod
    def is_outage(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether an error was caused by disk or server, not by the statement."""

    def is_denied(self, error: sa.exc.DBAPIError) -> bool:
        """Return whether an error was caused by missing permissions."""
        return False

    def describe_error(self, error: sa.exc.DBAPIError) -> str:
        """Return the reason of an error, and its remedy."""
        return str(error.orig)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def clock(self) -> float:
        """Return the Unix time, as far as possible the same for all users of the ledger."""
        return time.time()


def in_memory() -> sa.Engine:
    """Create an in-memory database that has one connection and ends with it."""
    return sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False})
