"""A study that is judged by another metric than accuracy, also by losses: its search, its record, its page and its export."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import optuna
import plotly.graph_objects as go
import pytest
from mlflow import MlflowClient

from search import front as fronts
from search.backends import in_process
from search.config.loading import check
from search.errors import LedgerError, RequestError, StudyFileError
from search.metrics import METRICS
from search.results import front_plot, plotly_figures, tables
from search.results.as_json import front_json
from search.results.comparison import SideBySide
from search.results.export import export_study
from search.results.overview import best, overview
from search.results.saved_study import SavedStudy, load
from search.storage.rows import objectives_of
from search.storage.sql_ledger import open_ledger
from search.study.study import Study
from search.study.warm_start import learn
from search.tracking.mlflow_client import tracking_uri
from search.tracking.sync import MlflowSync
from search.tracking.verify import differences
from search.trial import State
from search.workflows.suite import load as load_suite
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from ..mlflow_database import with_mlflow_database

pytestmark = pytest.mark.slow


def study_file(storage: Path, metric: str, **changes: Any) -> dict[str, Any]:
    """A small search with rungs, on the plain surface."""
    return {
        "study": "other",
        "data": {"kind": "synthetic"},
        "methods": ["lora", "arc", "lily"],
        "objectives": [metric, "adapter_params"],
        "budget": {"n_trials": 20, "epochs": 4, "max_params": 60_000},
        "search": {"rungs": {"grace": 1, "factor": 2, "epsilon": 0.0}},
        "storage": str(storage),
        **changes,
    }


def searched(storage: Path, metric: str, **changes: Any) -> SavedStudy:
    """A finished one."""
    made = Study.create(check(study_file(storage, metric, **changes)), SyntheticSizes())
    in_process.run(made, SyntheticTrainable(metric=METRICS[metric].name))
    made.close()
    return load(made.folder)


@pytest.fixture(scope="module", params=["val/log_loss", "val/auroc"])
def study(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SavedStudy:
    """A finished and recorded one."""
    at_random = {"sampler": "random", "rungs": {"grace": 1, "factor": 2, "epsilon": 0.0}}
    done = searched(with_mlflow_database(tmp_path_factory.mktemp("storage")), request.param, search=at_random)
    MlflowSync(done.folder / "ledger.db", tracking_uri(done.folder.parent)).sync(final=True)
    return done


def test_its_front_is_that_of_accuracy_because_the_surface_makes_it_as_good(study: SavedStudy) -> None:
    complete = [trial for trial in study.history if trial.state is State.COMPLETE]
    by_hand = [
        t.number
        for t in complete
        if not any(
            o.metrics["val/top1"] >= t.metrics["val/top1"]
            and o.size <= t.size
            and (o.metrics["val/top1"], o.size) != (t.metrics["val/top1"], t.size)
            for o in complete
        )
    ]
    assert sorted(by_hand) == sorted(trial.number for trial in study.members)
    assert len(by_hand) > 3
    values = [trial.quality for trial in study.members]
    assert values == sorted(values, reverse=not study.metric.larger_is_better)
    assert overview(study.folder).members == study.members
    with open_ledger(study.folder) as ledger:
        [first], on_front = best(ledger, 1)
    assert first == study.members[-1]
    assert on_front == set(by_hand)


def test_a_rung_stops_the_worse_ones_and_says_so_in_the_metrics_unit(study: SavedStudy) -> None:
    reasons = [trial.reason for trial in study.history if trial.rung is not None]
    assert reasons
    pattern = rf"{study.metric.key} ([\d.]+)( %)? at epoch \d is (below|above) ([\d.]+)( %)?, the bar among"
    for reason in reasons:
        found = re.match(pattern, str(reason))
        assert found is not None, reason
        assert (found[2] is not None) == (found[5] is not None) == study.metric.in_percent
        assert found[3] == ("below" if study.metric.larger_is_better else "above")
        assert (float(found[1]) < float(found[4])) == study.metric.larger_is_better


def test_a_loss_is_searched_as_the_accuracy_of_which_it_is_the_rest(tmp_path: Path) -> None:
    """The surface's calibration error is 1 - accuracy, and a guess is as good: front, rungs, promotion and surrogate agree."""
    loss, accuracy = searched(tmp_path / "loss", "val/ece"), searched(tmp_path / "accuracy", "val/top1")
    assert [(t.config, t.state, t.epochs) for t in loss.history] == [(t.config, t.state, t.epochs) for t in accuracy.history]
    assert loss.hypervolume == pytest.approx(accuracy.hypervolume)
    assert front_json(loss.row, loss.history)["reference_point"] == [pytest.approx(0.9), 60_000]


def test_a_reopened_study_is_in_the_same_state(tmp_path: Path) -> None:
    file = check(study_file(tmp_path, "val/log_loss"))
    made, trainable = Study.create(file, SyntheticSizes()), SyntheticTrainable(metric="log_loss")
    for _ in range(12):
        trial = made.ask()
        assert trial is not None
        trainable.start(trial.config, seed=trial.seed, epochs=4, folder=None)
        for epoch in range(1, 5):
            made.report(trial.number, epoch, trainable.step())
        made.worker_gone(trial.number)
    made.close()
    reopened = Study.open(file, SyntheticSizes())
    assert reopened.hypervolume() == pytest.approx(made.hypervolume())
    assert [trial.number for trial in reopened.front()] == [trial.number for trial in made.front()]
    assert reopened.reference_point == (1.0 - math.log(10), 60_000)
    reopened.close()


