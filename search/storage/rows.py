"""The rows of a ledger as values, the same for every kind of ledger."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from search.errors import LedgerError
from search.metrics import METRICS, Metric
from search.storage.events import EventKind
from search.storage.facts import Facts, read_facts
from search.trial import PARAMETERS, Metrics, State, Trial


@dataclass(frozen=True)
class Event:
    """One line of a study's history; `search.storage.events` defines every kind and its detail.

    Attributes:
        number: Position in the history, counted from 0 without a gap.
        time: Unix time of the decision.
        kind: Kind of the event.
        trial: Number of the trial; None for an event about the study.
        who: Process that decided it, or user who requested it, as `user@host:process`.
        detail: Details, as JSON values.
    """

    number: int
    time: float
    kind: EventKind
    trial: int | None
    who: str
    detail: Mapping[str, Any]


@dataclass(frozen=True)
class Pause:
    """The pause of a study by a user, during which nothing new starts.

    Attributes:
        who: User, as `user@host:process`.
        since: Unix time.
        reason: Reason of the user, or None.
    """

    who: str
    since: float
    reason: str | None = None

    @classmethod
    def after(cls, event: Event, before: Pause | None) -> Pause | None:
        """Return the pause after an event of the study, given the one before it."""
        if event.trial is not None or event.kind not in (EventKind.PAUSED, EventKind.UNPAUSED):
            return before
        return cls(event.who, event.time, event.detail.get("reason")) if event.kind is EventKind.PAUSED else None

    def words(self, study: str) -> str:
        """Return who paused the study and since when, with the command that ends it."""
        since = datetime.fromtimestamp(self.since).astimezone()
        today = since.date() == datetime.now().astimezone().date()
        told = f"paused by {self.who.partition('@')[0]} since {since:{'%H:%M' if today else '%Y-%m-%d %H:%M'}}"
        return f"{told}{f' ({self.reason})' if self.reason else ''}; paretune unpause {study}"


@dataclass(frozen=True)
class Report:
    """One epoch of one trial.

    Attributes:
        trial: Number of the trial.
        epoch: Number of the epoch, counted from 1.
        time: Unix time of arrival.
        event: Number of its event `reported`.
        metrics: Metrics of the epoch; a number that was not finite is NaN.
    """

    trial: int
    epoch: int
    time: float
    event: int
    metrics: Metrics


@dataclass(frozen=True)
class Counts:
    """The numbers of a study's trials.

    Attributes:
        of_state: Number of trials in each state that some trial has, in the order of their first trials.
        n_searched: Number of trials that count against `budget.n_trials`: all but those that extend another one.
    """

    of_state: Mapping[State, int]
    n_searched: int

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> Counts:
        """Count trials."""
        trials = list(trials)
        return cls(Counter(trial.state for trial in trials), sum(trial.extends is None for trial in trials))

    @property
    def n_trials(self) -> int:
        """The number of all trials."""
        return sum(self.of_state.values())

    @property
    def all_finished(self) -> bool:
        """True if nothing more will happen to any trial by itself."""
        return all(state.finished for state in self.of_state)


@dataclass(frozen=True)
class Request:
    """A request from a user to a study, usually from another terminal.

    Attributes:
        number: Position among the requests.
        time: Unix time of the request.
        who: User who requested it, as `user@host:process`.
        verb: Requested action: `prune`, `pause`, `unpause`, `stop` or `extend`.
        trial: Number of the trial; None for the whole study.
        detail: Parameters of the verb, and the reason.
        served: Unix time of the answer; None while it waits.
        refusal: Reason why it was refused; None if it was carried out.
    """

    number: int
    time: float
    who: str
    verb: str
    trial: int | None
    detail: Mapping[str, Any]
    served: float | None = None
    refusal: str | None = None


def objectives_of(file: Mapping[str, Any]) -> tuple[str, str]:
    """Return both objectives of a stored study file, which the first versions did not write.

    Raises:
        LedgerError: If the first is a metric of a newer version.
    """
    objective, against = file.get("objectives", (Trial.objective, Trial.against))
    if objective not in METRICS:
        raise LedgerError(f"the study is judged by {objective}, which this Paretune does not know; use a newer version")
    return str(objective), str(against)


def objectives_among(trials: Iterable[Trial]) -> list[tuple[int, float, float]]:
    """Return (number, score, size) of the trials that are compared on the front, and have reported both objectives."""
    complete = [trial for trial in trials if trial.is_complete and trial.planned_epochs is None]
    found = [(trial.number, *trial.objectives) for trial in complete if trial.against in (*PARAMETERS, *trial.metrics)]
    return [one for one in found if math.isfinite(one[1]) and math.isfinite(one[2])]


@dataclass(frozen=True)
class StudyRow:
    """The properties that are fixed when a study is created. Only its space can be widened, and its budget extended.

    Attributes:
        name: Name of the study.
        uid: Unique id, which distinguishes it from another study of the same name.
        created: Unix time of its creation.
        file: Resolved study file of its creation, or of the last widening.
        stored_facts: Facts as the ledger stores them; read them as `facts`.
        budget: Budget of the file, with the changes of `extended` events.
    """

    name: str
    uid: str
    created: float
    file: Mapping[str, Any]
    stored_facts: Mapping[str, Any]
    budget: Mapping[str, Any]

    def changed_by(self, kind: str, detail: Mapping[str, Any]) -> StudyRow:
        """Return these properties after an event: `widened`, `extended` or `pinned`; others change nothing."""
        if kind == EventKind.WIDENED:
            return replace(self, file=detail["file"], budget=dict(detail["file"]["budget"]))
        if kind == EventKind.EXTENDED:
            return replace(self, budget={**self.budget, **detail})
        if kind == EventKind.PINNED:
            pinned = {key: value for key, value in detail.items() if key != "path"}
            moved = replace(self, stored_facts={**self.stored_facts, "pinned": pinned})
            if (path := detail.get("path")) is None:
                return moved
            return replace(moved, file={**self.file, "data": {**self.file["data"], "path": path}})
        return self

    @cached_property
    def facts(self) -> Facts:
        """The values that were measured when the study was created.

        Raises:
            LedgerError: If the ledger's facts are damaged.
        """
        return read_facts(self.stored_facts, self.name)

    @property
    def against(self) -> str:
        """The second objective, weighed against accuracy."""
        return objectives_of(self.file)[1]

    @property
    def metric(self) -> Metric:
        """The metric of the first objective."""
        return METRICS[objectives_of(self.file)[0]]

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
