"""A study for notebooks and other programs: frozen, and everywhere the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import optuna
import pandas as pd
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from optuna.trial import TrialState
from typer.testing import CliRunner

import search
from search.cli.app import app
from search.front import hypervolume
from search.results.saved_study import SavedStudy
from search.trial import State

STUDY = {
    "data": {"kind": "synthetic", "noise": 0.02},
    "methods": ["lora", "arc"],
    "space": {"optim.weight_decay": 0.0},  # a knob that is fixed
    "budget": {"n_trials": 10, "epochs": 3},
    "search": {"sampler": "random", "rungs": {"grace": 1, "factor": 3}},
}


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two studies of one question with different seeds."""
    folder = tmp_path_factory.mktemp("studies")
    for seed in (0, 1):
        file = {**STUDY, "study": f"seed-{seed}", "storage": str(folder), "search": {**STUDY["search"], "seed": seed}}  # type: ignore[dict-item]
        search.run(file, back_end="in-process")
    return folder


@pytest.fixture(scope="module")
def study(storage: Path) -> SavedStudy:
    """The first of them."""
    return search.load(storage / "seed-0")


def test_a_loaded_study_is_frozen_and_gives_tables(study: SavedStudy) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.ended = "now"  # type: ignore[misc]
    assert study.trials().num_rows == 10
    assert isinstance(study.reports().to_pandas(), pd.DataFrame)
    assert study.front()["trial"].to_pylist() == [trial.number for trial in study.members]


def test_a_study_shows_itself_in_a_notebook(study: SavedStudy) -> None:
    shown = study._repr_html_()
    assert study.answer in shown
    assert all(f"<td>{trial.number:04d}</td>" in shown for trial in study.members)
    assert "data:image/png;base64," in shown
    assert repr(study) == f"seed-0 · 10 of 10 trials, finished · hypervolume {study.hypervolume:.4f}\n{study.answer}"
    assert isinstance(study.plot_front(), go.Figure)
    assert list(study.plot_hypervolume().data[0].y)[-1] == study.hypervolume


def test_studies_side_by_side_are_measured_from_one_reference_point(storage: Path, study: SavedStudy) -> None:
    beside = search.compare(study, storage / "seed-1")
    assert beside.reference_point == (0.1, 1_000_000.0)
    studies = beside.studies().to_pylist()
    assert [row["hypervolume"] for row in studies] == [hypervolume(one.history, beside.reference_point) for one in beside.saved]
    assert [row["study"] for row in studies] == ["seed-0", "seed-1"]
    assert {(row["study"], row["method"]) for row in beside.methods().to_pylist()} >= {("seed-0", "arc"), ("seed-1", "lora")}
    assert beside.fronts()["trial"].to_pylist() == [trial.number for one in beside.saved for trial in one.members]
    assert [trace.name for trace in beside.plot_fronts().data] == ["seed-0", "seed-1"]
    assert "seed-1" in beside._repr_html_()
    assert [line.split()[0] for line in repr(beside).splitlines()] == ["study", "seed-0", "seed-1"]
    told = CliRunner().invoke(app, ["compare", "seed-0", "seed-1", "--storage", str(storage), "--json"])
    assert json.loads(told.stdout)["studies"] == studies
    assert CliRunner().invoke(app, ["compare", "seed-0", "seed-1", "--storage", str(storage)]).exit_code == 0


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_exported_tables_are_the_tables(study: SavedStudy, form: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(study.folder), "--format", form, "--to", str(tmp_path)])
    assert done.stdout.split() == [str(tmp_path / f"{name}.{form}") for name in ("front", "trials", "reports")]
    if form == "parquet":
        assert pq.read_table(tmp_path / "trials.parquet").schema.equals(study.trials().schema, check_metadata=True)
    table = pd.read_csv(tmp_path / "trials.csv") if form == "csv" else pd.read_parquet(tmp_path / "trials.parquet")
    assert table["trial"].tolist() == list(range(10))
    assert table["val/top1"].tolist() == [trial.metrics["val/top1"] for trial in study.history]


def test_optuna_reads_the_exported_study_and_finds_the_same_front(study: SavedStudy, tmp_path: Path) -> None:
    for _ in range(2):  # a second export replaces the first
        assert CliRunner().invoke(app, ["export", str(study.folder), "--format", "optuna", "--to", str(tmp_path)]).exit_code == 0
    storage = optuna.storages.RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}")
    found = optuna.load_study(study_name="seed-0", storage=storage)
    assert {trial.number for trial in found.best_trials} == {trial.number for trial in study.members}
    assert storage.get_study_system_attrs(found._study_id)["study:metric_names"] == ["val/top1", "adapter_params"]
    states = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.FAILED: TrialState.FAIL}
    for ours, theirs in zip(study.history, found.trials, strict=True):
        assert theirs.params == dict(ours.config)
        assert theirs.state == states[ours.state]
        assert theirs.intermediate_values == {r.epoch: r.metrics["val/top1"] for r in study.epochs if r.trial == ours.number}
    storage.engine.dispose()


def test_an_unknown_format_is_refused(study: SavedStudy) -> None:
    assert CliRunner().invoke(app, ["export", str(study.folder), "--format", "xls"]).exit_code == 2


def test_the_tables_are_arrow(study: SavedStudy) -> None:
    assert all(isinstance(table, pa.Table) for table in (study.front(), study.trials(), study.reports()))
