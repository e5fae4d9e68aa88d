"""Is the answer as sure as it says? `python benchmarks/choice.py` writes results/choice.md and docs/images/reliability.png.

Synthetic studies with known true accuracies (both families of `trainables.simulated.surfaces`): configurations drawn at random,
each trained once; its accuracy has the noise of a seed (a standard deviation of one point, as on our recorded table) and of 200
validation images. Two ways to choose a trial of at most 1,000, 10,000 and 100,000 parameters from the same trials: the best single
validation accuracy, and the best expected accuracy of `search.results.belief`. *Regret* is the true accuracy that is lost against
the truly best trial of that size; *flattery* is by how much the accuracy that is told exceeds the true one.

A third way spends as many epochs on fewer configurations: a share of them (`budget.confirm`) goes to further runs that
`search.study.further_runs` chooses, on other folds with other images, or from other seeds on the same images. It loses, in
addition, what the configurations that it did not try are better by.
"""

from __future__ import annotations

import argparse
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

import spaces
from search.pareto import Axis
from search.results.belief import believe, posterior
from search.samplers.random_sampler import draw_uniformly
from search.study.further_runs import MOST_SEEDS, choose_trial
from search.trial import State, Trial
from trainables.simulated.surfaces import FAMILIES, Surface

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
CONFIRMED = ("family", "runs in all", "confirm", "regret, measured once", "folds", "ratio", "seeds", "ratio", "90 % intervals hold")
N_FOLDS = 5
AXIS = Axis(float(max(LIMITS)))
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


class Noisy:
    """One study's configurations and their noise; a run is a measurement of one of them."""

    def __init__(self, family: str, instance: int, n_trials: int) -> None:
        surface, by = Surface(family, instance), random.Random(instance)  # noqa: S311 - not cryptography
        self.space, self.rng = spaces.joint(METHODS), np.random.default_rng(instance)
        self.true: list[float] = []
        self.trials: list[Trial] = []
        self.of_images: list[float] = []  # what the images of the first split add
        while len(self.trials) < n_trials:
            config = draw_uniformly(self.space, by)
            if (size := surface.count(config)[0]) <= max(LIMITS):
                self.true.append(surface.final(config))
                once = self._seed(len(self.trials))
                value = self.rng.binomial(N_IMAGES, once) / N_IMAGES
                self.of_images.append(value - once)
                self.trials.append(Trial(len(self.trials), State.COMPLETE, config, 0, size, 650, 30, {"val/top1": value}))

    def _seed(self, number: int) -> float:
        return min(1.0, max(0.0, self.true[number] + self.rng.normal(0.0, OF_SEEDS)))

    def run(self, number: int, n_folds: int | None) -> dict[str, float]:
        """Train a configuration again, on other images if there are folds."""
        once = self._seed(number)
        again = once + self.of_images[number] if n_folds is None else self.rng.binomial(N_IMAGES, once) / N_IMAGES
        return {"val/top1": min(1.0, max(0.0, again))}

    def confirmed(self, confirm: float, n_folds: int | None) -> list[Trial]:
        """The trials after a search that keeps a share of its runs for those that are worth most."""
        n_runs = len(self.trials)
        trials = [replace(trial, n_folds=n_folds) for trial in self.trials[: n_runs - int(confirm * n_runs)]]
        most = N_FOLDS if n_folds else MOST_SEEDS
        for _ in range(n_runs - len(trials)):
            found = posterior(self.space, trials, N_IMAGES)
            if (chosen := choose_trial(found, AXIS, lambda trial: len(trial.values) < most)) is None:
                break
            one = trials[chosen.number]
            trials[one.number] = one.with_runs([*(one.runs or [one.metrics]), self.run(one.number, n_folds)])
        return trials

    def regret(self, trials: list[Trial]) -> tuple[float, float]:
        """The mean regret over the limits of the expected best, and the share of 90 % intervals that hold the truth."""
        belief = believe(self.space, trials, N_IMAGES)
        truth, sizes = np.array([self.true[t.number] for t in belief.trials]), np.array([t.size for t in belief.trials])
        lost = []
        for limit in LIMITS:
            best = max((true for t, true in zip(self.trials, self.true, strict=True) if t.size <= limit), default=None)
            if best is not None and (sizes <= limit).any():
                lost.append(best - truth[np.where(sizes <= limit, belief.mean, -np.inf).argmax()])
        low, high = np.quantile(belief.draws, [0.05, 0.95], axis=0)
        return float(np.mean(lost)), float(((truth >= low) & (truth <= high)).mean())

    def measured(self) -> float:
        """The mean regret over the limits of the best single validation accuracy among all trials."""
        sets = [few for limit in LIMITS if (few := [t for t in self.trials if t.size <= limit])]
        best = [max(self.true[trial.number] for trial in few) for few in sets]
        lost = np.array(best) - [self.true[max(few, key=lambda trial: trial.quality).number] for few in sets]
        return float(np.mean(lost))


def confirmed_row(family: str, n_trials: int, confirm: float, n_studies: int) -> str:
    """The row of one family, length and share."""
    once, folds, seeds, inside = list[float](), list[float](), list[float](), list[float]()
    for instance in range(n_studies):
        once.append(Noisy(family, instance, n_trials).measured())
        for n_folds, found in ((N_FOLDS, folds), (None, seeds)):
            noisy = Noisy(family, instance, n_trials)
            lost, held = noisy.regret(noisy.confirmed(confirm, n_folds))
            found.append(lost)
            inside += [held] if n_folds else []
    of = 100 * np.mean(once), 100 * np.mean(folds), 100 * np.mean(seeds)
    cells = (
        family,
        str(n_trials),
        f"{confirm:g}",
        f"{of[0]:.2f}",
        f"{of[1]:.2f}",
        _ratio(folds, once),
        f"{of[2]:.2f}",
        _ratio(seeds, once),
    )
    return "| " + " | ".join((*cells, f"{100 * np.mean(inside):.1f} %")) + " |"


def _ratio(over: list[float], under: list[float]) -> str:
    """The ratio of two means over studies, with the 95 % interval of a bootstrap."""
    rng, a, b = np.random.default_rng(0), np.array(over), np.array(under)
    drawn = rng.integers(len(a), size=(2000, len(a)))
    low, high = np.quantile(a[drawn].mean(1) / b[drawn].mean(1), [0.025, 0.975])
    return f"{a.mean() / b.mean():.2f} [{low:.2f}, {high:.2f}]"


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

As many runs in all as studies above have trials: a share of them is kept for further runs near the front, on {N_FOLDS} folds or
from other seeds. Regret is against the best of all configurations, also of those that were not tried for it.

| {" | ".join(CONFIRMED)} |
|---|---:|---:|---:|---:|---|---:|---|---:|
"""
    )
    text += (
        "\n".join(confirmed)
        + f"\n\n## P(front)\n\n| P(front), as told | truly on the front | trials |\n|---:|---:|---:|\n{lines}\n"
    )
    RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
