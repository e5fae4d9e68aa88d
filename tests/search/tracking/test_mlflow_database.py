"""MLflow's database is whole or absent, wherever its storage lies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.storage.sqlite_address import sqlite_address, sqlite_path
from search.tracking.mlflow_client import tracking_uri
from search.tracking.mlflow_database import whole_database
from search.tracking.mlflow_internals import newest_version
from search.tracking.sync import MlflowSync

from ..command_line import paretune
from ..mlflow_database import with_mlflow_database
from ..scripted_study import HISTORY, ScriptedStudy, assert_equal_to_the_ledger

MAKE = "import sys; from search.tracking.mlflow_database import whole_database\nwith whole_database(sys.argv[1]): pass"


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.parametrize("seconds", [1.5, 2.6])
def test_killed_while_it_is_made_it_is_absent_or_whole_and_made_by_the_next(tmp_path: Path, seconds: float) -> None:
    database = tmp_path / "mlflow.db"
    with subprocess.Popen([sys.executable, "-c", MAKE, sqlite_address(database)]) as process:
        threading.Event().wait(seconds)
        os.kill(process.pid, signal.SIGKILL)
    assert not database.exists() or version(database) == newest_version()
    with whole_database(sqlite_address(database)):
        assert version(database) == newest_version()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.parametrize("half", ["CREATE TABLE experiments (experiment_id INTEGER)", "no version"])
def test_one_that_was_left_half_made_is_made_anew(tmp_path: Path, half: str) -> None:
    database = tmp_path / "mlflow.db"
    if half == "no version":
        with_mlflow_database(tmp_path)
        half = "UPDATE alembic_version SET version_num = '451aebb31d03'"  # an early migration
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(half)
    scripted = ScriptedStudy(tmp_path, "s")
    scripted.finish(*HISTORY)
    MlflowSync(scripted.path, tracking_uri(tmp_path)).sync(final=True)
    assert_equal_to_the_ledger(tracking_uri(tmp_path), scripted)
    scripted.ledger.close()


def test_one_of_another_version_with_runs_is_left_alone(tmp_path: Path) -> None:
    with_mlflow_database(tmp_path)
    client = MlflowClient(tracking_uri=tracking_uri(tmp_path))
    client.create_run(client.create_experiment("mine"))
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of another MLflow'")
    with whole_database(tracking_uri(tmp_path)):
        assert version(tmp_path / "mlflow.db") == "of another MLflow"


def test_a_storage_may_have_any_name(tmp_path: Path) -> None:
    name = "a%25b%2F what? 50% #1&x=é"
    path = tmp_path / name / "mlflow.db"
    assert sqlite_path(sqlite_address(path)) == path
    (tmp_path / name).mkdir()
    study = "study: syn\ndata: {kind: synthetic}\nmethods: [lora]\nbudget: {n_trials: 2, epochs: 2}\n"
    (tmp_path / "syn.yaml").write_text(study)
    here = tmp_path / name / "studies"
    done = paretune("run", "syn.yaml", "--back-end", "in-process", "--storage", str(here), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = paretune("sync", "syn", "--check", "--storage", str(here), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    done = paretune("export", "syn", "--format", "optuna", "--storage", str(here), cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted([name, "syn.yaml"])
    assert (here / "mlflow.db").exists()
    client = MlflowClient(tracking_uri=tracking_uri(here))
    [experiment] = client.search_experiments(filter_string="name = 'syn'")
    found = client.search_runs([experiment.experiment_id])
    held = {run.info.run_id: {artifact.path for artifact in client.list_artifacts(run.info.run_id)} for run in found}
    [page] = [run_id for run_id, paths in held.items() if "front.html" in paths]
    assert Path(client.download_artifacts(page, "front.html", str(tmp_path / name))).read_text()
