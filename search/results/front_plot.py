"""The plot of a front: accuracy against adapter size, drawn by matplotlib, which is imported on the first plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.front import front, hypervolume, judged_by
from search.results import plot_style
from search.results.noise import standard_error
from search.results.plot_style import FAINT as _FAINT
from search.results.plot_style import INK as _INK
from search.results.plot_style import SizeAxis
from search.results.words import METHOD_NAMES, describe_knobs
from search.storage.whole_file import write_whole
from search.trial import State, Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_front(
    trials: Sequence[Trial],
    *paths: Path,
    title: str,
    reference_point: tuple[float, float] | None = None,
    n_validation: int | None = None,
) -> None:
    """Draw accuracy against size: every trial, and the front as a step line with its members named.

    Args:
        trials: Trials to draw: COMPLETE trials are solid on the front and pale behind it; PRUNED trials are faint and open, drawn
            at the accuracy of their last epoch.
        paths: Files to write, `.png` or `.svg`; a stem that ends in `small` gives a small picture. The plot is drawn once.
        title: Line above the picture.
        reference_point: Reference point (score, size) of the hypervolume; if given, the hypervolume is printed and the axis of
            sizes ends at params.
        n_validation: Number of images that accuracies were measured on; if given, members have bars of one standard error.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.4), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)  # without pyplot nothing is global, so a background thread may draw
    draw_front(figure, trials, title=title, reference_point=reference_point, n_validation=n_validation)

    def write(draft: Path) -> None:
        if draft.suffix == ".svg":
            with rc_context({"svg.hashsalt": title}):  # the same trials give the same file
                figure.savefig(draft, metadata={"Date": None})
        else:
            figure.savefig(draft, dpi=88 if draft.stem.endswith("small") else "figure")

    for path in paths:
        write_whole(path, write)


