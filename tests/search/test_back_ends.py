"""Every back end drives a study through the same decisions. Real Ray, real actors."""

import json
import os
import threading
from pathlib import Path

import psutil
import pytest

from search import in_process, on_ray
from search.config import StudyFile, check
from search.ledger import Ledger
from search.study import Study
from search.trial import State
from trainables import make, measure

SYNTHETIC = {
    "data": {"kind": "synthetic", "noise": 0.01, "diverges_above_lr": 0.015},
    "methods": ["lora", "arc", "lily"],
    "budget": {"n_trials": 20, "epochs": 3, "max_params": 20_000},
    "search": {"seed": 3, "rungs": {"grace": 1, "factor": 3}},
}
DIGITS = {
    "data": {"kind": "digits"},
    "methods": ["lora", "arc", "lily"],
    "budget": {"n_trials": 5, "epochs": 2, "max_params": 50_000},
}


def new_study(storage: Path, name: str, raw: dict[str, object]) -> Study:
    file: StudyFile = check(raw | {"study": name, "storage": str(storage)})
    worker = file.worker()
    return Study.create(file, measure(worker["backbone"], worker["data"]))


def history(study: Study) -> list[tuple[object, ...]]:
    """(event, trial, detail, metrics) without times and costs."""
    ledger = Ledger.open(study.folder / "ledger.db")
    metrics = {
        report.event: {k: str(v) for k, v in report.metrics.items() if not k.startswith("cost/")} for report in ledger.reports()
    }
    return [(e.kind, e.trial, json.dumps(dict(e.detail)), metrics.get(e.number)) for e in ledger.events()]


@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize("raw", [SYNTHETIC, DIGITS], ids=["synthetic", "digits"])
def test_ray_with_one_worker_and_in_process_write_the_same_history(tmp_path: Path, raw: dict[str, object]) -> None:
    here = new_study(tmp_path, "here", raw)
    in_process.run(here, make(**here.file.worker()))
    there = new_study(tmp_path, "there", raw)
    on_ray.run(there, n_slots=1)
    assert history(here) == history(there)
    assert here.finished
    assert there.finished


@pytest.mark.usefixtures("embedded_ray")
def test_two_slots_finish_every_trial_once(tmp_path: Path) -> None:
    study = new_study(tmp_path, "two", SYNTHETIC)
    on_ray.run(study, n_slots=2)
    assert [trial.number for trial in study.trials] == list(range(20))
    assert all(trial.state.finished for trial in study.trials)
    assert {trial.state for trial in study.trials} == {State.COMPLETE, State.PRUNED, State.FAILED}


@pytest.mark.usefixtures("embedded_ray")
def test_a_worker_that_cannot_be_built_fails_its_trials_with_the_reason(tmp_path: Path) -> None:
    study = new_study(tmp_path, "broken", SYNTHETIC | {"budget": {"n_trials": 3, "epochs": 2, "max_params": 20_000}})
    nowhere = {"backbone": {"name": "vit_nowhere"}, "data": {"kind": "digits"}}
    study.file = check(study.file.resolved() | nowhere | {"storage": str(tmp_path)})
    on_ray.run(study, n_slots=2)
    assert [trial.state for trial in study.trials] == [State.FAILED] * 3
    assert all("vit_nowhere" in str(trial.reason) for trial in study.trials)


@pytest.mark.usefixtures("embedded_ray")
def test_a_killed_worker_fails_its_trial_with_the_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    study = new_study(tmp_path, "killed", DIGITS | {"budget": {"n_trials": 4, "epochs": 8, "max_params": 50_000}})
    killed = threading.Event()

    def kill_one_worker() -> None:
        for _ in range(600):  # a bounded wait for the second epoch of anything
            if any(trial.epochs >= 2 for trial in study.trials):
                workers = [p for p in psutil.process_iter(["cmdline"]) if "ResourceTrainable" in " ".join(p.info["cmdline"] or [])]
                ours = [p for p in workers if any(parent.pid == os.getpid() for parent in p.parents())]
                ours[0].kill()
                killed.set()
                return
            threading.Event().wait(0.1)

    killer = threading.Thread(target=kill_one_worker)
    killer.start()
    on_ray.run(study, n_slots=2)
    killer.join()
    assert killed.is_set()
    states = [trial.state for trial in study.trials]
    assert sorted(states) == [State.COMPLETE] * 3 + [State.FAILED]
    assert next(trial.reason for trial in study.trials if trial.state is State.FAILED) == "the worker died"
