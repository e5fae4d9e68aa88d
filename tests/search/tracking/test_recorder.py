"""The recorder: a process beside the search that brings the record up to date, and never holds the search up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from search.tracking.mlflow_client import tracking_uri
from search.tracking.recorder import RecorderProcess

from ..scripted_study import HISTORY, ScriptedStudy, assert_equal_to_the_ledger, recorded


def recorder(scripted: ScriptedStudy, uri: str | None = None) -> RecorderProcess:
    return RecorderProcess(scripted.path, uri or tracking_uri(scripted.storage), period=0.01)


def test_the_study_is_recorded_by_the_time_the_recorder_is_stopped_in_a_storage_of_any_name(tmp_path: Path) -> None:
    scripted = ScriptedStudy(tmp_path / "a%25b a%2Fb what? 50% #1", "s")
    recording = recorder(scripted)
    recording.start()
    scripted.finish(*HISTORY)
    scripted.ledger.close()
    assert recording.stop() is None
    assert (scripted.storage / "mlflow.db").exists()
    assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)


def test_a_recorder_that_was_never_started_has_nothing_to_tell(scripted: ScriptedStudy) -> None:
    recording = recorder(scripted)
    recording.close()
    assert recording.stop() is None


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_a_record_of_an_interrupted_study(scripted: ScriptedStudy) -> None:
    """The pipe closes with the driver, whatever ended it: no run stays RUNNING in MLflow."""
    scripted.finish(0)
    scripted.start(1)
    scripted.step(1)
    scripted.ledger.close()
    program = (
        "import json, os, signal, sys\n"
        "from pathlib import Path\n"
        "from search.storage.sql_ledger import SqlLedger\n"
        "from search.tracking.recorder import RecorderProcess\n"
        "SqlLedger.open(Path(sys.argv[1])).claim()\n"
        "recording = RecorderProcess(Path(sys.argv[1]), sys.argv[2], period=0.01)\n"
        "recording.start()\n"
        "print(recording._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(scripted.path), tracking_uri(scripted.storage)]
    driver = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert driver.returncode == -signal.SIGKILL
    _gone(int(driver.stdout))
    found = recorded(tracking_uri(scripted.storage), scripted)
    assert (found[None]["status"], found[None]["tags"]["paretune.state"]) == ("KILLED", "INTERRUPTED")
    assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)


def _gone(pid: int) -> None:
    try:
        psutil.Process(pid).wait(60)
    except psutil.NoSuchProcess:
        return


def test_a_server_that_never_answers_does_not_hold_the_driver(scripted: ScriptedStudy) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recording = recorder(scripted, f"http://127.0.0.1:{silent.getsockname()[1]}")
        recording.start()
        assert recording._process is not None
        silent.settimeout(60)
        connection, _ = silent.accept()  # it has asked, and waits
        began = time.monotonic()
        scripted.finish(*HISTORY)  # the driver goes on
        problem = recording.stop(timeout=0.2)
        assert time.monotonic() - began < 10
        connection.close()
    assert problem is not None
    assert "no answer within 0.2 s" in problem
    assert not psutil.pid_exists(recording._process.pid)


def test_a_recorder_that_is_killed_at_its_last_sync_is_followed_by_another(scripted: ScriptedStudy) -> None:
    """While the study runs: test_killed_mlflow.py."""
    recording = recorder(scripted)
    recording.start()
    scripted.finish(0, 1)
    recording.close()
    assert recording._process is not None
    _kill(recording._process.pid)
    assert recording.stop() is None
    assert_equal_to_the_ledger(tracking_uri(scripted.storage), scripted)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # it is dead, and the driver has not heard of it


def test_the_driver_does_not_import_mlflow() -> None:
    program = "import sys, search.tracking.recorder; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=240).returncode == 0
