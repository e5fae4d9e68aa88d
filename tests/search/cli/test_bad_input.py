"""What goes wrong is told in one clear message: no traceback, exit code 1 or 2, nothing lost."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.config import loading
from search.errors import RequestError
from search.results.saved_study import load
from search.storage.schema import VERSION
from search.workflows import run

from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

SYNTHETIC = """
study: syn
data: {kind: synthetic}
methods: [lora, arc, lily]
budget: {n_trials: 40, epochs: 3, max_params: 20_000}
"""


def refused(done: subprocess.CompletedProcess[str], message: str, code: int = 2) -> None:
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "syn.yaml").write_text(SYNTHETIC)
    with_mlflow_database(tmp_path / "paretune-studies")
    return tmp_path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished study."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "syn.yaml").write_text(SYNTHETIC.replace("40", "5"))
    with_mlflow_database(folder / "paretune-studies")
    assert paretune("run", "syn.yaml", "--back-end", "in-process", cwd=folder).returncode == 0
    return folder


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("backbone.name=vit_bse_patch16_224", "vit_base_patch16_224"),
        ("space.lora.rank=[1000]", "lora.rank must be at most"),
        ("budget.max_params=1", "budget.max_params is 1"),
    ],
)
def test_what_the_model_cannot_do_is_told_before_anything_is_stored(tmp_path: Path, override: str, message: str) -> None:
    file = loading.load("digits", [override]).model_copy(update={"storage": tmp_path / "studies"})
    with pytest.raises(RequestError, match=message):
        run.run(file, back_end="in-process")
    assert list(tmp_path.iterdir()) == []


def test_what_the_model_cannot_do_is_one_message_of_the_command(tmp_path: Path) -> None:
    refused(
        paretune("run", "--set", "space.lora.rank=[1000]", "--back-end", "in-process", cwd=tmp_path), "lora.rank must be at most"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_storage_that_cannot_be_written_is_told_before_anything_runs(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    done = paretune("run", "syn.yaml", "--back-end", "in-process", "--storage", "file", cwd=folder)
    refused(done, "storage: file/syn cannot be written (Not a directory)")


def test_a_ledger_of_a_newer_version_is_left_alone(ran: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(ran, tmp_path / "copy")
    path = folder / "paretune-studies" / "syn" / "ledger.db"
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE study SET schema_version = 99")
    for command in (["run", "syn.yaml", "--back-end", "in-process"], ["front", "syn"], ["ls"]):
        refused(paretune(*command, cwd=folder), f"has schema 99, this Paretune knows up to {VERSION}; use a newer Paretune")


def test_a_busy_port_is_named(ran: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(paretune("ui", "--port", str(port), cwd=ran), str(port))


@pytest.mark.parametrize("delay", [0.9, 2.5])
def test_ctrl_c_at_any_moment_of_a_real_run_leaves_a_study_that_goes_on(folder: Path, delay: float) -> None:
    """During imports and while Ray starts; while it trains: test_signals.py."""
    command = [sys.executable, "-m", "search.cli", "run", "syn.yaml"]
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    begun = time.monotonic()
    try:
        out, err = process.communicate(timeout=delay)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole foreground group
        out, err = process.communicate(timeout=240)
    assert process.returncode in (0, 1), err
    assert "Traceback" not in out + err or time.monotonic() - begun < 1.0  # Python itself, before our first line ran
    ledger = folder / "paretune-studies" / "syn" / "ledger.db"
    if ledger.exists():
        assert load(ledger.parent).state != "RUNNING"
