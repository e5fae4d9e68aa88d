"""What the studies of `benchmarks/real.py` come to: the tables and pictures of results/real.md and docs/case-study.md."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from search.results.contributions import contributions
from search.results.growth import Growth, growth
from search.results.plot_style import SizeAxis
from search.results.recommendation import describe_trial, recommended
from search.results.saved_study import SavedStudy, load
from search.results.words import METHOD_NAMES
from search.trial import State, Trial
from search.workflows.finalize import Member, finalized

ROOT = Path(__file__).parents[1]
RESULT, PAGE, IMAGES = ROOT / "benchmarks" / "results" / "real.md", ROOT / "docs" / "case-study.md", ROOT / "docs" / "images"
BEGIN, END = "<!-- measured: python benchmarks/real.py report -->", "<!-- end -->"
SEARCHES = {  # name of the study: what it is called
    "tpe": ("LoRA tuned by TPE", "#0072B2"),
    "random": ("random search", "#E69F00"),
    "paretune": ("`paretune`", "#D55E00"),
}
N_BOOTSTRAP = 4000


@dataclass(frozen=True)
class Tested:
    """One contender with its test results.

    Attributes:
        who: What was done to get it.
        model: Method, rank and blocks.
        trial: Trial that was chosen; None if nothing of ours trained it.
        validation: Accuracy on the validation images, a fraction.
        correct: Correctness of each retrained model on each test image, (models, images).
        head: Parameters of the head.
        hours: Hours that led to it.
    """

    who: str
    model: str
    trial: Trial | None
    validation: float
    correct: np.ndarray
    head: int
    hours: float

    @property
    def size(self) -> int:
        """Parameters of the adapter."""
        return self.trial.adapter_params if self.trial else 0

    @property
    def mean(self) -> float:
        """Mean test accuracy over the models."""
        return float(self.correct.mean())


def chosen(studies: dict[str, SavedStudy]) -> dict[str, list[int]]:
    """The trials that are tested: the front of `paretune`, all defaults, and of the other searches the best and the answer."""
    found = {name: [trial.number for trial in study.history] for name, study in studies.items() if name not in SEARCHES}
    for name in SEARCHES:
        study = studies[name]
        found[name] = [] if name == "paretune" else sorted({trial.number for trial in best_and_answer(study)})
    return found


def best_and_answer(study: SavedStudy) -> tuple[Trial, Trial]:
    """The most accurate trial on the validation images, and the one that the study's answer names."""
    best, answer = study.members[-1], recommended(study.history, study.n_validation)
    if answer is None:
        raise SystemExit(f"{study.folder} has no complete trial; give it more hours: python benchmarks/real.py search --hours 2")
    return best, answer


def interval(correct: np.ndarray, minus: np.ndarray | None = None) -> tuple[float, float]:
    """95 % bootstrap interval over seeds and test images of an accuracy, or of a difference; both have the same images drawn."""
    rng, n = np.random.default_rng(0), correct.shape[1]
    draws = np.empty(N_BOOTSTRAP)
    for i in range(N_BOOTSTRAP):
        weights = np.bincount(rng.integers(n, size=n), minlength=n) / n
        draws[i] = _drawn(correct, rng) @ weights - (0.0 if minus is None else _drawn(minus, rng) @ weights)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _drawn(correct: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return correct[rng.integers(len(correct), size=len(correct))].mean(axis=0)


def correctness(study: SavedStudy, member: Member) -> np.ndarray:
    """(models, images)."""
    folder = study.folder / "final" / "trials"
    return np.stack([np.load(folder / f"{model.number:04d}" / "correct.npy") for model in member.models])


def contenders(root: Path, studies: dict[str, SavedStudy], tested: dict[str, dict[int, np.ndarray]], hours: float) -> list[Tested]:
    """All rows of the table, in the order of what a user would try."""
    row = json.loads((root / "logistic.json").read_text(encoding="utf-8"))
    correct = np.array(row["correct"])[None]
    model = f"C = {row['C']:.2g}"
    found = [Tested("logistic regression", model, None, row["val/top1"], correct, row["params"], row["seconds"] / 3600)]

    def add(who: str, study: str, trial: Trial, spent: float) -> None:
        top1, correct = trial.metrics["val/top1"], tested[study][trial.number]
        found.append(Tested(who, describe_trial(trial), trial, top1, correct, trial.head_params, spent))

    for who, trial in zip(("head only", "LoRA at its defaults"), studies["defaults"].history, strict=True):
        add(who, "defaults", trial, ((trial.finished or math.nan) - trial.started) / 3600)
    for name, (who, _) in SEARCHES.items():
        best, answer = best_and_answer(studies[name])
        add(f"{who}: the best", name, best, hours)
        if answer.number != best.number:
            add(f"{who}: its answer", name, answer, hours)
    return found


def percent(value: float, *, sign: bool = False) -> str:
    return f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}"


