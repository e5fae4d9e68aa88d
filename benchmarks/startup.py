"""From `paretune run` to the first training step, against the least it can be: importing torch and Ray and building the model.

Interleaved, each a process of its own, on the packaged backbone and data, with one worker for every core. The first step's time
is the ledger's of the first report, less the training and evaluation of that epoch. The images are decoded and the weights are in
the page cache: one run of each goes first and does not count.

    python benchmarks/startup.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

FLOOR = """
import torch, timm, ray  # as a script imports them: with torch's compiler, which our own processes leave out
from ray import tune
from trainables import make
make({"name": "vit_glyphs"}, {"kind": "digits"}, {})
"""


def floor() -> float:
    """Seconds of a process that imports torch, timm, Ray and Tune, and builds the model and loads the images."""
    begun = time.time()
    subprocess.run([sys.executable, "-c", FLOOR], check=True)
    return time.time() - begun


def ours(folder: Path) -> dict[str, float]:
    """Seconds from the start of the command: to the study, to the first trial's start, to its first training step."""
    study = {"study": "startup", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    path = folder / "startup.json"  # JSON is YAML
    path.write_text(json.dumps(study))
    begun = time.time()
    command = [sys.executable, "-m", "search.cli", "run", str(path), "--storage", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    from search.storage.sql_ledger import SqlLedger

    ledger = SqlLedger.open(folder / "startup" / "ledger.db")
    started = next(event.time for event in ledger.events() if event.kind == "started")
    first = min(ledger.reports(), key=lambda report: report.time)
    trained = first.time - first.metrics["cost/train_seconds"] - first.metrics["cost/eval_seconds"]
    return {"trial": started - begun, "step": trained - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    floors, runs = [], []
    for repeat in range(arguments.repeats + 1):
        with tempfile.TemporaryDirectory() as folder:
            pair = floor(), ours(Path(folder))
        if repeat:
            floors.append(pair[0])
            runs.append(pair[1])
    ratios = [run["step"] / least for run, least in zip(runs, floors, strict=True)]

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    print(
        f"# Start-up\n\nMedian (lowest to highest) of {arguments.repeats} interleaved runs on {os.cpu_count()} CPU cores. "
        "Made by `python benchmarks/startup.py`.\n\n| | seconds |\n|---|---|\n"
        f"| importing torch, timm, Ray and Tune, and building the model | {spread(floors)} |\n"
        f"| `paretune run`, to the start of the first trial | {spread([run['trial'] for run in runs])} |\n"
        f"| `paretune run`, to the first training step | {spread([run['step'] for run in runs])} |\n\n"
        f"To the first training step: {spread(ratios)} times the first row."
    )


if __name__ == "__main__":
    main()
