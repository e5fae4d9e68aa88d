"""The simulated comparison of samplers on one study: the growth of each one's front with the trained epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from search.backends import simulated
from search.backends.simulated import Replay
from search.config.study_file import StudyFile

_COLOURS = ("#D55E00", "#222222", "#0072B2", "#009E73", "#CC79A7", "#E69F00")  # Okabe and Ito's palette


@dataclass(frozen=True)
class HypervolumeCurve:
    """The hypervolume of one search after each growth of its front.

    Attributes:
        epochs: Epochs trained by all trials together when the front grew, ascending.
        hypervolume: Hypervolume of the front at that time, in accuracy x decades of parameters; the first is that of head-only,
            the anchor.
    """

    epochs: Sequence[int]
    hypervolume: Sequence[float]

    def share(self, epochs: np.ndarray, best: float) -> np.ndarray:
        """Return the share of the gain from head-only to the best hypervolume after these epochs: a step function from 0."""
        heights = np.asarray([self.hypervolume[0], *self.hypervolume])
        gone: np.ndarray = (heights - heights[0]) / (best - heights[0])
        index = np.searchsorted(np.asarray(self.epochs), epochs, side="right")
        return np.take(gone, index)

    def until(self, share: float, best: float) -> float:
        """Return the epochs until that share was reached; infinity if it never was."""
        reached = self.share(np.asarray(self.epochs), best) >= share
        return float(self.epochs[int(reached.argmax())]) if reached.any() else float("inf")


def hypervolume_curves(
    file: StudyFile, replay: Replay, against: Sequence[str], *, n_seeds: int, n_workers: int = 1
) -> dict[str, list[HypervolumeCurve]]:
    """Simulate the file's own sampler with rungs, and others that train every trial to the end; each with seeds 0, 1, ...."""
    entrants: dict[str, dict[str, Any]] = {file.search.sampler: {}} | {
        sampler: {"sampler": sampler, "rungs": None} for sampler in against
    }
    found: dict[str, list[HypervolumeCurve]] = {}
    for name, changes in entrants.items():
        for seed in range(n_seeds):
            search = file.search.model_copy(update={**changes, "seed": seed})
            found.setdefault(name, []).append(_hypervolume_curve(file.model_copy(update={"search": search}), replay, n_workers))
    return found


def _hypervolume_curve(file: StudyFile, replay: Replay, n_workers: int) -> HypervolumeCurve:
    clock = simulated.VirtualClock()
    study = simulated.create(file, replay.sizes, clock, pool=replay.pool)
    epochs: list[int] = []
    heights: list[float] = []

    def look() -> None:
        if (height := study.hypervolume()) > (heights[-1] if heights else 0.0):
            epochs.append(sum(trial.epochs for trial in study.trials))
            heights.append(height)

    simulated.run(study, replay.make, clock, n_workers=n_workers, on_event=look)
    return HypervolumeCurve(epochs, heights)


def best(found: Mapping[str, Sequence[HypervolumeCurve]]) -> float:
    """Return the largest final hypervolume of all curves."""
    return max(course.hypervolume[-1] for several in found.values() for course in several)


def plot(found: Mapping[str, Sequence[HypervolumeCurve]], path: Path, *, title: str) -> None:
    """Plot the share of the best hypervolume, from head-only on, against trained epochs: medians and quartiles over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(9.0, 4.6), dpi=160, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    highest = best(found)
    longest = max(course.epochs[-1] for several in found.values() for course in several)
    grid = np.arange(longest + 1)
    for (name, several), colour in zip(found.items(), _cycled(_COLOURS), strict=False):
        low, median, high = np.quantile([course.share(grid, highest) for course in several], (0.25, 0.5, 0.75), axis=0)
        axes.plot(grid, median, color=colour, lw=1.8, label=name)
        axes.fill_between(grid, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="epochs trained", ylabel="share of the best front's hypervolume", xlim=(0, longest), ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.legend(loc="lower right", frameon=False)
    figure.suptitle(title, x=0.012, ha="left", fontsize=13, fontweight="bold", color="#222222")
    n = len(next(iter(found.values())))
    if n > 1:
        figure.text(0.99, 0.985, f"median and quartiles of {n} seeds", ha="right", va="top", fontsize=9, color="#8a8a8a")
    figure.savefig(path)


def _cycled(colours: Sequence[str]) -> Iterator[str]:
    while True:
        yield from colours
