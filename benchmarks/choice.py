"""Is the answer as sure as it says? `python benchmarks/choice.py` writes results/choice.md and docs/images/reliability.png.

Synthetic studies with known true accuracies (both families of `trainables.simulated.surfaces`): configurations drawn at random,
each trained once; its accuracy has the noise of a seed (a standard deviation of one point, as on our recorded table) and of 200
validation images. Two ways to choose a trial of at most 1,000, 10,000 and 100,000 parameters from the same trials: the best single
validation accuracy, and the best expected accuracy of `search.results.belief`. *Regret* is the true accuracy that is lost against
the truly best trial of that size; *flattery* is by how much the accuracy that is told exceeds the true one.

Further runs (`budget.confirm`) are compared in whole searches by `auto`, simulated on the same surfaces with the same noise. With
them a search tries fewer configurations in as many epochs; the further runs are on other folds with other images, or from other
seeds on the same images. Regret is there against the best that is possible below the size limit.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

import spaces
from search.backends.simulated import VirtualClock, create
from search.backends.simulated import run as simulate
from search.config.loading import check
from search.config.study_file import ANCHOR
from search.results.belief import believe
from search.samplers.random_sampler import draw_uniformly
from search.study.study import Study
from search.trial import State, Trial
from spaces import key_of
from trainables.simulated.surfaces import FAMILIES, Surface, SurfaceTrainable

RESULT = Path(__file__).parent / "results" / "choice.md"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "reliability.png"
METHODS = ["lora", "arc", "ssf", "adapter", "convpass", "fact", "lily"]
N_IMAGES, OF_SEEDS = 200, 0.01
LIMITS = (1_000, 10_000, 100_000)
COLUMNS = (
    "family",
    "trials",
    "regret, measured",
    "regret, expected",
    "ratio",
    "flattery, measured",
    "expected",
    "90 % intervals hold",
)
CONFIRMED = (
    "family",
    "trials",
    "confirm",
    "against the best possible: measured",
    "expected",
    "folds",
    "seeds",
    "against the best trial: measured",
    "expected",
    "folds",
    "seeds",
    "epochs",
    "90 % intervals hold",
)
N_FOLDS = 5
BINS = np.array([0.0, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0])


@dataclass
class Found:
    """What the studies of one family and length gave, in fractions; an entry for each study is the mean over the limits."""

    regret: list[tuple[float, float]] = field(default_factory=list)  # of the measured best, of the expected best
    flattery: list[tuple[float, float]] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)  # share of the 90 % intervals that hold the truth, by study
    front: list[tuple[float, bool]] = field(default_factory=list)  # probability, truth


def study(found: Found, family: str, instance: int, n_trials: int) -> None:
    """Draw one study, and add what it shows."""
    surface, by, rng = Surface(family, instance), random.Random(instance), np.random.default_rng(instance)  # noqa: S311
    space, trials, true = spaces.joint(METHODS), list[Trial](), list[float]()
    while len(trials) < n_trials:
        config = draw_uniformly(space, by)
        if (size := surface.count(config)[0]) <= max(LIMITS):
            true.append(surface.final(config))
            once = min(1.0, max(0.0, true[-1] + rng.normal(0.0, OF_SEEDS)))
            metrics = {"val/top1": rng.binomial(N_IMAGES, once) / N_IMAGES}
            trials.append(Trial(len(trials), State.COMPLETE, config, 0, size, 650, 30, metrics))
    belief = believe(space, trials, N_IMAGES)
    truth = np.array([true[trial.number] for trial in belief.trials])
    measured = np.array([trial.metrics["val/top1"] for trial in belief.trials])
    sizes, expected = np.array([trial.size for trial in belief.trials]), belief.mean
    lost, told = list[tuple[float, float]](), list[tuple[float, float]]()
    for limit in LIMITS:
        few = np.flatnonzero(sizes <= limit)
        if len(few) > 1:
            picked = few[measured[few].argmax()], few[expected[few].argmax()]
            lost.append((truth[few].max() - truth[picked[0]], truth[few].max() - truth[picked[1]]))
            told.append((measured[picked[0]] - truth[picked[0]], expected[picked[1]] - truth[picked[1]]))
    found.regret.append(tuple(np.mean(lost, axis=0)))
    found.flattery.append(tuple(np.mean(told, axis=0)))
    low, high = np.quantile(belief.draws, [0.05, 0.95], axis=0)
    found.inside.append(float(((truth >= low) & (truth <= high)).mean()))
    ends = np.searchsorted(sizes, sizes, side="right") - 1
    found.front += list(zip(belief.p_front().tolist(), (truth >= np.maximum.accumulate(truth)[ends]).tolist(), strict=True))


class Measured(Surface):
    """A surface whose accuracies are measured on `N_IMAGES` images."""

    n_validation = N_IMAGES


class MeasuredTrainable(SurfaceTrainable):
    """A trainable with the noise of a seed, and of images, which are others in each fold and the same for every seed."""

    def start(self, config: Mapping[str, Any], *, seed: int, fold: int = 0, **others: Any) -> int:
        """Set up a trial, and draw its noise."""
        self._noise = OF_SEEDS * random.Random(seed).gauss(0.0, 1.0)  # noqa: S311 - not cryptography
        self._images = random.Random(f"{key_of(dict(config))} {fold}").gauss(0.0, 1.0)  # noqa: S311 - the same
        return super().start(config, seed=seed, fold=fold, **others)

    def step(self) -> dict[str, float]:
        """Run one epoch."""
        found = super().step()
        true = min(1.0, max(0.0, found["val/top1"] + self._noise))
        measured = true + self._images * (true * (1.0 - true) / N_IMAGES) ** 0.5
        return found | {"val/top1": min(1.0, max(0.0, measured))}


def searched(family: str, instance: int, n_trials: int, **how: Any) -> tuple[Study, Measured]:
    """Simulate a search by `auto` with rungs, one worker."""
    surface = Measured(family, instance)
    file = check(
        {
            "study": "choice",
            "data": {"kind": "synthetic", "surface": family, "instance": instance, "folds": how.get("folds")},
            "methods": METHODS,
            "budget": {"n_trials": n_trials, "epochs": 9, "max_params": max(LIMITS), "confirm": how.get("confirm")},
            "search": {"rungs": {"grace": 1, "factor": 3}, "seed": instance},
        }
    )
    study = create(file, surface, clock := VirtualClock())
    simulate(study, lambda: MeasuredTrainable(surface), clock, n_workers=1)
    return study, surface


def regrets(study: Study, surface: Measured) -> NDArray[np.float64]:
    """The mean over the limits of what the best measured and the best expected trial lose.

    Two numbers against the best that is possible, two against the best trial of the study; and the share of intervals that hold.
    """
    space = study.file.joint_space(with_anchor=True)
    belief = believe(space, study.trials, N_IMAGES)
    truth, sizes = np.array([surface.final(t.config) for t in belief.trials]), np.array([t.size for t in belief.trials])
    measured = np.array([trial.quality for trial in belief.trials])
    points = [surface.best({"method": (ANCHOR,)})[0]]
    for method, values in ((m, study.file.joint_space().distributions(m)) for m in METHODS):
        choices = {key: d.choices if isinstance(d, CategoricalDistribution) else None for key, d in values.items()}
        points += surface.best({**choices, "method": (method,)})
    lost = []
    for limit in LIMITS:
        best, few = max(true for true, size in points if size <= limit), sizes <= limit
        chosen = [truth[np.where(few, by, -np.inf).argmax()] for by in (measured, belief.mean)]
        lost.append([*(best - true for true in chosen), *(truth[few].max() - true for true in chosen)])
    low, high = np.quantile(belief.draws, [0.05, 0.95], axis=0)
    return np.array([*np.mean(lost, axis=0), ((truth >= low) & (truth <= high)).mean()])


def confirmed_row(family: str, n_trials: int, confirm: float, n_studies: int) -> str:
    """The row of one family, length and share."""
    found: dict[str, list[NDArray[np.float64]]] = {"once": [], "folds": [], "seeds": []}
    epochs = dict.fromkeys(found, 0)
    for instance in range(n_studies):
        for name, how in (("once", {}), ("folds", {"folds": N_FOLDS, "confirm": confirm}), ("seeds", {"confirm": confirm})):
            study, surface = searched(family, instance, n_trials, **how)
            found[name].append(regrets(study, surface))
            epochs[name] += sum(trial.epochs for trial in study.trials)
    by = {name: np.array(rows) for name, rows in found.items()}
    cells = [family, str(n_trials), f"{confirm:g}"]
    for against in (0, 2):  # the best that is possible, the best of the study
        measured = by["once"][:, against]
        cells.append(f"{100 * measured.mean():.2f}")
        for name in found:
            expected = by[name][:, against + 1]
            cells.append(f"{100 * expected.mean():.2f} ({_ratio(expected, measured)})")
    return "| " + " | ".join((*cells, f"{epochs['folds'] / epochs['once']:.2f}", f"{100 * by['folds'][:, 4].mean():.1f} %")) + " |"


def _ratio(over: NDArray[np.float64], under: NDArray[np.float64]) -> str:
    """The ratio of two means over studies, with the 95 % interval of a bootstrap."""
    drawn = np.random.default_rng(0).integers(len(over), size=(2000, len(over)))
    low, high = np.quantile(over[drawn].mean(1) / under[drawn].mean(1), [0.025, 0.975])
    return f"{over.mean() / under.mean():.2f} [{low:.2f}, {high:.2f}]"


def row(family: str, n_trials: int, found: Found, rng: np.random.Generator) -> str:
    """The row of one family and length; the interval of the ratio is a bootstrap over studies."""
    regret, flattery = np.array(found.regret), 100 * np.array(found.flattery).mean(0)
    drawn = regret[rng.integers(len(regret), size=(2000, len(regret)))].mean(1)
    low, high = np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975])
    of = 100 * regret.mean(0)
    cells = (family, str(n_trials), f"{of[0]:.2f}", f"{of[1]:.2f}", f"{of[1] / of[0]:.2f} [{low:.2f}, {high:.2f}]")
    return "| " + " | ".join((*cells, f"{flattery[0]:+.2f}", f"{flattery[1]:+.2f}", f"{100 * np.mean(found.inside):.1f} %")) + " |"


def reliability(pairs: list[tuple[float, bool]]) -> list[tuple[float, float, int]]:
    """Mean probability, share that was true, and number, in each bin of probabilities."""
    told, true = np.array([p for p, _ in pairs]), np.array([t for _, t in pairs], dtype=float)
    bins = np.clip(np.digitize(told, BINS) - 1, 0, len(BINS) - 2)
    return [
        (told[bins == b].mean(), true[bins == b].mean(), int((bins == b).sum())) for b in range(len(BINS) - 1) if (bins == b).any()
    ]


def draw(points: list[tuple[float, float, int]]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#8a8a8a", linewidth=1)
    axes.plot([p for p, _, _ in points], [t for _, t, _ in points], "o-", color="#0072B2")
    axes.set_xlabel("P(front), as told")
    axes.set_ylabel("share that truly were on the front")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.grid(color="#ececec")
    figure.savefig(PICTURE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=50, help="of each family and length")
    parser.add_argument(
        "--confirm", type=float, nargs="*", default=[0.25], help="shares of the runs that are kept for further ones"
    )
    parser.add_argument("--lengths", type=int, nargs="*", default=[20, 40, 80], help="of the studies, in runs")
    parser.add_argument("--only-confirm", action="store_true", help="print the table of further runs, and write nothing")
    asked = parser.parse_args()
    confirmed = list[str]()
    for family in FAMILIES:
        for n_trials in asked.lengths:
            for confirm in asked.confirm:
                confirmed.append(confirmed_row(family, n_trials, confirm, asked.studies))
                print(confirmed[-1], flush=True)
    if asked.only_confirm:
        return
    rng, rows, front = np.random.default_rng(0), list[str](), list[tuple[float, bool]]()
    for family in FAMILIES:
        for n_trials in (20, 40, 80):
            found = Found()
            for instance in range(asked.studies):
                study(found, family, instance, n_trials)
            rows.append(row(family, n_trials, found, rng))
            front += found.front
            print(rows[-1], flush=True)
    points = reliability(front)
    draw(points)
    lines = "\n".join(f"| {told:.2f} | {true:.2f} | {n:,} |" for told, true, n in points)
    text = f"""# How sure is the answer?

{asked.studies} synthetic studies of each family and length, noise of one seed and {N_IMAGES} images, limits of 1,000, 10,000 and
100,000 parameters. Regret and flattery in points of accuracy; 95 % intervals. Made by
`python benchmarks/choice.py`.

| {" | ".join(COLUMNS)} |
|---|---:|---:|---:|---|---:|---:|---:|
"""
    text += (
        "\n".join(rows)
        + f"""

## Further runs

Whole searches by `auto`, with rungs: the best single validation accuracy and the best expected one of a search without further
runs; and the best expected one where a share of as many epochs goes to further runs, on {N_FOLDS} folds or from other seeds. Mean
regret, and its ratio to that of the first column with a 95 % interval. `epochs`: those with folds, divided by those without.

| {" | ".join(CONFIRMED)} |
|---|---:|---:|---:|---|---|---|---:|---|---|---|---:|---:|
"""
    )
    text += (
        "\n".join(confirmed)
        + f"\n\n## P(front)\n\n| P(front), as told | truly on the front | trials |\n|---:|---:|---:|\n{lines}\n"
    )
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
