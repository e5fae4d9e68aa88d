"""The record's law: MLflow holds what the ledger holds, exactly once, whatever happened in between."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient

from search import report
from search.front import front, hypervolume
from search.ledger import Ledger
from search.recording import Recorder, RecordingError, _free_port, is_behind, serve, tracking_uri
from search.saved import load
from search.trial import State, Trial

# MLflow 3.17 asks SQLAlchemy 2.1 for a loading strategy that the latter deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")

N_EPOCHS = 3
HISTORY: dict[int, tuple[str, int, list[float], State]] = {  # trial -> method, size, accuracy of each epoch, how it ends
    0: ("head_only", 0, [0.5, 0.6, 0.7], State.COMPLETE),
    1: ("lora", 300, [0.4, 0.8, 0.85], State.COMPLETE),
    2: ("lora", 900, [0.4, 0.7], State.PRUNED),
    3: ("lily", 200, [0.6, math.nan], State.FAILED),
    4: ("arc", 300, [0.7, 0.8, 0.9], State.COMPLETE),  # beats trial 1 at the same size
}


_NAMES = itertools.count()


class Driven:
    """A real ledger that a test moves forward, with a clock of its own."""

    def __init__(self, storage: Path, name: str) -> None:
        tick = itertools.count(1_790_000_000.0, 0.25)
        self.storage = storage
        self.path = storage / name / "ledger.db"
        facts = {"n_classes": 10, "backbone_params": 600_000, "max_params": 9_999, "reference_point": [0.1, 9_999]}
        file = {
            "study": name,
            "backbone": {"name": "vit_glyphs", "weights": None},
            "data": {"kind": "digits"},
            "methods": ["lora", "arc", "lily"],
            "objectives": ["val/top1", "adapter_params"],
            "budget": {"n_trials": len(HISTORY), "epochs": N_EPOCHS},
        }
        self.ledger = Ledger.create(self.path, name=name, file=file, facts=facts, now=lambda: next(tick))
        self.trials: dict[int, Trial] = {}

    def start(self, number: int) -> None:
        """The next trial begins."""
        method, size, _, _ = HISTORY[number]
        config = {"method": method, "optim.lr": 1e-3} | ({f"{method}.rank": 2} if size else {})
        with self.ledger.decision() as writer:
            self.trials[number] = writer.start(Trial(number, State.RUNNING, config, 10 + number, size, 970))

    def step(self, number: int) -> None:
        """One more epoch, and the end if it is the last."""
        _, _, accuracies, end = HISTORY[number]
        epoch = self.trials[number].epochs + 1
        metrics = {"val/top1": accuracies[epoch - 1], "val/loss": 1.0 / epoch, "cost/train_seconds": 0.5}
        with self.ledger.decision() as writer:
            trial = writer.report(self.trials[number], epoch, metrics)
            if epoch == len(accuracies):
                reason = {State.FAILED: "val/top1 is nan at epoch 2", State.PRUNED: "by hand"}.get(end)
                trial = writer.finish(trial, end, reason=reason, rung=2 if end is State.PRUNED else None)
            self.trials[number] = trial

    def finish(self, *numbers: int) -> None:
        """Run trials to their ends, one after the other."""
        for number in numbers:
            if number not in self.trials:
                self.start(number)
            while not self.trials[number].state.finished:
                self.step(number)

    def recorder(self, uri: str | None = None, **options: Any) -> Recorder:
        """A new recorder, as a new driver makes one."""
        return Recorder(self.path, uri or tracking_uri(self.storage), **options)


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage folder: making MLflow's SQLite store takes longer than any test."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def driven(storage: Path) -> Iterator[Driven]:
    """A study of its own, without trials yet."""
    driven = Driven(storage, f"study-{next(_NAMES)}")
    yield driven
    driven.ledger.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on a free port."""
    folder = tmp_path_factory.mktemp("server")
    port = _free_port(None)
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env=_quiet(), start_new_session=True)
        try:
            _await(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _quiet() -> dict[str, str]:
    return os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"the server ended with status {process.wait(0.1)}")
    pytest.fail("the server did not listen within 60 s")


