"""An overview is read without the history of a study, and tells what the history says."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.results.overview import best, overview
from search.results.saved_study import SavedStudy, load
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
