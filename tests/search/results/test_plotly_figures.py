"""Laws of the interactive figures and their page: they show the trials they were given, and need nothing from elsewhere."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from search.front import front, hypervolume
from search.metrics import METRICS, TOP1
from search.results import html_page, plotly_figures
from search.results.curves_figure import curves_figure
from search.results.growth import UNITS, Growth, growth, steps_of
from search.storage.rows import Report
from search.trial import State, Trial

from .test_tables import REFERENCE, study_of

TRIALS = study_of(60)


def points(figure: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Trial to what is drawn of it."""
    found = {}
    for trace in figure["data"]:
        for n, (number, _, link, _) in enumerate(trace.get("customdata", ())):
            error = trace.get("error_y", {}).get("array", {n: None})[n]
            found[number] = {"y": trace["y"][n], "text": trace["text"][n], "link": link, "error": error, **trace["marker"]}
    return found


def test_the_front_shows_every_measured_trial_and_members_with_standard_errors() -> None:
    figure = plotly_figures.front_figure(TRIALS, REFERENCE, n_validation=800, links={n: f"#/{n}" for n in range(60)})
    drawn, members = points(figure), {t.number for t in front(TRIALS)}
    assert drawn.keys() == {t.number for t in TRIALS if t.state in (State.COMPLETE, State.PRUNED)}
    for trial in (t for t in TRIALS if t.number in members):
        top1 = trial.metrics["val/top1"]
        assert drawn[trial.number]["y"] == 100 * top1
        assert drawn[trial.number]["error"] == 100 * METRICS[TOP1].standard_error(top1, 800)
        assert drawn[trial.number]["opacity"] == 1.0
    assert all(drawn[n]["opacity"] < 0.5 and drawn[n]["error"] is None for n in drawn.keys() - members)
    assert all(drawn[n]["link"] == f"#/{n}" for n in drawn)


def test_pointing_at_a_trial_tells_its_whole_configuration() -> None:
    for number, drawn in points(plotly_figures.front_figure(TRIALS, REFERENCE)).items():
        for key, value in TRIALS[number].config.items():
            if key != "method":
                assert f"{key} = {f'{value:.3g}' if isinstance(value, float) else value}" in drawn["text"]


def test_the_hypervolume_grows_as_trials_end_and_slots_are_spent() -> None:
    made = [Trial(n, State.COMPLETE, {"method": "lora"}, 0, 10**n, 650, metrics={"val/top1": 0.5 + 0.1 * n}) for n in range(4)]
    ended = [Trial(**{**vars(t), "finished": 10.0 * n}) for n, t in enumerate(made, 1)]
    costs = {"cost/train_seconds": 2.0, "cost/eval_seconds": 0.5}
    reports = [Report(n, 1, 10.0 * (n + 1), n, costs) for n in range(4)]
    grown = growth(list(reversed(ended)), reports, REFERENCE)
    assert grown == [(n, n, 2.5 * n, hypervolume(made[:n], REFERENCE)) for n in (1, 2, 3, 4)]
    assert [one.spent("hours") for one in grown] == [2.5 * n / 3600 for n in (1, 2, 3, 4)]
    assert [one.seconds for one in growth(ended, [Report(0, 1, 1.0, 0, {})], REFERENCE)] == [None] * 4
    falling = [one._replace(hypervolume=value) for one, value in zip(grown, (0.0, 0.5, 0.5, 0.7), strict=True)]
    assert [one.trials for one in steps_of(falling)] == [2, 4]


def test_the_learning_curves_show_every_epoch_of_the_best_trials_and_of_all_members() -> None:
    some = [t for t in TRIALS if t.state in (State.COMPLETE, State.PRUNED)]
    reports = [Report(t.number, e, 0.0, e, {"val/top1": t.metrics["val/top1"] * e / 3}) for t in some for e in (3, 1, 2)]
    members, most = {t.number for t in front(TRIALS)}, len(some) - 5
    traces = curves_figure(TRIALS, reports, most=most)["data"]
    drawn = {text.split("</b>")[0][3:]: trace for trace in traces for text in trace["text"] if text}
    ranked = sorted(some, key=lambda t: (t.number not in members, -t.metrics["val/top1"]))
    assert drawn.keys() == {t.label for t in ranked[:most]}
    assert all((drawn[t.label]["opacity"] == 1.0) is (t.number in members) for t in ranked[:most])
    assert sum(y is not None for trace in traces for y in trace["y"]) == 3 * most
    for trace in traces:  # a line for each trial, from its first epoch to its last
        assert trace["x"] == [1, 2, 3, None] * (len(trace["x"]) // 4)
    named = [trace["name"] for trace in traces if trace["showlegend"]]
    assert len(named) == len(set(named)) == len({t.method for t in ranked[:most]})


EVERY = [
    plotly_figures.front_figure(TRIALS, REFERENCE, n_validation=800),
    plotly_figures.methods_figure(TRIALS, REFERENCE),
    *(plotly_figures.hypervolume_figure([Growth(1, 3, 2.0, 0.5), Growth(2, 6, 3.0, 0.7)], over=unit) for unit in UNITS),
    plotly_figures.parallel_figure(TRIALS),
    plotly_figures.importance_figure({"lora": {"lora.rank": 0.5, "optim.lr": 0.25}}),
]


@pytest.mark.parametrize("figure", EVERY)
def test_plotly_accepts_every_figure(figure: dict[str, Any]) -> None:
    assert len(go.Figure(figure).data) == len(figure["data"])


@pytest.mark.parametrize("trials", [[], TRIALS[:1], [t for t in TRIALS if t.state is State.PRUNED]])
def test_any_study_has_a_page(trials: list[Trial]) -> None:
    drawn = [
        plotly_figures.front_figure(trials, REFERENCE),
        plotly_figures.methods_figure(trials, REFERENCE),
        plotly_figures.parallel_figure(trials),
        curves_figure(trials, [Report(t.number, 1, 0.0, 0, t.metrics) for t in trials]),
    ]
    drawn.append(plotly_figures.hypervolume_figure(growth(trials, [], REFERENCE)))
    for figure in drawn:
        go.Figure(figure)


def test_every_knob_that_differs_is_an_axis_with_a_place_for_every_trial() -> None:
    trace = plotly_figures.parallel_figure(TRIALS)["data"][0]
    complete = [t for t in TRIALS if t.state is State.COMPLETE]
    assert {"method", "parameters", "rank", "lr", "accuracy, %"} <= {axis["label"] for axis in trace["dimensions"]}
    assert all(len(axis["values"]) == len(complete) for axis in trace["dimensions"])


def test_the_page_holds_everything_that_it_needs(tmp_path: Path) -> None:
    hostile = Trial(0, State.COMPLETE, {"method": "</script><b>"}, 0, 5, 6, metrics={"val/top1": 0.5, "val/loss": math.nan})
    text = html_page.page("a <study>", "x & y", [("The front", "", plotly_figures.front_figure([hostile], REFERENCE))])
    html_page.write(tmp_path / "front.html", text)
    assert (tmp_path / "front.html").read_text() == text
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", text)
    assert text.count("</script>") == 2  # plotly's and ours: nothing that a study holds ends one early
    assert "<title>a &lt;study&gt;</title>" in text
    given = json.loads(re.search(r"const figures = (.*), config = ", text).group(1))  # type: ignore[union-attr]
    assert [len(figure["data"]) for figure in given] == [3]
