"""Interactive figures in the format of plotly.js: plain JSON values, `{"data": [...], "layout": {...}}`.

This module does not import plotly: `search.results.html_page` puts the figures on a page, and a notebook builds a
`plotly.graph_objects.Figure` from one.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.front import front, judged_by
from search.metrics import METRICS, TOP1, Metric
from search.results.contributions import contributions
from search.results.growth import UNITS, Growth
from search.results.noise import standard_error
from search.results.plot_style import FAINT, INK, SizeAxis, height, styles
from search.results.words import METHOD_NAMES, describe_knobs, format_quantity
from search.trial import PARAMETERS, State, Trial

Figure = dict[str, Any]
_SYMBOLS = {"D": "diamond", "o": "circle", "^": "triangle-up", "s": "square", "<": "triangle-left", ">": "triangle-right"}
_SYMBOLS |= {"P": "cross", "X": "x", "*": "star", "h": "hexagon"}
_FONT = {"family": "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13, "color": INK}


def front_figure(
    trials: Sequence[Trial],
    reference_point: tuple[float, float],
    *,
    n_validation: int | None = None,
    links: Mapping[int, str] | None = None,
    odds: Mapping[int, float] | None = None,
) -> Figure:
    """Draw accuracy against size: the front as a step line, dominated trials pale, stopped ones faint and open.

    Args:
        trials: All trials of a study.
        reference_point: Reference point (score, size), where the axis of sizes ends.
        n_validation: Number of images that accuracies were measured on; if given, members have bars of one standard error.
        links: Address of the run of each trial, which a click on the trial opens.
        odds: Probability that a trial is truly on the front, by its number; members tell it.
    """
    members = front(trials)
    behind = [t for t in trials if t.is_complete and t not in members]
    pruned = [t for t in trials if t.state is State.PRUNED and math.isfinite(t.quality)]
    size_axis = SizeAxis.of((*members, *behind, *pruned), reference_point)
    traces: list[Figure] = []
    if members:
        xs, ys = [size_axis(t.size) for t in members], [t.metric.shown(t.quality) for t in members]
        line = {"color": INK, "width": 1.5, "shape": "hv"}
        traces.append(line_trace([*xs, size_axis.right], [*ys, ys[-1]], "front", line=line, hoverinfo="skip", fill=None))
    metric = judged_by(trials)
    errors = {t.number: metric.shown(standard_error(t, n_validation) or 0.0) for t in members}
    ends = [height(t) + sign * errors[t.number] for t in members for sign in (-1, 1)]
    window = shown_range(ends, [height(t) for t in behind])
    floor = window[0] if window else -math.inf
    for method, (colour, marker) in styles(t.method for t in trials).items():
        named = {"legendgroup": method, "name": METHOD_NAMES.get(method, method), "type": "scatter", "mode": "markers"}
        symbol = _SYMBOLS[marker]
        kinds: list[tuple[Sequence[Trial], Figure]] = [
            (pruned, {"symbol": f"{symbol}-open", "size": 7, "opacity": 0.35}),
            (behind, {"symbol": symbol, "size": 8, "opacity": 0.35}),
            (members, {"symbol": symbol, "size": 12, "opacity": 1.0, "line": {"color": "white", "width": 1.5}}),
        ]
        for every, style in kinds:
            some = [t for t in every if t.method == method]
            known: Figure = {"n_validation": n_validation, "links": links or {}, "odds": (odds or {}) if every is members else {}}
            drawn = _points(some, size_axis, floor=floor, colour=colour, style=style, **known)
            if some and every is members and any(errors.values()):
                bars = [errors[t.number] for t in some]
                drawn["error_y"] = {"type": "data", "array": bars, "color": f"{colour}55", "thickness": 1.5, "width": 4}
            traces += [{**named, "showlegend": False, **drawn}] if some else []
        traces.append({**named, "x": [None], "y": [None], "marker": {"color": colour, "symbol": symbol, "size": 10}})
    layout = axes_layout(size_axis.label, metric.axis)
    layout["xaxis"] |= {
        "tickvals": [at for at, _ in size_axis.ticks],
        "ticktext": [label for _, label in size_axis.ticks],
        "range": [
            size_axis.left - 0.04 * (size_axis.right - size_axis.left),
            size_axis.right + 0.04 * (size_axis.right - size_axis.left),
        ],
    }
    if window and not metric.larger_is_better:
        window = [-end for end in window]  # from the worst value at the bottom to the best at the top
    layout["yaxis"] |= {"range": window}
    return {"data": traces, "layout": layout | {"hovermode": "closest"}}


def _points(
    trials: Sequence[Trial],
    size_axis: SizeAxis,
    *,
    floor: float,
    colour: str,
    style: Mapping[str, Any],
    n_validation: int | None,
    links: Mapping[int, str],
    odds: Mapping[int, float],
) -> Figure:
    """Draw trials as markers; those below the floor are drawn on it, as triangles that point down."""
    below = [height(t) < floor for t in trials]
    heights = [max(height(t), floor) for t in trials]
    return {
        "x": [size_axis(t.size) for t in trials],
        "y": [y if t.metric.larger_is_better else -y for t, y in zip(trials, heights, strict=True)],
        "marker": {"color": colour, **style, "symbol": ["triangle-down-open" if low else style["symbol"] for low in below]},
        "customdata": [[t.number, t.label, links.get(t.number, ""), describe_knobs(t)] for t in trials],
        "text": [hover(t, n_validation, odds.get(t.number)) for t in trials],
        "hovertemplate": "%{text}<extra></extra>",
        "cliponaxis": False,
    }


def hover(trial: Trial, n_validation: int | None = None, odds: float | None = None) -> str:
    """Return the hover text of a trial: name, accuracy, P(front) if it is known, sizes, state, and every knob."""
    known = standard_error(trial, n_validation) if trial.is_complete else None
    error = "" if known is None else f" ± {trial.metric.format(known)}"
    named = "" if trial.objective == TOP1 else f"{trial.metric.label} "
    stopped = f" at epoch {trial.rung}" if trial.rung is not None else ""
    lines = [
        f"<b>{html.escape(trial.label)}</b>",
        f"{named}{trial.metric.words(trial.quality)}{error}",
        *([] if odds is None else [f"truly on the front with probability {odds:.2f}"]),
        *([] if trial.against in ("adapter_params", "head_params") else [f"{trial.against} {format_quantity(trial.size)}"]),
        f"{trial.adapter_params:,} parameters, head {trial.head_params:,}",
        f"{trial.state.value.lower()}{stopped}, {trial.epochs} epochs",
    ]
    return "<br>".join(
        [*lines, *(f"{html.escape(k)} = {html.escape(_value(v))}" for k, v in trial.config.items() if k != "method")]
    )


def hypervolume_figure(
    grown: Sequence[Growth], *, over: str = "trials", metric: Metric = METRICS[TOP1], against: str = "adapter_params"
) -> Figure:
    """Draw the hypervolume over ended trials, epochs or time.

    Args:
        grown: Growth of the hypervolume.
        over: One of `search.results.growth.UNITS`.
        metric: Metric of the first objective.
        against: Second objective.

    Raises:
        ValueError: If `over` is no such unit.
    """
    if over not in UNITS:
        raise ValueError(f"over must be one of {', '.join(UNITS)}, got {over!r}")
    begun = [(one.spent(over), one.hypervolume) for one in grown if one.hypervolume > 0.0]  # after the first COMPLETE trial
    points = [(x, value) for x, value in begun if x is not None]
    line = {"color": "#0072B2", "width": 2, "shape": "hv"}
    trace = line_trace([x for x, _ in points], [y for _, y in points], "hypervolume", line=line, fill="tozeroy")
    unit = _UNIT_WORDS[over]
    trace |= {"hovertemplate": f"%{{x:,.4~g}} {unit}<br>hypervolume %{{y:.4f}}<extra></extra>", "showlegend": False}
    of_size = "decades" if against in PARAMETERS else f"share of the largest {against}"
    layout = axes_layout(unit, f"hypervolume, {metric.label} × {of_size}")
    layout["yaxis"] |= {"range": shown_range([y for _, y in points], [], least=0.0)}
    return {"data": [trace], "layout": layout}


_UNIT_WORDS = {
    "trials": "trials ended",
    "epochs": "epochs trained, all trials together",
    "hours": "hours of training and validation, all trials together",
    "slot-seconds": "slot-seconds of training and evaluation",
}


def methods_figure(trials: Sequence[Trial], reference_point: tuple[float, float]) -> Figure:
    """Draw every method's own front."""
    complete = [t for t in trials if t.is_complete]
    size_axis, looks = SizeAxis.of(complete, reference_point), styles(t.method for t in trials)
    traces = [
        _front_line(METHOD_NAMES.get(share.method, share.method), share.front, size_axis, *looks[share.method])
        for share in contributions(trials, reference_point)
        if share.front
    ]
    return {"data": traces, "layout": _layout_of_fronts(size_axis, judged_by(complete))}


