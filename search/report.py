"""Showing a study: the front as a table, a picture, Markdown, JSON and Parquet.

Every function is a view of trials that somebody else read from the ledger. Nothing here needs torch, Ray or MLflow;
matplotlib, pyarrow and rich are imported by the functions that draw, write and print.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.front import front, hypervolume
from search.trial import State, Trial

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

    from search.ledger import Report, StudyRecord

SCHEMA_VERSION = 1  # of the Parquet files

# -- words -------------------------------------------------------------------------------------------------------------

METHOD_NAMES = {
    "head_only": "head only",
    "lora": "LoRA",
    "arc": "ARC",
    "lily": "Lily",
    "snell": "SNELL",
    "clora": "CLoRA",
}

_SHORT = {
    "rank": "r",
    "n_experts": "e",
    "extra_rank": "+",
    "n_spaces": "k",
    "temperature": "T=",
    "scale": "s=",
    "dropout": "drop=",
}


def knobs(trial: Trial) -> str:
    """A configuration in a few words, what decides its size first: `r8 e4 kv_mlp last-2 lr=1e-3 s=10`."""
    own = {k.removeprefix(f"{trial.method}."): v for k, v in trial.config.items() if k.startswith(f"{trial.method}.")}
    words = [f"{_SHORT[key]}{_number(own.pop(key))}" for key in ("rank", "extra_rank", "n_experts", "n_spaces") if key in own]
    words += [str(own.pop(key)) for key in ("targets", "position", "level", "layers") if key in own]
    if (lr := trial.config.get("optim.lr")) is not None:
        words.append(f"lr={_number(lr)}")
    return " ".join(words + [f"{_SHORT.get(key, key + '=')}{_number(value)}" for key, value in own.items()])


def percent(top1: float) -> str:
    """A fraction in percent, two decimals: one validation image of 800 is 0.125."""
    return f"{100 * top1:.2f}"


def _number(value: object) -> str:
    if not isinstance(value, float) or value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


# -- tables ------------------------------------------------------------------------------------------------------------


TABLE_WIDTH = 100  # columns of a terminal; across more a row would be hard to follow


def front_table(trials: Iterable[Trial], *, title: str | None = None) -> Table:
    """The front, smallest member first, for a terminal. At 80 columns nothing wraps: the knobs are cut instead."""
    table = _table(title)
    for heading, options in (
        ("trial", _RIGHT),
        ("method", _LEFT),
        ("knobs", _CUT),
        ("adapter", _RIGHT),
        ("head", _RIGHT),
    ):
        table.add_column(heading, **options)
    table.add_column("val/top1 %", **_RIGHT)
    for trial in front(trials):
        numbers = (f"{trial.adapter_params:,}", f"{trial.head_params:,}", percent(trial.metrics["val/top1"]))
        table.add_row(f"{trial.number:04d}", trial.method, knobs(trial), *numbers)
    return table


def trials_table(trials: Sequence[Trial], *, title: str | None = None) -> Table:
    """All trials in the order of their numbers, members of the front marked with a star."""
    members = {trial.number for trial in front(trials)}
    table = _table(title)
    for heading, options in (("trial", _LEFT), ("state", _LEFT), ("method", _LEFT), ("knobs", _CUT), ("epoch", _RIGHT)):
        table.add_column(heading, **options)
    table.add_column("adapter", **_RIGHT)
    table.add_column("top1 %", **_RIGHT)
    for trial in trials:
        top1 = trial.metrics.get("val/top1", math.nan)
        number = f"{trial.number:04d}{'*' if trial.number in members else ''}"
        shown = percent(top1) if math.isfinite(top1) else ""
        table.add_row(number, trial.state, trial.method, knobs(trial), str(trial.epochs), f"{trial.adapter_params:,}", shown)
    return table


_LEFT: dict[str, Any] = {"no_wrap": True}
_RIGHT: dict[str, Any] = {"no_wrap": True, "justify": "right"}
_CUT: dict[str, Any] = {"no_wrap": True, "overflow": "ellipsis", "min_width": 8, "ratio": 1}


def _table(title: str | None) -> Table:
    from rich import box
    from rich.table import Table

    return Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, expand=True)


def front_markdown(trials: Iterable[Trial], *, links: Mapping[int, str] | None = None) -> str:
    """The front as a Markdown table, smallest member first.

    Args:
        trials: Any trials; members of the front are shown.
        links: Trial number to address: such a trial's number becomes a link.
    """
    lines = [
        "| trial | method | knobs | adapter params | head params | val/top1 |",
        "|:--|:--|:--|--:|--:|--:|",
    ]
    for trial in front(trials):
        label = f"{trial.number:04d}"
        if links and trial.number in links:
            label = f"[{label}]({links[trial.number]})"
        top1 = f"{percent(trial.metrics['val/top1'])} %"
        name = METHOD_NAMES.get(trial.method, trial.method)
        lines.append(f"| {label} | {name} | {knobs(trial)} | {trial.adapter_params:,} | {trial.head_params:,} | {top1} |")
    return "\n".join(lines)


# -- JSON --------------------------------------------------------------------------------------------------------------


def trial_json(trial: Trial) -> dict[str, Any]:
    """One trial as plain JSON values (NaN is null). Others build on these fields: more may be added, these stay."""
    return {
        "trial": trial.number,
        "state": trial.state.value,
        "method": trial.method,
        "config": dict(trial.config),
        "epochs": trial.epochs,
        "rung": trial.rung,
        "reason": trial.reason,
        "n_attempts": trial.n_attempts,
        "adapter_params": trial.adapter_params,
        "head_params": trial.head_params,
        "metrics": {key: value if math.isfinite(value) else None for key, value in trial.metrics.items()},
    }


def front_json(study: StudyRecord, trials: Sequence[Trial]) -> dict[str, Any]:
    """The front as plain JSON values: `reference_point` [top1, params], `members` as `trial_json`, smallest first."""
    reference_point = reference(study)
    return {
        "study": study.name,
        "objectives": list(study.file.get("objectives", ("val/top1", "adapter_params"))),
        "reference_point": list(reference_point),
        "hypervolume": hypervolume(trials, reference_point),
        "members": [trial_json(trial) for trial in front(trials)],
    }


def reference(study: StudyRecord) -> tuple[float, float]:
    """(chance level, largest adapter): the study's reference point, fixed when it was made."""
    top1, params = study.facts["reference_point"]
    return float(top1), float(params)


