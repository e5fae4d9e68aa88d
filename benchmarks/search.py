"""How soon does a search reach the front? `python benchmarks/search.py run`, then `report` writes docs/search.md and its pictures.

Every contender drives the same `Study` on one imaginary worker: head-only and the papers' defaults first, then what its sampler
chooses. Three problems: the recorded table (results/digits-table.parquet: contenders pick rows without replacement, the reference
is the table's own front), and two synthetic families with known fronts, where each seed is another member of the family. Measured
in epochs, what a search pays; a seed's runs are paired over the contenders. Hypervolume is normalised: (HV - HV of head-only) /
(HV of the reference front - HV of head-only).

A run is kept as one line of results/search.jsonl; a second call goes on with what is missing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from optuna.distributions import CategoricalDistribution

sys.path.pop(0)  # this file's own folder, where `search` would be this file

import spaces
from search import pareto
from search.auto import Auto
from search.config import ANCHOR, check
from search.rungs import Rungs, Verdict
from search.simulated import VirtualClock, create
from search.study import Study
from search.trial import Decision, State
from spaces import Config
from trainables.recorded import RecordedTrainable, Table
from trainables.surfaces import FAMILIES, Surface, SurfaceTrainable

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- measured: python benchmarks/search.py report -->", "<!-- end -->"
METHODS = tuple(method for method in spaces.SPACES if method not in ("head_only", "bitfit", "full"))
EPOCHS, MAX_PARAMS = 30, 100_000
MAX_EPOCHS = 620 * EPOCHS  # of a run: a little more than the whole table
RUNGS = {"grace": 3, "factor": 2}
HALVING = {"grace": 3, "factor": 3}
REACHED = (0.90, 0.95, 0.99)
ENOUGH = 0.992  # of the reference: the run ends
SEEDS = range(20)


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Attributes:
        sizes: What is known before training.
        make: Makes a trainable.
        pool: The only configurations, or None.
        front: The reference: (top1, size) of its points.
    """

    sizes: Any
    make: Callable[[], Any]
    pool: list[Config] | None
    front: list[tuple[float, int]]


def problem(name: str, seed: int) -> Problem:
    """A problem by name; each seed has another member of a family, and the one table."""
    if name == "table":
        table = Table(RESULTS / "digits-table.parquet")
        rows = [row for row in table.rows if row.config["method"] in METHODS]
        anchor = next(row for row in table.rows if row.config == spaces.joint([ANCHOR]).default(ANCHOR))
        front = [(row.curves["val/top1"][-1], row.params[0]) for row in (*rows, anchor) if row.problem is None]
        return Problem(table, lambda: RecordedTrainable(table), [row.config for row in rows], front)
    surface = Surface(name, seed)
    anchor = spaces.joint([ANCHOR]).default(ANCHOR)
    front = [(surface.final(anchor), 0)]
    for method in METHODS:
        knobs = spaces.joint([method]).knobs(method)
        values: dict[str, Sequence[Any] | None] = {
            k.key: k.distribution.choices if isinstance(k.distribution, CategoricalDistribution) else None for k in knobs
        }
        front += surface.best({"method": (method,)} | values)
    return Problem(surface, lambda: SurfaceTrainable(surface), None, front)


@dataclass(frozen=True)
class Contender:
    """A way to search.

    Attributes:
        sampler: As in a study file.
        rungs: As in a study file, or None.
        change: Takes a part away from the study, for an ablation.
    """

    sampler: str
    rungs: dict[str, Any] | None = None
    change: Callable[[Study], None] | None = None


class AccuracyRungs(Rungs):
    """Successive halving on accuracy alone: everyone is everyone's rival, whatever the size."""

    def add(self, epoch: int, size: int, top1: float) -> None:
        """See `Rungs.add`."""
        super().add(epoch, 0, top1)

    def verdict(self, epoch: int, size: int, top1: float) -> Verdict | None:
        """See `Rungs.verdict`."""
        return super().verdict(epoch, 0, top1)


def halve_on_accuracy(study: Study) -> None:
    study.known.rungs = AccuracyRungs(**HALVING, epsilon=0.0, epochs=EPOCHS)


def unfair(study: Study) -> None:
    engine(study)._fair = False


