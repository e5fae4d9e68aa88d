"""The events of a ledger: every kind, who writes it, what it holds, and what a replay does with it.

An event is one line of a study's history. It is written in the transaction of the decision that it tells of, is never changed, and
is numbered without a gap. Opening a study replays all events in their order, which rebuilds trials, front, rungs and sampler; this
is why `EVENTS` defines the most important format of the project. Ledgers of every version hold these kinds and details: a kind or a
key may be added, none may change its meaning.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class EventKind(enum.StrEnum):
    """The kind of an event, as the ledger stores it."""

    OPENED = "opened"
    LEFT = "left"
    STARTED = "started"
    RESUMED = "resumed"
    RESTARTED = "restarted"
    REPORTED = "reported"
    COMPLETED = "completed"
    PRUNED = "pruned"
    FAILED = "failed"
    PROMOTED = "promoted"
    CONTINUED = "continued"
    CONFIRMING = "confirming"
    PAUSED = "paused"
    UNPAUSED = "unpaused"
    STOPPING = "stopping"
    LOST = "lost"
    MOVED = "moved"
    REJECTED = "rejected"
    REFUSED = "refused"
    ENDED = "ended"
    EXTENDED = "extended"
    WIDENED = "widened"
    PINNED = "pinned"
    MEASURED = "measured"


class Subject(enum.StrEnum):
    """The subject of an event."""

    STUDY = "the study"
    TRIAL = "a trial"
    EITHER = "a trial, or the study"


@dataclass(frozen=True)
class EventSpec:
    """The definition of one kind of event.

    Attributes:
        subject: Subject of the event; an event about the study has no trial number.
        writer: Writer of the event: a method, by its import path.
        meaning: Meaning of the event, in one sentence.
        replay: Effect of the event in a replay; None for an event that a replay ignores.
        required: Keys of `detail` that every event of the kind has, each with its meaning.
        optional: Keys that only some events have.
        open: True if `detail` may have other keys (measured costs).
    """

    subject: Subject
    writer: str
    meaning: str
    replay: str | None = None
    required: Mapping[str, str] = field(default_factory=dict)
    optional: Mapping[str, str] = field(default_factory=dict)
    open: bool = False


_WRITER = "search.storage.writer.LedgerWriter"
_STUDY = "search.study.study.Study"
_SESSION = "search.study.session.Session"
_WHY = {"reason": "why, in words"}
_REASON = {"reason": "what the user gave as the reason"}

EVENTS: Mapping[EventKind, EventSpec] = {
    EventKind.OPENED: EventSpec(
        Subject.STUDY,
        f"{_SESSION}.__init__",
        "A driver has opened the study.",
        replay="starts the clock of a driver: the time since the previous event is not counted",
        optional={
            "version": "the driver's version of Paretune, which knows every kind in the ledger at that moment",
            "mark": "the token in `study.json`, next to checkpoints that are outside the study's folder",
        },
    ),
    EventKind.LEFT: EventSpec(
        Subject.STUDY,
        f"{_STUDY}.leave",
        "A driver has left the study by itself; a driver that was killed leaves without a word.",
        required={"reason": "finished, stopped by a user, interrupted, or an error"},
    ),
    EventKind.STARTED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.start",
        "A trial was created and given to a worker.",
        replay="adds the trial; tells the sampler its configuration, unless it extends another trial",
        required={"config": "its configuration"},
        optional={"extends": "the trial whose checkpoint it continues from", "epochs": "its epochs in all, if it extends"},
    ),
    EventKind.RESUMED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.attempt",
        "A RUNNING trial without a worker was given to one.",
        required={"epochs": "epochs reported so far", "n_attempts": "workers that it has had, this one included"},
    ),
    EventKind.RESTARTED: EventSpec(
        Subject.TRIAL,
        "search.study.next_trial.NextTrial.start",
        "A trial's checkpoint is gone, or does not fit the ledger: it trains from its first epoch again; its reports stay.",
        required=_WHY,
    ),
    EventKind.REPORTED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.report",
        "A trial has finished an epoch; the metrics are a row of `reports`.",
        replay="shows the epoch to rungs and sampler, if all its numbers are finite and within the limits",
        required={"epoch": "which one, counted from 1; those of a further run follow those of the run before"},
    ),
    EventKind.COMPLETED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.finish",
        "A trial has trained all its epochs; or a further run has ended, and what is complete counts.",
        replay="sets the state; adds the trial to the front, or changes its place there; tells the sampler",
        optional={"reason": "why its last run ended early, and no other follows", "runs": "complete runs, if it was trained again"},
    ),
    EventKind.PRUNED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.finish",
        "A trial was stopped early: at a rung, by a limit, or by a user.",
        replay="sets the state; tells the sampler",
        required=_WHY,
        optional={"rung": "the epoch of the rung", "limit": "the cost that was too high"},
    ),
    EventKind.FAILED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.finish",
        "A trial has ended by an error, a number that is not finite, or too many lost workers.",
        replay="sets the state; tells the sampler",
        required=_WHY,
    ),
    EventKind.PROMOTED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.promote",
        "A trial that was pruned at a rung runs again.",
        replay="sets the state; tells the sampler",
        required={"epoch": "the epoch that it continues from"},
    ),
    EventKind.CONTINUED: EventSpec(
        Subject.TRIAL,
        f"{_WRITER}.continue_",
        "A complete trial is trained again from its beginning, on another fold or from another seed.",
        replay="sets the state; what is complete stays on the front",
        required={"run": "which one, counted from 1", "seed": "its seed", "fold": "the part of the pool that validates"},
    ),
    EventKind.CONFIRMING: EventSpec(
        Subject.STUDY,
        "search.study.next_run.NextRun.stop_searching",
        "No new configuration is started; the rest of the budget goes to further runs.",
        replay="ends the search for configurations, until an `extended` follows",
        required=_WHY,
    ),
    EventKind.PAUSED: EventSpec(
        Subject.EITHER,
        f"{_WRITER}.pause",
        "A user has paused a trial, which frees its slot, or the study, which then starts nothing new.",
        replay="sets the state of the trial, or of the study",
        optional=_REASON,
    ),
    EventKind.UNPAUSED: EventSpec(
        Subject.EITHER,
        f"{_WRITER}.unpause",
        "A user has let a paused trial, or the study, continue.",
        replay="sets the state of the trial, or of the study",
        optional=_REASON,
    ),
    EventKind.STOPPING: EventSpec(
        Subject.STUDY,
        "search.study.user_requests.carry_out",
        "A user has stopped the driver. The next driver continues, so a replay ignores it.",
        optional={"now": "whether running trials were left at their checkpoints", **_REASON},
    ),
    EventKind.LOST: EventSpec(
        Subject.TRIAL,
        "search.study.trial_ends.TrialEnds.worker_lost",
        "A trial has lost its worker and waits for another.",
        replay="counts the loss, which decides about the next one and about the share of a GPU",
        required={"loss": "DEATH or MEMORY", "goes_on": "how it continues, in words", **_WHY},
        optional={"gpus": "the share of a GPU that it gets from now on, if that has changed"},
    ),
    EventKind.MOVED: EventSpec(
        Subject.TRIAL,
        "search.study.trial_ends.TrialEnds.requeue",
        "A trial has left its worker without a fault and waits for another.",
        required={"goes_on": "how it continues, in words", **_WHY},
    ),
    EventKind.REJECTED: EventSpec(
        Subject.STUDY,
        f"{_WRITER}.reject",
        "A configuration was refused before training; it is no trial.",
        replay="tells the sampler",
        required={"config": "the configuration", **_WHY},
    ),
    EventKind.REFUSED: EventSpec(
        Subject.EITHER,
        f"{_WRITER}.answer",
        "A user's request was refused; nothing has changed.",
        required={"request": "its verb", **_WHY},
    ),
    EventKind.ENDED: EventSpec(
        Subject.STUDY,
        f"{_SESSION}.end",
        "The study starts nothing new, although the budget has trials left.",
        replay="ends the study, until an `extended` follows",
        required=_WHY,
    ),
    EventKind.EXTENDED: EventSpec(
        Subject.STUDY,
        "search.study.extending.extend",
        "The budget was enlarged.",
        replay="overlays the budget; an ended study continues; patience (`budget.stall_trials`) begins again",
        optional={
            "n_trials": "the new `budget.n_trials`",
            "max_hours": "the new `budget.max_hours`",
            "until": "the new `budget.until`",
            "stall_trials": "the new `budget.stall_trials`",
        },
    ),
    EventKind.WIDENED: EventSpec(
        Subject.STUDY,
        "search.study.extending.extend",
        "The space was widened.",
        replay="replaces the study file, before anything else is replayed",
        required={"file": "the new study file, resolved"},
    ),
    EventKind.PINNED: EventSpec(
        Subject.STUDY,
        f"{_STUDY}.pin",
        "Data and weights of a study were recorded: it began before that was done at once, or its data have moved.",
        replay="replaces the fact `pinned`, before anything else is replayed",
        required={"rules": "version of the rules for data sets", "data": "digest of the listing of the data", "weights": "digest"},
        optional={
            "path": "the new `data.path` of an equal data set that has moved",
            "methods": "digest of the code of each method that the user brought",
            "watched": "digest of each watched data set",
        },
    ),
    EventKind.MEASURED: EventSpec(
        Subject.TRIAL,
        "search.workflows.latency.measure",
        "The costs of a trial were measured after the search (`paretune cost`). Only what is shown uses it.",
        open=True,
    ),
}


def check_detail(kind: EventKind, trial: int | None, detail: Mapping[str, Any]) -> None:
    """Refuse to write an event that does not follow its definition, so that a bug of ours is found where it occurs.

    Raises:
        ValueError: If the event's subject or one of its keys does not follow `EVENTS`.
    """
    spec = EVENTS[kind]
    if spec.subject is not Subject.EITHER and (trial is None) is not (spec.subject is Subject.STUDY):
        raise ValueError(f"an event {kind.value!r} is about {spec.subject.value}, got trial {trial}")
    if missing := [key for key in spec.required if key not in detail]:
        raise ValueError(f"an event {kind.value!r} has no {missing[0]!r}; see search.storage.events")
    if not spec.open and (unknown := [key for key in detail if key not in spec.required and key not in spec.optional]):
        raise ValueError(f"an event {kind.value!r} has no key {unknown[0]!r}; see search.storage.events")