# -- Arrow and Parquet -------------------------------------------------------------------------------------------------

_UNITS = {
    "adapter_params": "parameters",
    "head_params": "parameters",
    "epochs": "epochs",
    "epoch": "epochs",
    "rung": "epochs",
    "started": "seconds since 1970-01-01 UTC",
    "finished": "seconds since 1970-01-01 UTC",
    "time": "seconds since 1970-01-01 UTC",
    "val/top1": "fraction",
    "val/loss": "nats",
    "train/loss": "nats",
    "cost/train_seconds": "seconds",
    "cost/eval_seconds": "seconds",
    "cost/images_per_second": "images per second",
}


def trials_arrow(trials: Sequence[Trial], *, study: StudyRecord | None = None) -> pa.Table:
    """One row per trial: its standing, one column per knob, one per metric of the last epoch.

    A knob that the trial's method does not have is null. Each column's unit is in its metadata (`unit`); the table's
    metadata hold `paretune.schema_version`, and of which study it is.
    """
    import pyarrow as pa

    members = {trial.number for trial in front(trials)}
    columns: dict[str, pa.Array] = {
        "trial": pa.array([t.number for t in trials], pa.int64()),
        "label": pa.array([t.label for t in trials], pa.string()),
        "state": pa.array([t.state.value for t in trials], pa.string()),
        "front": pa.array([t.number in members for t in trials], pa.bool_()),
        "adapter_params": pa.array([t.adapter_params for t in trials], pa.int64()),
        "head_params": pa.array([t.head_params for t in trials], pa.int64()),
        "epochs": pa.array([t.epochs for t in trials], pa.int64()),
        "rung": pa.array([t.rung for t in trials], pa.int64()),
        "reason": pa.array([t.reason for t in trials], pa.string()),
        "n_attempts": pa.array([t.n_attempts for t in trials], pa.int64()),
        "seed": pa.array([t.seed for t in trials], pa.int64()),
        "started": pa.array([t.started for t in trials], pa.float64()),
        "finished": pa.array([t.finished for t in trials], pa.float64()),
    }
    for key in _keys([t.config for t in trials], first="method"):
        columns[key] = _column([t.config.get(key) for t in trials])
    for key in _keys([t.metrics for t in trials], first="val/top1"):
        columns[key] = pa.array([t.metrics.get(key) for t in trials], pa.float64())
    return _arrow(columns, study)