def fronts_figure(fronts: Sequence[tuple[str, Sequence[Trial]]], reference_point: tuple[float, float]) -> Figure:
    """Draw named fronts in one figure, each in its own colour."""
    size_axis = SizeAxis.of([trial for _, members in fronts for trial in members], reference_point)
    looks = styles(name for name, _ in fronts)
    traces = [
        _front_line(name, members, size_axis, *looks[name]) | {"customdata": [[trial.number] for trial in members]}
        for name, members in fronts
    ]
    return {"data": traces, "layout": _layout_of_fronts(size_axis, judged_by(trial for _, members in fronts for trial in members))}


def _layout_of_fronts(size_axis: SizeAxis, metric: Metric) -> Figure:
    layout = axes_layout(size_axis.label, metric.axis)
    layout["xaxis"] |= {"tickvals": [at for at, _ in size_axis.ticks], "ticktext": [label for _, label in size_axis.ticks]}
    if not metric.larger_is_better:
        layout["yaxis"] |= {"autorange": "reversed"}
    return layout | {"hovermode": "closest"}


def _front_line(name: str, members: Sequence[Trial], size_axis: SizeAxis, colour: str, marker: str) -> Figure:
    xs, ys = [size_axis(t.size) for t in members], [t.metric.shown(t.quality) for t in members]
    trace = line_trace(xs, ys, name, line={"color": colour, "width": 1.5, "shape": "hv"}, fill=None)
    trace |= {"mode": "lines+markers", "marker": {"color": colour, "symbol": _SYMBOLS[marker], "size": 9}}
    return trace | {"text": [hover(t) for t in members], "hovertemplate": "%{text}<extra></extra>"}


