"""A study with a budget in hours: it needs no number of trials, weighs what a trial adds against its seconds, and is replayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.backends import simulated
from search.backends.simulated import VirtualClock, create
from search.cli.progress import Lines, _Clock
from search.config.loading import check
from search.config.study_file import StudyFile
from search.errors import StudyFileError
from search.results.study_state import StudyState
from search.results.words import format_budget, format_end
from search.samplers.base import NewConfig
from search.storage.facts import Facts
from search.study.extension import Extension
from search.study.study import Study
from search.trial import Metrics
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from .. import command_line, studies

SURFACE = Surface("crossing", 1)
HOURS = 0.1
BUDGET = {"epochs": 9, "max_params": 50_000, "max_hours": HOURS}


class Timed(SurfaceTrainable):
    """A surface whose epochs take the longer, the larger the adapter is."""

    def step(self) -> Metrics:  # type: ignore[override]
        metrics = super().step()
        return metrics | {"cost/train_seconds": metrics["cost/step_seconds"] * 100, "cost/eval_seconds": 0.1}


def study_file(budget: dict[str, float | None] = BUDGET) -> StudyFile:  # type: ignore[assignment]
    return studies.study_file(budget=budget, search={"rungs": {"grace": 1, "factor": 2}, "seed": 1})


def searched(file: StudyFile) -> Study:
    study = create(file, SURFACE, clock := VirtualClock())
    simulated.run(study, lambda: Timed(SURFACE), clock, n_workers=2)
    return study


@pytest.fixture(scope="module")
def ended() -> Study:
    """A study that its hours have ended; tests leave it as it is."""
    return searched(study_file())


def test_hours_alone_end_a_study_and_more_of_them_continue_it() -> None:
    study = searched(study_file())
    assert study.ended == f"budget.max_hours = {HOURS:g} is spent"
    assert study.finished
    assert study.row.facts.by_seconds
    assert study.n_wanted() == 0
    with pytest.raises(ValueError, match=r"no budget.n_trials, only hours end it; give more of them with --max-hours"):
        study.extend(Extension(more_trials=3))
    n_before = len(study.trials)
    study.extend(Extension(max_hours=2 * HOURS))
    assert study.row.budget["n_trials"] is None
    assert study.n_wanted() > 1000
    assert study.ask() is not None
    assert len(study.trials) == n_before + 1


def test_a_replay_of_its_events_leads_to_the_same_next_choices(ended: Study) -> None:
    """Also when it is replayed twice: the driver's own state and two rebuilt ones answer alike."""
    assert any(trial.rung is not None for trial in ended.trials)
    rebuilt = [Study(ended.file, ended._ledger, SURFACE) for _ in range(2)]
    for _ in range(8):
        answers = [one.state.next_answer() for one in (ended, *rebuilt)]
        assert answers[0] == answers[1] == answers[2]
        for one, answer in zip((ended, *rebuilt), answers, strict=True):
            if isinstance(answer, NewConfig):
                one.state.reject(answer.ticket)


def test_a_study_that_began_by_epochs_stays_so_when_it_is_given_hours() -> None:
    study = searched(study_file({"epochs": 9, "max_params": 50_000, "n_trials": 30}))
    study.extend(Extension(more_trials=9, max_hours=9.0))
    facts = dict(study.row.facts.as_json())
    assert not Facts.model_validate(facts).by_seconds
    assert "by_seconds" not in facts
    assert study.state.pace({"cost/train_seconds": 2.0}) is None


def test_neither_trials_nor_hours_is_one_clear_error() -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"epochs": 2}}
    with pytest.raises(StudyFileError) as raised:
        check(raw)
    assert str(raised.value).splitlines() == [
        "study: budget: must have n_trials, max_hours or both: the number of trials, and the hours, after which it ends "
        "(got {'epochs': 2})"
    ]
    assert check(raw | {"budget": {"epochs": 2, "max_hours": 1.5}}).budget.n_trials is None


def test_progress_and_words_count_hours_where_there_is_no_number_of_trials(ended: Study) -> None:
    study = ended
    clock = _Clock(study)
    clock._seconds_before = 0.25 * 3600 * HOURS  # as if an earlier driver had used a quarter
    assert clock.share() == pytest.approx(0.25, abs=0.01)
    assert clock.left() == pytest.approx(0.75 * 3600 * HOURS, abs=5.0)
    lines = Lines(study)
    lines._ended.clear()
    assert next(lines.new()).startswith("[1] 0000-head_only complete")
    assert format_budget(study.row.budget) == "0.1 h of trials of 9 epochs"
    assert format_budget({"n_trials": 40, "epochs": 9, "max_hours": 2.0}) == "40 trials of 9 epochs, at most 2 h"
    assert format_budget({"n_trials": 40, "epochs": 9}) == "40 trials of 9 epochs"
    assert format_end(None, "x") == "Ended: x"
    assert format_end(4000, "x") == "Ended before its 4,000 trials: x"


def test_the_commands_show_hours_and_the_growth_over_them(tmp_path: Path) -> None:
    """One trial each quarter of an hour, until the hour is over."""
    clock = studies.Clock()
    study = studies.new_study(tmp_path, now=clock, budget={"epochs": 2, "max_params": 20_000, "max_hours": 1.0})
    while (trial := study.ask()) is not None:
        clock.time += 900.0
        for epoch in (1, 2):
            costs = {"cost/train_seconds": 40.0, "cost/eval_seconds": 5.0}
            study.report(trial.number, epoch, {"val/top1": 0.5 + trial.number / 10, "val/loss": 1.0, "train/loss": 1.0} | costs)
    name = study.file.study
    study.close()

    def said(*words: str) -> str:
        done = command_line.paretune(*words, "--storage", str(tmp_path), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    status = json.loads(said("status", name, "--json"))
    assert (status["state"], status["n_trials"], status["max_hours"]) == (StudyState.FINISHED, None, 1.0)
    assert "the budget is 1 h" in said("status", name)
    grown = json.loads(said("front", name, "--growth", "--json"))
    assert [(one["trials"], one["epochs"], one["trained_hours"]) for one in grown["growth"]] == [
        (n, 2 * n, pytest.approx(n * 90 / 3600)) for n in (1, 2, 3, 4)
    ]
    assert grown["growth"][-1]["hypervolume"] == grown["hypervolume"]
    assert "growth" not in json.loads(said("front", name, "--json"))
    printed = said("front", name, "--growth")
    assert "Ended: budget.max_hours = 1 is spent" in printed
    assert "trained hours" in printed
