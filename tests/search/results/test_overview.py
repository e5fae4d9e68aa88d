"""An overview is read without the history of a study, and tells what the history says."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.cli.status import facts_of, shown
from search.cli.terminal import Terminal
from search.results.overview import best, overview
from search.results.saved_study import SavedStudy, load
from search.results.study_state import StudyState
from search.storage.events import EventKind
from search.storage.rows import Counts
from search.storage.sql_ledger import open_ledger
from search.trial import State, Trial

from ..scripted_study import HISTORY, N_EPOCHS, ScriptedStudy


def assert_tells_what_the_history_says(folder: Path) -> SavedStudy:
    found, saved = overview(folder), load(folder)
    assert (found.row, found.state, found.ended, found.folder) == (saved.row, saved.state, saved.ended, saved.folder)
    assert found.counts == Counts.of(saved.history)
    assert (found.members, found.extended) == (saved.members, saved.extended)
    assert repr(found.running) == repr(tuple(trial for trial in saved.history if trial.state is State.RUNNING))
    assert found.hypervolume == pytest.approx(saved.hypervolume, abs=1e-12)
    return saved


def test_it_tells_what_the_history_says_at_every_step_of_a_study(tmp_path: Path) -> None:
    study = ScriptedStudy(tmp_path, "scripted")
    folder = study.path.parent
    assert_tells_what_the_history_says(folder)
    for number, (_, _, accuracies, _) in HISTORY.items():
        study.start(number)
        for _ in accuracies:
            assert_tells_what_the_history_says(folder)
            study.step(number)
    with study.ledger.decision() as writer:
        writer.event(EventKind.MEASURED, 4, **{"cost/latency_ms": 1.5})  # shown among the costs of a member
        writer.event(EventKind.ENDED, reason="patience")
        config = dict(study.trials[1].config)
        longer = Trial(len(HISTORY), State.RUNNING, config, 9, 300, 970, extends=1, planned_epochs=5)
        longer = writer.report(writer.start(longer), N_EPOCHS + 1, {"val/top1": 0.99})
    assert assert_tells_what_the_history_says(folder).extended == ()
    with study.ledger.decision() as writer:
        writer.finish(longer, State.COMPLETE)
    saved = assert_tells_what_the_history_says(folder)
    assert [trial.number for trial in saved.extended] == [len(HISTORY)]
    assert saved.members[-1].metrics["cost/latency_ms"] == 1.5
    study.ledger.close()


def test_a_running_trial_without_a_worker_waits_for_a_slot_until_it_gets_one(tmp_path: Path) -> None:
    study = ScriptedStudy(tmp_path, "scripted")
    folder = study.path.parent
    for number in range(3):
        study.start(number)
    assert overview(folder).n_waiting == 0
    with study.ledger.decision() as writer:
        writer.event(EventKind.UNPAUSED, 1)
        writer.event(EventKind.MOVED, 2, goes_on="at epoch 1", reason="its node drains")
    found = overview(folder)
    assert (len(found.running), found.n_waiting) == (3, 2)
    facts = facts_of(replace(found, state=StudyState.RUNNING), n_recent=0, now=found.row.created)
    assert (facts["slots_busy"], facts["waiting"]) == (1, 2)
    assert "1 running, 2 waiting for a slot" in printed(facts)
    facts = facts_of(replace(found, state=StudyState.INTERRUPTED), n_recent=0, now=found.row.created)
    assert facts["slots_busy"] == 0
    assert "3 to continue" in printed(facts)
    with study.ledger.decision() as writer:
        study.trials[1] = writer.attempt(study.trials[1])
    assert overview(folder).n_waiting == 1
    study.ledger.close()


def printed(facts: dict[str, Any]) -> str:
    console = Terminal(file=io.StringIO(), width=100)
    console.print(shown(facts | {"gpu_memory": []}))
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def test_the_best_trials_come_by_accuracy(tmp_path: Path) -> None:
    study = ScriptedStudy(tmp_path, "scripted")
    for number, (_, _, accuracies, _) in HISTORY.items():
        study.start(number)
        for _ in accuracies:
            study.step(number)
    with open_ledger(study.path.parent) as ledger:
        trials, members = best(ledger, 2)
        assert [trial.number for trial in trials] == [4, 1]
        assert members == {0, 4}
        assert best(ledger, 9)[0] == [study.trials[number] for number in (4, 1, 0)]
    study.ledger.close()