def parallel_figure(trials: Sequence[Trial]) -> Figure:
    """Draw parallel coordinates of the COMPLETE trials: method, sizes, the knobs that differ, accuracy. One axis per name.

    Sizes are the numbers of parameters, and the study's second objective if that is another cost.
    """
    complete = [t for t in trials if t.is_complete]
    rows: list[dict[str, Any]] = [
        {"method": t.method} | {k.removeprefix(f"{t.method}."): v for k, v in t.config.items()} for t in complete
    ]
    keys = sorted({key for row in rows for key in row if key != "method"}, key=lambda key: ("." in key, key))
    often = [
        key for key in keys if sum(key in row for row in rows) * 2 > len(rows) and len({str(r[key]) for r in rows if key in r}) > 1
    ]
    dimensions = [_ticked("method", [row["method"] for row in rows])]
    sizes = [math.log10(1.0 + t.adapter_params) for t in complete]
    dimensions.append({"label": "parameters", "values": sizes} | _decades(sizes))
    if complete and (against := complete[0].against) not in ("adapter_params", "head_params"):
        dimensions.append({"label": against.removeprefix("cost/"), "values": [t.size for t in complete]})
    for key in often:
        values = [row.get(key) for row in rows]
        label = key.removeprefix("optim.").removeprefix("recipe.")
        if len({str(v) for v in values}) > 12 and all(isinstance(v, int | float) and v > 0 for v in values):
            logs = [math.log10(float(str(v))) for v in values]
            dimensions.append({"label": label, "values": logs} | _decades(logs, shift=0.0))
        else:
            dimensions.append(_ticked(label, values))
    metric, heights = judged_by(complete), [height(t) for t in complete]
    dimensions.append({"label": metric.axis.removeprefix("validation "), "values": [metric.shown(t.quality) for t in complete]})
    worst = sorted(heights)[len(heights) // 4] if heights else 0.0  # most of the colour scale is for the good trials
    line = {"color": heights, "colorscale": "Viridis", "reversescale": True, "cmin": worst, "cmax": max(heights, default=100.0)}
    trace = {"type": "parcoords", "dimensions": dimensions, "line": line, "labelfont": {"size": 12}, "tickfont": {"size": 11}}
    trace |= {"labelside": "bottom"}  # at the top are the ends of a range
    layout = {"font": _FONT, "margin": {"l": 80, "r": 110, "t": 30, "b": 60}, "height": 420, "paper_bgcolor": "white"}
    return {"data": [trace], "layout": layout}


def importance_figure(importances: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the share of the accuracy's variance that each knob of each method explains alone; see `importance.importance`."""
    rows = [
        (method, key.removeprefix(f"{method}."), share) for method, found in importances.items() for key, share in found.items()
    ]
    looks = styles(importances)
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": METHOD_NAMES.get(method, method),
            "x": [100.0 * share for of, _, share in rows if of == method],
            "y": [[METHOD_NAMES.get(method, method)] * len(importances[method]), [key for of, key, _ in rows if of == method]],
            "marker": {"color": looks[method][0], "opacity": 0.8},
            "hovertemplate": "%{x:.1f} %<extra></extra>",
            "showlegend": False,
        }
        for method in importances
    ]
    layout = axes_layout("share of the variance that the knob explains alone, %", "")
    layout["yaxis"] |= {"autorange": "reversed", "automargin": True, "tickfont": {"size": 11}, "dividercolor": "#dddddd"}
    return {"data": traces, "layout": layout | {"height": 120 + 22 * len(rows), "bargap": 0.35}}


