"""What the runs of `benchmarks/search.py` come to, as the tables and the picture of docs/search.md."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- measured: python benchmarks/search.py report -->", "<!-- end -->"
MAX_EPOCHS = 18_600  # of a run: a little more than the whole recorded table
REACHED = (0.90, 0.95, 0.99)
AFTER = (10, 20, 40, 80)  # trials, head-only among them
RIVALS = ("auto 312f83d", "random", "tpe", "nsga2", "halving")
BEFORE = "auto 312f83d"  # the sampler before its parts
NEW_PARTS = (
    BEFORE,
    "auto 312f83d with shared columns",
    "auto 312f83d with noise",
    "auto 312f83d with the start",
    "auto without noise",
    "auto",
)
ABLATIONS = (
    "auto 312f83d without rungs",
    "auto 312f83d without promotion",
    "auto 312f83d without free size",
    "auto 312f83d without fairness",
    "random with rungs",
)
TITLES = {
    "table": "recorded table",
    "valley": "family `valley`",
    "crossing": "family `crossing`",
    "latency": "family `valley`, accuracy against latency",
}
IN_SECONDS_TEXT = (
    "Four workers at once, whose epochs take the recorded seconds. The time is the simulated clock's.",
    "`auto, hours` has a budget in hours and rungs from the first epoch on; `auto` is as above. Two rows",
    "have only one of the two. Ratios are medians of pairs with the same seed.",
)
AFTER_TEXT = (
    "The share of the hypervolume after so many trials, head-only among them: means over the seeds. In",
    "parentheses is the paired difference to `auto 312f83d`, with its 95 % interval. `auto` has all",
    "parts.",
)
N_EPOCHS = 30  # of a trial that no rung stops
OF_TODAY = {"valley of today": "family `valley`", "crossing of today": "family `crossing`"}
Curves = dict[tuple[str, str], dict[int, list[tuple[float, float]]]]  # (problem, contender) -> seed -> curve


def lines(path: Path) -> list[dict[str, Any]]:
    """The runs of a file."""
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def gathered(path: Path) -> Curves:
    """The same, by problem and contender."""
    found: Curves = {}
    for line in lines(path):
        found.setdefault((line["problem"], line["contender"]), {})[line["seed"]] = [(e, s) for e, s in line["curve"]]
    return found


def spent_to(curve: list[tuple[float, float]], reached: float) -> float:
    """Epochs until a share of the reference was reached; infinite if it never was."""
    return next((float(epochs) for epochs, share in curve if share >= reached - 1e-12), math.inf)


def epochs_to(curves: Curves, name: str, contender: str, share: float) -> dict[int, float]:
    """Of each seed; infinite where it was not reached."""
    return {seed: spent_to(curve, share) for seed, curve in curves.get((name, contender), {}).items()}


def middle(values: Sequence[float]) -> tuple[float, float, float]:
    """Median and its 95 % interval, by bootstrap over the seeds (2,000 draws, seeded)."""
    array = np.array(values)
    draws = np.random.default_rng(0).integers(len(array), size=(2000, len(array)))
    medians = np.sort(np.sort(array[draws], axis=1)[:, [(len(array) - 1) // 2, len(array) // 2]].max(1))
    found = np.sort(array)
    return float(found[len(array) // 2]), float(medians[50]), float(medians[1949])


def ratio(curves: Curves, name: str, pair: tuple[str, str], share: float) -> str:
    """Epochs of one over another's, paired by seed: median and interval. Who has not arrived counts with the whole budget."""
    ours, theirs = (epochs_to(curves, name, contender, share) for contender in pair)
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds or all(math.isinf(theirs[seed]) and math.isinf(ours[seed]) for seed in seeds):
        return "-"
    ratios = [ours[seed] / min(theirs[seed], MAX_EPOCHS) for seed in seeds]
    censored = sum(math.isinf(theirs[seed]) for seed in seeds)
    median, low, high = middle(ratios)
    at_most = "at most " if 2 * censored >= len(seeds) else ""
    return f"{at_most}{_number(median, 2)} [{_number(low, 2)}, {_number(high, 2)}]"


