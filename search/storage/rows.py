"""The rows of a ledger as values: what every ledger gives back, whichever database it is in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from search.storage.events import EventKind
from search.storage.facts import Facts, read_facts
from search.trial import Metrics, Trial


@dataclass(frozen=True)
class Event:
    """One line of a study's history; `search.storage.events` defines every kind and its detail.

    Attributes:
        number: Its place in the history, counted from 0 without a gap.
        time: Unix time of the decision.
        kind: What has happened.
        trial: The trial's number; None for an event about the study.
        who: `user@host:process` of who decided it, or who asked for it.
        detail: JSON values.
    """

    number: int
    time: float
    kind: EventKind
    trial: int | None
    who: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """One epoch of one trial.

    Attributes:
        trial: The trial's number.
        epoch: The epoch, counted from 1.
        time: Unix time of arrival.
        event: The number of its event `reported`.
        metrics: The epoch's metrics; a number that was not finite is NaN.
    """

    trial: int
    epoch: int
    time: float
    event: int
    metrics: Metrics


@dataclass(frozen=True)
class Request:
    """What a user asked of a study, usually from another terminal.

    Attributes:
        number: Its place among the requests.
        time: Unix time.
        who: `user@host:process`.
        verb: `prune`, `pause`, `unpause`, `stop` or `extend`.
        trial: The trial's number; None for the whole study.
        detail: What the verb needs, and the reason.
        served: Unix time of the answer; None while it waits.
        refusal: The reason why it was refused; None if it was carried out.
    """

    number: int
    time: float
    who: str
    verb: str
    trial: int | None
    detail: Mapping[str, Any]
    served: float | None = None
    refusal: str | None = None


@dataclass(frozen=True)
class StudyRow:
    """What is fixed when a study is made. Only its space can be widened, and its budget extended.

    Attributes:
        name: The study's name.
        uid: Tells it from another study of the same name.
        created: Unix time.
        file: The resolved study file that it was made from, or widened to since.
        stored_facts: What was measured then, as the ledger stores it; read it as `facts`.
        budget: The file's `budget` with what `extended` events have changed since.
    """

    name: str
    uid: str
    created: float
    file: Mapping[str, Any]
    stored_facts: Mapping[str, Any]
    budget: Mapping[str, Any]

    @cached_property
    def facts(self) -> Facts:
        """What was measured when the study was made.

        Raises:
            LedgerError: The ledger's facts are damaged.
        """
        return read_facts(self.stored_facts, self.name)

    @property
    def against(self) -> str:
        """The second objective: what accuracy is weighed against."""
        return str(self.file.get("objectives", (..., Trial.against))[1])

    @property
    def limits(self) -> str:
        """The limits of size and costs in words: `adapters up to 50,000 parameters, cost/gflops up to 1.2`."""
        others = [f"{key} up to {value:,.6g}" for key, value in self.budget.get("limits", {}).items()]
        return ", ".join([f"adapters up to {self.facts.max_params:,} parameters", *others])

    @property
    def finalizes(self) -> str | None:
        """The uid of the study whose front this ledger's trials retrain; None for a study."""
        uid: str | None = self.stored_facts.get("of")
        return uid
