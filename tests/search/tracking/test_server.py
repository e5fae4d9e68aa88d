"""The record's pages: MLflow's own, on this machine only, ended cleanly."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from search.tracking.server import serve
from search.tracking.sync import RecordingError

from ..scripted_study import ScriptedStudy, recorded


@pytest.mark.slow
def test_the_pages_open_at_the_study_for_those_who_have_the_address_and_end_cleanly_when_interrupted(
    scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted.finish(0)
    scripted.record().sync()
    name = scripted.ledger.study().name
    program = "from pathlib import Path; from search.tracking.server import serve; serve(Path({!r}), study={!r}, say={})"
    say = "lambda line: print(line, flush=True)"
    command = [sys.executable, "-c", program.format(str(scripted.storage), name, say)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = urlsplit(process.stdout.readline().split()[-1])
        token, pages = address.query.removeprefix("token="), f"http://{address.netloc}"
        arguments = [word for one in psutil.Process(process.pid).children(recursive=True) for word in one.cmdline()]
        assert not any(token in word for word in arguments)

        with pytest.raises(MlflowException, match="401"):  # another user of the machine
            MlflowClient(tracking_uri=pages).search_experiments()
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", token)
        experiment = MlflowClient(tracking_uri=pages).get_experiment_by_name(name)
        assert experiment is not None
        parent = recorded(pages, scripted)[None]["id"]
        assert address.fragment == f"/experiments/{experiment.experiment_id}/runs/{parent}?workflowType=machine_learning"

        strange = requests.Session()
        for path in ("/", "/health", "/ajax-api/2.0/mlflow/experiments/get?experiment_id=0", "/?token=none"):
            assert strange.get(f"{pages}{path}", timeout=30).status_code == 401
        artifact = f"{pages}/api/2.0/mlflow-artifacts/artifacts/{experiment.experiment_id}/front.html"
        assert strange.put(artifact, data=b"x", timeout=30).status_code == 401
        browser = requests.Session()
        opened = browser.get(f"{pages}/?{address.query}", timeout=30)
        assert (opened.status_code, opened.url) == (200, f"{pages}/")  # the token is not in the history, nor sent to other pages
        assert browser.get(f"{pages}/ajax-api/2.0/mlflow/experiments/get?experiment_id=0", timeout=30).status_code == 200

        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.hostname, address.port), timeout=5)


def test_a_port_that_is_taken_is_refused_with_its_number(scripted: ScriptedStudy) -> None:
    scripted.record().sync()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(RecordingError, match=f"port {port} .* is taken"):
            serve(scripted.storage, port=port)


def test_pages_without_a_record_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="run a study first"):
        serve(tmp_path)


def test_a_studys_address_on_a_running_server_is_told_without_the_password(
    scripted: ScriptedStudy, mlflow_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    scripted.finish(0)
    name = scripted.ledger.study().name
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server.replace("http://", "http://somebody:secret@"))
    with pytest.raises(RecordingError, match=f"paretune sync {name}"):
        serve(scripted.storage, study=name, say=told.append)
    scripted.record(mlflow_server).sync(final=True)
    serve(scripted.storage, study=name, say=told.append)
    experiment = MlflowClient(tracking_uri=mlflow_server).get_experiment_by_name(name)
    assert experiment is not None
    parent = recorded(mlflow_server, scripted)[None]["id"]
    assert [line.split()[-1] for line in told] == [
        f"{mlflow_server}/#/experiments/{experiment.experiment_id}/runs/{parent}?workflowType=machine_learning"
    ]