def reports_arrow(reports: Sequence[Report], *, study: StudyRecord | None = None) -> pa.Table:
    """One row per epoch of every trial, in the order of arrival; metadata as in `trials_arrow`."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "trial": pa.array([r.trial for r in reports], pa.int64()),
        "epoch": pa.array([r.epoch for r in reports], pa.int64()),
        "time": pa.array([r.time for r in reports], pa.float64()),
    }
    for key in _keys([r.metrics for r in reports], first="val/top1"):
        columns[key] = pa.array([r.metrics.get(key) for r in reports], pa.float64())
    return _arrow(columns, study)


def write_parquet(trials: Sequence[Trial], path: Path, *, study: StudyRecord | None = None) -> None:
    """Write `trials_arrow` as a Parquet file. The file appears whole or not at all."""
    import pyarrow.parquet as pq

    draft = path.with_name(f".{path.name}.draft")
    pq.write_table(trials_arrow(trials, study=study), draft)
    draft.replace(path)


def _arrow(columns: Mapping[str, pa.Array], study: StudyRecord | None) -> pa.Table:
    import pyarrow as pa

    from spaces import SHARED, SPACES  # a knob's unit is written where the knob is

    units = {knob.key: knob.unit for space in SPACES.values() for knob in space.knobs} | {k.key: k.unit for k in SHARED} | _UNITS
    fields = [
        pa.field(key, column.type, metadata={"unit": units[key]} if units.get(key) else None) for key, column in columns.items()
    ]
    metadata = {"paretune.schema_version": str(SCHEMA_VERSION)}
    if study is not None:
        metadata |= {"paretune.study": study.name, "paretune.study_uid": study.uid}
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata=metadata))


def _keys(rows: Iterable[Mapping[str, Any]], *, first: str) -> list[str]:
    """All keys of the rows: `first`, then by name."""
    return sorted({key for row in rows for key in row}, key=lambda key: (key != first, key))


def _column(values: Sequence[Any]) -> pa.Array:
    """One knob's values. Arrow columns have one type: a knob that takes numbers and names is written as JSON text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
    return pa.array(values)


# -- the picture -------------------------------------------------------------------------------------------------------

# Okabe and Ito's palette, distinguishable with every kind of colour vision; shape and colour say the same thing twice.
_STYLES = {
    "head_only": ("#000000", "D"),
    "lora": ("#0072B2", "o"),
    "arc": ("#D55E00", "^"),
    "lily": ("#009E73", "s"),
}
_MORE_STYLES = [
    (c, m) for m in ("v", "P", "X", "*", "h") for c in ("#CC79A7", "#E69F00", "#56B4E9", "#0072B2", "#D55E00", "#009E73")
]
_INK, _FAINT = "#222222", "#8a8a8a"


