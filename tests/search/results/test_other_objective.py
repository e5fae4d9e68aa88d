"""A study that weighs accuracy against another cost than parameters: its record, its page and its export speak of that cost."""

from __future__ import annotations

import re
from pathlib import Path

import optuna
import plotly.graph_objects as go
import pytest
from mlflow import MlflowClient

from search.backends import in_process
from search.config.loading import check
from search.results import plotly_figures
from search.results.export import export_study
from search.results.saved_study import SavedStudy, load
from search.study.study import Study
from search.tracking.mlflow_client import tracking_uri
from search.tracking.sync import MlflowSync
from search.tracking.verify import differences
from search.trial import State, Trial
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from ..mlflow_database import with_mlflow_database

pytestmark = pytest.mark.slow

COSTS = {"cost/gflops": 1.4, "trainable_params": 20_000.0, "cost/latency_ms": 11.5}


@pytest.fixture(scope="module", params=COSTS)
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedStudy:
    """A finished and recorded one."""
    against = request.param
    file = {
        "study": "other",
        "data": {"kind": "synthetic"},
        "methods": ["lora", "arc", "lily"],
        "objectives": ["val/top1", against],
        "budget": {"n_trials": 12, "epochs": 3, "limits": {against: COSTS[against]}},
        "search": {"sampler": "random"},
        "storage": str(with_mlflow_database(tmp_path_factory.mktemp("storage"))),
    }
    made = Study.create(check(file), SyntheticSizes())
    in_process.run(made, SyntheticTrainable())
    made.close()
    MlflowSync(made.folder / "ledger.db", tracking_uri(made.folder.parent)).sync(final=True)
    return load(made.folder)


def complete(study: SavedStudy) -> list[Trial]:
    """Those that broke no limit."""
    return [trial for trial in study.history if trial.state is State.COMPLETE]


def note(study: SavedStudy) -> tuple[MlflowClient, str, str]:
    """A client, the study's experiment, and the description of the study's run."""
    client = MlflowClient(tracking_uri=tracking_uri(study.folder.parent))
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`paretune.n_ended` != ''")
    return client, experiment.experiment_id, parent.data.tags["mlflow.note.content"]


def test_its_record_equals_its_ledger(study: SavedStudy) -> None:
    assert len({trial.size for trial in study.members}) > 1
    assert differences(study.folder / "ledger.db", tracking_uri(study.folder.parent)) == []


def test_its_description_filters_by_its_cost(study: SavedStudy) -> None:
    client, experiment, text = note(study)
    assert f"no other beats in both accuracy and {study.against}" in text
    (query,) = re.findall(r"`` (metrics\.[^`]*(?:`[^`]+`)? <= .*) ``", text)
    limit = float(query.split("<= ")[1].split()[0])
    found = {int(run.data.tags["paretune.trial"]) for run in client.search_runs([experiment], query)}
    assert found == {trial.number for trial in study.history if trial.size <= limit}
    assert 0 < len(found) < len(study.history)


def test_best_accuracies_by_parameters_are_those_of_all_trials_and_not_of_its_front(study: SavedStudy) -> None:
    limit = 1_000
    small = [trial.metrics["val/top1"] for trial in complete(study) if trial.adapter_params <= limit]
    client, experiment, _ = note(study)
    (parent,) = client.search_runs([experiment], "tags.`paretune.n_ended` != ''")
    assert parent.data.metrics[f"best/top1_at_params_le_{limit}"] == max(small)
    assert parent.data.metrics["best/top1"] == max(trial.metrics["val/top1"] for trial in complete(study))
    assert parent.data.metrics["front/hypervolume"] == study.hypervolume


def test_its_figures_have_its_cost_as_an_axis(study: SavedStudy) -> None:
    front = plotly_figures.front_figure(study.history, study.reference_point)
    assert study.against in front["layout"]["xaxis"]["title"]["text"]
    member = study.members[-1]
    (told,) = [
        t
        for trace in front["data"]
        for t, c in zip(trace.get("text", []), trace.get("customdata", []), strict=True)
        if c[0] == member.number
    ]
    assert f"{study.against} " in told
    (every,) = plotly_figures.parallel_figure(study.history)["data"]
    axis = next(axis for axis in every["dimensions"] if axis["label"] == study.against.removeprefix("cost/"))
    assert axis["values"] == [trial.size for trial in complete(study)]
    unit = "decades" if study.against == "trainable_params" else f"share of the largest {study.against}"
    assert study.plot_hypervolume().layout.yaxis.title.text == f"hypervolume, accuracy × {unit}"
    for figure in (
        front,
        plotly_figures.parallel_figure(study.history),
        plotly_figures.methods_figure(study.history, study.reference_point),
    ):
        go.Figure(figure)


def test_optuna_calls_its_objective_by_its_name(study: SavedStudy, tmp_path: Path) -> None:
    (path,) = export_study(study, tmp_path, "optuna")
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    found = optuna.load_study(study_name=study.name, storage=storage)
    assert found.metric_names == ["val/top1", study.against]
    assert {trial.number for trial in found.best_trials} == {trial.number for trial in study.members}
    storage.engine.dispose()
