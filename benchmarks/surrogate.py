"""What does the surrogate of `auto` know of what is left? `python benchmarks/surrogate.py` writes results/surrogate.md.

Each recorded table of results/ (final accuracies of real runs), and members of both synthetic families with the noise of 200 images
and of a seed. From each, some configurations are told: the default of every method, then three of each, then any. Of those that are
left, the rank correlation of prediction and accuracy, over all and within the better half (on the families: with the true
accuracy), and the mean log likelihood of their goodness. The worst fifth has no part in the likelihood: how deep a diverged run
falls is not worth predicting. Contenders are the parts of `auto`.
"""

from __future__ import annotations

import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

import spaces
from search.samplers.base import Part
from search.samplers.encoding import Coding
from search.samplers.learning_curve import goodness
from search.samplers.observations import Observations
from search.samplers.predicted_accuracy import PredictedAccuracy
from search.samplers.random_sampler import draw_uniformly
from search.samplers.shared_columns import SharedColumns
from spaces import Config, JointSpace
from trainables.simulated.recorded import Table
from trainables.simulated.surfaces import FAMILIES, Surface

RESULTS = Path(__file__).parent / "results"
PARTS = {
    "312f83d": frozenset[Part](),
    "shared columns": frozenset({Part.SHARED}),
    "clipped": frozenset({Part.CLIPPED}),
    "noise": frozenset({Part.NOISE}),
    "shared columns, clipped": frozenset({Part.SHARED, Part.CLIPPED}),
    "all": frozenset({Part.SHARED, Part.CLIPPED, Part.NOISE}),
}
TRIALS = (13, 52, 79)
N_IMAGES = {"digits": 800}  # of tables that do not say
FAMILY_IMAGES, FAMILY_SEED, MEMBERS, MAX_SIZE = 200, 0.01, (200, 201), 100_000


@dataclass(frozen=True)
class Task:
    """Configurations with their measured and true accuracies (n,); of a recorded table both are the same."""

    configs: list[Config]
    sizes: np.ndarray
    measured: np.ndarray
    true: np.ndarray
    n_images: int | None

    @property
    def space(self) -> JointSpace:
        """The joint space of the configurations."""
        return spaces.joint(sorted({str(config["method"]) for config in self.configs}))


def tables() -> Iterator[tuple[str, Task]]:
    """The recorded tables: rows of adapters that are points of today's spaces, and ended well."""
    for path in sorted(RESULTS.glob("*-table.parquet")):
        name, table = path.name.removesuffix("-table.parquet"), Table(path)
        known = spaces.joint([method for method in table.methods if method not in ("head_only", "full", "layer_norm", "bitfit")])
        rows = [row for row in table.rows if row.problem is None and known.holds(row.config)]
        top1 = np.array([row.curves["val/top1"][-1] for row in rows])
        sizes = np.array([float(row.params[0]) for row in rows])
        yield name, Task([row.config for row in rows], sizes, top1, top1, table.n_validation or N_IMAGES.get(name))


def members(family: str) -> Iterator[Task]:
    """Members of a synthetic family: 400 configurations, the defaults first."""
    methods = [
        str(m) for m in ("lora", "serial_lora", "arc", "lily", "householder", "snell", "clora", "fact", "adapter", "randlora")
    ]
    space = spaces.joint(methods)
    for member in MEMBERS:
        surface, by, rng = Surface(family, member), random.Random(member), np.random.default_rng(member)  # noqa: S311
        drawn = [space.default(method) for method in methods]
        while len(drawn) < 400:
            config = draw_uniformly(space, by)
            drawn += [config] if surface.count(config)[0] <= MAX_SIZE else []
        true = np.array([surface.final(config) for config in drawn])
        seeds = np.clip(true + FAMILY_SEED * rng.standard_normal(len(true)), 0.01, 0.995)
        sizes = np.array([float(surface.count(config)[0]) for config in drawn])
        yield Task(drawn, sizes, rng.binomial(FAMILY_IMAGES, seeds) / FAMILY_IMAGES, true, FAMILY_IMAGES)


def order(task: Task, seed: int) -> list[int]:
    """The order in which configurations are told."""
    space, rest = task.space, np.random.default_rng(seed).permutation(len(task.configs)).tolist()
    told: list[int] = []
    for turn in range(4):
        for method in space.methods:
            mine = [i for i in rest if task.configs[i]["method"] == method]
            default = [i for i in mine if turn == 0 and task.configs[i] == space.default(method)]
            told.append((default or mine)[0])
            rest.remove(told[-1])
    return told + rest


def judged(task: Task, parts: frozenset[Part], seed: int) -> list[tuple[float, float, float]]:
    """(rank correlation, within the better half, log likelihood) of what is left after each number of trials."""
    coding = (SharedColumns if Part.SHARED in parts else Coding)(task.space)
    known, accuracy = Observations(len(coding.groups)), PredictedAccuracy(coding, parts, task.n_images)
    codes = [coding.code(config) for config in task.configs]
    places = np.log10(1.0 + task.sizes)
    rows = [
        coding.features(str(config["method"]), code[None, :], place[None] / 4.0)[0]
        for config, code, place in zip(task.configs, codes, places, strict=True)
    ]
    features, measured = np.stack(rows), np.array([goodness(top1) for top1 in task.measured])
    told, found, floor = order(task, seed), [], np.quantile(measured, 0.2)
    for n, i in enumerate(told[: TRIALS[-1]], 1):
        ticket = known.add(str(task.configs[i]["method"]), codes[i], float(places[i]), features[i])
        known.report(ticket, float(task.measured[i]))
        known.complete(ticket, float(task.measured[i]))
        accuracy.ended(known)
        if n in TRIALS:
            surrogate = accuracy.learn(known, known.observed(), np.zeros(n))
            assert surrogate is not None  # noqa: S101 - there are enough
            left = np.array(told[n:])
            mean, std = surrogate.predict(features[left])
            variance = std**2 + accuracy._hyperparameters.noise * float(measured[told[:n]].std()) ** 2
            better, worst = measured[left] > np.median(measured), measured[left] <= floor
            likelihood = -0.5 * np.log(2 * np.pi * variance) - 0.5 * (measured[left] - mean) ** 2 / variance
            ranks = correlation(mean, task.true[left]), correlation(mean[better], task.true[left][better])
            found.append((*ranks, float(likelihood[~worst].mean())))
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    asked = parser.parse_args()
    tasks = [(name, [task]) for name, task in tables()] + [(f"family `{family}`", list(members(family))) for family in FAMILIES]
    heads = " | ".join(f"after {n}" for n in TRIALS)
    text = ["# What the surrogate knows of the rest", "", *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(), ""]
    text += [
        f"Cells are the three figures after so many trials; means over {asked.seeds} orders. `python benchmarks/surrogate.py`.",
        "",
    ]
    text += [f"| task | parts | {heads} |", "|---|---|" + "---:|" * len(TRIALS)]
    for name, several in tasks:
        for label, parts in PARTS.items():
            runs = np.array([judged(task, parts, seed) for task in several for seed in range(asked.seeds)]).mean(0)
            cells = " | ".join(f"{rho:.2f}, {upper:.2f}, {likelihood:.2f}" for rho, upper, likelihood in runs)
            text.append(f"| {name} | {label} | {cells} |")
            print(text[-1], flush=True)
    (RESULTS / "surrogate.md").write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
