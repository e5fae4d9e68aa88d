"""What one decision may write into the ledger."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from search.storage import schema
from search.storage.events import EventKind, check_detail
from search.trial import Metrics, State, Trial

if TYPE_CHECKING:
    from spaces import Config

_KEPT_AS_IT_IS = (  # of a trial: columns of the same names
    *("number", "config", "seed", "adapter_params", "head_params", "reason", "rung"),
    *("n_attempts", "started", "finished", "extends", "planned_epochs"),
)
_KINDS = {
    State.COMPLETE: EventKind.COMPLETED,
    State.PRUNED: EventKind.PRUNED,
    State.FAILED: EventKind.FAILED,
}  # of the event at a trial's end


@dataclass(frozen=True)
class Request:
    """What someone asked of a study, usually from another terminal.

    Attributes:
        number: Counts up in the order of asking.
        time: Unix time.
        who: `user@host:process`.
        verb: `prune`, `pause`, `unpause`, `stop`, `extend`.
        trial: Of which trial, or None for the whole study.
        detail: What the verb needs, and the reason.
        served: When it was answered, None while it waits.
        refusal: Why it could not be done, None when it was done.
    """

    number: int
    time: float
    who: str
    verb: str
    trial: int | None
    detail: Mapping[str, Any]
    served: float | None = None
    refusal: str | None = None


class LedgerWriter:
    """One decision. Only `Ledger.decision` makes one."""

    def __init__(self, connection: sa.Connection, now: float, who: str, n_events: int) -> None:
        self._connection = connection
        self._now = now
        self._who = who
        self.n_events = n_events

    def event(self, kind: EventKind, trial: int | None = None, **detail: Any) -> int:
        """Write one event, as `search.storage.events` defines it, and return its number."""
        check_detail(kind, trial, detail)
        number = self.n_events
        row = {"number": number, "time": self._now, "kind": kind.value, "trial": trial, "who": self._who, "detail": detail}
        self._connection.execute(schema.events.insert().values(**row))
        self.n_events += 1
        return number

    def reject(self, rejections: Iterable[tuple[Config, str]]) -> None:
        """Configurations refused before training, with the reasons."""
        for config, reason in rejections:
            self.event(EventKind.REJECTED, config=config, reason=reason)

    def start(self, trial: Trial) -> Trial:
        """A new trial; returned with its starting time."""
        trial = replace(trial, started=self._now)
        row = {key: getattr(trial, key) for key in _KEPT_AS_IT_IS}
        self._connection.execute(schema.trials.insert().values(**row, state=trial.state.value))
        extension = {} if trial.extends is None else {"extends": trial.extends, "epochs": trial.planned_epochs}
        self.event(EventKind.STARTED, trial.number, config=trial.config, **extension)
        return trial

    def attempt(self, trial: Trial) -> Trial:
        """The trial goes on, on a new worker; returned with its attempts counted up."""
        again = replace(trial, n_attempts=trial.n_attempts + 1)
        self._update(trial, n_attempts=again.n_attempts)
        self.event(EventKind.RESUMED, trial.number, epochs=trial.epochs, n_attempts=again.n_attempts)
        return again

    def report(self, trial: Trial, epoch: int, metrics: Metrics) -> Trial:
        """One more epoch; returned with it."""
        number = self.event(EventKind.REPORTED, trial.number, epoch=epoch)
        row = {"trial": trial.number, "epoch": epoch, "event": number, "metrics": _finite_json(metrics)}
        self._connection.execute(schema.reports.insert().values(**row))
        return replace(trial, epochs=epoch, metrics=dict(metrics))

    def pause(self, trial: Trial, reason: str | None) -> Trial:
        """The trial keeps its checkpoint and gives up its slot; returned as PAUSED."""
        reason = _storable(reason)
        self._update(trial, state=State.PAUSED.value, reason=reason)
        self.event(EventKind.PAUSED, trial.number, **_given(reason=reason))
        return replace(trial, state=State.PAUSED, reason=reason)

    def unpause(self, trial: Trial, reason: str | None) -> Trial:
        """A PAUSED trial may go on; returned as RUNNING."""
        self._update(trial, state=State.RUNNING.value, reason=None)
        self.event(EventKind.UNPAUSED, trial.number, **_given(reason=reason))
        return replace(trial, state=State.RUNNING, reason=None)

    def promote(self, trial: Trial) -> Trial:
        """A trial that a rung had stopped goes on from its checkpoint; returned as RUNNING."""
        self._update(trial, state=State.RUNNING.value, reason=None, rung=None, finished=None, n_attempts=trial.n_attempts + 1)
        self.event(EventKind.PROMOTED, trial.number, epoch=trial.epochs)
        return replace(trial, state=State.RUNNING, reason=None, rung=None, finished=None, n_attempts=trial.n_attempts + 1)

    def finish(
        self, trial: Trial, state: State, *, reason: str | None = None, rung: int | None = None, limit: str | None = None
    ) -> Trial:
        """The end of a trial; returned with its state, reason and finishing time. `limit`: the cost by which it was too dear."""
        reason = _storable(reason)
        self._update(trial, state=state.value, reason=reason, rung=rung, finished=self._now)
        self.event(_KINDS[state], trial.number, **_given(reason=reason, rung=rung, limit=limit))
        return replace(trial, state=state, reason=reason, rung=rung, finished=self._now)

    def answer(self, request: Request, refusal: str | None = None) -> None:
        """A request is answered: done, or refused with the reason."""
        mine = schema.requests.update().where(schema.requests.c.number == request.number)
        self._connection.execute(mine.values(served=self._now, refusal=refusal))
        if refusal is not None:
            self.event(EventKind.REFUSED, request.trial, request=request.verb, reason=refusal)

    def act_for(self, who: str) -> None:
        """Write the events that follow in someone else's name: they tell who asked for it."""
        self._who = who

    def _update(self, trial: Trial, **values: Any) -> None:
        self._connection.execute(schema.trials.update().where(schema.trials.c.number == trial.number).values(**values))


def trial_of(row: Any) -> Trial:
    """A row of `trials` joined with its last report."""
    kept = {key: getattr(row, key) for key in _KEPT_AS_IT_IS}
    return Trial(**kept, state=State(row.state), epochs=row.epoch or 0, metrics=metrics_of(row.metrics))


def metrics_of(kept: Mapping[str, float | None] | None) -> Metrics:
    """Metrics as they were reported; what was not finite is NaN."""
    return {key: math.nan if value is None else value for key, value in (kept or {}).items()}


def _finite_json(metrics: Metrics) -> dict[str, float | None]:
    """JSON has no NaN: a number that is not finite is kept as null and read back as NaN (the trial's reason tells which it was)."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def _storable(text: str | None) -> str | None:
    """What no database takes is written out: PostgreSQL has no NUL in a text, and no encoding has half a surrogate pair."""
    return None if text is None else text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