class Blind(Auto):
    """Knows of a candidate's size only what the trials of its method have had: the median."""

    def _candidates(self, methods: Sequence[str], parents: Any, random: np.random.Generator) -> Any:
        found = super()._candidates(methods, parents, random)
        if found is None:
            return None
        of: dict[str, list[float]] = {}
        for method, decades in zip(self._known.methods, self._known.decades(np.arange(len(self._known))), strict=True):
            of.setdefault(method, []).append(float(decades))
        decades = np.concatenate([np.full(len(codes), np.median(of.get(method, [3.0]))) for method, codes in found.points])
        features = found.features.copy()
        features[:, 0] = decades / 4.0  # as in `search.coding`
        return found._replace(sizes=np.round(10.0**decades - 1.0).astype(np.int64), features=features)


def blind(study: Study) -> None:
    engine(study).__class__ = Blind


def engine(study: Study) -> Auto:
    return cast(Auto, study.known.sampler._engine)


CONTENDERS: dict[str, Contender] = {
    "auto": Contender("auto", RUNGS),
    "random": Contender("random"),
    "tpe": Contender("tpe"),
    "nsga2": Contender("nsga2"),
    "halving": Contender("random", HALVING, halve_on_accuracy),
    "auto without rungs": Contender("auto"),
    "auto without promotion": Contender("auto", RUNGS | {"promote": False}),
    "auto without free size": Contender("auto", RUNGS, blind),
    "auto without fairness": Contender("auto", RUNGS, unfair),
    "random with rungs": Contender("random", RUNGS),
}


def search(where: Problem, how: Contender, seed: int) -> list[tuple[int, float]]:
    """(epochs spent, normalised hypervolume) whenever it grew, until 99.9 % or the budget is spent."""
    file = check(
        {
            "study": "benchmark",
            "data": {"kind": "synthetic"},
            "methods": list(METHODS),
            "budget": {"n_trials": 10**6, "epochs": EPOCHS, "max_params": MAX_PARAMS},
            "search": {"sampler": how.sampler, "rungs": how.rungs, "seed": seed},
        }
    )
    study = create(file, where.sizes, VirtualClock(), pool=where.pool)
    if how.change is not None:
        how.change(study)
    trainable, spent, curve = where.make(), 0, [(0, 0.0)]
    reference = pareto.hypervolume([(top1, float(size)) for top1, size in where.front], study.reference_point)
    anchor = math.nan
    while spent < MAX_EPOCHS and (trial := study.ask()) is not None:
        trainable.start(trial.config, seed=trial.seed, epochs=EPOCHS, folder=None)
        for _ in range(trial.epochs):
            trainable.step()
        epoch, decision = trial.epochs, Decision.CONTINUE
        while decision is Decision.CONTINUE:
            try:
                metrics = trainable.step()
            except FloatingPointError as error:
                study.tell(trial.number, State.FAILED, str(error))
                break
            spent, epoch = spent + 1, epoch + 1
            decision = study.report(trial.number, epoch, metrics)
        if trial.number == 0:
            anchor = study.hypervolume()
        reached = (study.hypervolume() - anchor) / (reference - anchor)
        if reached > curve[-1][1]:
            curve.append((spent, reached))
        if reached >= ENOUGH:
            break
    return curve


def spent_to(curve: list[tuple[int, float]], reached: float) -> float:
    """Epochs until a share of the reference was reached; infinite if it never was."""
    return next((float(epochs) for epochs, share in curve if share >= reached - 1e-12), math.inf)


def run(path: Path, problems: Sequence[str], contenders: Sequence[str], seeds: Sequence[int], minutes: float) -> None:
    """Runs what is missing."""
    done = {(line["problem"], line["contender"], line["seed"]) for line in lines(path)}
    begun = time.monotonic()
    with path.open("a") as file:
        for seed in seeds:
            for name in problems:
                where = problem(name, seed)
                for contender in contenders:
                    if (name, contender, seed) in done or time.monotonic() - begun > 60 * minutes:
                        continue
                    at = time.perf_counter()
                    curve = search(where, CONTENDERS[contender], seed)
                    seconds = time.perf_counter() - at
                    line = {"problem": name, "contender": contender, "seed": seed, "seconds": round(seconds, 1)}
                    line["curve"] = [(epochs, round(share, 5)) for epochs, share in curve]
                    file.write(json.dumps(line) + "\n")
                    file.flush()


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


