"""The interactive figure of all learning curves of a study."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from search.front import front, judged_by
from search.results.plot_style import styles
from search.results.plotly_figures import Figure, axes_layout, line_trace, shown_range
from search.results.words import METHOD_NAMES, describe_knobs
from search.storage.rows import Report
from search.trial import State, Trial

MOST_CURVES = 300


def curves_figure(trials: Sequence[Trial], reports: Sequence[Report], *, most: int = MOST_CURVES) -> Figure:
    """Draw the metric over epochs, a line for each trial: members of the front strong, the others faint.

    Args:
        trials: All trials of a study.
        reports: All of its epochs.
        most: Number of trials that are drawn: the members, and the best of the others.
    """
    members = {t.number for t in front(trials)}
    metric, curves = judged_by(trials), dict[int, list[tuple[int, float]]]()
    for report in reports:
        if math.isfinite(value := report.metrics.get(metric.key, math.nan)):
            curves.setdefault(report.trial, []).append((report.epoch, value))
    last = {number: metric.score(curve[-1][1]) for number, curve in curves.items()}
    reached = sorted((t for t in trials if t.number in curves), key=lambda t: (t.number not in members, -last[t.number]))
    drawn = sorted(reached[:most], key=lambda t: t.number)
    traces = []
    for method, (colour, _) in styles(t.method for t in trials).items():
        for on_front in (False, True):
            some = [t for t in drawn if t.method == method and (t.number in members) is on_front]
            points: list[tuple[int | None, float | None, str]] = []
            for trial in some:  # one trace for all, with gaps between them: a page with a thousand traces is slow
                words = f"<b>{html.escape(trial.label)}</b><br>{html.escape(describe_knobs(trial))}"
                points += [
                    (epoch, metric.shown(y), f"{words}<br>epoch {epoch}: {metric.words(y)}")
                    for epoch, y in sorted(curves[trial.number])
                ]
                points.append((None, None, ""))
            line = {"color": colour, "width": 2.5 if on_front else 1.0}
            xs, ys, texts = ([point[i] for point in points] for i in range(3))
            trace = line_trace(xs, ys, METHOD_NAMES.get(method, method), line=line, fill=None) | {"legendgroup": method}
            trace |= {"opacity": 1.0 if on_front else 0.35, "text": texts, "hovertemplate": "%{text}<extra></extra>"}
            named = {t.method for t in drawn if t.number in members}
            traces += [trace | {"showlegend": on_front or method not in named}] if some else []
    layout = axes_layout("epoch", metric.axis)
    ends = [metric.shown(curves[t.number][-1][1]) for t in drawn if t.state is State.COMPLETE]
    if metric.larger_is_better:
        layout["yaxis"] |= {"range": shown_range(ends, [metric.shown(y) for t in drawn for _, y in curves[t.number]])}
    return {"data": traces, "layout": layout | {"hovermode": "closest"}}
