"""The ledger: the durable history of a study, and the one truth about it. This file says what every ledger can do.

`search.storage.sql_ledger.SqlLedger` keeps one in SQLite or PostgreSQL, `search.storage.in_memory.InMemoryLedger` in the memory of
a process. Both pass the same conformance suite (`tests/search/storage/test_ledger_laws.py`), so a study cannot tell them apart.

**The life of a ledger.** It is created with its study, already claimed by the creating driver, and never deleted by Paretune.
A driver that opens it later claims it: from then on it is the *owner*, the only one that may write decisions. While it drives the
study it calls `beat` every two seconds, from a thread of its own, to keep its lease. For each decision it opens a `decision`,
writes events through the writer that it gets, and leaves the block: the decision is then durable, or, if the block raised, as if
it had never begun. At the end it calls `close`, which gives the study back.

**Readers** need no claim, may come at any time, from any process, and never wait for the owner. They follow a study by asking for
the `events` and `reports` *after* the last number that they have seen.

**Users** ask the owner for something (`ask_for`); the request is durable before the command returns. The owner reads the requests
that wait, and answers each in a decision of its own.

**Threads.** All methods may be called from several threads, but one decision at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from search.storage.rows import Event, Report, Request, StudyRow
from search.storage.writer import LedgerWriter
from search.trial import Trial


class Ledger(Protocol):
    """The ledger of one study."""

    # -- reading -------------------------------------------------------------------------------------------------------

    def study(self) -> StudyRow:
        """Read what was fixed when the study was made, with its space and budget as they are now."""

    def trials(self) -> list[Trial]:
        """Read all trials in the order of their numbers, each with its last epoch's metrics."""

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Read epochs in the order of arrival.

        Args:
            trial: The number of the only trial to read; None for all.
            after: The number of an event: only epochs reported after it are read.
        """

    def events(self, *, after: int = -1) -> list[Event]:
        """Read the history in its order.

        Args:
            after: The number of an event: only later ones are read.
        """

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """Read what users asked for, in order.

        Args:
            waiting: True for those only that have no answer yet.
        """

    def owner(self) -> str | None:
        """Return who drives the study now, as `process 12 on host`; None if no driver is alive."""

    def now(self) -> float:
        """Read the ledger's clock, in Unix seconds. All who use the ledger read the same one."""

    # -- owning --------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Become the owner.

        Raises:
            OwnedElsewhere: A live driver owns the study.
            LedgerError: The ledger is where data would be lost, or a newer Paretune has migrated it.
        """

    def beat(self) -> bool:
        """Renew the lease; return whether the study is still ours."""

    def close(self) -> None:
        """Give the study back, if it is ours, and release what the ledger holds of the machine."""

    # -- writing -------------------------------------------------------------------------------------------------------

    def decision(self) -> AbstractContextManager[LedgerWriter]:
        """Begin a decision: what the block writes is durable when it ends, or not written at all if it raises.

        Raises:
            LedgerError: The ledger was not claimed.
            OwnedElsewhere: Another driver has taken the study over; nothing is written.
            OutOfReach: The disk is full or gone, or the server does not answer.
        """

    def ask_for(
        self, verb: str, trials: Sequence[int | None], detail: Mapping[str, Any], check: Callable[[list[Trial]], None]
    ) -> list[int]:
        """Ask the owner for something: one request per trial, all of them or none.

        Args:
            verb: What is asked for: `prune`, `pause`, `unpause`, `stop` or `extend`.
            trials: Numbers of trials; None for the whole study.
            detail: What the verb needs, and the reason; JSON values.
            check: Gets all trials, and raises what is wrong with the request; nothing is written then.

        Returns:
            The requests' numbers.
        """
