"""`auto` as a sampler of Optuna, on test problems that have nothing to do with adapters: `python benchmarks/pareto_sampler.py run`.

ZDT1 and ZDT3 (Zitzler, Deb and Thiele 2000) with six variables: both objectives are minimised, and the first variable is one of
them, so it is known before a trial. Every sampler gets the same seeds and numbers of trials. The figure is the hypervolume of the
trials, divided by that of the true front, both down to the worst values (4, 1). `report` writes results/pareto-sampler.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

from search.pareto import hypervolume
from search.samplers.pareto_sampler import ParetoSampler

RESULTS = Path(__file__).parent / "results"
N_VARIABLES, N_TRIALS, AT = 6, 60, (20, 40, 60)
REFERENCE = (4.0, 1.0)  # worst values: of the objective that a trial tells, and of the known one
BEST = {"zdt1": 0.0, "zdt3": -0.78}  # of the objective that a trial tells


def told(problem: str, x: np.ndarray) -> float:
    """The objective that only a trial tells."""
    first, g = float(x[0]), 1.0 + 9.0 * float(x[1:].mean())
    bent = 1.0 - (first / g) ** 0.5 - (first / g * np.sin(10.0 * np.pi * first) if problem == "zdt3" else 0.0)
    return float(g * bent)


def volume(problem: str, points: list[tuple[float, float]]) -> float:
    """The hypervolume of (told, known) values, both minimised."""
    return hypervolume([(-value, known) for value, known in points], (-REFERENCE[0], REFERENCE[1]), linear=True)


def known(params: Mapping[str, Any]) -> float:
    return float(params["x0"])


SAMPLERS: dict[str, Callable[[str, int], optuna.samplers.BaseSampler]] = {
    "ParetoSampler": lambda problem, seed: ParetoSampler(known, reference=REFERENCE, best=BEST[problem], linear=True, seed=seed),
    "TPESampler": lambda problem, seed: optuna.samplers.TPESampler(seed=seed, multivariate=True),
    "NSGAIISampler": lambda problem, seed: optuna.samplers.NSGAIISampler(seed=seed, population_size=20),
    "GPSampler": lambda problem, seed: optuna.samplers.GPSampler(seed=seed, deterministic_objective=True),
    "RandomSampler": lambda problem, seed: optuna.samplers.RandomSampler(seed=seed),
}


def shares(problem: str, sampler: str, seed: int) -> list[float]:
    """Hypervolume after some numbers of trials, as shares of the true front's."""
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=SAMPLERS[sampler](problem, seed))

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        x = np.array([trial.suggest_float(f"x{i}", 0.0, 1.0) for i in range(N_VARIABLES)])
        return told(problem, x), float(x[0])

    study.optimize(objective, n_trials=N_TRIALS)
    points = [(trial.values[0], trial.values[1]) for trial in study.trials]
    front = [(told(problem, np.array([first, *[0.0] * (N_VARIABLES - 1)])), first) for first in np.linspace(0.0, 1.0, 2001)]
    return [volume(problem, points[:n]) / volume(problem, front) for n in AT]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def middle(values: list[float]) -> str:
    """The mean, and its 95 % interval by bootstrap over the seeds."""
    array = np.array(values)
    means = array[np.random.default_rng(0).integers(len(array), size=(2000, len(array)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return f"{array.mean():.3f} [{low:.3f}, {high:.3f}]"


def report(path: Path) -> str:
    """Markdown: shares, and the paired difference of `ParetoSampler` to each other sampler after the last trial."""
    found = {(line["problem"], line["sampler"], line["seed"]): line["shares"] for line in lines(path)}
    heads = " | ".join(f"share after {n}" for n in AT)
    text = [f"| problem | sampler | seeds | {heads} | ParetoSampler minus it, after {AT[-1]} |", "|---|---|---:|" + "---:|" * 4]
    for problem in BEST:
        for sampler in SAMPLERS:
            seeds = [seed for at, of, seed in found if (at, of) == (problem, sampler)]
            if not seeds:
                continue
            cells = [middle([found[problem, sampler, seed][i] for seed in seeds]) for i in range(len(AT))]
            paired = [s for s in seeds if (problem, "ParetoSampler", s) in found]
            lead = [found[problem, "ParetoSampler", s][-1] - found[problem, sampler, s][-1] for s in paired]
            cells.append("" if sampler == "ParetoSampler" or not lead else middle(lead))
            text.append(f"| {problem.upper()} | {sampler} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report"))
    parser.add_argument("--path", type=Path, default=RESULTS / "pareto-sampler.jsonl")
    parser.add_argument("--samplers", nargs="+", default=list(SAMPLERS))
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 10))
    asked = parser.parse_args()
    if asked.verb == "report":
        (RESULTS / "pareto-sampler.md").write_text(report(asked.path))
        return
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    done = {(line["problem"], line["sampler"], line["seed"]) for line in lines(asked.path)}
    with asked.path.open("a") as file:
        for seed in range(*asked.seeds):
            for sampler in asked.samplers:
                for problem in BEST:
                    if (problem, sampler, seed) not in done:
                        found = [round(share, 5) for share in shares(problem, sampler, seed)]
                        file.write(json.dumps({"problem": problem, "sampler": sampler, "seed": seed, "shares": found}) + "\n")
                        file.flush()


if __name__ == "__main__":
    main()