def cell(values: dict[int, float]) -> str:
    """Median and interval of epochs, and how many seeds arrived if not all did."""
    if not values:
        return ""
    median, low, high = middle(list(values.values()))
    arrived = sum(math.isfinite(value) for value in values.values())
    share = "" if arrived == len(values) else f" ({arrived} of {len(values)})"
    return f"{_number(median)} [{_number(low)}, {_number(high)}]{share}"


IN_SECONDS = ("auto", "auto, hours", "auto, hours, rungs from epoch 3", "auto, rungs from epoch 1", "random", "tpe")


def table_in_seconds(curves: Curves) -> list[str]:
    """Markdown: seconds of the simulated clock, and their ratio to those of `auto` with a budget in trials, paired by seed."""
    heads = " | ".join(f"seconds to {share:.0%}" for share in REACHED)
    ratios = " | ".join(f"it / auto at {share:.0%}" for share in REACHED)
    rows = [f"| contender | seeds | {heads} | {ratios} |", "|---|" + "---:|" * (1 + 2 * len(REACHED))]
    for contender in IN_SECONDS:
        found = [epochs_to(curves, "seconds", contender, share) for share in REACHED]
        against = [epochs_to(curves, "seconds", "auto", share) for share in REACHED]
        cells = [cell(values) for values in found]
        for theirs, ours in zip(against, found, strict=True):
            paired = [ours[seed] / theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
            median, low, high = middle(paired)
            cells.append("" if contender == "auto" else f"{_number(median, 2)} [{_number(low, 2)}, {_number(high, 2)}]")
        rows.append(f"| {contender} | {len(found[0])} | {' | '.join(cells)} |")
    return rows


def _number(value: float, digits: int = 0) -> str:
    return "never" if math.isinf(value) else f"{value:,.{digits}f}"


def after(path: Path, name: str) -> list[str]:
    """Markdown: the share after some numbers of trials, and its paired difference to `auto` before its parts."""
    found: dict[str, dict[int, dict[int, float]]] = {}  # contender -> seed -> trials -> share
    for line in lines(path):
        if line["problem"] == name and line["contender"] in ("tpe", "random"):
            steps = [(max(share for at, share in line["curve"] if at <= n * N_EPOCHS), n) for n in AFTER]
            found.setdefault(line["contender"], {})[line["seed"]] = {n: share for share, n in steps}
        elif line["problem"] == name and "after" in line:
            found.setdefault(line["contender"], {})[line["seed"]] = {int(n): share for n, share in line["after"].items()}
    heads = " | ".join(f"after {n}" for n in AFTER)
    rows = [f"| contender | seeds | {heads} |", "|---|---:|" + "---:|" * len(AFTER)]
    for contender in (*NEW_PARTS, "tpe", "random"):
        cells, seeds = [], found.get(contender, {})
        for n in AFTER:
            own = [shares[n] for shares in seeds.values() if n in shares]
            pairs = [(shares, found[BEFORE][seed]) for seed, shares in seeds.items() if seed in found.get(BEFORE, {})]
            gain = np.array([ours[n] - theirs[n] for ours, theirs in pairs if n in ours and n in theirs])
            cells.append("" if not own else f"{np.mean(own):.2f}")
            if len(gain) > 1 and contender != BEFORE:
                means = gain[np.random.default_rng(0).integers(len(gain), size=(2000, len(gain)))].mean(1)
                low, high = np.quantile(means, [0.025, 0.975])
                cells[-1] += f" ({gain.mean():+.2f} [{low:+.2f}, {high:+.2f}])"
        if seeds:
            rows.append(f"| {contender} | {len(seeds)} | {' | '.join(cells)} |")
    return rows


def table_of(curves: Curves, name: str, contenders: Sequence[str]) -> list[str]:
    """Markdown: a row for each contender, and the ratio of the first one's epochs to its own."""
    whose = contenders[0]
    heads = " | ".join(f"epochs to {share:.0%}" for share in REACHED)
    ratios = " | ".join(f"{whose} / it at {share:.0%}" for share in REACHED)
    rows = [f"| contender | seeds | {heads} | {ratios} |", "|---|" + "---:|" * (1 + 2 * len(REACHED))]
    for contender in contenders:
        cells = [cell(epochs_to(curves, name, contender, share)) for share in REACHED]
        against = ["" if contender == whose else ratio(curves, name, (whose, contender), share) for share in REACHED]
        n_seeds = len(curves.get((name, contender), {}))
        rows.append(f"| {contender} | {n_seeds} | {' | '.join(cells)} | {' | '.join(against)} |")
    return rows


def picture(curves: Curves, path: Path) -> None:
    """The share of the reference's hypervolume against epochs spent: medians and quartiles over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.0 * len(TITLES), 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = np.unique(np.round(np.geomspace(30, MAX_EPOCHS, 240)))
    colours = dict(zip(("auto", *RIVALS), ("#D55E00", "#E69F00", "#222222", "#0072B2", "#009E73", "#CC79A7"), strict=True))
    for axes, name in zip(figure.subplots(1, len(TITLES), sharey=True), TITLES, strict=True):
        for contender, colour in colours.items():
            runs = curves.get((name, contender), {}).values()
            if not runs:
                continue
            heights = np.array([np.interp(grid, *_steps(curve)) for curve in runs])
            low, median, high = np.quantile(heights, (0.25, 0.5, 0.75), axis=0)
            axes.plot(grid, median, color=colour, label=contender, linewidth=1.8)
            axes.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set(xscale="log", ylim=(0.4, 1.005), title=TITLES[name].replace("`", ""), xlabel="epochs trained")
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel("share of the reference's hypervolume")
    figure.axes[0].legend(loc="lower right", fontsize=9)
    figure.savefig(path)


def _steps(curve: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """A staircase as points to interpolate."""
    xs, ys = [0.0], [0.0]
    for epochs, share in curve:
        xs += [epochs - 1e-6, float(epochs)]
        ys += [ys[-1], share]
    return [*xs, float(MAX_EPOCHS)], [*ys, ys[-1]]


def report(path: Path) -> None:
    """Writes docs/search.md between its marks, and the pictures."""
    curves = gathered(path)
    text = [
        f"Median over the seeds, with its 95 % interval; `never`: not within {MAX_EPOCHS:,} epochs. Ratios are medians",
        f"too, of pairs with the same seed. A search that has not arrived counts as {MAX_EPOCHS:,} epochs, and",
        "`at most` marks a ratio if half of the searches or more have not. `auto 312f83d` is `auto` before",
        "its parts (shared columns, noise, the start). The searches of the families and those in seconds were",
        "recorded with earlier spaces and the earlier `auto`. What the parts bring on the families of today",
        "is below.",
        "",
    ]
    for name, title in TITLES.items():
        rivals = [rival for rival in RIVALS if (name, rival) in curves]
        text += [f"### The {title}", "", *table_of(curves, name, ["auto", *rivals] if (name, "auto") in curves else rivals), ""]
    if ("seconds", "auto") in curves:
        text += ["### The recorded table, in seconds", "", *IN_SECONDS_TEXT, "", *table_in_seconds(curves), ""]
    text += ["### What the parts of `auto` bring", "", *AFTER_TEXT, ""]
    for name, title in ({"table": TITLES["table"]} | OF_TODAY).items():
        text += [f"The {title}:", "", *after(path, name), ""]
    text += ["### What the earlier parts bring", "", "`auto 312f83d` without one of its parts, and random search with rungs.", ""]
    for name, title in TITLES.items():
        if ablations := [ablation for ablation in ABLATIONS if (name, ablation) in curves]:
            text += [f"The {title}:", "", *table_of(curves, name, [BEFORE, *ablations]), ""]
    page = DOCS / "search.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(text) + f"\n{END}{rest.partition(END)[2]}")
    picture(curves, DOCS / "images" / "search.png")
