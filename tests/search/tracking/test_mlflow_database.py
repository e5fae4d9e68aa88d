"""MLflow's database is whole or absent, wherever its storage lies."""

from __future__ import annotations

import json
import re
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from alembic.script import ScriptDirectory
from mlflow import MlflowClient
from mlflow.store import db_migrations as migrations

from search.storage.sqlite_address import sqlite_address, sqlite_path
from search.tracking.mlflow_client import tracking_uri
from search.tracking.mlflow_database import whole_database
from search.tracking.mlflow_internals import newest_version
from search.tracking.sync import MlflowSync

from ...recorder_here import RecorderHere
from ..command_line import paretune
from ..mlflow_database import with_mlflow_database
from ..scripted_study import ScriptedStudy, assert_equal_to_the_ledger

# Makes a database. At each migration it forks twice: one child dies of kill -9, the other of Ctrl-C. Files are then restored.
MAKE = """
import json, os, shutil, signal, sys
from pathlib import Path
from sqlalchemy import Engine, event
from search.storage.sqlite_address import sqlite_address
from search.tracking.mlflow_database import whole_database

here, kept, killed = map(Path, sys.argv[1:])
outcomes, ends = [], []
signal.signal(signal.SIGINT, signal.default_int_handler)

def die(number):
    before = {path: path.read_bytes() for path in here.iterdir()}
    for path in before:
        os.link(path, kept / path.name)
    if (child := os.fork()) == 0:
        ends.append(child)
        signal.raise_signal(number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    outcomes.append([number, code, sorted(path.name for path in here.iterdir())])
    if number == signal.SIGKILL:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(here, killed)
    for path, content in before.items():  # the same file with the same content: the parent has it open
        path.unlink(missing_ok=True)  # as it is, or SQLite's that was left: a rename onto the same file does nothing
        (kept / path.name).replace(path)
        with path.open("r+b") as file:
            file.truncate(file.write(content))

@event.listens_for(Engine, "after_cursor_execute")
def after(connection, cursor, statement, *others):
    if not ends and statement.startswith(("UPDATE alembic_version", "INSERT INTO alembic_version")):
        die(signal.SIGKILL)
        die(signal.SIGINT)

try:
    with whole_database(sqlite_address(here / "mlflow.db")):
        pass
except KeyboardInterrupt:
    os._exit(130)
print(json.dumps(outcomes))
"""


def n_migrations() -> int:
    return sum(1 for _ in ScriptDirectory(str(Path(migrations.__file__).parent)).walk_revisions())


def version(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


@pytest.mark.slow
def test_killed_at_any_migration_it_is_absent_and_made_by_the_next(tmp_path: Path) -> None:
    here, kept, killed = (tmp_path / name for name in ("here", "kept", "killed"))
    here.mkdir()
    kept.mkdir()
    made = subprocess.run(
        [sys.executable, "-c", MAKE, *map(str, (here, kept, killed))], capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    outcomes = json.loads(made.stdout)
    assert len(outcomes) == 2 * n_migrations()
    for number, code, names in outcomes:
        assert code == (130 if number == signal.SIGINT else -signal.SIGKILL)
        drafts = [name for name in names if name != ".mlflow.db.lock"]
        assert all(re.match(r"\.mlflow\.db\.\w+\.new", name) for name in drafts)
        assert bool(drafts) is (number == signal.SIGKILL)  # Ctrl-C leaves time to remove them
    assert any(path.name.startswith(".mlflow.db.") and path.stat().st_size > 0 for path in killed.iterdir())
    with whole_database(sqlite_address(killed / "mlflow.db")):
        pass
    for folder in (here, killed):
        assert version(folder / "mlflow.db") == newest_version()
        assert sorted(path.name for path in folder.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


@pytest.mark.parametrize("half", ["CREATE TABLE experiments (experiment_id INTEGER)", "no version"])
def test_one_that_was_left_half_made_is_made_anew(tmp_path: Path, half: str) -> None:
    database = tmp_path / "mlflow.db"
    if half == "no version":
        with_mlflow_database(tmp_path)
        half = "UPDATE alembic_version SET version_num = '451aebb31d03'"  # an early migration
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(half)
    scripted = ScriptedStudy(tmp_path, "s")
    scripted.finish(0)
    MlflowSync(scripted.path, tracking_uri(tmp_path)).sync()
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


def test_a_storage_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose recorder makes the database: test_recorder.py."""
    monkeypatch.setattr("search.workflows.run.RecorderProcess", RecorderHere)
    for name in ("a%25b", "a%2Fb", "what?", "50% #1"):
        path = tmp_path / name / "mlflow.db"
        assert sqlite_path(sqlite_address(path)) == path
    name = "a%25b a%2Fb what? 50% #1"
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


@pytest.mark.parametrize("folder", ["quo'te\"", "a :b", "back\\slash"])
def test_it_is_made_from_any_folder(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here := tmp_path / folder).mkdir()
    monkeypatch.chdir(here)
    with whole_database(tracking_uri(here)):
        pass
    with closing(sqlite3.connect(here / "mlflow.db")) as connection:
        [(location,)] = connection.execute("SELECT artifact_location FROM experiments WHERE experiment_id = 0")
    assert location.endswith("/0")
    assert not location.startswith("mlflow-artifacts:")
