"""The record's law: MLflow holds what the ledger holds, exactly once, whatever happened in between."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from search.results import arrow_tables
from search.results.saved_study import load
from search.tracking.mlflow_client import tracking_uri
from search.tracking.run_content import trial_note
from search.tracking.study_note import filters
from search.tracking.sync import is_behind
from search.trial import State, Trial

from ..scripted_study import HISTORY, N_EPOCHS, ScriptedStudy, assert_equal_to_the_ledger, recorded

pytestmark = pytest.mark.slow

# -- the laws ----------------------------------------------------------------------------------------------------------


def test_a_record_that_follows_a_running_study_equals_one_made_afterwards(scripted: ScriptedStudy) -> None:
    record = scripted.record()
    record.sync()
    for number in (0, 1, 2):
        scripted.start(number)
    for _ in range(N_EPOCHS):
        for number in (0, 1, 2):
            if not scripted.trials[number].state.finished:
                scripted.step(number)
                record.sync()
                assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)
    scripted.finish(3, 4)
    record.sync(final=True)
    assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)
    study = recorded(tracking_uri(scripted.storage), scripted)[None]
    assert (scripted.storage / "mlflow-artifacts" / study["id"] / "artifacts" / "front.png").exists()


def test_a_tag_that_others_have_changed_to_no_number_stops_no_sync(scripted: ScriptedStudy) -> None:
    uri = tracking_uri(scripted.storage)
    scripted.finish(0)
    scripted.record().sync()
    lost = recorded(uri, scripted)[0]["id"]
    MlflowClient(tracking_uri=uri).set_tag(lost, "paretune.trial", "x' OR '1'='1")
    scripted.record().sync()
    MlflowClient(tracking_uri=uri).delete_run(lost)
    assert_equal_to_the_ledger(uri, scripted)


def test_a_second_sync_sends_nothing(scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.finish(*HISTORY)
    record = scripted.record()
    record.sync(final=True)
    before = recorded(tracking_uri(scripted.storage), scripted)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was sent again")

    for verb in _WRITING_VERBS:
        monkeypatch.setattr(MlflowClient, verb, refuse)
    record.sync()
    record.sync(final=True)
    scripted.record().sync(final=True)  # a new process knows it from the tags
    assert str(recorded(tracking_uri(scripted.storage), scripted)) == str(before)


_WRITING_VERBS = (
    "create_run",
    "log_batch",
    "update_run",
    "set_terminated",
    "log_artifacts",
    "delete_run",
    "delete_tag",
)


@pytest.mark.parametrize("answer", ["the request is lost", "the answer is lost"])
def test_a_recorder_killed_at_any_request_is_made_good_by_the_next(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    scripted.finish(2)
    scripted.start(1)
    uri = tracking_uri(scripted.storage)
    experiment = scripted.ledger.study().name

    def interrupted_at(n_requests: int) -> bool:
        """Record into a new experiment, losing one request; whether the request was reached."""
        left = itertools.count(n_requests, -1)
        with monkeypatch.context() as patch:
            for verb in _WRITING_VERBS:
                patch.setattr(MlflowClient, verb, _losing(getattr(MlflowClient, verb), left, answer))
            try:
                scripted.record(uri).sync()
            except ConnectionError:
                return True
        return False

    for n_requests in range(100):
        was_interrupted = interrupted_at(n_requests)
        scripted.record(uri).sync()
        assert_equal_to_the_ledger(uri, scripted)
        if not was_interrupted:
            break
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        client.rename_experiment(found.experiment_id, f"{experiment}-{n_requests}")
    assert n_requests > 5


def _losing(verb: Callable[..., Any], left: Iterator[int], answer: str) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        doomed = next(left) == 0
        if doomed and answer == "the request is lost":
            raise ConnectionError
        result = verb(*args, **options)
        if doomed:
            raise ConnectionError
        return result

    return called


def test_of_two_runs_of_one_trial_one_is_kept(scripted: ScriptedStudy) -> None:
    scripted.finish(0)
    scripted.record().sync()
    uri = tracking_uri(scripted.storage)
    client = MlflowClient(tracking_uri=uri)
    for run in recorded(uri, scripted).values():
        again = client.get_run(run["id"])
        client.create_run(again.info.experiment_id, tags={k: v for k, v in again.data.tags.items() if k in _IDENTITY})
    scripted.record().sync(final=True)
    assert_equal_to_the_ledger(uri, scripted)


_IDENTITY = ("paretune.study", "paretune.study_uid", "paretune.trial", "mlflow.parentRunId")


def test_front_tags_move_with_the_front(scripted: ScriptedStudy) -> None:
    record = scripted.record()
    uri = tracking_uri(scripted.storage)
    scripted.finish(0, 1)
    record.sync()
    assert {n: run["tags"]["paretune.front"] for n, run in recorded(uri, scripted).items() if n is not None} == {
        0: "true",
        1: "true",
    }
    scripted.finish(2, 3, 4)
    record.sync()
    assert {n for n, run in recorded(uri, scripted).items() if run["tags"].get("paretune.front") == "true"} == {0, 4}


def test_a_finished_run_goes_on_when_its_trial_is_resumed(scripted: ScriptedStudy) -> None:
    scripted.finish(0)
    record = scripted.record()
    scripted.start(2)
    scripted.step(2)
    record.sync(final=True)
    MlflowClient(tracking_uri=tracking_uri(scripted.storage)).set_terminated(
        recorded(tracking_uri(scripted.storage), scripted)[2]["id"], "FAILED"
    )
    with scripted.ledger.decision() as writer:
        scripted.trials[2] = writer.attempt(scripted.trials[2])
    resumed = scripted.record()
    resumed.sync()
    run = recorded(tracking_uri(scripted.storage), scripted)[2]
    assert (run["status"], run["tags"]["paretune.attempts"], run["tags"]["paretune.epochs"]) == ("RUNNING", "2", "1")
    scripted.finish(2)
    resumed.sync()
    assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)


def test_the_study_is_running_then_interrupted_then_finished(scripted: ScriptedStudy) -> None:
    uri = tracking_uri(scripted.storage)

    def standing() -> tuple[str, str]:
        scripted.record().sync()
        parent = recorded(uri, scripted)[None]
        return parent["status"], parent["tags"]["paretune.state"]

    scripted.start(0)
    assert standing() == ("RUNNING", "RUNNING")
    scripted.ledger.close()
    assert standing() == ("KILLED", "INTERRUPTED")
    scripted.ledger.claim()
    assert standing() == ("RUNNING", "RUNNING")
    scripted.finish(*HISTORY)
    assert standing() == ("FINISHED", "FINISHED")
    assert load(scripted.path.parent).state == "FINISHED"


def test_a_real_server_holds_the_study_with_its_artifacts(scripted: ScriptedStudy, mlflow_server: str, tmp_path: Path) -> None:
    scripted.finish(*HISTORY)
    scripted.record(mlflow_server).sync(final=True)
    assert_equal_to_the_ledger(mlflow_server, scripted)
    parent = recorded(mlflow_server, scripted)[None]
    study, trials = scripted.ledger.study(), scripted.ledger.trials()
    folder = Path(mlflow.artifacts.download_artifacts(run_id=parent["id"], dst_path=str(tmp_path), tracking_uri=mlflow_server))
    views = {"front.html", "front.png", "front.svg", "front.parquet", "trials.parquet", "reports.parquet"}
    assert {path.name for path in folder.iterdir()} >= views | {"study.yaml", "environment.json"}
    assert pq.read_table(folder / "reports.parquet").num_rows == len(scripted.ledger.reports())
    assert json.loads((folder / "environment.json").read_text())["packages"]["mlflow"] == mlflow.__version__
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    table = pq.read_table(folder / "trials.parquet")
    assert table.schema.equals(arrow_tables.trials_arrow(trials, study=study).schema, check_metadata=True)
    assert str(table.to_pylist()) == str(arrow_tables.trials_arrow(trials, study=study).to_pylist())  # NaN is not itself
    assert pq.read_table(folder / "front.parquet")["trial"].to_pylist() == [0, 4]
    assert yaml.safe_load((folder / "study.yaml").read_text()) == study.file


def test_the_filters_that_people_use_find_their_trials(scripted: ScriptedStudy, mlflow_server: str) -> None:
    scripted.finish(*HISTORY)
    scripted.record(mlflow_server).sync()
    client = MlflowClient(tracking_uri=mlflow_server)
    experiment = client.get_experiment_by_name(scripted.ledger.study().name)
    assert experiment is not None
    wanted = {"the front": {0, 4}, "one method": {1, 2}, "under a limit": {0, 3}, "stopped at a rung": {2}}
    for what, query in filters("lora", 200, 2).items():
        found = client.search_runs([experiment.experiment_id], query)
        assert {int(run.data.tags["paretune.trial"]) for run in found} == wanted[what], what


def test_the_description_shows_the_front_with_links_to_its_members(scripted: ScriptedStudy) -> None:
    scripted.finish(*HISTORY)
    scripted.record().sync()
    runs = recorded(tracking_uri(scripted.storage), scripted)
    note = runs[None]["note"]
    assert "vit_glyphs" in note
    assert "5 of 5 trials" in note
    assert "\n\n| trial&ensp;|" in note  # Markdown asks for an empty line before a table
    rows = [line for line in note.splitlines() if line.startswith("| [")]
    members = [row for row in rows if row[3].isdigit()]
    assert [row.split("]")[0] for row in members] == ["| [0000", "| [0004"]
    assert all(runs[n]["id"] in row for n, row in zip((0, 4), members, strict=True))
    assert "ARC r=2 is the best, 90.00 % with 300 parameters." in note
    assert all(f"`` {query} ``" in note for query in filters("arc", 100, 2).values())


def test_studies_that_begin_a_storage_at_once_are_all_recorded(tmp_path: Path) -> None:
    """Two processes, forked from one that has imported MLflow."""
    program = (
        "import os, pathlib, sys, mlflow.store.tracking.sqlalchemy_store\n"
        "from search.tracking.sync import MlflowSync\n"
        "first = os.fork() != 0\n"
        "MlflowSync(pathlib.Path(sys.argv[1 if first else 2]), sys.argv[3]).sync()\n"
        "sys.exit(os.waitstatus_to_exitcode(os.wait()[1]) if first else 0)"
    )
    studies = [ScriptedStudy(tmp_path, f"study-{n}") for n in range(2)]
    command = [sys.executable, "-c", program, *(str(study.path) for study in studies), tracking_uri(tmp_path)]
    assert subprocess.run(command, check=False, timeout=240).returncode == 0
    for study in studies:
        assert_equal_to_the_ledger(tracking_uri(tmp_path), study)
        study.ledger.close()


def test_a_record_that_was_behind_catches_up(scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted.finish(0)
    record = scripted.record()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", _losing(MlflowClient.create_run, itertools.repeat(0), "the request is lost"))
        with pytest.raises(ConnectionError):
            record.sync()
    scripted.finish(1)
    record.sync()
    assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)


def test_a_receipt_tells_without_mlflow_whether_the_record_is_behind(scripted: ScriptedStudy) -> None:
    uri = tracking_uri(scripted.storage)
    scripted.finish(0)
    assert is_behind(scripted.path, uri)
    scripted.record().sync()
    assert is_behind(scripted.path, uri)  # only a full sync gives a receipt
    scripted.record().sync(final=True)
    assert not is_behind(scripted.path, uri)
    assert is_behind(scripted.path, "http://127.0.0.1:5000")
    scripted.start(1)
    assert is_behind(scripted.path, uri)


def test_the_tracking_uri_of_the_environment_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(tmp_path) == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("state", "more", "said"),
    [
        (State.COMPLETE, {}, "- complete after 3 epochs with 61.00 %, on the front"),
        (State.PRUNED, {"reason": "below the bar"}, "- stopped after 3 epochs, which is no failure: below the bar"),
        (State.FAILED, {"reason": "NaN", "n_attempts": 2}, "- failed after 3 epochs: NaN"),
    ],
)
def test_the_page_of_a_trial_says_what_it_was_and_how_it_ended(state: State, more: dict[str, Any], said: str) -> None:
    trial = Trial(7, state, {"method": "lora", "lora.rank": 8}, 0, 1536, 388, 3, {"val/top1": 0.61}, extends=4, **more)
    note = trial_note(trial, 1 if state is State.COMPLETE else None)
    assert note.startswith("**LoRA** r8\n")
    assert {said, "- 1,536 parameters of the adapter, 388 of the head", "- it continues trial 4 with more epochs"} <= set(
        note.split("\n")
    )
    assert ("started 2 times" in note) is (state is State.FAILED)