def plot_front(trials: Sequence[Trial], path: Path, *, title: str, reference_point: tuple[float, float] | None = None) -> None:
    """Draw accuracy against size: every trial, and the front as a step line with its members named.

    Args:
        trials: COMPLETE trials are solid on the front and pale behind it; PRUNED trials are faint and open, drawn at
            the accuracy of their last epoch.
        path: Where to write; `.png` and `.svg` are understood by their ending.
        title: One line above the picture.
        reference_point: (top1, params) of the hypervolume; when given, the hypervolume is printed and the axis of sizes
            ends at params.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.4), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # no pyplot: nothing global, so that a background thread may draw
    draw_front(figure, trials, title=title, reference_point=reference_point)
    draft = path.with_name(f".draft.{path.name}")
    if path.suffix == ".svg":
        with rc_context({"svg.hashsalt": title}):  # the same trials give the same file
            figure.savefig(draft, metadata={"Date": None})
    else:
        figure.savefig(draft)
    draft.replace(path)


def draw_front(figure: Figure, trials: Sequence[Trial], *, title: str, reference_point: tuple[float, float] | None = None) -> None:
    """Draw what `plot_front` writes into a figure of one's own."""
    axes = figure.add_subplot()
    members = front(trials)
    behind = [t for t in trials if t.state is State.COMPLETE and t not in members]
    pruned = [t for t in trials if t.state is State.PRUNED and math.isfinite(t.metrics.get("val/top1", math.nan))]
    styles = _styles(trials)

    place = _frame(axes, members, behind + pruned, reference_point)
    floor = axes.get_ylim()[0]
    below = [t for t in behind + pruned if _y(t) < floor]
    axes.plot(
        [place(t.adapter_params) for t in below],
        [floor] * len(below),
        marker=7,
        ls="",
        color=_FAINT,
        alpha=0.6,
        ms=5,
        zorder=2,
    )
    for trial in behind:
        colour, marker = styles[trial.method]
        axes.plot(place(trial.adapter_params), _y(trial), marker, color=colour, alpha=0.28, ms=6, mew=0, zorder=2)
    for trial in pruned:
        colour, marker = styles[trial.method]
        axes.plot(place(trial.adapter_params), _y(trial), marker, mfc="none", mec=colour, alpha=0.35, ms=5, mew=0.9, zorder=2)
    if members:
        right = axes.get_xlim()[1]
        xs, ys = [place(t.adapter_params) for t in members], [_y(t) for t in members]
        axes.step([*xs, right], [*ys, ys[-1]], where="post", color=_INK, lw=1.4, zorder=3, solid_joinstyle="miter")
        axes.fill_between([*xs, right], [*ys, ys[-1]], floor, step="post", color="#0072B2", alpha=0.05, lw=0, zorder=1)
    for trial in members:
        colour, marker = styles[trial.method]
        axes.plot(place(trial.adapter_params), _y(trial), marker, color=colour, ms=9, mec="white", mew=1.2, zorder=5)

    _legend(axes, styles=styles, members=members, behind=behind, pruned=pruned, below=below)
    counts = {state: sum(t.state is state for t in trials) for state in State}
    words = [f"{n} {state.value.lower()}" for state, n in counts.items() if n]
    if reference_point is not None:
        words.append(f"hypervolume {hypervolume(trials, reference_point):.3f}")
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    figure.text(0.99, 0.985, " · ".join(words), ha="right", va="top", fontsize=9, color=_FAINT)
    _name_members(figure, axes, members=members, behind=behind, styles=styles, place=place)


def _y(trial: Trial) -> float:
    return 100.0 * trial.metrics["val/top1"]


def _styles(trials: Iterable[Trial]) -> dict[str, tuple[str, str]]:
    """Method to (colour, marker): fixed for the methods that ship, the rest of the palette in turn for others."""
    spare = cycle(_MORE_STYLES)
    methods = list(dict.fromkeys(sorted(trial.method for trial in trials)))
    order = [m for m in _STYLES if m in methods] + [m for m in methods if m not in _STYLES]
    return {method: _STYLES.get(method) or next(spare) for method in order}


