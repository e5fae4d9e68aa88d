"""The laws of every ledger, in SQLite, on a PostgreSQL server and in memory: a study cannot tell them apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from search.errors import LedgerError
from search.storage.address import Address
from search.storage.events import EventKind
from search.storage.in_memory import InMemoryLedger
from search.storage.ledger import Ledger
from search.storage.location import LedgerLocation
from search.storage.rows import Counts, Event, Report, Request
from search.storage.sql_ledger import SqlLedger
from search.trial import State, Trial

FILE: dict[str, Any] = {"objectives": ["val/top1", "cost/gflops"], "budget": {"n_trials": 3, "epochs": 2}, "data": {"folds": 3}}
FACTS = {"n_classes": 10, "backbone_params": 600_000, "max_params": 1000, "reference_point": [0.1, 1000]}
NAMES = ("sqlite", "postgresql", "memory")


class Clock:
    """A clock that goes on by a second whenever it is read."""

    def __init__(self) -> None:
        self.seconds = 1_790_000_000.0

    def __call__(self) -> float:
        self.seconds += 1.0
        return self.seconds


def create(name: str, folder: Path, server: Any) -> Ledger:
    """Create a ledger of each kind; `server` starts PostgreSQL when it is first called."""
    if name == "memory":
        return InMemoryLedger(name="s", file=FILE, facts=FACTS, now=Clock())
    address = None if name == "sqlite" else Address(server().address(), folder.name)
    location = LedgerLocation(folder, address)
    return SqlLedger.create(location.path, address=address, name="s", file=FILE, facts=FACTS, now=Clock())


@pytest.fixture(params=NAMES)
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    made = create(request.param, tmp_path / f"laws-{tmp_path.name}", lambda: request.getfixturevalue("postgresql"))
    with closing(made):
        yield made


def trial(number: int = 0, **values: Any) -> Trial:
    config = {"method": "lora", "lora.rank": 2, "optim.lr": 1e-3}
    return Trial(number, State.RUNNING, config, 7 + number, 300, 10, against="cost/gflops", n_folds=3, **values)


def move(ledger: Ledger) -> None:
    """Write every kind of event once, as a study would."""
    with ledger.decision() as writer:
        writer.event(EventKind.OPENED)
        writer.reject([({"method": "lora", "lora.rank": 4}, "too large")])
        first = writer.start(trial())
    with ledger.decision() as writer:
        first = writer.report(first, 1, {"val/top1": 0.5, "cost/gflops": 1.5, "cost/step_seconds": math.inf})
    with ledger.decision() as writer:
        second = writer.start(trial(1))
        second = writer.report(second, 1, {"val/top1": math.nan, "cost/gflops": 1.5})
        writer.finish(second, State.FAILED, reason="val/top1 is nan\0 \ud800")
        first = writer.finish(first, State.PRUNED, reason="below the bar", rung=1)
        first = writer.promote(first)
        first = writer.pause(first, "later")
        first = writer.unpause(first, None)
        first = writer.attempt(first)
        writer.event(EventKind.RESTARTED, 0, reason="its checkpoint is gone")
        writer.event(EventKind.LOST, 0, loss="DEATH", reason="killed", goes_on="elsewhere")
        writer.event(EventKind.MOVED, 0, reason="the node drains", goes_on="elsewhere")
        writer.event(EventKind.MEASURED, 0, latency_ms=1.5)
        first = writer.report(first, 2, {"val/top1": 0.75, "cost/gflops": 1.5})
        first = writer.finish(first, State.COMPLETE)
        first = writer.continue_(first, seed=5, fold=1)
        first = writer.report(first, 3, {"val/top1": 0.25, "cost/gflops": 1.5})
        first = writer.finish(first, State.COMPLETE, reason="run 2: pruned by a user")
        writer.event(EventKind.CONFIRMING, reason="3 configurations have been tried")
        writer.start(trial(2, extends=0, planned_epochs=4))
        writer.event(EventKind.ENDED, reason="patience")
        writer.event(EventKind.EXTENDED, n_trials=5)
        writer.event(EventKind.LEFT, reason="finished")
    ledger.ask_for("stop", [None], {"now": False}, lambda *_: None)
    ledger.ask_for("prune", [0, 2], {"reason": "slow"}, lambda *_: None)
    with ledger.decision() as writer:
        stop, refused, waiting = ledger.requests(waiting=True)
        writer.act_for(stop.who)
        writer.event(EventKind.STOPPING, **stop.detail)
        writer.answer(stop)
        writer.answer(refused, "it is COMPLETE")
    assert ledger.requests(waiting=True) == [waiting]


def essence(ledger: Ledger) -> list[Any]:
    """Everything that a ledger gives back, but for who and when."""

    def timeless(row: Event | Report | Request) -> list[Any]:
        return [repr(value) for key, value in vars(row).items() if key not in ("time", "who", "served")]

    trials = [
        {key: repr(value) for key, value in vars(row).items() if key not in ("started", "finished")} for row in ledger.trials()
    ]
    study = ledger.study()
    rows = [timeless(row) for row in (*ledger.events(), *ledger.reports(), *ledger.requests())]
    return [trials, rows, study.name, study.file, study.budget, study.facts, study.against]


def test_all_ledgers_give_back_the_same(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    found = []
    for name in NAMES:
        with closing(create(name, tmp_path / f"same-{name}", lambda: request.getfixturevalue("postgresql"))) as ledger:
            move(ledger)
            found.append(essence(ledger))
    assert found[0] == found[1]
    assert found[0] == found[2]
    kinds = {kind for kind in EventKind if any(repr(kind) in row for row in found[0][1])}
    assert kinds == {*EventKind} - {EventKind.WIDENED, EventKind.PINNED}  # which have tests of their own


def test_the_history_is_numbered_without_a_gap_and_in_the_order_of_time(ledger: Ledger) -> None:
    move(ledger)
    events = ledger.events()
    assert [event.number for event in events] == list(range(len(events)))
    assert [event.time for event in events] == sorted(event.time for event in events)
    assert [report.event for report in ledger.reports()] == [e.number for e in events if e.kind is EventKind.REPORTED]


def test_a_reader_follows_from_the_last_number_that_it_has_seen(ledger: Ledger) -> None:
    move(ledger)
    events, reports = ledger.events(), ledger.reports()
    for last in (-1, 0, 5, events[-1].number, 10_000):
        assert ledger.events(after=last) == [event for event in events if event.number > last]
        assert [r.event for r in ledger.reports(after=last)] == [r.event for r in reports if r.event > last]
    assert [report.epoch for report in ledger.reports(trial=0)] == [1, 2, 3]


def test_what_is_counted_and_picked_is_what_the_whole_history_holds(ledger: Ledger) -> None:
    assert (ledger.counts(), ledger.objectives(), ledger.trials([0])) == (Counts({}, 0), [], [])
    move(ledger)
    with ledger.decision() as writer:
        for number, size in ((3, 2.5), (4, None)):  # the second lacks the objective that is weighed
            metrics = {"val/top1": 0.25 * number} | ({} if size is None else {"cost/gflops": size})
            writer.finish(writer.report(writer.start(trial(number)), 1, metrics), State.COMPLETE)
        extended = writer.report(ledger.trials()[2], 4, {"val/top1": 0.8, "cost/gflops": 1.5})
        writer.finish(extended, State.COMPLETE)
        writer.start(trial(5))
    trials, events, reports = ledger.trials(), ledger.events(), ledger.reports()
    assert ledger.counts() == Counts.of(trials) == Counts({State.RUNNING: 1, State.COMPLETE: 4, State.FAILED: 1}, 5)
    assert (ledger.counts().n_trials, ledger.counts().all_finished) == (6, False)
    assert ledger.objectives() == [(0, 0.75, 1.5), (3, 0.75, 2.5)]  # an extended trial is not compared
    assert (ledger.numbers(State.RUNNING), ledger.numbers(State.COMPLETE, extended=True)) == ([5], [2])
    for numbers in ([], [2], [3, 0, 9], range(6)):
        assert repr(ledger.trials(numbers)) == repr([one for one in trials if one.number in numbers])  # NaN is not equal to itself
    for kinds in ([], [EventKind.MEASURED], [EventKind.REPORTED, EventKind.ENDED]):
        assert ledger.events(kinds=kinds) == [event for event in events if event.kind in kinds]
        assert ledger.events(after=5, kinds=kinds) == [event for event in events if event.kind in kinds and event.number > 5]
    for report in reports:
        assert ledger.n_reports(since=report.time) == sum(other.time >= report.time for other in reports)


def test_an_extended_trial_is_picked_with_the_epochs_of_the_other_one(ledger: Ledger) -> None:
    move(ledger)
    assert ledger.trials([2]) == [ledger.trials()[2]]
    assert ledger.trials([2])[0].epochs == 2


def test_a_number_that_is_not_finite_is_read_back_as_nan(ledger: Ledger) -> None:
    move(ledger)
    first, second, *_ = ledger.reports()
    assert math.isnan(first.metrics["cost/step_seconds"])
    assert math.isnan(second.metrics["val/top1"])
    assert math.isnan(ledger.trials()[1].metrics["val/top1"])


def test_a_trial_is_read_back_as_its_decision_returned_it(ledger: Ledger) -> None:
    with ledger.decision() as writer:
        written = writer.start(trial())
        written = writer.report(written, 1, {"val/top1": 0.5, "cost/gflops": 1.5})
        assert ledger.trials() == [] or isinstance(ledger, InMemoryLedger)  # nobody sees half a decision, but for its own process
    assert ledger.trials() == [written]
    assert ledger.states() == ledger.states([0, 5]) == {0: written.state}
    assert ledger.states([]) == {}
    assert written.size == 1.5
    with ledger.decision() as writer:
        written = writer.finish(written, State.PRUNED, reason="below the bar", rung=1)
    assert ledger.trials() == [written]


def test_an_extended_trial_begins_with_the_epochs_of_the_other_one(ledger: Ledger) -> None:
    move(ledger)
    other, _, extended = ledger.trials()
    assert (other.epochs, other.runs, other.metrics) == (3, (other.metrics,), other.metrics)  # half of a further run does not count
    assert extended.metrics == other.metrics
    assert (extended.epochs, extended.metrics["val/top1"]) == (2, 0.75)


def test_a_decision_that_raises_writes_nothing(ledger: Ledger) -> None:
    move(ledger)
    before = essence(ledger)
    _, refused, waiting = ledger.requests()

    def interrupted() -> None:
        with ledger.decision() as writer:
            late = writer.start(trial(3))
            writer.report(late, 1, {"val/top1": 0.5})
            writer.finish(ledger.trials()[2], State.FAILED, reason="x")
            writer.answer(waiting)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        interrupted()
    assert essence(ledger) == before
    with ledger.decision() as writer:
        writer.answer(waiting, "too late")
    assert [request.refusal for request in ledger.requests()] == [None, refused.refusal, "too late"]
    assert ledger.events()[-1].number == len(ledger.events()) - 1


def test_an_event_that_does_not_follow_its_definition_is_refused_with_its_decision(ledger: Ledger) -> None:
    for wrong in ({"kind": EventKind.ENDED}, {"kind": EventKind.OPENED, "trial": 0}, {"kind": EventKind.OPENED, "mood": "good"}):
        with pytest.raises(ValueError, match=r"an event '(ended|opened)'"), ledger.decision() as writer:
            writer.event(**wrong)
    assert ledger.events() == []


def test_a_wider_space_replaces_the_file_and_an_extension_overlays_its_budget(ledger: Ledger) -> None:
    wide = {"objectives": FILE["objectives"], "methods": ["lora", "arc"], "budget": {"n_trials": 7, "epochs": 2}}
    with ledger.decision() as writer:
        writer.event(EventKind.EXTENDED, n_trials=4)
    assert ledger.study().budget == {"n_trials": 4, "epochs": 2}
    with ledger.decision() as writer:
        writer.event(EventKind.WIDENED, file=wide)
        writer.event(EventKind.EXTENDED, n_trials=9, max_hours=2.0)
    study = ledger.study()
    assert (study.file, study.budget) == (wide, {"n_trials": 9, "epochs": 2, "max_hours": 2.0})


def test_a_request_that_is_refused_at_once_is_not_written(ledger: Ledger) -> None:
    def refuse(states: Mapping[int, State], n_trials: int) -> None:
        raise ValueError(f"{len(states)} of {n_trials} trials")

    with pytest.raises(ValueError, match="0 of 0 trials"):
        ledger.ask_for("prune", [0], {}, refuse)
    assert ledger.requests() == []
    assert ledger.ask_for("pause", [None], {"reason": "x"}, lambda *_: None) == [1]


def test_only_the_owner_decides_and_closing_gives_the_study_back(ledger: Ledger) -> None:
    assert ledger.owner() is not None
    assert ledger.beat()
    ledger.close()
    assert not ledger.beat()
    assert ledger.owner() is None
    with pytest.raises(LedgerError, match="claim it before writing"), ledger.decision():
        pass
    ledger.claim()
    assert ledger.owner() is not None


def test_facts_that_come_back_damaged_are_refused_with_the_key(ledger: Ledger) -> None:
    assert ledger.study().facts.reference_point == (0.1, 1000.0)
    damaged = InMemoryLedger(name="s", file=FILE, facts=FACTS | {"n_classes": "many"}, now=Clock())
    with pytest.raises(LedgerError, match=r"the ledger of s is damaged: facts\.n_classes"):
        _ = damaged.study().facts