def between(low: float, high: float, *, sign: bool = False) -> str:
    return f"{percent(low, sign=sign)} to {percent(high, sign=sign)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]], left: int = 1) -> str:
    """Markdown; the first columns are words, the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(columns) - left)
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (columns, rule, *rows))


def contender_table(rows: Sequence[Tested]) -> str:
    columns = ("contender", "model", "adapter", "head", "validation %", "test %", "95 % interval", "models", "hours")
    lines = [
        (
            row.who,
            row.model,
            f"{row.size:,}",
            f"{row.head:,}",
            percent(row.validation),
            f"**{percent(row.mean)}**",
            between(*interval(row.correct)),
            len(row.correct),
            f"{row.hours:.2f}" if row.hours >= 0.005 else "< 0.01",
        )
        for row in rows
    ]
    return table(columns, lines, left=2)


def front_table(study: SavedStudy, members: Sequence[Member]) -> str:
    columns = ("trial", "model", "parameters", "validation %", "test %", "95 % interval", "P(front)")
    lines = []
    for member in members:
        trial, correct = member.trial, correctness(study, member)
        accuracies = percent(trial.metrics["val/top1"]), percent(member.mean), between(*interval(correct))
        lines.append((trial.number, describe_trial(trial), f"{trial.adapter_params:,}", *accuracies, f"{member.p_front:.2f}"))
    return table(columns, lines, left=2)


def grown(study: SavedStudy) -> list[Growth]:
    return growth(study.history, study.epochs, study.reference_point)


def growth_table(studies: dict[str, SavedStudy], names: dict[str, str]) -> str:
    """The hypervolume at parts of the trained hours that all searches have."""
    curves = {name: grown(studies[name]) for name in SEARCHES}
    least = min(curve[-1].spent("hours") or 0.0 for curve in curves.values())
    lines = []
    for part in (0.25, 0.5, 0.75, 1.0):
        cells = []
        for curve in curves.values():
            known = [one for one in curve if (one.spent("hours") or 0.0) <= part * least] or [curve[0]]
            cells.append(f"{known[-1].hypervolume:.3f} ({known[-1].trials})")
        lines.append((f"{part * least:.2f}", *cells))
    lines.append(("the end", *(f"{curve[-1].hypervolume:.3f} ({curve[-1].trials})" for curve in curves.values())))
    return table(("trained hours", *names.values()), lines, left=1)


def shares_table(study: SavedStudy) -> str:
    columns = ("method", "trials", "to the end", "epochs", "best %", "in the front", "contribution")
    numbers = {trial.number for trial in study.members}
    lines = []
    for one in contributions(study.history, study.reference_point):
        best = percent(one.front[-1].metrics["val/top1"]) if one.front else "-"
        on_front = sum(trial.number in numbers for trial in one.front)
        name = METHOD_NAMES.get(one.method, one.method)
        lines.append((name, one.n_trials, one.n_complete, one.n_epochs, best, on_front, f"{one.contribution:.4f}"))
    return table(columns, lines)


def verdict(study: SavedStudy, tested: dict[int, np.ndarray]) -> str:
    """Whether the test images bear out the answer, by the rule with which the answer was chosen."""
    best, answer = best_and_answer(study)
    if best.number == answer.number:
        return "The answer is the most accurate trial itself, so the test images have no smaller one to compare it with."
    correct = {trial.number: tested[trial.number] for trial in (best, answer)}
    means = {number: float(found.mean()) for number, found in correct.items()}
    n_images = correct[best.number].shape[1]
    error, lead = math.sqrt(means[best.number] * (1.0 - means[best.number]) / n_images), means[best.number] - means[answer.number]
    low, high = interval(correct[best.number], minus=correct[answer.number])
    kept, promised = means[answer.number] / means[best.number], answer.metrics["val/top1"] / best.metrics["val/top1"]
    words = "bear that out" if lead <= error else "do not bear that out"
    return (
        f"The test images {words}: {percent(means[answer.number])} % against {percent(means[best.number])} %, which is "
        f"{100 * kept:.0f} % of the accuracy (promised: {100 * promised:.0f} %). The larger one leads by "
        f"{percent(lead, sign=True)} points ({between(low, high, sign=True)}); the standard error of its accuracy is "
        f"{percent(error)} points."
    )


def leads(rows: Sequence[Tested]) -> str:
    """The contenders of `paretune` against all others, on the same test images."""
    ours = [row for row in rows if row.who.startswith("`paretune`")]

    def lead(mine: Tested, other: Tested) -> str:
        low, high = interval(mine.correct, minus=other.correct)
        return f"{percent(mine.mean - other.mean, sign=True)} ({between(low, high, sign=True)})"

    lines = [(row.who, *(lead(mine, row) for mine in ours)) for row in rows if row not in ours]
    return table(("points of lead over", *(row.who for row in ours)), lines)


def swaps(values: Sequence[float]) -> int:
    """How many exchanges of neighbours sort them."""
    return sum(first > second for first, second in combinations(values, 2))


def picture(path: Path, rows: Sequence[Tested], studies: dict[str, SavedStudy], front: Sequence[tuple[Trial, np.ndarray]]) -> None:
    """Left the test accuracies against size, right the hypervolumes against trained hours."""
    figure = Figure(figsize=(10.0, 4.0), dpi=88, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    every = [row.trial for row in rows if row.trial] + [trial for trial, _ in front]
    axis = SizeAxis.of(every, studies["paretune"].reference_point)
    xs = [axis(trial.adapter_params) for trial, _ in front]
    left.plot(
        xs, [100 * correct.mean() for _, correct in front], "o-", color=SEARCHES["paretune"][1], ms=5, lw=1.2, label="its front"
    )
    marks = {"logistic": ("#000000", "x"), "head": ("#000000", "D"), "LoRA at": ("#009E73", "o"), "LoRA tuned": ("#0072B2", "o")}
    marks |= {"random": ("#E69F00", "s"), "`paretune`": ("#D55E00", "*")}
    for row in rows:
        colour, marker = next(style for start, style in marks.items() if row.who.startswith(start))
        low, high = interval(row.correct)
        bars = [[100 * (row.mean - low)], [100 * (high - row.mean)]]
        words = row.who.replace("`", "")
        left.errorbar(
            axis(row.size), 100 * row.mean, bars, fmt=marker, color=colour, ms=8, lw=1.0, capsize=2, alpha=0.85, label=words
        )
    left.set_xticks([position for position, _ in axis.ticks], [label for _, label in axis.ticks])
    left.set(xlabel=axis.label, ylabel="test accuracy, %, with 95 % intervals")
    left.legend(fontsize=7, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3)
    for name, (who, colour) in SEARCHES.items():
        curve = grown(studies[name])
        hours = [one.spent("hours") or 0.0 for one in curve]
        right.step(hours, [one.hypervolume for one in curve], where="post", color=colour, label=who.replace("`", ""))
    right.set(xlabel="trained hours", ylabel="hypervolume of the front, validation")
    right.legend(fontsize=8, frameon=False, loc="upper left")
    figure.savefig(path)


def write(root: Path, *, hours: float, epochs: int) -> None:
    """Write results/real.md, and docs/case-study.md between its marks, with its pictures."""
    studies = {name: load(root / name) for name in (*SEARCHES, "defaults", "pixels-56", "pixels-112")}
    named = chosen({name: studies[name] for name in (*SEARCHES, "defaults")})
    members = {name: finalized(studies[name], numbers) for name, numbers in named.items()}
    tested = {
        name: {member.trial.number: correctness(studies[name], member) for member in found} for name, found in members.items()
    }
    rows = contenders(root, studies, tested, hours)
    ours, front = studies["paretune"], members["paretune"]
    steps = {side: studies[f"pixels-{side}"].history[1].metrics["cost/step_seconds"] for side in (56, 112)}
    ended = {name: sum(trial.state is State.COMPLETE for trial in studies[name].history) for name in SEARCHES}
    complete = [f"{ended[name]} ({who})" for name, (who, _) in SEARCHES.items()]
    body = "\n\n".join(
        block if block.startswith("|") else fill(block, 100, break_on_hyphens=False)
        for block in (
            contender_table(rows),
            leads(rows),
            f"The answer of `paretune`: *{ours.answer}* {verdict(ours, tested['paretune'])}",
            "The front of `paretune`, smallest member first, retrained on train and validation. Sorting the test accuracies takes "
            f"{swaps([member.mean for member in front])} exchanges of neighbours:",
            front_table(ours, front),
            "Hypervolume after so many hours of training and validation, and the trials that had ended:",
            growth_table(studies, {name: who for name, (who, _) in SEARCHES.items()}),
            "What each method had and brought in `paretune`:",
            shares_table(ours),
            "And in random search:",
            shares_table(studies["random"]),
            f"Trials that were trained to the end: {', '.join(complete)}. A step of LoRA on all blocks, with 32 images and one "
            f"thread, took {steps[56]:.2f} s at 56 pixels and {steps[112]:.2f} s at 112, while other work shared the machine.",
        )
    )
    RESULT.write_text(f"{recipe(ours, hours, epochs)}\n\n{body}\n", encoding="utf-8")
    IMAGES.mkdir(exist_ok=True)
    picture(IMAGES / "case-study.png", rows, studies, [(member.trial, tested["paretune"][member.trial.number]) for member in front])
    ours.plot_front(IMAGES / "case-study-front-small.png")
    if PAGE.is_file() and BEGIN in (page := PAGE.read_text(encoding="utf-8")):
        before, _, rest = page.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    print(body)


def recipe(study: SavedStudy, hours: float, epochs: int) -> str:
    methods = ", ".join(study.row.file["methods"])
    return f"""# A real backbone on real images

DINOv2 ViT-S/14 at 56 pixels on emoji of nine categories ([the case study](../../docs/case-study.md)).
Searches of {hours:g} hours side by side, one thread each, on a machine that other work shared: LoRA tuned
by TPE, random search and `paretune` over {methods}; trials of {epochs} epochs in batches of 32. Test
accuracies are means over retrained models (`paretune finalize`), with 95 % bootstrap intervals over
seeds and test images. Everything was chosen on the validation images. Made by
`python benchmarks/real.py`."""
