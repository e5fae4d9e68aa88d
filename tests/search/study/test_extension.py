"""A study is made larger: finished, interrupted or while it runs."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search.backends import in_process
from search.config.loading import check
from search.errors import StudyFileError
from search.front import front
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage.sql_ledger import SqlLedger
from search.study import user_requests
from search.study.extension import Extension, moment, widened_file
from search.study.study import Study
from search.trial import State, Trial
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from .. import studies
from ..command_line import paretune
from ..mlflow_database import with_mlflow_database
from ..studies import next_trial

RAW: dict[str, Any] = {
    "study": "s",
    "data": {"kind": "synthetic", "noise": 0.01},
    "methods": ["lora", "arc"],
    "space": {"lora.rank": [1, 2], "optim.lr": {"low": 1e-3, "high": 1e-2, "log": True}},
    "budget": {"n_trials": 8, "epochs": 3, "max_params": 20_000},
    "search": {"rungs": {"grace": 1, "factor": 3}},
}

study_file = partial(studies.study_file, **RAW)


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """A finished study."""
    with closing(Study.create(study_file(tmp_path), SyntheticSizes())) as study:
        in_process.run(study, SyntheticTrainable(noise=0.01))
        assert study.finished
        yield study


def history(study: Study) -> list[tuple[str, int | None, str]]:
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        return [(event.kind, event.trial, json.dumps(dict(event.detail))) for event in ledger.events()]


def reported(study: Study, number: int) -> list[int]:
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        return [report.epoch for report in ledger.reports(trial=number)]


def complete(study: Study) -> Trial:
    return next(trial for trial in study.front() if trial.adapter_params)


# -- one trial with more epochs ----------------------------------------------------------------------------------------


def test_a_trial_goes_on_from_its_checkpoint_as_a_trial_of_its_own_beside_the_front(study: Study) -> None:
    ended, before = complete(study), (study.front(), study.hypervolume())
    study.extend(Extension(trial=ended.number, epochs=7))
    in_process.run(study, SyntheticTrainable(noise=0.01))
    longer = study.trials[-1]
    assert (longer.state, longer.epochs, longer.extends, longer.n_attempts) == (State.COMPLETE, 7, ended.number, 1)
    assert (longer.config, longer.seed, longer.adapter_params) == (ended.config, ended.seed, ended.adapter_params)
    assert reported(study, longer.number) == [4, 5, 6, 7]  # nothing is trained again
    assert study.trials[ended.number] == ended
    assert (study.front(), study.hypervolume()) == before
    assert front(study.trials) == before[0]
    assert study.finished
    compared = replace(longer, planned_epochs=None)
    assert compared in front([*study.trials[:-1], compared])  # where it would be, had it the epochs of the others


def test_an_extended_trial_takes_no_share_of_the_budget_and_is_not_told_to_the_sampler(study: Study, tmp_path: Path) -> None:
    study.extend(Extension(trial=complete(study).number, epochs=5, more_trials=3))
    in_process.run(study, SyntheticTrainable(noise=0.01))
    plain = Study.create(study_file(tmp_path, study="plain"), SyntheticSizes())
    in_process.run(plain, SyntheticTrainable(noise=0.01))
    plain.extend(Extension(more_trials=3))
    in_process.run(plain, SyntheticTrainable(noise=0.01))
    searched = [trial.config for trial in study.trials if trial.extends is None]
    assert len(searched) == 11
    assert searched == [trial.config for trial in plain.trials]
    plain.close()


def test_an_extended_trial_is_taken_up_by_the_next_driver(study: Study) -> None:
    study.extend(Extension(trial=complete(study).number, epochs=6))
    trial = next_trial(study)
    trainable = SyntheticTrainable(noise=0.01)
    assert trainable.start(trial.config, seed=trial.seed, epochs=6, folder=study.checkpoint_folder(trial.number)) == 3
    study.report(trial.number, 4, trainable.step())
    study.close()
    assert load(study.folder).state is StudyState.INTERRUPTED
    with closing(Study.open(study.file, SyntheticSizes())) as again:
        in_process.run(again, SyntheticTrainable(noise=0.01))
        assert again.trials[-1].n_attempts == 2
        assert reported(again, trial.number) == [4, 5, 6]
    assert load(study.folder).state is StudyState.FINISHED


def test_a_pruned_trial_that_gets_the_usual_epochs_is_compared_like_any_other(study: Study) -> None:
    pruned = next(trial for trial in study.trials if trial.state is State.PRUNED)
    study.extend(Extension(trial=pruned.number, epochs=3))
    in_process.run(study, SyntheticTrainable(noise=0.01))
    assert (study.trials[-1].epochs, study.trials[-1].planned_epochs) == (3, None)
    study.state.front.add(*study.trials[-1].objectives, study.trials[-1].number)
    assert study.front() == front(study.trials)


@pytest.mark.parametrize(
    ("extension", "law"),
    [
        (Extension(trial=99, epochs=5), "no trial 99: this study has trials 0 to 7"),
        (Extension(trial=0, epochs=3), "trial 0 already has 3 epochs; give a larger number with --epochs"),
        (Extension(trial=0), "trial 0 already has 3 epochs; give a larger number"),
        (Extension(epochs=9), "--epochs extends one trial: name it with --trial"),
        (Extension(until="2001-01-01"), "until 2001-01-01 is in the past"),
    ],
)
def test_what_cannot_be_extended_is_refused_and_changes_nothing(study: Study, extension: Extension, law: str) -> None:
    before = history(study)
    with pytest.raises(ValueError, match=law):
        study.extend(extension)
    assert history(study) == before


def test_a_trial_whose_checkpoint_was_collected_cannot_go_on(study: Study) -> None:
    (study.checkpoint_folder(0) / "epoch.json").unlink()
    with pytest.raises(ValueError, match="trial 0 no longer has a checkpoint"):
        study.extend(Extension(trial=0, epochs=9))


# -- until a date ------------------------------------------------------------------------------------------------------


def test_nothing_is_started_after_a_date_unless_it_is_put_off(tmp_path: Path) -> None:
    now = [moment("2026-12-24T17:00").timestamp()]
    file = study_file(tmp_path, budget=RAW["budget"] | {"until": "2026-12-24T18:00"})
    with closing(Study.create(file, SyntheticSizes(), now=lambda: now[0])) as study:
        assert study.ask() is not None
        now[0] += 3600.0
        assert study.ask() is None
        assert study.ended == "budget.until = 2026-12-24 18:00 is over"
        study.extend(Extension(until="2026-12-24T20:00"))
        assert study.ask() is not None
    with closing(Study.open(file, SyntheticSizes(), now=lambda: now[0])) as again:
        now[0] += 7200.0
        again.ask()
        assert again.ask() is not None or again.ended is not None
        assert str(again.row.budget["until"]).startswith("2026-12-24T20:00")


def test_what_is_no_date_is_refused() -> None:
    with pytest.raises(ValueError, match="'tomorrow' is not a date; write 2026-12-24 or"):
        moment("tomorrow")


# -- a wider space -----------------------------------------------------------------------------------------------------

WIDE = RAW | {
    "methods": ["lora", "lily", "arc"],
    "space": {"lora.rank": [1, 2, 4, 8], "optim.lr": {"low": 1e-4, "high": 2e-2, "log": True}},
    "budget": {"n_trials": 20, "epochs": 3, "max_params": 20_000},
}


def test_a_study_is_widened_keeps_its_trials_and_searches_the_rest(study: Study) -> None:
    before = study.trials
    study.extend(Extension(file=check(WIDE).resolved()))
    in_process.run(study, SyntheticTrainable(noise=0.01))
    ended = [trial for trial in before if trial.state is State.COMPLETE]  # one that a rung has stopped may be promoted
    assert [study.trials[trial.number] for trial in ended] == ended
    assert len(study.trials) == 20
    new = study.trials[8:]
    assert "lily" in {trial.method for trial in new}
    assert any(not 1e-3 <= float(str(trial.config["optim.lr"])) <= 1e-2 for trial in new)
    study.close()
    with pytest.raises(StudyFileError, match="was created from another study file"):
        Study.open(study_file(study.file.storage), SyntheticSizes())
    with closing(Study.open(study_file(study.file.storage, **WIDE), SyntheticSizes())) as again:
        assert again.trials == study.trials
        assert again.finished


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"methods": ["lora"]}, "methods: arc is missing"),
        ({"space": {"lora.rank": [2]}}, "space.lora.rank: "),
        ({"space": {"lora.rank": [1, 2], "optim.lr": {"low": 2e-3, "high": 1e-2, "log": True}}}, "space.optim.lr: "),
        ({"budget": {"n_trials": 7, "epochs": 3, "max_params": 20_000}}, "budget.n_trials: 8 -> 7: is less"),
        ({"budget": {"n_trials": 8, "epochs": 4, "max_params": 20_000}}, "budget.epochs: 3 -> 4: is fixed"),
        ({"search": {"seed": 1}}, "search: "),
    ],
)
def test_what_is_narrower_or_another_question_is_refused(tmp_path: Path, changes: dict[str, Any], law: str) -> None:
    with pytest.raises(StudyFileError, match=law):
        widened_file(study_file(tmp_path), check(RAW | changes).resolved())


# -- while it runs -----------------------------------------------------------------------------------------------------


def test_a_running_study_is_made_larger_where_it_runs(tmp_path: Path) -> None:
    with closing(Study.create(study_file(tmp_path), SyntheticSizes())) as study:
        running = next_trial(study)
        for epoch in (1, 2, 3):
            study.report(0, epoch, {"val/top1": 0.5})
        study.worker_gone(0)
        SyntheticTrainable().start(running.config, seed=0, epochs=3, folder=study.checkpoint_folder(0))
        study.checkpoint_folder(0).mkdir(parents=True, exist_ok=True)
        (study.checkpoint_folder(0) / "epoch.json").write_text('{"epoch": 3}')
        next_trial(study)
        study.report(1, 1, {"val/top1": 0.6})
        user_requests.write_requests(study.folder, "extend", [], {"file": check(WIDE).resolved()})
        user_requests.write_requests(study.folder, "extend", [], {"more_trials": 5})
        user_requests.write_requests(study.folder, "extend", [0], {"epochs": 9})
        user_requests.write_requests(study.folder, "extend", [0], {"epochs": 2})
        study.handle_requests()
        assert study.file.budget.n_trials == 25
        assert [trial.extends for trial in study.trials] == [None, None, 0]
        longer = next_trial(study)
        assert (longer.number, longer.epochs) == (2, 3)
        assert study.trials[1].state is State.RUNNING  # its worker has noticed nothing
        study.report(1, 2, {"val/top1": 0.6})
        with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
            assert [str(r.refusal)[:24] if r.refusal else None for r in ledger.requests()] == [
                None, None, None, "trial 0 already has 3 ep"
            ]  # fmt: skip


def test_the_command_extends_a_finished_study_and_one_that_runs(tmp_path: Path) -> None:
    slow = "study: s\ndata: {kind: synthetic, epoch_seconds: 0.2}\nmethods: [lora, arc]\nbudget: {n_trials: %d, epochs: 2}\n"
    (tmp_path / "s.yaml").write_text(slow % 8)
    storage = with_mlflow_database(tmp_path / "paretune-studies") / "s"
    run = [sys.executable, "-m", "search.cli", "run", "s.yaml", "--back-end", "in-process"]
    with subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not ((storage / "ledger.db").exists() and load(storage).history):
            assert time.monotonic() < deadline
            threading.Event().wait(0.05)
        said = paretune("resume", "s", "--more-trials", "2", cwd=tmp_path)
        assert (said.returncode, said.stdout) == (0, "s: extended\n"), said.stderr
        out, err = process.communicate(timeout=150)
        assert process.returncode == 0, err
        assert "[10/10]" in out
    longer = paretune("resume", "s", "--trial", "1", "--epochs", "4", "--back-end", "in-process", cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    assert "Extended trials (not compared with the front)" in longer.stdout
    shown = json.loads(paretune("front", "s", "--json", cwd=tmp_path).stdout)
    assert [(trial["trial"], trial["extends"], trial["epochs"]) for trial in shown["extended"]] == [(10, 1, 4)]
    for wrong in (["--trial", "99", "--epochs", "9"], ["--until", "soon"]):
        refused = paretune("resume", "s", *wrong, "--back-end", "in-process", cwd=tmp_path)
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
    (tmp_path / "wide.yaml").write_text((slow % 12).replace("[lora, arc]", "[lora, arc, lily]"))
    wide = paretune("resume", "s", "--file", "wide.yaml", "--back-end", "in-process", cwd=tmp_path)
    assert wide.returncode == 0, wide.stderr
    assert [trial.method for trial in load(storage).history][-2:].count("lily") >= 1