@dataclass(frozen=True)
class _Place:
    """Where a size lies on the axis: at log10(1 + params), with zero at most half a decade left of the next size."""

    zero: float

    def __call__(self, params: float) -> float:
        return max(math.log10(1.0 + params), self.zero)


def _frame(axes: Axes, members: Sequence[Trial], others: Sequence[Trial], reference_point: tuple[float, float] | None) -> _Place:
    """Axes that show the front large.

    Trials far below the front are marked at the lower edge, by their size alone; the empty decades between head-only
    and the smallest adapter are left out, and the axis is marked where it is broken.
    """
    sizes = [t.adapter_params for t in (*members, *others) if t.adapter_params]
    smallest = math.log10(1.0 + min(sizes, default=1))
    largest = math.log10(1.0 + (reference_point[1] if reference_point else max(sizes, default=100)))
    has_zero = any(t.adapter_params == 0 for t in (*members, *others)) or not sizes
    place = _Place(max(0.0, smallest - 0.5) if has_zero and sizes else 0.0 if has_zero else -math.inf)
    left = place.zero if has_zero else smallest
    right = max(largest, left + 1.0)

    first = left + (0.3 if place.zero > 0 else 0.1)  # nothing is labelled left of the break
    steps = (1, 3) if right - left <= 3.2 else (1,)
    labelled = [d * 10**k for k in range(9) for d in steps if first < math.log10(1.0 + d * 10**k) <= right + 0.01]
    ticks = [0, *labelled] if has_zero else labelled
    axes.set_xticks([place(n) for n in ticks], [_short(n) for n in ticks])
    unlabelled = [d * 10**k for k in range(9) for d in range(2, 10)]
    axes.set_xticks([place(n) for n in unlabelled if first < math.log10(1.0 + n) <= right], minor=True)
    margin = 0.035 * (right - left)
    axes.set_xlim(left - margin, right + margin)
    if place.zero > 0:  # the mark of a broken axis
        mark: dict[str, Any] = {
            "marker": [(-1, -2), (1, 2)],
            "ms": 9,
            "ls": "",
            "color": "#777777",
            "mew": 1.1,
            "clip_on": False,
            "zorder": 7,
        }
        where = [(place.zero + 0.2 + gap - left + margin) / (right - left + 2 * margin) for gap in (0.0, 0.03)]
        axes.plot(where, [0.0, 0.0], transform=axes.transAxes, **mark)

    values = [_y(t) for t in members] or [_y(t) for t in others] or [0.0, 100.0]
    low, room = min(values), max(max(values) - min(values), 2.0)
    nearby = [_y(t) for t in others if _y(t) >= low - max(0.45 * room, 1.0)]
    axes.set_ylim(min([low, *nearby]) - 0.08 * room, min(max(values) + 0.22 * room, 100.0 + 0.04 * room))

    axes.set_xlabel("trainable adapter parameters, head not counted", color=_INK, fontsize=10)
    axes.set_ylabel("validation accuracy, %", color=_INK, fontsize=10)
    axes.grid(axis="both", which="major", color="#ececec", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(which="both", colors=_INK, labelsize=9, length=3, color="#bbbbbb")
    axes.tick_params(which="minor", length=2)
    return place


def _short(n: int) -> str:
    return f"{n // 10**6}M" if n >= 10**6 else f"{n // 1000}k" if n >= 1000 else str(n)


def _legend(
    axes: Axes,
    *,
    styles: Mapping[str, tuple[str, str]],
    members: Sequence[Trial],
    behind: Sequence[Trial],
    pruned: Sequence[Trial],
    below: Sequence[Trial],
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, ls="", ms=7, label=METHOD_NAMES.get(method, method))
        for method, (colour, marker) in styles.items()
    ]
    if members:
        handles.append(Line2D([], [], color=_INK, lw=1.4, label="front"))
    if behind:
        handles.append(Line2D([], [], color=_FAINT, marker="o", ls="", ms=6, mew=0, alpha=0.45, label="dominated"))
    if pruned:
        handles.append(Line2D([], [], mfc="none", mec=_FAINT, marker="o", ls="", ms=5, label="stopped early"))
    if below:
        handles.append(Line2D([], [], color=_FAINT, marker=7, ls="", ms=5, label="further down"))
    axes.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=min(len(handles), 8),
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
        handletextpad=0.25,
        columnspacing=1.1,
        borderaxespad=0.1,
    )


