"""The writer of one decision in a ledger.

A decision is everything inside one `with ledger.decision() as writer:` block: it becomes durable as a whole, or not at all. The
writer turns a state change of a trial into an event and rows; how rows are kept is the ledger's own (five primitives, below).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from search.storage.events import EventKind, check_detail
from search.storage.rows import Request
from search.trial import Metrics, State, Trial

if TYPE_CHECKING:
    from spaces import Config

_KIND_AT_END = {State.COMPLETE: EventKind.COMPLETED, State.PRUNED: EventKind.PRUNED, State.FAILED: EventKind.FAILED}


class LedgerWriter(ABC):
    """The writer of one decision. Only `Ledger.decision` makes one.

    Args:
        now: Unix time of the decision.
        who: Process that decides: `user@host:process`.
        n_events: Number of events in the ledger, which is the number of the next one.
    """

    def __init__(self, now: float, who: str, n_events: int) -> None:
        self._now = now
        self._who = who
        self.n_events = n_events

    def act_for(self, who: str) -> None:
        """Write the following events in the name of the user who requested them."""
        self._who = who

    def event(self, kind: EventKind, trial: int | None = None, **detail: Any) -> int:
        """Write one event, as `search.storage.events` defines it, and return its number."""
        check_detail(kind, trial, detail)
        number = self.n_events
        self._insert_event(number, kind, trial, detail)
        self.n_events += 1
        return number

    def reject(self, rejections: Iterable[tuple[Config, str]]) -> None:
        """Record configurations that were rejected before training, each with the reason."""
        for config, reason in rejections:
            self.event(EventKind.REJECTED, config=config, reason=reason)

    def start(self, trial: Trial) -> Trial:
        """Add a new trial and return it with its starting time."""
        trial = replace(trial, started=self._now)
        self._insert_trial(trial)
        extension = {} if trial.extends is None else {"extends": trial.extends, "epochs": trial.planned_epochs}
        self.event(EventKind.STARTED, trial.number, config=trial.config, **extension)
        return trial

    def attempt(self, trial: Trial) -> Trial:
        """Give a trial to a new worker and return it with one attempt more."""
        trial = self._changed(trial, n_attempts=trial.n_attempts + 1)
        self.event(EventKind.RESUMED, trial.number, epochs=trial.epochs, n_attempts=trial.n_attempts)
        return trial

    def report(self, trial: Trial, epoch: int, metrics: Metrics) -> Trial:
        """Add an epoch and return the trial with it."""
        event = self.event(EventKind.REPORTED, trial.number, epoch=epoch)
        self._insert_report(trial.number, epoch, event, metrics)
        return replace(trial, epochs=epoch, metrics=trial.metrics if trial.runs else dict(metrics))

    def pause(self, trial: Trial, reason: str | None) -> Trial:
        """Pause a trial, which keeps its checkpoint and frees its slot; return it as PAUSED."""
        trial = self._changed(trial, state=State.PAUSED, reason=_storable(reason))
        self.event(EventKind.PAUSED, trial.number, **_given(reason=trial.reason))
        return trial

    def unpause(self, trial: Trial, reason: str | None) -> Trial:
        """Let a PAUSED trial continue; return it as RUNNING."""
        trial = self._changed(trial, state=State.RUNNING, reason=None)
        self.event(EventKind.UNPAUSED, trial.number, **_given(reason=_storable(reason)))
        return trial

    def promote(self, trial: Trial) -> Trial:
        """Resume a trial that was pruned at a rung from its checkpoint; return it as RUNNING."""
        n_attempts = trial.n_attempts + 1
        trial = self._changed(trial, state=State.RUNNING, reason=None, rung=None, finished=None, n_attempts=n_attempts)
        self.event(EventKind.PROMOTED, trial.number, epoch=trial.epochs)
        return trial

    def continue_(self, trial: Trial, *, seed: int, fold: int) -> Trial:
        """Train a complete trial again from its beginning; return it as RUNNING."""
        trial = self._changed(trial, state=State.RUNNING, finished=None, n_attempts=trial.n_attempts + 1)
        trial = trial.with_runs(trial.runs or [trial.metrics])
        self.event(EventKind.CONTINUED, trial.number, run=trial.run, seed=seed, fold=fold)
        return trial

    def finish(
        self, trial: Trial, state: State, *, reason: str | None = None, rung: int | None = None, limit: str | None = None
    ) -> Trial:
        """End a trial and return it with its state, reason and finishing time.

        Args:
            trial: Trial to end.
            state: New state: COMPLETE, PRUNED or FAILED.
            reason: Reason why it was pruned or failed.
            rung: Rung at which it was pruned, in epochs.
            limit: Cost that exceeded its limit.
        """
        trial = self._changed(trial, state=state, reason=_storable(reason), rung=rung, finished=self._now)
        runs = len(trial.runs) or None
        self.event(_KIND_AT_END[state], trial.number, **_given(reason=trial.reason, rung=rung, limit=limit, runs=runs))
        return trial

    def answer(self, request: Request, refusal: str | None = None) -> None:
        """Mark a request as carried out, or as refused with the reason."""
        self._answer_request(request.number, refusal)
        if refusal is not None:
            self.event(EventKind.REFUSED, request.trial, request=request.verb, reason=refusal)

    def _changed(self, trial: Trial, **values: Any) -> Trial:
        """Change columns of a trial's row; return the trial with them."""
        self._update_trial(trial.number, values)
        return replace(trial, **values)

    # -- storing rows --------------------------------------------------------------------------------------------------

    @abstractmethod
    def _insert_event(self, number: int, kind: EventKind, trial: int | None, detail: Mapping[str, Any]) -> None:
        """Add a row of `events`."""

    @abstractmethod
    def _insert_trial(self, trial: Trial) -> None:
        """Add a row of `trials`."""

    @abstractmethod
    def _update_trial(self, number: int, values: Mapping[str, Any]) -> None:
        """Change columns of a row of `trials`."""

    @abstractmethod
    def _insert_report(self, trial: int, epoch: int, event: int, metrics: Metrics) -> None:
        """Add a row of `reports`; a number that is not finite is read back as NaN."""

    @abstractmethod
    def _answer_request(self, number: int, refusal: str | None) -> None:
        """Set the answer in a row of `requests`."""


def finite_or_none(metrics: Metrics) -> dict[str, float | None]:
    """Return metrics as JSON values: JSON has no NaN, so a number that is not finite becomes null."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def none_to_nan(stored: Mapping[str, float | None] | None) -> Metrics:
    """Return metrics as they were reported; a number that was not finite is NaN."""
    return {key: math.nan if value is None else value for key, value in (stored or {}).items()}


def _storable(text: str | None) -> str | None:
    r"""Escape what no database stores: PostgreSQL has no NUL in a text, and no encoding has half a surrogate pair."""
    return None if text is None else text.encode(errors="backslashreplace").decode().replace("\0", "\\x00")


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
