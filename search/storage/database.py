"""The database under a ledger: an SQLite file on a disk of this machine, or a PostgreSQL server that a file points at."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable

import sqlalchemy as sa


class Database(ABC):
    """What a ledger asks of the database under it. `str` names it for people, without a secret."""

    engine: sa.Engine  # a connection with the execution option `writes` is the only writer until it commits
    patience: float = 0.0  # seconds that a new connection waits for a server that is away

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is a ledger."""

    @abstractmethod
    def create(self, fill: Callable[[sa.Connection], None]) -> None:
        """Make the ledger, whole or not at all: a crash leaves none.

        Args:
            fill: Makes the tables and writes what they hold from the beginning.

        Raises:
            LedgerError: if there is one already.
        """

    @abstractmethod
    def refuse_unsafe(self) -> None:
        """Raise LedgerError where the database would lose what it has acknowledged."""

    @abstractmethod
    def copy_in_memory(self) -> sa.Engine:
        """A private copy of the ledger as it stands; what is written to it is forgotten."""

    @abstractmethod
    def is_outage(self, error: sa.exc.DBAPIError) -> bool:
        """Whether disk or server are to blame for an error, not what they were asked."""

    def is_denied(self, error: sa.exc.DBAPIError) -> bool:
        """Whether who asks has not the right to it."""
        return False

    def describe_error(self, error: sa.exc.DBAPIError) -> str:
        """Why, and what mends it."""
        return str(error.orig)

    def close(self) -> None:
        """Close its connections."""
        self.engine.dispose()

    def clock(self) -> float:
        """Unix time; the same for all who use the ledger, as well as can be known."""
        return time.time()


def in_memory() -> sa.Engine:
    """A database of one connection that ends with it."""
    return sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool, connect_args={"check_same_thread": False})
