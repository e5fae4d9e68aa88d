"""Does every knob of every space move accuracy or size? `python benchmarks/knobs.py` writes results/knobs.md.

On the packaged digits: around each method's defaults one knob at a time takes its values (names all, numbers all if there are at
most four, else the lowest, the middle and the highest), with everything else as it was. Each point is trained with the same seeds
and epochs. A knob moves the size if the counts differ; it moves accuracy if the best and the worst of its values are further
apart than twice the standard error of that difference. With several values the largest of several differences is looked at, so
that some knobs will pass by chance: the table gives the differences themselves.

What is trained is kept in results/knobs.parquet, one row for each point and seed; a second call goes on where the first stopped.
A second table, of the knobs that move nothing in the first, is what `benchmarks/knobs_few.py` has measured.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import knobs_few
import pandas as pd
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import SHARED, SPACES, Knob
from trainables import make, measure

RESULTS = Path(__file__).parent / "results"
MAKE: dict[str, Any] = {"backbone": {"name": "vit_glyphs"}, "data": {"kind": "digits"}, "recipe": {"n_threads": 1}}
LR = 3e-3  # where small adapters arrive within these epochs; the papers' 1e-3 is for 100


def values(knob: Knob) -> list[Any]:
    """The values of a knob that are tried."""
    if isinstance(knob.distribution, CategoricalDistribution):
        every = list(knob.distribution.choices)
    elif isinstance(knob.distribution, FloatDistribution | IntDistribution):
        low, high = knob.distribution.low, knob.distribution.high
        middle = math.sqrt(low * high) if knob.distribution.log else (low + high) / 2
        every = [low, round(middle) if isinstance(low, int) else middle, high]
    else:
        raise TypeError(f"{knob.key}: {knob.distribution!r}")
    named = any(isinstance(value, str) for value in every)
    return every if named or len(every) <= 4 else [every[0], every[len(every) // 2], every[-1]]


def points() -> Iterator[tuple[str, Knob, Any, dict[str, Any]]]:
    """(method, knob, its value, configuration) of all that is trained."""
    for method, space in SPACES.items():
        centre = {"method": method} | {knob.key: knob.nearest_default for knob in (*space.knobs, *SHARED)}
        centre |= {} if method in ("head_only", "full") else {"optim.lr": LR}
        for knob in space.knobs:
            for value in values(knob):
                yield method, knob, value, centre | {knob.key: value}


def train(epochs: int, n_seeds: int, minutes: float) -> pd.DataFrame:
    """Trains what is missing, for at most so many minutes."""
    path = RESULTS / "knobs.parquet"
    table = pd.read_parquet(path) if path.exists() else pd.DataFrame({"config": [], "seed": [], "epochs": []})
    done = {(row.config, row.seed) for row in table.itertuples() if row.epochs == epochs}
    trial, sizes = make(**MAKE), measure(MAKE["backbone"], MAKE["data"])
    wanted = {json.dumps(config, sort_keys=True): config for *_, config in points()}
    todo = [(key, config, seed) for seed in range(n_seeds) for key, config in wanted.items() if (key, seed) not in done]
    begun, rows = time.monotonic(), table.to_dict("records")
    for n, (key, config, seed) in enumerate(todo):
        if time.monotonic() - begun > 60 * minutes:
            break
        try:
            size = sizes.count(config)[0]
            trial.start(config, seed=seed, epochs=epochs, folder=None)
            metrics = [trial.step() for _ in range(epochs)][-1]
            row = {"val/top1": metrics["val/top1"], "adapter_params": size, "problem": None}
        except (ValueError, FloatingPointError) as error:  # not on this backbone, or diverged: a result too
            row = {"val/top1": math.nan, "adapter_params": -1, "problem": str(error)}
        rows.append({"config": key, "seed": seed, "epochs": epochs} | row)
        if n % 20 == 19 or n + 1 == len(todo):
            pd.DataFrame(rows).to_parquet(path)
            left = (time.monotonic() - begun) / (n + 1) * (len(todo) - n - 1)
            print(f"{n + 1} of {len(todo)}, {left / 60:.0f} min left", flush=True)
    table = pd.DataFrame(rows)
    table.to_parquet(path)
    return table[table.epochs == epochs]


def report(table: pd.DataFrame) -> str:
    """The Markdown table."""
    of = dict(iter(table.groupby("config")))
    seeds, epochs = sorted(table.seed.unique()), int(table.epochs.iloc[0])
    lines = [
        "# What each knob moves",
        "",
        f"Packaged digits, {epochs} epochs, {len(seeds)} seeds, one knob at a time around each method's defaults (lr {LR:g}).",
        "Accuracy is `val/top1` in percent, mean over the seeds; ± is the standard error of the difference between best and worst,",
        "paired by seed. Made by `python benchmarks/knobs.py`.",
        "",
        "| knob | values: accuracy | best - worst | adapter parameters | moves |",
        "|---|---|---:|---:|---|",
    ]
    for method, space in SPACES.items():
        for knob in space.knobs:
            scores: dict[Any, list[float]] = {}
            counts, problems = [], []
            for _, k, value, config in points():
                if k.key != knob.key or config["method"] != method:
                    continue
                group = of.get(json.dumps(config, sort_keys=True))
                if group is None:
                    continue
                if group.problem.notna().any():
                    problems.append(value)
                    continue
                scores[value] = [100 * float(v) for v in group.sort_values("seed")["val/top1"]]
                counts.append(int(group.adapter_params.iloc[0]))
            if not scores:
                continue
            means = {value: statistics.mean(s) for value, s in scores.items()}
            best, worst = max(means, key=lambda v: means[v]), min(means, key=lambda v: means[v])
            pairs = [a - b for a, b in zip(scores[best], scores[worst], strict=True)]
            error = statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
            gap = means[best] - means[worst]
            moves = ["size"] if len(set(counts)) > 1 else []
            moves += ["accuracy"] if gap > 2 * error and gap > 0 else []
            size = f"{min(counts):,}" if len(set(counts)) == 1 else f"{min(counts):,} to {max(counts):,}"
            shown = ", ".join(f"{v:g}: {m:.2f}" if isinstance(v, float) else f"{v}: {m:.2f}" for v, m in means.items())
            shown += "".join(f", {v}: impossible here" for v in problems)
            lines.append(
                f"| `{knob.key}` | {shown} | {gap:.2f} ± {error:.2f} | {size} | {' and '.join(moves) or 'neither, beyond noise'} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Trains what is missing, then writes the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so long; the next call goes on")
    arguments = parser.parse_args()
    text = report(train(arguments.epochs, arguments.seeds, arguments.minutes)) + "\n" + knobs_few.report()
    (RESULTS / "knobs.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
