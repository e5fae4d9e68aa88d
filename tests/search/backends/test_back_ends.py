"""Every back end drives a study through the same decisions. Real Ray, real actors."""

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest
import ray

from search.backends import in_process, ray_tune
from search.backends.base import Order
from search.backends.ray_back_end import RayBackEnd
from search.config.loading import check
from search.errors import OutOfReach, RequestError
from search.storage.facts import Pinned
from search.storage.sql_ledger import SqlLedger
from search.study.lost_workers import WorkerLoss
from search.study.study import Study
from search.trial import State
from trainables import audit, make, measure, save_listing
from trainables.protocol import DATA_RULES

from ...trainables.data import pictures
from ..studies import new_study, next_trial, study_file

SYNTHETIC = {
    "data": {"kind": "synthetic", "noise": 0.01, "diverges_above_lr": 0.015},
    "methods": ["lora", "arc", "lily"],
    "budget": {"n_trials": 20, "epochs": 3, "max_params": 20_000},
    "search": {"seed": 3, "rungs": {"grace": 1, "factor": 3}, "points": [{"method": "lora", "lora.rank": 32}]},  # too large
}
DIGITS = {
    "data": {"kind": "digits"},
    "methods": ["lora"],
    "budget": {"n_trials": 3, "epochs": 2, "max_params": 50_000},
}


def history(study: Study) -> list[tuple[object, ...]]:
    """(event, trial, detail, metrics) without times and costs."""
    ledger = SqlLedger.open(study.folder / "ledger.db")
    metrics = {
        report.event: {k: str(v) for k, v in report.metrics.items() if not k.startswith("cost/")} for report in ledger.reports()
    }
    return [(e.kind, e.trial, json.dumps(dict(e.detail)), metrics.get(e.number)) for e in ledger.events()]


@pytest.mark.usefixtures("embedded_ray")
@pytest.mark.parametrize("raw", [SYNTHETIC, DIGITS], ids=["synthetic", "digits"])
def test_ray_with_one_worker_and_in_process_write_the_same_history(tmp_path: Path, raw: dict[str, object]) -> None:
    here = new_study(tmp_path, study="here", **raw)
    in_process.run(here, make(**here.file.worker(here.row.facts)))
    there = new_study(tmp_path, study="there", **raw)
    ray_tune.run(there, n_slots=1)
    assert history(here) == history(there)
    assert here.finished
    assert there.finished
    kinds = {kind for kind, *_ in history(there)}
    assert ({"pruned", "promoted", "failed", "rejected"} <= kinds) == (raw is SYNTHETIC)


@pytest.mark.usefixtures("embedded_ray")
def test_two_slots_finish_every_trial_once(tmp_path: Path) -> None:
    search = {"seed": 3, "sampler": "tpe", "rungs": {"grace": 1, "factor": 3}}  # which tries bad ones too
    data = {"kind": "synthetic", "noise": 0.01, "diverges_above_lr": 0.004}
    study = new_study(tmp_path, study="two", **SYNTHETIC | {"search": search, "data": data})
    ray_tune.run(study, n_slots=2)
    assert [trial.number for trial in study.trials] == list(range(20))
    assert all(trial.state.finished for trial in study.trials)
    assert {trial.state for trial in study.trials} == {State.COMPLETE, State.PRUNED, State.FAILED}


@pytest.mark.usefixtures("embedded_ray")
def test_a_folder_that_cannot_be_written_ends_the_search_and_fails_no_trial(tmp_path: Path) -> None:
    for name in ("here", "there"):
        study = new_study(tmp_path, study=name, **SYNTHETIC)
        (study.folder / "trials").symlink_to("/proc/sys")  # where nobody makes a folder
        with pytest.raises(OutOfReach, match=r"checkpoints: .*/trials/0000/.* cannot be written"):
            in_process.run(study, make(**study.file.worker(study.row.facts))) if name == "here" else ray_tune.run(study, n_slots=1)
        assert [trial.state for trial in study.trials] == [State.RUNNING]
        study.close()


@pytest.mark.usefixtures("embedded_ray")
def test_a_worker_that_cannot_be_built_fails_its_trials_with_the_reason(tmp_path: Path) -> None:
    study = new_study(tmp_path, study="broken", **SYNTHETIC | {"budget": {"n_trials": 3, "epochs": 2, "max_params": 20_000}})
    nowhere = {"backbone": {"name": "vit_nowhere"}, "data": {"kind": "digits"}}
    study._session.file = check(study.file.resolved() | nowhere | {"storage": str(tmp_path)})
    ray_tune.run(study, n_slots=2)
    assert [trial.state for trial in study.trials] == [State.FAILED] * 3
    assert all("vit_nowhere" in str(trial.reason) for trial in study.trials)


@pytest.mark.usefixtures("embedded_ray")
def test_the_trial_of_a_killed_worker_goes_on_from_its_checkpoint_in_a_fresh_one(tmp_path: Path) -> None:
    of_two = DIGITS | {"budget": {"n_trials": 2, "epochs": 5, "max_params": 50_000}}
    study = new_study(tmp_path, study="killed", **of_two)
    with killing(lambda: any(1 <= trial.epochs < 4 for trial in study.trials)) as killed:
        ray_tune.run(study, n_slots=2)
    assert killed.is_set()
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 2
    assert sorted(trial.n_attempts for trial in study.trials) == [1, 2]
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        lost = [event for event in ledger.events() if event.kind == "lost"]
        assert [event.detail["loss"] for event in lost] == ["DEATH"]
        epochs = [report.epoch for report in ledger.reports(trial=lost[0].trial)]
    assert epochs == list(range(1, 6))
    whole = new_study(tmp_path, study="whole", **of_two)
    in_process.run(whole, make(**whole.file.worker(whole.row.facts)))
    accuracies = [[trial.metrics["val/top1"] for trial in one.trials if trial.number == lost[0].trial] for one in (study, whole)]
    assert accuracies[0] == accuracies[1]  # one epoch was trained twice, from the same state


