"""Is the packaged study's answer worth reading? `python benchmarks/first_front.py` writes results/first-front.md.

Runs `paretune run emoji` with several seeds of the search, as a user would, then `paretune finalize` of each. A study that is there
is continued or read, so a call after an interruption continues. The searches come first: `--seeds 5 --retrain 2`.

Standard errors are those of one accuracy on the validation images, sqrt(p (1 - p) / n). *Steps* are members of the front of which
each is at least one standard error above the one before, counted from the smallest. A *swap* is a pair of neighbours on the front
whose test accuracies are in the other order: the least number of exchanges of neighbours that sorts the test accuracies.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path

import pyarrow.parquet as pq

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

import search
from search.results.saved_study import SavedStudy

RESULT = Path(__file__).parent / "results" / "first-front.md"
PARETUNE = Path(sys.executable).with_name("paretune")


def standard_error(top1: float, n: int) -> float:
    return math.sqrt(top1 * (1 - top1) / n)


def steps(accuracies: Sequence[float], n: int) -> list[float]:
    """The accuracies of a front, smallest member first, of which each is a standard error above the one that was kept before."""
    kept = list(accuracies[:1])
    for top1 in accuracies[1:]:
        if top1 - kept[-1] >= standard_error(top1, n):
            kept.append(top1)
    return kept


def swaps(accuracies: Sequence[float]) -> int:
    """How many exchanges of neighbours sort the accuracies."""
    return sum(first > second for first, second in combinations(accuracies, 2))


def paretune(*words: str) -> None:
    subprocess.run([str(PARETUNE), *words], check=True)


def percent(values: Iterable[float]) -> str:
    return ", ".join(f"{100 * value:.1f}" for value in values)


def test_accuracies(study: SavedStudy) -> list[float]:
    """Mean test accuracy of each member of the front, smallest first; nothing before `finalize`."""
    final = study.folder / "final.parquet"
    if not final.is_file():
        return []
    found = {one["trial"]: one["test/top1_mean"] for one in pq.read_table(final).to_pylist()}
    return [found[member.number] for member in study.members]


def line(study: SavedStudy) -> str:
    """The row of one seed."""
    n, front = study.n_validation, study.members
    if n is None:
        raise ValueError(f"{study.folder} does not say how many validation images it has")
    top1, test = [member.metrics["val/top1"] for member in front], test_accuracies(study)
    head = next(trial for trial in study.history if trial.method == "head_only").metrics["val/top1"]
    gap = top1[-1] - head
    minutes = (max(trial.finished or 0.0 for trial in study.history) - study.history[0].started) / 60
    cells = (
        str(study.row.file["search"]["seed"]),
        percent([head]),
        percent(top1[-1:]),
        f"{100 * gap:.1f}",
        f"{gap / standard_error(top1[-1], n):.1f}",
        str(len(front)),
        percent(steps(top1, n)),
        str(len({member.method for member in front})),
        f"{minutes:.1f}",
        percent(top1),
        ", ".join(member.method for member in front),
        percent(test) or "not yet",
        str(swaps(test)) if test else "",
    )
    return "| " + " | ".join(cells) + " |"


def table(studies: Sequence[SavedStudy], retrained: int) -> str:
    """The Markdown of all seeds."""
    n, budget = studies[0].n_validation, studies[0].row.file["budget"]
    methods = sorted({member.method for study in studies for member in study.members})
    columns = "seed, head-only, best, gap, gap / SE, members, steps, methods, minutes, validation, methods by size, test, swaps"
    head = "| " + columns.replace(", ", " | ") + " |\n" + "|---" * len(columns.split(", ")) + "|\n"
    return (
        f"""# The first front

`paretune run` with {len(studies)} seeds of the search: {budget["n_trials"]} trials of {budget["epochs"]} epochs
at most, {n:,} validation images. Accuracies in percent, smallest member of the front first. SE is the
standard error of one accuracy. Steps are members that are one or more above the step before.
Test accuracies are means over {retrained} models each (`paretune finalize --seeds {retrained}`). Swaps are the
exchanges of neighbours that would put them in the order of validation. Minutes are from the first
trial's start to the last one's end, two trials at a time on two cores that other work shared: no
measure of speed. Made by `python benchmarks/first_front.py`.

{head}"""
        + "\n".join(line(study) for study in studies)
        + f"\n\nMethods on the fronts: {', '.join(methods)}.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--retrain", type=int, default=2, help="models for each member of a front; 0: do not finalize")
    parser.add_argument("--storage", type=Path, default=Path("paretune-studies/first-front"))
    asked = parser.parse_args()
    storage = ["--storage", str(asked.storage)]
    for seed in range(asked.seeds):
        paretune("run", "emoji", "--set", f"study=emoji-{seed}", "--set", f"search.seed={seed}", *storage)
    for seed in range(asked.seeds if asked.retrain else 0):
        paretune("finalize", f"emoji-{seed}", "--seeds", str(asked.retrain), *storage)
    text = table([search.load(asked.storage / f"emoji-{seed}") for seed in range(asked.seeds)], asked.retrain)
    RESULT.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