# -- the report --------------------------------------------------------------------------------------------------------------------

Curves = dict[tuple[str, str], dict[int, list[tuple[int, float]]]]  # (problem, contender) -> seed -> curve
ABLATIONS = [name for name in CONTENDERS if " " in name]
RIVALS = [name for name in CONTENDERS if " " not in name and name != "auto"]
TITLES = {"table": "recorded table", "valley": "family `valley`", "crossing": "family `crossing`"}


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


def ratio(curves: Curves, name: str, other: str, share: float) -> str:
    """Epochs of auto over another's, paired by seed: median and interval. Who has not arrived counts with the whole budget."""
    ours, theirs = (epochs_to(curves, name, contender, share) for contender in ("auto", other))
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


def _number(value: float, digits: int = 0) -> str:
    return "never" if math.isinf(value) else f"{value:,.{digits}f}"


def table_of(curves: Curves, name: str, contenders: Sequence[str]) -> list[str]:
    """Markdown: a row for each contender."""
    heads = " | ".join(f"epochs to {share:.0%}" for share in REACHED)
    ratios = " | ".join(f"auto / it at {share:.0%}" for share in REACHED[1:])
    lines = [f"| contender | seeds | {heads} | {ratios} |", "|---|" + "---:|" * (2 * len(REACHED))]
    for contender in contenders:
        cells = [cell(epochs_to(curves, name, contender, share)) for share in REACHED]
        against = ["" if contender == "auto" else ratio(curves, name, contender, share) for share in REACHED[1:]]
        n_seeds = len(curves.get((name, contender), {}))
        lines.append(f"| {contender} | {n_seeds} | {' | '.join(cells)} | {' | '.join(against)} |")
    return lines


def picture(curves: Curves, path: Path) -> None:
    """The share of the reference's hypervolume against epochs spent: medians and quartiles over the seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12.0, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    grid = np.unique(np.round(np.geomspace(30, MAX_EPOCHS, 240)))
    colours = dict(zip(("auto", *RIVALS), ("#D55E00", "#222222", "#0072B2", "#009E73", "#CC79A7"), strict=True))
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


def _steps(curve: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    """A staircase as points to interpolate."""
    xs, ys = [0.0], [0.0]
    for epochs, share in curve:
        xs += [epochs - 1e-6, float(epochs)]
        ys += [ys[-1], share]
    return [*xs, float(MAX_EPOCHS)], [*ys, ys[-1]]


def report(curves: Curves) -> None:
    """Writes docs/search.md between its marks, and the pictures."""
    text = [
        f"Median over the seeds and its 95 % interval; `never`: not within {MAX_EPOCHS:,} epochs. Ratios are medians too,",
        f"paired, and count {MAX_EPOCHS:,} epochs for who has not arrived (`at most` where that is half of them or more).",
        "",
    ]
    for name, title in TITLES.items():
        text += [f"### The {title}", "", *table_of(curves, name, ["auto", *RIVALS]), ""]
    text += ["### What each part brings", "", "`auto` without one of its parts, and random search with rungs.", ""]
    for name, title in TITLES.items():
        text += [f"The {title}:", "", *table_of(curves, name, ["auto", *ABLATIONS]), ""]
    page = DOCS / "search.md"
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n" + "\n".join(text) + f"\n{END}{rest.partition(END)[2]}")
    picture(curves, DOCS / "images" / "search.png")


def gathered(path: Path) -> Curves:
    """The runs of a file."""
    found: Curves = {}
    for line in lines(path):
        found.setdefault((line["problem"], line["contender"]), {})[line["seed"]] = [(int(e), s) for e, s in line["curve"]]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--path", type=Path, default=RESULTS / "search.jsonl")
    parser.add_argument("--problems", nargs="+", default=["table", *FAMILIES])
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS))
    parser.add_argument("--seeds", nargs=2, type=int, default=(SEEDS.start, SEEDS.stop))
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    asked = parser.parse_args()
    if asked.verb == "run":
        run(asked.path, asked.problems, asked.contenders, range(*asked.seeds), asked.minutes)
    else:
        report(gathered(asked.path))


if __name__ == "__main__":
    main()