@contextmanager
def killing(when: Callable[[], bool]) -> Iterator[threading.Event]:
    """Kill one of our Ray's busy workers with -9 once `when` is true; the event tells that it was done."""
    killed = threading.Event()

    def kill() -> None:
        for _ in range(1200):  # a bounded wait
            if when():
                workers = [p for p in psutil.process_iter(["cmdline"]) if "ResourceTrainable" in " ".join(p.info["cmdline"] or [])]
                ours = [p for p in workers if any(parent.pid == os.getpid() for parent in p.parents())]
                if ours:
                    ours[0].kill()
                    killed.set()
                    return
            threading.Event().wait(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    yield killed
    killer.join()


MEMORY = SYNTHETIC | {
    "data": {"kind": "synthetic", "memory_params": 3_000},
    "budget": {"n_trials": 4, "epochs": 3, "max_params": 20_000},
    "search": {"seed": 3, "points": [{"method": "lora"}, {"method": "lora", "lora.rank": 4}]},
}


@pytest.mark.usefixtures("embedded_ray")
def test_a_trial_that_runs_out_of_memory_is_tried_once_more_in_a_fresh_process(tmp_path: Path) -> None:
    study = new_study(tmp_path, study="memory", **MEMORY)
    ray_tune.run(study, n_slots=1)
    check_memory(study)
    here = new_study(tmp_path, study="here", **MEMORY)
    in_process.run(here, make(**here.file.worker(here.row.facts)))
    check_memory(here)
    assert history(here) == history(study)


def check_memory(study: Study) -> None:
    large = [trial for trial in study.trials if trial.adapter_params > 3_000]
    assert large
    assert all((trial.state, trial.n_attempts, trial.epochs) == (State.FAILED, 2, 1) for trial in large)
    assert all(str(trial.reason).startswith("out of memory 2 times: MemoryError:") for trial in large)
    assert all(trial.state is State.COMPLETE for trial in study.trials if trial not in large)
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        assert [event.trial for event in ledger.events() if event.kind == "lost"] == [trial.number for trial in large]


@pytest.mark.usefixtures("embedded_ray")
def test_a_node_with_other_files_or_weights_ends_the_search_and_the_final_training_and_is_named(tmp_path: Path) -> None:
    """The files change after the driver has looked, as those of a node that joins are others from the beginning."""
    data = {"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set", 3, splits=("train", "val", "test")))}
    file = study_file(tmp_path, data=data, backbone={"name": "vit_glyphs"}, budget={"n_trials": 1, "epochs": 1})
    worker = file.worker()
    found = audit(worker["backbone"], worker["data"])
    assert found is not None
    pinned = Pinned(rules=DATA_RULES, data=found.data_digest, weights=found.weights_digest)
    study = Study.create(file, measure(worker["backbone"], worker["data"]), pinned=pinned)
    save_listing(worker["data"], file.listing_path)
    (tmp_path / "set" / "train" / "down" / "new.png").write_bytes(pictures.picture(1, 777))
    name = re.escape(ray.util.get_node_ip_address()) + "/[0-9a-f]{6}"
    with pytest.raises(RequestError, match=rf"^node {name}: data: .*: 1 image is new \(train/down/new\.png\)"):
        ray_tune.run(study, n_slots=1)
    assert [trial.state for trial in study.trials] == [State.RUNNING]  # nothing is lost: it goes on when the files are restored
    then = study.row.facts
    order = Order(0, dict(study.trials[0].config), seed=1, epochs=1, folder=tmp_path / "final")
    other = file.worker(then)
    other["backbone"]["digest"] = "f" * 64
    del other["data"]["digest"]
    with pytest.raises(RequestError, match=rf"^node {name}: backbone: the weights .*: their digest was f{{12}} and is "):
        list(ray_tune.retrain(other, [order], n_slots=1, cpus_per_trial=1, gpus_per_trial=0))
    with pytest.raises(RequestError, match=r"^data: .*: 1 image is new"):  # the driver's own files, before Ray is started
        list(RayBackEnd().retrain(file, then, [order]))


def test_after_running_out_of_memory_a_trial_gets_twice_the_share_of_a_gpu(tmp_path: Path) -> None:
    with closing(new_study(tmp_path, study="share", **MEMORY | {"resources": {"gpus_per_trial": 0.4}})) as study:
        next_trial(study)
        next_trial(study)
        study.worker_lost(0, WorkerLoss.MEMORY, "MemoryError: too large")
        assert (study.gpu_share(0), study.gpu_share(1)) == (0.8, 0.4)
    with closing(Study.open(study.file, measure(study.file.worker()["backbone"], study.file.worker()["data"]))) as again:
        assert again.gpu_share(0) == 0.8  # also after a restart


def test_a_trial_whose_workers_keep_dying_fails_at_the_third(tmp_path: Path) -> None:
    with closing(new_study(tmp_path, study="dying", **SYNTHETIC)) as study:
        for attempt in (1, 2, 3):
            trial = next_trial(study)
            assert (trial.number, trial.n_attempts) == (0, attempt)
            study.worker_lost(0, WorkerLoss.DEATH, "killed")
            study.worker_gone(0)
        assert study.trials[0].state is State.FAILED
        assert study.trials[0].reason == "the worker died 3 times: killed"
        following = next_trial(study)
        assert following.number == 1