def test_what_is_printed_names_the_metric_in_its_unit(study: SavedStudy) -> None:
    metric, top = study.metric, study.members[-1]
    assert f"is the best, {metric.label} {metric.words(top.quality)} with" in study.answer
    assert tables.front_table(study.members).columns[-1].header == metric.key + (" %" if metric.in_percent else "")
    assert f"{metric.words(top.quality)} |" in tables.front_markdown(study.history)
    assert f"<td>{metric.words(top.quality)}</td>" in tables.front_html(study.history)
    said = front_json(study.row, study.history)
    assert said["objectives"] == [metric.key, "adapter_params"]
    assert said["reference_point"] == [pytest.approx(metric.guess(10)), 60_000]
    assert said["hypervolume"] == pytest.approx(fronts.hypervolume(study.history, study.reference_point))
    unit = study.trials().schema.field(metric.key).metadata[b"unit"]
    assert unit == (b"nats" if metric.key == "val/log_loss" else b"fraction")


def test_its_figures_have_the_metric_as_an_axis_with_the_best_at_the_top(study: SavedStudy, tmp_path: Path) -> None:
    metric = study.metric
    figure = plotly_figures.front_figure(study.history, study.reference_point, n_validation=800)
    assert figure["layout"]["yaxis"]["title"]["text"] == metric.axis
    low, high = figure["layout"]["yaxis"]["range"]
    assert (low < high) == metric.larger_is_better
    (line,) = [trace for trace in figure["data"] if trace["name"] == "front"]
    assert line["y"][:-1] == [metric.shown(trial.quality) for trial in study.members]
    assert min(low, high) <= min(line["y"]) <= max(line["y"]) <= max(low, high)
    assert not any("error_y" in trace for trace in figure["data"])  # unknown but for accuracy
    assert study.plot_hypervolume().layout.yaxis.title.text == f"hypervolume, {metric.label} × decades"
    for other in (
        plotly_figures.parallel_figure(study.history),
        plotly_figures.methods_figure(study.history, study.reference_point),
    ):
        go.Figure(other)
    drawn = tmp_path / "front.svg"
    front_plot.plot_front(study.history, drawn, title="x", reference_point=study.reference_point)
    assert metric.axis in drawn.read_text()


def test_mlflow_orders_its_table_by_the_metric_and_holds_its_ledger(study: SavedStudy) -> None:
    uri = tracking_uri(study.folder.parent)
    assert differences(study.folder / "ledger.db", uri) == []
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    view = experiment.tags["mlflow.sharedViewState.paretune"]
    assert f"metrics.`{study.metric.key}`" in view
    assert f'"orderByAsc": {str(not study.metric.larger_is_better).lower()}' in view
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`paretune.n_ended` != ''")
    assert f"no other beats in both {study.metric.label} and size" in parent.data.tags["mlflow.note.content"]
    values = [trial.quality for trial in study.history if trial.state is State.COMPLETE]
    assert parent.data.metrics[f"best/{study.metric.name}"] == (max if study.metric.larger_is_better else min)(values)


def test_optuna_knows_its_name_and_direction(study: SavedStudy, tmp_path: Path) -> None:
    (path,) = export_study(study, tmp_path, "optuna")
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    found = optuna.load_study(study_name=study.name, storage=storage)
    assert found.metric_names == [study.metric.key, "adapter_params"]
    assert {trial.number for trial in found.best_trials} == {trial.number for trial in study.members}
    storage.engine.dispose()


def test_studies_of_different_metrics_are_not_compared_and_nothing_is_learnt_of_them(study: SavedStudy, tmp_path: Path) -> None:
    other = searched(tmp_path, "val/top1")
    assert SideBySide((study, study)).studies().to_pylist()[0]["best"] == study.members[-1].quality
    with pytest.raises(RequestError, match="studies are compared by one metric, and these are judged by several"):
        SideBySide((study, other))
    file = check(study_file(tmp_path, study.metric.key, search={"learn_from": [str(other.folder)]}))
    with pytest.raises(StudyFileError, match=rf"was not judged by {study.metric.key}, which this study's trials are"):
        learn(file)
    again = check(study_file(tmp_path, study.metric.key, search={"learn_from": [str(study.folder)]}))
    complete = [trial for trial in study.history if trial.state is State.COMPLETE and trial.adapter_params]
    assert [one.top1 for one in learn(again)] == [trial.objectives[0] for trial in complete]


def test_a_metric_of_a_newer_version_is_said_instead_of_shown_wrongly() -> None:
    assert objectives_of({}) == ("val/top1", "adapter_params")
    with pytest.raises(LedgerError, match=r"judged by val/new, which this Paretune does not know; use a newer version"):
        objectives_of({"objectives": ["val/new", "adapter_params"]})


def test_a_suite_compares_accuracies() -> None:
    with pytest.raises(StudyFileError, match=r"cifar: objectives: the table of a suite has accuracies; use val/top1"):
        load_suite("vtab1k", overrides=["objectives=[val/macro_f1, adapter_params]"], only=["cifar"])
