"""`paretune predict` against importing torch: the seconds until an export has answered one image.

Interleaved, each a process of its own, on two cores or more: importing torch alone, as `python -c "import torch"` does, and the
command for each format of one trial of the packaged digits, trained for an epoch. One round goes first and does not count.

    python benchmarks/predict.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

import numpy as np
from PIL import Image

import search
from search.workflows.export_adapter import Format, export_adapter

FORMATS = ("paretune", "merged", "peft", "onnx")


def seconds(command: list[str]) -> float:
    """Return how long a command takes."""
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun


def exports(folder: Path) -> dict[str, list[str]]:
    """Return the command that answers an image with each format of a trained LoRA."""
    study = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    made = search.run(study | {"storage": str(folder)}, back_end="in-process")
    image = folder / "digit.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(image)
    for name in FORMATS:
        export_adapter(made, 1, folder / name, form=Format(name))
    return {name: [sys.executable, "-m", "search.cli", "predict", str(folder / name), str(image)] for name in FORMATS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as folder:
        commands = {"torch": [sys.executable, "-c", "import torch"], **exports(Path(folder))}
        rounds = [{name: seconds(command) for name, command in commands.items()} for _ in range(repeats + 1)][1:]

    def spread(values: list[float]) -> str:
        return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"

    print(
        f"# Time to answer\n\nMedian (lowest to highest) of {repeats} interleaved rounds on {os.cpu_count()} CPU cores. "
        "Made by `python benchmarks/predict.py`.\n\n| | seconds | times the first row |\n|---|---|---|"
    )
    for name in commands:
        words = '`python -c "import torch"`' if name == "torch" else f"`paretune predict`, format `{name}`"
        print(f"| {words} | {spread([one[name] for one in rounds])} | {spread([one[name] / one['torch'] for one in rounds])} |")


if __name__ == "__main__":
    main()