def draw_front(
    figure: Figure,
    trials: Sequence[Trial],
    *,
    title: str,
    reference_point: tuple[float, float] | None = None,
    n_validation: int | None = None,
) -> None:
    """Draw the plot of `plot_front` into a given figure."""
    axes = figure.add_subplot()
    members = front(trials)
    behind = [t for t in trials if t.is_complete and t not in members]
    pruned = [t for t in trials if t.state is State.PRUNED and math.isfinite(t.quality)]
    styles = plot_style.styles(t.method for t in trials)

    errors = [t.metric.shown(standard_error(t, n_validation) or 0.0) for t in members]
    size_axis = _frame(axes, members, behind + pruned, reference_point, errors)
    floor = axes.get_ylim()[0]
    below = [t for t in behind + pruned if _y(t) < floor]
    axes.plot(
        [size_axis(t.size) for t in below],
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
        axes.plot(size_axis(trial.size), _y(trial), marker, color=colour, alpha=0.28, ms=6, mew=0, zorder=2)
    for trial in pruned:
        colour, marker = styles[trial.method]
        axes.plot(size_axis(trial.size), _y(trial), marker, mfc="none", mec=colour, alpha=0.35, ms=5, mew=0.9, zorder=2)
    if members:
        right = axes.get_xlim()[1]
        xs, ys = [size_axis(t.size) for t in members], [_y(t) for t in members]
        axes.step([*xs, right], [*ys, ys[-1]], where="post", color=_INK, lw=1.4, zorder=3, solid_joinstyle="miter")
        axes.fill_between([*xs, right], [*ys, ys[-1]], floor, step="post", color="#0072B2", alpha=0.05, lw=0, zorder=1)
    for trial, error in zip(members, errors, strict=True):
        colour, marker = styles[trial.method]
        if error:
            axes.errorbar(size_axis(trial.size), _y(trial), error, color=colour, alpha=0.35, lw=1.0, capsize=2.0, zorder=4)
        axes.plot(size_axis(trial.size), _y(trial), marker, color=colour, ms=9, mec="white", mew=1.2, zorder=5)

    _legend(axes, styles=styles, members=members, behind=behind, pruned=pruned, below=below)
    counts = {state: sum(t.state is state for t in trials) for state in State}
    words = [f"{n} {state.value.lower()}" for state, n in counts.items() if n]
    if reference_point is not None:
        words.append(f"hypervolume {hypervolume(trials, reference_point):.3f}")
    figure.suptitle(title, x=0.012, ha="left", fontsize=14, fontweight="bold", color=_INK)
    figure.text(0.99, 0.985, " · ".join(words), ha="right", va="top", fontsize=9, color=_FAINT)
    _name_members(figure, axes, members=members, behind=behind, styles=styles, size_axis=size_axis)


def _y(trial: Trial) -> float:
    return plot_style.height(trial)


def _frame(
    axes: Axes,
    members: Sequence[Trial],
    others: Sequence[Trial],
    reference_point: tuple[float, float] | None,
    errors: Sequence[float],
) -> SizeAxis:
    """Set up axes that show the front large. Trials far below it are marked at the lower edge, where only their size shows."""
    size_axis = SizeAxis.of((*members, *others), reference_point)
    left, right = size_axis.left, size_axis.right
    axes.set_xticks([at for at, _ in size_axis.ticks], [label for _, label in size_axis.ticks])
    axes.set_xticks(size_axis.minor, minor=True)
    margin = 0.035 * (right - left)
    axes.set_xlim(left - margin, right + margin)
    if size_axis.zero > 0:  # the mark of a broken axis
        mark: dict[str, Any] = {
            "marker": [(-1, -2), (1, 2)],
            "ms": 9,
            "ls": "",
            "color": "#777777",
            "mew": 1.1,
            "clip_on": False,
            "zorder": 7,
        }
        where = [(size_axis.zero + 0.2 + gap - left + margin) / (right - left + 2 * margin) for gap in (0.0, 0.03)]
        axes.plot(where, [0.0, 0.0], transform=axes.transAxes, **mark)

    ends = [_y(t) + sign * error for t, error in zip(members, errors, strict=True) for sign in (-1, 1)]
    metric = judged_by((*members, *others))
    point, perfect = metric.shown(0.01), metric.shown(1.0) if metric.larger_is_better else 0.0
    values = ends or [_y(t) for t in others] or [perfect - 100.0 * point, perfect]
    low, room = min(values), max(max(values) - min(values), 2.0 * point)
    nearby = [_y(t) for t in others if _y(t) >= low - max(0.45 * room, point)]
    axes.set_ylim(min([low, *nearby]) - 0.08 * room, min(max(values) + 0.22 * room, perfect + 0.04 * room))

    axes.set_xlabel(size_axis.label, color=_INK, fontsize=10)
    if not metric.larger_is_better:  # heights are negative
        axes.yaxis.set_major_formatter(lambda height, _: f"{abs(height):g}")
    axes.set_ylabel(metric.axis, color=_INK, fontsize=10)
    axes.grid(axis="both", which="major", color="#ececec", lw=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#bbbbbb")
    axes.tick_params(which="both", colors=_INK, labelsize=9, length=3, color="#bbbbbb")
    axes.tick_params(which="minor", length=2)
    return size_axis


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
        ncols=min(len(handles), 8 if len(handles) <= 16 else 6),  # as many as are as wide as the axes
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
    size_axis: SizeAxis,
) -> None:
    """Write each member's name into free space: first above and left, where no trial can be."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()  # settles the layout, so that sizes in pixels are final
    figure.set_layout_engine("none")
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # defined by Agg, not by its base class
    point = figure.dpi / 72.0

    def square(trial: Trial, half: float) -> Bbox:
        x, y = axes.transData.transform((size_axis(trial.size), _y(trial)))
        return Bbox.from_extents(x - half * point, y - half * point, x + half * point, y + half * point)

    taken = [square(trial, 5.0) for trial in members]
    avoided = [square(trial, 3.0) for trial in behind]
    for here, after in pairwise(members):  # the step line itself
        (x0, y0), (x1, y1) = axes.transData.transform([(size_axis(here.size), _y(here)), (size_axis(after.size), _y(after))])
        taken += [Bbox.from_extents(x0, y0 - 1, x1, y0 + 1), Bbox.from_extents(x1 - 1, y0, x1 + 1, y1)]
    offsets = [(-5.0, 4.0, "right"), (-6.0, 7.0, "left"), (-12.0, 12.0, "right"), (7.0, -13.0, "left")]
    offsets += [(-16.0 - 4.0 * k, 18.0 + 10.0 * k, "right") for k in range(7)]
    offsets += [(9.0 + 4.0 * k, -22.0 - 10.0 * k, "left") for k in range(3)]
    window = axes.get_window_extent(renderer)
    for trial in reversed(members):
        colour = styles[trial.method][0]
        best: tuple[int, Any, Bbox] | None = None
        for dx, dy, side in offsets:
            text = axes.annotate(
                _name(trial),
                (size_axis(trial.size), _y(trial)),
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
        elif best is not None:  # no free space: only the table names it
            best[1].remove()


def _text_box(text: Any, renderer: Any) -> Any:
    """Return the box of an annotation's text without its line."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    text.update_positions(renderer)
    return Bbox.from_extents(*Text.get_window_extent(text, renderer).extents)


def _name(trial: Trial) -> str:
    words = describe_knobs(trial).split()
    chosen = [w for w in words if w[0] in "re+k" and w[1:].isdigit()] + [w for w in words if w.startswith(("last-", "first-"))]
    return " ".join([METHOD_NAMES.get(trial.method, trial.method), *chosen])
