"""The same killing as in chaos.py, of the plain Tune + Optuna + MLflow script (plain_tune.py), restored after every death.

lost        trials that the driver knew to have ended and that are not among the results in the end
rerun       trials of which an epoch was trained after the driver knew that they had ended, under their name or another
behind      epochs of unfinished trials that were trained again, beyond one for each trial that a death can have cut off
zombies     trials RUNNING in Optuna's storage and runs RUNNING in MLflow when everything has ended

python benchmarks/chaos_plain.py [--searches 3] [--seed 0] [--results benchmarks/results/chaos_plain.jsonl]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from chaos import PATIENCE_SECONDS, Outcome, kill, plan, table

HANGS_SECONDS = 30.0  # a driver whose raylet has died is given so long to end by itself
N_SLOTS = 2


def search(folder: Path, number: int, *, victims: list[str], n_trials: int, epoch_seconds: float, seed: int) -> Outcome:
    """Run the plain script to its end, killing the victims one after the other; see `chaos.search`."""
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - not cryptography
    outcome, kills, begun = Outcome(number, "plain Tune + Optuna"), Counter[str](), time.monotonic()
    left = list(victims)
    process = _start(folder, n_trials, epoch_seconds)
    try:
        while process.poll() is None or process.returncode != 0:
            if process.poll() is not None:
                process = _start(folder, n_trials, epoch_seconds)
            n_known = len(_lines(folder / "trained.jsonl"))
            deadline = time.monotonic() + PATIENCE_SECONDS
            while process.poll() is None and len(_lines(folder / "trained.jsonl")) == n_known and time.monotonic() < deadline:
                threading.Event().wait(0.05)
            if process.poll() is None and time.monotonic() >= deadline:  # it hangs: what one would do by hand
                process.kill()
                kills["driver, because it hung"] += 1
                process.wait()
                continue
            if not left or process.poll() is not None:
                continue
            threading.Event().wait(chance.uniform(0.0, 5 * epoch_seconds))
            if kill(process, left[0]):
                victim = left.pop(0)
                kills[victim] += 1
                if victim == "raylet":
                    try:
                        process.wait(HANGS_SECONDS)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        kills["driver, because it hung"] += 1
                if victim != "worker":
                    process.wait()
    finally:
        process.kill()
    outcome.kills, outcome.seconds = dict(kills), round(time.monotonic() - begun, 1)
    _judge(folder, outcome)
    return outcome


def _start(folder: Path, n_trials: int, epoch_seconds: float) -> subprocess.Popen[bytes]:
    script = Path(__file__).parent / "plain_tune.py"
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    with (folder / "output.txt").open("a") as output:
        command = [sys.executable, str(script), str(folder), str(n_trials), str(epoch_seconds)]
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _judge(folder: Path, outcome: Outcome) -> None:
    told: dict[str, dict[str, Any]] = {}
    for line in _lines(folder / "told.jsonl"):
        told.setdefault(line["trial"], line)
    trained = _lines(folder / "trained.jsonl")
    results = set(json.loads((folder / "results.json").read_text()))
    outcome.n_trials = len(results)
    outcome.lost = len(told.keys() - results)
    ended = {(line["rank"], line["lr"]): line["time"] for line in told.values()}
    outcome.rerun = len({(e["rank"], e["lr"]) for e in trained if e["time"] > ended.get((e["rank"], e["lr"]), float("inf"))})
    counts = Counter((e["trial"], e["epoch"]) for e in trained if e["time"] <= ended.get((e["rank"], e["lr"]), float("inf")))
    repeated = sum(count - 1 for count in counts.values())
    victims = sum(n if victim == "worker" else N_SLOTS * n for victim, n in outcome.kills.items())
    outcome.behind = max(0, repeated - victims)
    for file, query in (
        ("optuna.db", "SELECT count(*) FROM trials WHERE state = 'RUNNING'"),
        ("mlflow.db", "SELECT count(*) FROM runs WHERE status = 'RUNNING'"),
    ):
        with closing(sqlite3.connect(folder / file)) as connection:
            outcome.zombies += connection.execute(query).fetchone()[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--searches", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "chaos_plain.jsonl")
    arguments = parser.parse_args()
    known = [Outcome(**line) for line in _lines(arguments.results)]
    for number in range(2 * len(known), 2 * arguments.searches, 2):  # the even searches of chaos.py are those on Ray
        what = plan(number, arguments.seed)
        del what["back_end"]
        folder = Path(tempfile.mkdtemp(prefix="plain-chaos-"))
        known.append(search(folder, number, seed=arguments.seed, **what))
        with arguments.results.open("a") as file:
            file.write(json.dumps(asdict(known[-1])) + "\n")
        print(known[-1], flush=True)
    print(table(known))


if __name__ == "__main__":
    main()
