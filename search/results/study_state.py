"""The state of a study, and what its events say about it."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import replace

from search.storage.events import EventKind
from search.storage.rows import Counts, Event, StudyRow
from search.storage.runs import is_repeated
from search.trial import Trial


class StudyState(enum.StrEnum):
    """The state of a study."""

    RUNNING = "RUNNING"  # a driver is running it
    FINISHED = "FINISHED"  # nothing runs and nothing more will start
    INTERRUPTED = "INTERRUPTED"  # its driver ended early; running it again resumes it


def find_state(record: StudyRow, counts: Counts, *, ended: bool, owner: str | None) -> StudyState:
    """Return the state of a study, from the content of its ledger.

    Args:
        record: Row of the study.
        counts: Numbers of its trials.
        ended: True if the budget ended before all trials were started (hours, a front without progress, an exhausted space).
        owner: Driver that is running it, or None.
    """
    n_trials = record.budget["n_trials"]  # None if only hours end the study
    confirms = is_repeated(record.file) and record.budget.get("confirm") != 0  # further runs follow, until the study is ended
    all_started = ended or (n_trials is not None and counts.n_searched >= int(n_trials) and not confirms)
    if all_started and counts.all_finished:
        return StudyState.FINISHED
    return StudyState.RUNNING if owner is not None else StudyState.INTERRUPTED


def ended_by(events: Iterable[Event], before: str | None = None) -> str | None:
    """Return why no new trial starts although the budget has some left, or None; `before` is the answer of earlier events."""
    for event in events:
        if event.kind in (EventKind.ENDED, EventKind.EXTENDED):
            before = event.detail.get("reason")  # an extension has no reason: the study continues
    return before


def measured_by(event: Event) -> dict[str, float]:
    """Return the costs in a `measured` event, without the conditions of the measurement."""
    return {key: value for key, value in event.detail.items() if key.startswith("cost/")}


def with_measured(trials: Iterable[Trial], events: Iterable[Event]) -> list[Trial]:
    """Return the trials with costs measured after their end (`paretune cost`) in their metrics; reported metrics have priority."""
    found = {event.trial: measured_by(event) for event in events if event.kind is EventKind.MEASURED}
    return [replace(t, metrics={**found[t.number], **t.metrics}) if t.number in found else t for t in trials]
