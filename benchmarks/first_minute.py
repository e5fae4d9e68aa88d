"""Accidents in the first minute of a storage: kill -9 of the driver or its recorder, and Ctrl-C, at random moments.

python benchmarks/first_minute.py --accidents 30

Each accident hits the first search in a new storage, while MLflow's database is made and filled. Then the same command is given
again. Counted are storages that are not whole afterwards: a study that does not finish, a record that `paretune sync --check` finds
different from the ledger, a traceback. All of them should be zero.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import psutil

STUDY = """
study: s
data: {kind: synthetic, epoch_seconds: 0.1}
methods: [lora, arc, lily]
budget: {n_trials: 8, epochs: 3, max_params: 20_000}
"""
COMMAND = [sys.executable, "-m", "search.cli"]


def recorder_of(driver: psutil.Process) -> psutil.Process | None:
    """The recorder, once it has started."""
    children = driver.children() if driver.is_running() else []
    return next((child for child in children if "search.tracking.recorder" in child.cmdline()), None)


def accident(folder: Path, seconds: float, victim: str) -> str:
    """Let one happen; return what is wrong afterwards, or ""."""
    (folder / "s.yaml").write_text(STUDY)
    run = [*COMMAND, "run", "s.yaml", "--back-end", "in-process"]
    driver = subprocess.Popen(run, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    threading.Event().wait(seconds)
    try:
        process = psutil.Process(driver.pid)
        if victim == "recorder":
            if (recorder := recorder_of(process)) is not None:
                recorder.kill()
        else:
            process.send_signal(signal.SIGKILL if victim == "driver" else signal.SIGINT)
    except psutil.NoSuchProcess:
        pass  # it was over
    _, said = driver.communicate(timeout=120)
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    for command in (run, [*COMMAND, "sync", "s"], [*COMMAND, "sync", "s", "--check"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode != 0:
            return f"{' '.join(command[3:])}: {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
    left = [path.name for path in (folder / "paretune-studies").glob(".mlflow.db.*.new*")]
    return f"left behind: {left}" if left else ""


def main() -> None:
    """Print one line for each accident, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accidents", type=int, default=30)
    parser.add_argument("--longest", type=float, default=9.0, help="seconds of the first minute, or until the search is over")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, wrong, counts = random.Random(options.seed), 0, Counter[str]()  # noqa: S311 - not cryptography
    os.environ["OMP_NUM_THREADS"] = "1"
    for _ in range(options.accidents):
        seconds, victim = rng.uniform(0.3, options.longest), rng.choice(("driver", "recorder", "Ctrl-C"))
        with tempfile.TemporaryDirectory(prefix="first-minute-") as folder:
            problem = accident(Path(folder), seconds, victim)
        counts[victim] += 1
        wrong += bool(problem)
        print(f"{victim:9} after {seconds:4.1f} s: {problem or 'whole'}", flush=True)
    print(
        f"{options.accidents} accidents ({', '.join(f'{n} {victim}' for victim, n in counts.items())}): {wrong} storages not whole"
    )


if __name__ == "__main__":
    main()
