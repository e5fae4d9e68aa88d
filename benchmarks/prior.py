"""What a prior brings, and what a wrong one costs: `python benchmarks/prior.py` prints a table and writes results/prior.md.

Teachers are searches on members of a synthetic family (`trainables.simulated.surfaces`), each of other data: where a method's knobs
are best differs between members. Pupils are searches on other members, paired by member and seed: without a prior, with that of the
teachers, and with that of teachers whose accuracies were shuffled among their trials.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

import spaces
from search.backends.simulated import VirtualClock, create, run
from search.config.loading import check
from search.pareto import hypervolume
from search.results.saved_study import SavedStudy
from search.results.study_state import StudyState
from search.study.study import Study
from search.trial import Trial
from search.workflows.learn_prior import learn_prior
from trainables.simulated.surfaces import Surface, SurfaceTrainable

RESULT = Path(__file__).parent / "results" / "prior.md"
METHODS = [method for method in spaces.SPACES if method not in ("head_only", "layer_norm", "bitfit", "full")]
EPOCHS, N_TRIALS, N_TEACHERS = 30, 60, 4
AFTER = (10, 20, 40)
SHARES = (0.9, 0.95)


def searched(family: str, member: int, seed: int, prior: Path | None = None) -> tuple[Study, list[tuple[int, float]]]:
    """A study of today's `auto`, and (epochs, hypervolume) after each of its trials has ended."""
    search = {"rungs": {"grace": 3, "factor": 2}, "seed": seed} | ({} if prior is None else {"prior": str(prior)})
    budget = {"n_trials": N_TRIALS, "epochs": EPOCHS, "max_params": 100_000}
    file = check(
        {"study": f"member-{member}", "data": {"kind": "synthetic"}, "methods": METHODS, "budget": budget, "search": search}
    )
    surface, clock = Surface(family, member), VirtualClock()
    study, curve = create(file, surface, clock), list[tuple[int, float]]()

    def look() -> None:
        n_ended = sum(trial.state.finished for trial in study.trials)
        while len(curve) < n_ended:
            curve.append((sum(trial.epochs for trial in study.trials), study.hypervolume()))

    run(study, lambda: SurfaceTrainable(surface), clock, n_workers=1, on_event=look)
    look()
    return study, curve


def saved(study: Study) -> SavedStudy:
    return SavedStudy(Path(study.file.study), study.row, StudyState.FINISHED, tuple(study.trials), (), (), None)


def shuffled(study: SavedStudy, seed: int) -> SavedStudy:
    """The same configurations with each other's accuracies."""
    metrics = [trial.metrics for trial in study.history]
    random.Random(seed).shuffle(metrics)  # noqa: S311
    history: list[Trial] = [replace(trial, metrics=one) for trial, one in zip(study.history, metrics, strict=True)]
    return replace(study, history=tuple(history))


def interval(values: np.ndarray) -> str:
    """The mean with a bootstrap interval of 95 %."""
    drawn = np.random.default_rng(0).choice(values, (2_000, len(values))).mean(1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{values.mean():+.2f} [{low:+.2f}, {high:+.2f}]"


def ratio(over: list[float], under: list[float]) -> str:
    """The geometric mean of paired ratios with its interval."""
    logs = np.log(np.array(over) / np.array(under))
    drawn = np.exp(np.random.default_rng(0).choice(logs, (2_000, len(logs))).mean(1))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{np.exp(logs.mean()):.2f} [{low:.2f}, {high:.2f}]"


def family_rows(family: str, n_pupils: int) -> list[str]:
    """The rows of one family."""
    teachers = [saved(searched(family, 900 + i, i)[0]) for i in range(N_TEACHERS)]
    share_after: dict[str, list[list[float]]] = {}
    epochs_to: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        priors: dict[str, Path | None] = {"none": None, "learnt": Path(folder) / "learnt", "shuffled": Path(folder) / "shuffled"}
        Path(folder, "learnt").write_text(learn_prior(teachers).prior.model_dump_json())
        Path(folder, "shuffled").write_text(
            learn_prior([shuffled(teacher, i) for i, teacher in enumerate(teachers)]).prior.model_dump_json()
        )
        for pupil in range(n_pupils):
            surface = Surface(family, pupil)
            best = hypervolume(
                [
                    point
                    for method in ("head_only", *METHODS)
                    for point in surface.best({"method": (method,)} | {k.key: choices(k) for k in knobs(method)}, "adapter_params")
                ],
                reference_point(family, pupil),
            )
            for name, prior in priors.items():
                _, curve = searched(family, pupil, pupil, prior)
                heights = np.array([(height - curve[0][1]) / (best - curve[0][1]) for _, height in curve])
                share_after.setdefault(name, []).append([float(heights[min(n, len(heights)) - 1]) for n in AFTER])
                reached = [next((e for (e, _), h in zip(curve, heights, strict=True) if h >= s), 2 * curve[-1][0]) for s in SHARES]
                epochs_to.setdefault(name, []).append([float(one) for one in reached])
                print(
                    f"{family} {pupil} {name}: {[f'{value:.2f}' for value in share_after[name][-1]]}", file=sys.stderr, flush=True
                )
    rows = []
    for name in priors:
        shares, to = np.array(share_after[name]), np.array(epochs_to[name])
        cells = [family, name, *(f"{shares[:, j].mean():.2f}" for j in range(len(AFTER)))]
        if name == "none":
            cells += [""] * (len(AFTER) + len(SHARES))
        else:
            cells += [interval(shares[:, j] - np.array(share_after["none"])[:, j]) for j in range(len(AFTER))]
            cells += [ratio(list(to[:, j]), list(np.array(epochs_to["none"])[:, j])) for j in range(len(SHARES))]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def knobs(method: str) -> tuple[spaces.Knob, ...]:
    return spaces.joint([method]).knobs(method)


def choices(knob: spaces.Knob) -> tuple[object, ...] | None:
    return getattr(knob.distribution, "choices", None)


def reference_point(family: str, member: int) -> tuple[float, float]:
    """The reference point of a study on a member."""
    file = check(
        {
            "study": "s",
            "data": {"kind": "synthetic"},
            "methods": ["lora"],
            "budget": {"n_trials": 1, "epochs": 1, "max_params": 100_000},
        }
    )
    return create(file, Surface(family, member), VirtualClock()).reference_point


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pupils", type=int, default=10)
    parser.add_argument("--families", nargs="+", default=["valley", "crossing"])
    asked = parser.parse_args()
    heads = ["family", "prior", *(f"share after {n}" for n in AFTER), *(f"more after {n}" for n in AFTER)]
    heads += [f"epochs to {share:.0%}, of those without" for share in SHARES]
    rows = [row for family in asked.families for row in family_rows(family, asked.pupils)]
    page = f"""# What a prior brings

Searches of {N_TRIALS} trials of {len(METHODS)} methods on {asked.pupils} members of each synthetic family, with a prior
learnt from {N_TEACHERS} searches on other members. Share: of the way from head-only to the member's best
hypervolume, after so many trials. More: the paired difference to no prior, with its 95 % interval. Epochs
to a share: the ratio to no prior (a search that did not get there counts with twice its epochs). Members
of a family are no images; how alike they are says nothing about data sets.
Made by `python benchmarks/prior.py --pupils {asked.pupils}`.

| {" | ".join(heads)} |
|{"---|" * len(heads)}
{chr(10).join(rows)}
"""
    RESULT.write_text(page)
    print(page)


if __name__ == "__main__":
    main()
