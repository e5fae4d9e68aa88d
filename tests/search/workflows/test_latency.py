"""`paretune cost`: latency is measured when nothing else runs, kept in the ledger, and shown everywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient

from search.errors import OwnedElsewhere, RequestError
from search.results.saved_study import load
from search.storage.sql_ledger import SqlLedger
from search.workflows.busy import busy_cores
from search.workflows.latency import measure

from ...trainables.data import pictures
from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning")  # MLflow's
SMALL = [
    "--set", "budget.n_trials=3", "--set", "budget.epochs=1", "--set", "search.rungs=null",
    "--set", "methods=[lora,lily]", "--set", "search.sampler=random", "--back-end", "in-process",
]  # fmt: skip


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    with_mlflow_database(folder / "paretune-studies")
    done = paretune("run", "digits", "--set", "space={}", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_command_measures_named_trials_and_what_it_finds_is_shown_everywhere(searched: Path) -> None:
    done = paretune("cost", "digits", "1", "2", "--json", cwd=searched)
    assert done.returncode == 0, done.stderr
    lora, lily = json.loads(done.stdout)
    assert (lora["method"], lily["method"]) == ("lora", "lily")
    assert lora["cost/latency_ms"] > 0.0 < lora["cost/latency_merged_ms"]
    assert "cost/latency_merged_ms" not in lily
    assert "its router makes the weight a function of the input" in lily["unmergeable"]

    saved = load(searched / "paretune-studies" / "digits")
    assert saved.history[1].metrics["cost/latency_ms"] == lora["cost/latency_ms"]
    assert "cost/latency_ms" not in saved.history[0].metrics
    assert "milliseconds per image" in paretune("show", "digits", "1", cwd=searched).stdout
    column = pq.read_table(saved.folder / "trials.parquet")["cost/latency_ms"].to_pylist()
    assert column == [None, lora["cost/latency_ms"], lily["cost/latency_ms"]]
    client = MlflowClient(tracking_uri=f"sqlite:///{searched / 'paretune-studies' / 'mlflow.db'}")
    [experiment] = [e.experiment_id for e in client.search_experiments() if e.name == "digits"]
    shown = {run.info.run_name: run.data.metrics for run in client.search_runs([experiment])}
    assert shown[saved.history[1].label]["cost/latency_merged_ms"] == lora["cost/latency_merged_ms"]


def test_a_search_by_auto_weighs_accuracy_against_the_latency_that_its_trials_measure(tmp_path: Path) -> None:
    pictures.image_folder(tmp_path / "set")
    done = paretune(
        "run", "digits", "--set", "data={kind: imagefolder, path: set}", "--set", "objectives=[val/top1,cost/latency_ms]",
        "--set", "budget={n_trials: 7, epochs: 1, limits: "
        "{cost/latency_ms: 1000}}", "--set", "search={sampler: auto, rungs: null}", "--set", "methods=[lora]",
        "--set", "space={}", "--back-end", "in-process", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    saved = load(tmp_path / "paretune-studies" / "digits")
    times = {trial.number: trial.metrics["cost/latency_ms"] for trial in saved.history}
    assert len(times) == 7  # the anchor, four that every method has, and two more
    points = {trial.number: (trial.metrics["val/top1"], times[trial.number]) for trial in saved.history}
    beaten = {n for n, (a, b) in points.items() if any((c, d) != (a, b) and c >= a and d <= b for c, d in points.values())}
    assert {trial.number for trial in saved.members} == points.keys() - beaten
    assert [trial.size for trial in saved.members] == sorted(trial.size for trial in saved.members)


def test_without_numbers_the_members_of_the_front_are_measured_and_the_table_says_how(searched: Path) -> None:
    done = paretune("cost", "digits", cwd=searched)
    assert done.returncode == 0, done.stderr
    saved = load(searched / "paretune-studies" / "digits")
    for member in saved.members:
        assert f"{member.number:04d}" in done.stdout
        assert "cost/latency_ms" in member.metrics
    assert "one at a time" in done.stdout


def test_a_busy_machine_is_told_and_stays_with_the_result(searched: Path) -> None:
    command = [
        sys.executable,
        "-c",
        "while True: pass",
        "-m",
        "search.cli",
        "run",
        "other.yaml",
    ]  # looks like a search, and computes
    with subprocess.Popen(command) as other:
        try:
            done = paretune("cost", "digits", "0", cwd=searched)
        finally:
            other.kill()
    assert done.returncode == 0, done.stderr
    assert re.search(r"the machine is busy \(\d\.\d of \d+ cores are busy; ", done.stderr)
    assert f"paretune run is at work (process {other.pid})" in done.stderr
    assert "Measured on a busy machine." in done.stdout
    events = json.loads(paretune("events", "digits", "--json", cwd=searched).stdout)
    [measured] = [event["detail"] for event in events if event["kind"] == "measured" and event["trial"] == 0][-1:]
    assert measured["busy_cores"] > 0.0
    assert "busy_cores" not in load(searched / "paretune-studies" / "digits").history[0].metrics


def test_busy_cores_are_those_of_the_time_between_two_readings() -> None:
    before = "cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\ncpu1 50 0 25 400 25 0 0 0 0 0\nintr 5"
    after = "cpu  130 0 70 840 60 0 0 0 0 0\ncpu0 50 0 25 400 25 0 0 0 0 0\ncpu1 50 0 25 400 25 0 0 0 0 0\nintr 9"
    assert busy_cores(before, after) == (pytest.approx(2 * 50 / 100), 2)  # of 100 ticks 50 were idle or waited for a disk
    assert busy_cores(before, before) == (0.0, 2)


def test_a_study_that_is_being_run_is_not_measured(searched: Path) -> None:
    saved = load(searched / "paretune-studies" / "digits")
    driver = SqlLedger.open(saved.folder / "ledger.db")
    driver.claim()
    try:
        with pytest.raises(OwnedElsewhere, match="is being run by process"):
            list(measure(saved, []))
    finally:
        driver.close()


def test_trials_that_there_are_not_are_refused(searched: Path) -> None:
    with pytest.raises(RequestError, match=r"no trial 9: study .* has trials 0 to 2"):
        list(measure(load(searched / "paretune-studies" / "digits"), [9]))