def _name_members(
    figure: Figure,
    axes: Axes,
    *,
    members: Sequence[Trial],
    behind: Sequence[Trial],
    styles: Mapping[str, tuple[str, str]],
    place: _Place,
) -> None:
    """Write each member's name where nothing is: first above and left, where no trial can lie."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles the layout, so that sizes in pixels are final
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # Agg has one, the base class does not say so
    point = figure.dpi / 72.0

    def square(trial: Trial, half: float) -> Bbox:
        x, y = axes.transData.transform((place(trial.adapter_params), _y(trial)))
        return Bbox.from_extents(x - half * point, y - half * point, x + half * point, y + half * point)

    taken = [square(trial, 5.0) for trial in members]
    avoided = [square(trial, 3.0) for trial in behind]
    for here, after in pairwise(members):  # the step line itself
        (x0, y0), (x1, y1) = axes.transData.transform(
            [(place(here.adapter_params), _y(here)), (place(after.adapter_params), _y(after))]
        )
        taken += [Bbox.from_extents(x0, y0 - 1, x1, y0 + 1), Bbox.from_extents(x1 - 1, y0, x1 + 1, y1)]
    places = [(-5.0, 4.0, "right"), (-6.0, 7.0, "left"), (-12.0, 12.0, "right"), (7.0, -13.0, "left")]
    places += [(-16.0 - 4.0 * k, 18.0 + 10.0 * k, "right") for k in range(7)]
    places += [(9.0 + 4.0 * k, -22.0 - 10.0 * k, "left") for k in range(3)]
    window = axes.get_window_extent(renderer)
    for trial in reversed(members):
        colour = styles[trial.method][0]
        best: tuple[int, Any, Bbox] | None = None
        for dx, dy, side in places:
            text = axes.annotate(
                _name(trial),
                (place(trial.adapter_params), _y(trial)),
                xytext=(dx, dy),
                textcoords="offset points",
                ha=side,
                va="bottom",
                fontsize=8.5,
                color=colour,
                zorder=6,
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkB": 4} if abs(dy) > 13 else None,
            )
            box = text.get_window_extent(renderer)
            box = Bbox.from_extents(*box.extents) if abs(dy) <= 13 else _text_box(text, renderer)
            inside = window.x0 < box.x0 and box.x1 < window.x1 and window.y0 < box.y0 and box.y1 < window.y1
            cost = 1000 * (not inside) + 100 * box.count_overlaps(taken) + box.count_overlaps(avoided)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, text, box)
            else:
                text.remove()
            if best[0] == 0:
                break
        if best is not None and best[0] < 100:
            taken.append(best[2])
        elif best is not None:  # no free place: the table names it
            best[1].remove()


def _text_box(text: Any, renderer: Any) -> Any:
    """The box of an annotation's words without its line."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    text.update_positions(renderer)
    return Bbox.from_extents(*Text.get_window_extent(text, renderer).extents)


def _name(trial: Trial) -> str:
    words = knobs(trial).split()
    chosen = [w for w in words if w[0] in "re+k" and w[1:].isdigit()] + [w for w in words if w.startswith(("last-", "first-"))]
    return " ".join([METHOD_NAMES.get(trial.method, trial.method), *chosen])