# -- what MLflow holds, read by its own client, and what it should hold, told by the ledger ----------------------------


def recorded(uri: str, driven: Driven) -> dict[int | None, dict[str, Any]]:
    """Trial (None for the study) to everything that MLflow holds of its one run."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(driven.ledger.study().name)
    assert experiment is not None
    found: dict[int | None, dict[str, Any]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("paretune.")}
        number = int(tags["paretune.trial"]) if "paretune.trial" in tags else None
        assert number not in found, f"two runs of {number}"
        history = {
            (key, point.step): (point.value, point.timestamp)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        }
        n_points = sum(len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics)
        assert n_points == len(history), "a point was recorded twice"
        found[number] = {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": dict(run.data.params),
            "tags": tags,
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "note": run.data.tags.get("mlflow.note.content"),
            "metrics": history,
        }
    return found


def expected_trial(trial: Trial, ledger: Ledger) -> dict[str, Any]:
    """The run of a trial, as the ledger tells it."""
    study = ledger.study()
    started = round(trial.started * 1000)
    metrics: dict[tuple[str, int], tuple[float, int]] = {
        ("adapter_params", 0): (trial.adapter_params, started),
        ("head_params", 0): (trial.head_params, started),
    }
    for epoch in ledger.reports(trial=trial.number):
        for key, value in epoch.metrics.items():
            metrics[key, epoch.epoch] = (value, round(epoch.time * 1000))
    tags = {
        "paretune.study": study.name,
        "paretune.study_uid": study.uid,
        "paretune.trial": str(trial.number),
        "paretune.method": trial.method,
        "paretune.state": trial.state.value,
        "paretune.front": str(trial in front(ledger.trials())).lower(),
        "paretune.attempts": str(trial.n_attempts),
        "paretune.epochs": str(trial.epochs),
    }
    if trial.rung is not None:
        tags["paretune.rung"] = str(trial.rung)
    if trial.reason is not None:
        tags["paretune.reason"] = trial.reason
    status = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAILED: "FAILED", State.RUNNING: "RUNNING"}
    return {
        "name": trial.label,
        "status": status[trial.state],
        "times": (started, None if trial.finished is None else round(trial.finished * 1000)),
        "params": {k: str(v) for k, v in trial.config.items()} | {"trial": str(trial.number), "seed": str(trial.seed)},
        "tags": tags,
        "metrics": metrics,
    }


def assert_equal_to_the_ledger(uri: str, driven: Driven) -> None:
    found = recorded(uri, driven)
    parent = found.pop(None)
    trials = {trial.number: trial for trial in driven.ledger.trials()}
    assert found.keys() == trials.keys()
    for number, run in found.items():
        wanted = expected_trial(trials[number], driven.ledger)
        assert _comparable({key: run[key] for key in wanted}) == _comparable(wanted)
        assert run["parent"] == parent["id"]
    ends = [event for event in driven.ledger.events() if event.kind in ("completed", "pruned", "failed")]
    complete: list[Trial] = []
    metrics = {}
    for n_ended, event in enumerate(ends, 1):
        complete += [trials[number] for number in [event.trial] if number is not None and event.kind == "completed"]
        at = round(event.time * 1000)
        metrics["front/size", n_ended] = (float(len(front(complete))), at)
        metrics["front/hypervolume", n_ended] = (hypervolume(complete, (0.1, 9_999)), at)
        if complete:
            metrics["best/top1", n_ended] = (max(t.metrics["val/top1"] for t in complete), at)
    assert parent["metrics"] == metrics
    assert parent["tags"]["paretune.n_ended"] == str(len(ends))


def _comparable(run: dict[str, Any]) -> dict[str, Any]:
    points = {k: ("nan" if math.isnan(value) else value, at) for k, (value, at) in run["metrics"].items()}
    return run | {"metrics": points}


# -- the laws ----------------------------------------------------------------------------------------------------------


def test_the_record_equals_the_ledger_exactly_once(driven: Driven) -> None:
    driven.finish(*HISTORY)
    driven.recorder().sync(final=True)
    assert_equal_to_the_ledger(tracking_uri(driven.storage), driven)


def test_a_record_that_follows_a_running_study_equals_one_made_afterwards(driven: Driven) -> None:
    recorder = driven.recorder()
    recorder.sync()
    for number in (0, 1, 2):
        driven.start(number)
    for _ in range(N_EPOCHS):
        for number in (0, 1, 2):
            if not driven.trials[number].state.finished:
                driven.step(number)
                recorder.sync()
                assert_equal_to_the_ledger(tracking_uri(driven.storage), driven)
    driven.finish(3, 4)
    recorder.sync(final=True)
    assert_equal_to_the_ledger(tracking_uri(driven.storage), driven)


def test_a_second_sync_sends_nothing(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    driven.finish(*HISTORY)
    recorder = driven.recorder()
    recorder.sync(final=True)
    before = recorded(tracking_uri(driven.storage), driven)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("something was sent again")

    for verb in _WRITING_VERBS:
        monkeypatch.setattr(MlflowClient, verb, refuse)
    recorder.sync()
    recorder.sync(final=True)
    driven.recorder().sync(final=True)  # a new process knows it from the tags
    assert str(recorded(tracking_uri(driven.storage), driven)) == str(before)


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
    driven: Driven, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    driven.finish(0, 2)
    driven.start(1)
    uri = tracking_uri(driven.storage)
    experiment = driven.ledger.study().name

    def interrupted_at(n_requests: int) -> bool:
        """Record into a new experiment, losing one request; whether the request was reached."""
        left = itertools.count(n_requests, -1)
        with monkeypatch.context() as patch:
            for verb in _WRITING_VERBS:
                patch.setattr(MlflowClient, verb, _losing(getattr(MlflowClient, verb), left, answer))
            try:
                driven.recorder(uri).sync()
            except ConnectionError:
                return True
        return False

    for n_requests in range(100):
        was_interrupted = interrupted_at(n_requests)
        driven.recorder(uri).sync()
        assert_equal_to_the_ledger(uri, driven)
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


def test_of_two_runs_of_one_trial_one_is_kept(driven: Driven) -> None:
    driven.finish(0)
    driven.recorder().sync()
    uri = tracking_uri(driven.storage)
    client = MlflowClient(tracking_uri=uri)
    for run in recorded(uri, driven).values():
        again = client.get_run(run["id"])
        client.create_run(again.info.experiment_id, tags={k: v for k, v in again.data.tags.items() if k in _IDENTITY})
    driven.recorder().sync(final=True)
    assert_equal_to_the_ledger(uri, driven)


_IDENTITY = ("paretune.study", "paretune.study_uid", "paretune.trial", "mlflow.parentRunId")


def test_front_tags_move_with_the_front(driven: Driven) -> None:
    recorder = driven.recorder()
    uri = tracking_uri(driven.storage)
    driven.finish(0, 1)
    recorder.sync()
    assert {n: run["tags"]["paretune.front"] for n, run in recorded(uri, driven).items() if n is not None} == {
        0: "true",
        1: "true",
    }
    driven.finish(2, 3, 4)
    recorder.sync()
    assert {n for n, run in recorded(uri, driven).items() if run["tags"].get("paretune.front") == "true"} == {0, 4}


def test_a_finished_run_goes_on_when_its_trial_is_resumed(driven: Driven) -> None:
    driven.finish(0)
    recorder = driven.recorder()
    driven.start(2)
    driven.step(2)
    recorder.sync(final=True)
    MlflowClient(tracking_uri=tracking_uri(driven.storage)).set_terminated(
        recorded(tracking_uri(driven.storage), driven)[2]["id"], "FAILED"
    )
    with driven.ledger.decision() as writer:
        driven.trials[2] = writer.attempt(driven.trials[2])
    resumed = driven.recorder()
    resumed.sync()
    run = recorded(tracking_uri(driven.storage), driven)[2]
    assert (run["status"], run["tags"]["paretune.attempts"], run["tags"]["paretune.epochs"]) == ("RUNNING", "2", "1")
    driven.finish(2)
    resumed.sync()
    assert_equal_to_the_ledger(tracking_uri(driven.storage), driven)


def test_the_study_is_running_then_interrupted_then_finished(driven: Driven) -> None:
    uri = tracking_uri(driven.storage)

    def standing() -> tuple[str, str]:
        driven.recorder().sync()
        parent = recorded(uri, driven)[None]
        return parent["status"], parent["tags"]["paretune.state"]

    driven.start(0)
    assert standing() == ("RUNNING", "RUNNING")
    driven.ledger.close()
    assert standing() == ("KILLED", "INTERRUPTED")
    driven.ledger.claim()
    assert standing() == ("RUNNING", "RUNNING")
    driven.finish(*HISTORY)
    assert standing() == ("FINISHED", "FINISHED")
    assert load(driven.path.parent).state == "FINISHED"


def test_a_real_server_holds_the_study_with_its_artifacts(driven: Driven, server: str, tmp_path: Path) -> None:
    driven.finish(*HISTORY)
    driven.recorder(server).sync(final=True)
    assert_equal_to_the_ledger(server, driven)
    parent = recorded(server, driven)[None]
    study, trials = driven.ledger.study(), driven.ledger.trials()
    folder = Path(mlflow.artifacts.download_artifacts(run_id=parent["id"], dst_path=str(tmp_path), tracking_uri=server))
    assert {path.name for path in folder.iterdir()} >= {"front.png", "front.parquet", "trials.parquet", "study.yaml"}
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
    table = pq.read_table(folder / "trials.parquet")
    assert table.schema.equals(report.trials_arrow(trials, study=study).schema, check_metadata=True)
    assert str(table.to_pylist()) == str(report.trials_arrow(trials, study=study).to_pylist())  # NaN is not itself
    assert pq.read_table(folder / "front.parquet")["trial"].to_pylist() == [0, 4]
    assert yaml.safe_load((folder / "study.yaml").read_text()) == study.file


@pytest.mark.parametrize(
    ("query", "trials"),
    [
        ("tags.`paretune.front` = 'true'", {0, 4}),
        ("tags.`paretune.method` = 'lora'", {1, 2}),
        ("tags.`paretune.method` = 'lora' and tags.`paretune.state` = 'COMPLETE'", {1}),
        ("metrics.adapter_params <= 200 and tags.`paretune.trial` != ''", {0, 3}),
        ("tags.`paretune.rung` = '2'", {2}),
    ],
)
def test_the_filters_that_people_use_find_their_trials(driven: Driven, query: str, trials: set[int]) -> None:
    driven.finish(*HISTORY)
    driven.recorder().sync()
    client = MlflowClient(tracking_uri=tracking_uri(driven.storage))
    experiment = client.get_experiment_by_name(driven.ledger.study().name)
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], query)
    assert {int(run.data.tags["paretune.trial"]) for run in found} == trials


def test_the_description_shows_the_front_with_links_to_its_members(driven: Driven) -> None:
    driven.finish(*HISTORY)
    driven.recorder().sync()
    runs = recorded(tracking_uri(driven.storage), driven)
    note = runs[None]["note"]
    assert "vit_glyphs" in note
    assert "5 of 5 trials" in note
    assert "\n\n| trial |" in note  # Markdown asks for an empty line before a table
    rows = [line for line in note.splitlines() if line.startswith("| [")]
    assert [row.split("]")[0] for row in rows] == ["| [0000", "| [0004"]
    assert all(runs[n]["id"] in row for n, row in zip((0, 4), rows, strict=True))


# -- the thread --------------------------------------------------------------------------------------------------------


def test_the_thread_records_the_study_by_the_time_it_is_stopped(driven: Driven) -> None:
    recorder = driven.recorder(period=0.01)
    recorder.start()
    driven.finish(*HISTORY)
    driven.ledger.close()
    assert recorder.stop(timeout=60) is None
    assert_equal_to_the_ledger(tracking_uri(driven.storage), driven)


def test_studies_that_begin_a_storage_at_once_are_all_recorded(tmp_path: Path) -> None:
    program = "import sys, pathlib, search.recording as r; r.Recorder(pathlib.Path(sys.argv[1]), sys.argv[2]).sync()"
    studies = [Driven(tmp_path, f"study-{n}") for n in range(2)]
    commands = [[sys.executable, "-c", program, str(study.path), tracking_uri(tmp_path)] for study in studies]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0]
    for study in studies:
        assert_equal_to_the_ledger(tracking_uri(tmp_path), study)
        study.ledger.close()


def test_a_server_that_is_down_is_warned_about_once_and_stops_nothing(
    driven: Driven, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr("urllib3.connectionpool.log.disabled", True)
    driven.finish(0)
    recorder = driven.recorder(f"http://127.0.0.1:{_free_port(None)}", period=0.01)
    with caplog.at_level(logging.WARNING, logger="search.recording"):
        recorder.start()
        problem = recorder.stop(timeout=30)
    assert problem is not None
    assert "behind" in problem
    assert sum("cannot be written" in record.message for record in caplog.records) == 1


def test_a_password_in_the_address_is_not_shown(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urllib3.connectionpool.log.disabled", True)
    recorder = driven.recorder(f"http://somebody:secret@127.0.0.1:{_free_port(None)}", period=0.01)
    problem = recorder.stop(timeout=30)
    assert problem is not None
    assert "secret" not in problem


def test_a_server_that_never_answers_does_not_hold_the_driver(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recorder = driven.recorder(f"http://127.0.0.1:{silent.getsockname()[1]}")
        recorder.start()
        driven.finish(*HISTORY)  # the driver goes on
        problem = recorder.stop(timeout=0.2)
    assert problem is not None
    assert "no answer within 0.2 s" in problem
    for thread in threading.enumerate():
        if thread.name == "paretune-recorder":
            thread.join(30)


def test_a_record_that_was_behind_catches_up(driven: Driven, monkeypatch: pytest.MonkeyPatch) -> None:
    driven.finish(0)
    recorder = driven.recorder()
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", _losing(MlflowClient.create_run, itertools.repeat(0), "the request is lost"))
        with pytest.raises(ConnectionError):
            recorder.sync()
    driven.finish(1)
    recorder.sync()
    assert_equal_to_the_ledger(tracking_uri(driven.storage), driven)


def test_a_receipt_tells_without_mlflow_whether_the_record_is_behind(driven: Driven) -> None:
    uri = tracking_uri(driven.storage)
    driven.finish(0)
    assert is_behind(driven.path, uri)
    driven.recorder().sync()
    assert is_behind(driven.path, uri)  # only a full sync gives a receipt
    driven.recorder().sync(final=True)
    assert not is_behind(driven.path, uri)
    assert is_behind(driven.path, "http://127.0.0.1:5000")
    driven.start(1)
    assert is_behind(driven.path, uri)


def test_importing_the_recorder_does_not_import_mlflow() -> None:
    program = "import sys, search.recording; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


# -- where, and looking at it ------------------------------------------------------------------------------------------


def test_the_tracking_uri_of_the_environment_is_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path.resolve()}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking_uri(tmp_path) == "http://127.0.0.1:5000"


def test_artifacts_of_a_database_lie_beside_the_studies(driven: Driven) -> None:
    driven.finish(*HISTORY)
    driven.recorder().sync(final=True)
    parent = recorded(tracking_uri(driven.storage), driven)[None]
    assert (driven.storage / "mlflow-artifacts" / parent["id"] / "artifacts" / "front.png").exists()


def test_the_pages_open_at_the_study_and_end_cleanly_when_interrupted(driven: Driven) -> None:
    driven.finish(0)
    driven.recorder().sync()
    name = driven.ledger.study().name
    program = "from pathlib import Path; from search.recording import serve; serve(Path({!r}), study={!r}, say={})"
    say = "lambda line: print(line, flush=True)"
    command = [sys.executable, "-c", program.format(str(driven.storage), name, say)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        client = MlflowClient(tracking_uri=address.split("/#")[0])
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        assert address.endswith(f"/#/experiments/{experiment.experiment_id}")
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    port = int(address.split(":")[2].split("/")[0])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_port_that_is_taken_is_refused_with_its_number(driven: Driven) -> None:
    driven.recorder().sync()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RecordingError, match=f"port {port} .* is taken"):
            serve(driven.storage, port=port)


def test_pages_without_a_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="run a study first"):
        serve(tmp_path)