def line_trace(xs: Sequence[Any], ys: Sequence[Any], name: str, *, fill: str | None, **more: Any) -> Figure:
    """Return the trace of a line."""
    filled = {} if fill is None else {"fill": fill, "fillcolor": "rgba(0,114,178,0.06)"}
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(xs), "y": list(ys), **filled, **more}


def axes_layout(x: str, y: str) -> Figure:
    """Return the layout of a figure with these titles of its axes."""
    axis = {"gridcolor": "#ececec", "zeroline": False, "linecolor": "#bbbbbb", "ticks": "outside", "tickcolor": "#bbbbbb"}
    return {
        "xaxis": {"title": {"text": x}, **axis},
        "yaxis": {"title": {"text": y}, **axis},
        "font": _FONT,
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "height": 480,
        "margin": {"l": 70, "r": 45, "t": 50, "b": 60},
        "modebar": {"orientation": "v", "color": "#c8c8c8", "activecolor": INK},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "xanchor": "left"},
        "hoverlabel": {"align": "left", "bgcolor": "white", "bordercolor": FAINT, "font": {"size": 12, "color": INK}},
    }


def shown_range(values: Sequence[float], others: Sequence[float], *, least: float = -math.inf) -> list[float] | None:
    """Return a range that shows `values` large, and nearby `others`."""
    if not values:
        return None
    low, room = min(values), max(max(values) - min(values), 0.02 * abs(max(values)))
    low = min([low, *(y for y in others if y >= low - 0.45 * room)])
    return [max(low - 0.1 * room, least), max(values) + 0.12 * room]


def _ticked(label: str, values: Sequence[Any]) -> Figure:
    """Return an axis of parallel coordinates for few or non-numeric values; a missing value is drawn below all others."""
    kinds = sorted({v for v in values if v is not None}, key=lambda v: (isinstance(v, str), v))
    names = (["–"] if None in values else []) + [_value(kind) for kind in kinds]
    at = {None: 0} | {kind: n for n, kind in enumerate(kinds, 1 if None in values else 0)}
    return {"label": label, "values": [at[v] for v in values], "tickvals": list(range(len(names))), "ticktext": names}


def _decades(logs: Sequence[float], shift: float = 1.0) -> Figure:
    """Return ticks at powers of ten, for values at log10(shift + value)."""
    if not logs:
        return {}
    ticks = [(d, k) for k in range(-9, 10) for d in (1, 3)]
    named = {math.log10(shift + d * 10.0**k): f"{d * 10**k:,}" if k >= 0 else f"{d}e{k}" for d, k in ticks}
    named = {at: name for at, name in named.items() if min(logs) <= at <= max(logs) and (shift == 0.0 or at >= 1.0)}
    if min(logs) == 0.0 and shift:
        named = {0.0: "0"} | named
    return {"tickvals": list(named), "ticktext": list(named.values())}


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
