"""Where a study stands, and what its events say about it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import replace

from search.storage.events import EventKind
from search.storage.rows import Event, StudyRow
from search.trial import Trial


class StudyState(enum.StrEnum):
    """Where a study stands."""

    RUNNING = "RUNNING"  # a driver is at work
    FINISHED = "FINISHED"  # nothing runs and nothing more will start
    INTERRUPTED = "INTERRUPTED"  # its driver is gone before the end; run it again and it goes on


def find_state(record: StudyRow, trials: Sequence[Trial], *, ended: bool, owner: str | None) -> StudyState:
    """Where a study stands, from what its ledger says.

    Args:
        record: The study.
        trials: All its trials.
        ended: Whether the budget ended before all trials were started (hours, a front that stands still, an exhausted space).
        owner: The driver at work, or None.
    """
    all_started = ended or sum(trial.extends is None for trial in trials) >= int(record.budget["n_trials"])
    if all_started and all(trial.state.finished for trial in trials):
        return StudyState.FINISHED
    return StudyState.RUNNING if owner is not None else StudyState.INTERRUPTED


def ended_by(events: Iterable[Event], before: str | None = None) -> str | None:
    """Why nothing new starts although trials are left in the budget; None if it does. `before`: what earlier events said."""
    for event in events:
        if event.kind in (EventKind.ENDED, EventKind.EXTENDED):
            before = event.detail.get("reason")  # an extension has none: the study goes on
    return before


def measured_by(event: Event) -> dict[str, float]:
    """The costs that a `measured` event holds beside how they were measured."""
    return {key: value for key, value in event.detail.items() if key.startswith("cost/")}


def with_measured(trials: Iterable[Trial], events: Iterable[Event]) -> list[Trial]:
    """The trials with what was measured of them after their end (`paretune cost`) among their metrics; what they reported stays."""
    found = {event.trial: measured_by(event) for event in events if event.kind is EventKind.MEASURED}
    return [replace(t, metrics={**found[t.number], **t.metrics}) if t.number in found else t for t in trials]
