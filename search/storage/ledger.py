"""The ledger: the durable history of a study, and its single source of truth. This file defines the operations of every ledger.

`search.storage.sql_ledger.SqlLedger` keeps one in SQLite or PostgreSQL, `search.storage.in_memory.InMemoryLedger` in the memory of
a process. Both pass the same conformance suite (`tests/search/storage/test_ledger_laws.py`), so a study cannot tell them apart.

**The life of a ledger.** It is created with its study, already claimed by the creating driver, and never deleted by Paretune.
A driver that opens it later claims it: from then on it is the *owner*, the only one that may write decisions. While it drives the
study it calls `beat` every two seconds, from a thread of its own, to keep its lease. For each decision it opens a `decision`,
writes events through the writer that it gets, and leaves the block: the decision is then durable, or, if the block raised, as if
it had never begun. At the end it calls `close`, which gives the study back.

**Readers** need no claim, may come at any time, from any process, and never wait for the owner. They follow a study by asking for
the `events` and `reports` *after* the last number that they have seen.

**Users** send requests to the owner (`ask_for`); a request is durable before the command returns. The owner reads the waiting
requests, and answers each in a decision of its own.

**Threads.** All methods may be called from several threads, but one decision at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from search.storage.events import EventKind
from search.storage.rows import Counts, Event, Report, Request, StudyRow
from search.storage.writer import LedgerWriter
from search.trial import State, Trial


class Ledger(Protocol):
    """The ledger of one study.

    Attributes:
        is_durable: True if the history outlives the process. A study in memory neither reads nor changes checkpoints and stop
            flags, which are those of the real study of its name.
    """

    is_durable: ClassVar[bool]

    # -- reading -------------------------------------------------------------------------------------------------------

    def study(self) -> StudyRow:
        """Read the fixed properties of the study, with its current space and budget."""

    def trials(self, numbers: Collection[int] | None = None) -> list[Trial]:
        """Read trials in the order of their numbers, each with its last epoch's metrics.

        Args:
            numbers: Trials to read, which may not exist; None for all.
        """

    def counts(self) -> Counts:
        """Count the trials by their states."""

    def numbers(self, state: State, *, extended: bool = False) -> list[int]:
        """Read the numbers of the trials in a state, in their order.

        Args:
            state: State of the trials.
            extended: True for only those with more epochs than the budget's.
        """

    def objectives(self) -> list[tuple[int, float, float]]:
        """Read (number, score, size) of the COMPLETE trials that are compared on the front, in the order of their numbers.

        The score is that of the first objective (`search.metrics`), the size is the second. A trial that has not reported them
        is left out.
        """

    def states(self, numbers: Collection[int] | None = None) -> dict[int, State]:
        """Read the states of trials, and nothing else of them.

        Args:
            numbers: Trials to read, which may not exist; None for all.
        """

    def reports(self, *, trial: int | None = None, after: int = -1) -> list[Report]:
        """Read epochs in the order of arrival.

        Args:
            trial: Number of the only trial to read; None for all.
            after: Number of an event; only epochs reported after it are read.
        """

    def events(self, *, after: int = -1, kinds: Collection[EventKind] | None = None) -> list[Event]:
        """Read the history in its order.

        Args:
            after: Number of an event; only later events are read.
            kinds: Kinds of events to read; None for all.

        Raises:
            LedgerError: If `kinds` is None and the history has an event of a kind that this Paretune does not know.
        """

    def n_reports(self, *, since: float) -> int:
        """Count the epochs that were reported at a time or later, in Unix seconds of the ledger's clock, among the last events."""

    def requests(self, *, waiting: bool = False) -> list[Request]:
        """Read the requests of users, in order.

        Args:
            waiting: True for only those that have no answer yet.
        """

    def owner(self) -> str | None:
        """Return the driver of the study, as `process 12 on host`; None if no driver is alive."""

    def now(self) -> float:
        """Read the ledger's clock, in Unix seconds; all users of the ledger read the same clock."""

    # -- owning --------------------------------------------------------------------------------------------------------

    def claim(self) -> None:
        """Become the owner.

        Raises:
            OwnedElsewhere: If a live driver owns the study.
            LedgerError: If the ledger is on a storage that loses data, or a newer Paretune has migrated it.
        """

    def beat(self) -> bool:
        """Renew the lease; return whether the study is still ours."""

    def close(self) -> None:
        """Release the study, if it is ours, and the resources of the ledger."""

    # -- writing -------------------------------------------------------------------------------------------------------

    def decision(self) -> AbstractContextManager[LedgerWriter]:
        """Begin a decision: its changes are durable when the block ends, or not written at all if it raises.

        Raises:
            LedgerError: If the ledger was not claimed.
            OwnedElsewhere: If another driver has taken the study over; nothing is written.
            OutOfReach: If the disk is full or gone, or the server does not answer.
        """

    def ask_for(
        self, verb: str, trials: Sequence[int | None], detail: Mapping[str, Any], check: Callable[[Mapping[int, State], int], None]
    ) -> list[int]:
        """Send a request to the owner: one per trial, all of them or none.

        Args:
            verb: Requested action: `prune`, `pause`, `unpause`, `stop` or `extend`.
            trials: Numbers of trials; None for the whole study.
            detail: Parameters of the verb, and the reason; JSON values.
            check: Function that receives the states of these trials, as far as they exist, and the number of all trials. It raises
                an error if the request is invalid; nothing is written then.

        Returns:
            The numbers of the requests.
        """
