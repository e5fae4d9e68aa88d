"""What the data cost a trial: decoding once, using it again, the loader's share of a training step, memory of several workers.

A folder of generated JPEG files, 256 x 256, is decoded for a ViT at 224 pixels by the code that every search runs. Four figures:

    decode        seconds for the first use on a machine, and images a second
    again         seconds for every later use (listing the folder, mapping the files)
    share         `Split.take` and normalisation over the whole training step (LoRA on q and v, batch 32)
    memory        proportional set size (PSS) of the mapped images, summed over 1, 2 and 4 processes that have read all of them

    python benchmarks/data.py [--images 1000] [--backbone vit_tiny_patch16_224]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from trainables import data
from trainables.backbones import Preprocessing, create, preprocessing
from trainables.data.decoded import cache

BATCH, STEPS, WARM_UP = 32, 12, 3
N_CLASSES = 10


def write_images(root: Path, n: int) -> None:
    """N JPEG files of smooth noise, as large as photographs of that size are."""
    rng = np.random.default_rng(0)
    for i in range(n):
        folder = root / f"class{i % N_CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg", quality=90)


def loader_share(source: dict[str, Any], name: str) -> tuple[float, float, float]:
    """Median seconds of a step, and the loader's share of it: median and highest."""
    from trainables.training.trial import AdapterWorker

    torch.manual_seed(0)
    trial = AdapterWorker({"name": name, "weights": "random"}, source, {"n_threads": os.cpu_count()})
    config = {"method": "lora", "lora.rank": 8, "lora.targets": "qv", "optim.batch_size": BATCH}
    trial.start(config, seed=0, epochs=10, folder=None)
    split, model = trial._splits["train"], trial.model.train()
    steps, loads = [], []
    for _ in range(WARM_UP + STEPS):
        begun = time.perf_counter()
        index = torch.randperm(len(split))[:BATCH]
        images = trial._normalise(split.take(index))
        loaded = time.perf_counter()
        torch.nn.functional.cross_entropy(model(images), split.labels[index]).backward()
        steps.append(time.perf_counter() - begun)
        loads.append(loaded - begun)
    shares = [load / step for load, step in zip(loads[WARM_UP:], steps[WARM_UP:], strict=True)]
    return statistics.median(steps[WARM_UP:]), statistics.median(shares), max(shares)


def mapped_bytes(source: dict[str, Any], wanted: Preprocessing, n_processes: int) -> int:
    """PSS of the decoded files' mappings, summed over processes that have all read every pixel."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Barrier(n_processes + 1), context.Barrier(n_processes + 1)
    workers = [context.Process(target=_read, args=(source, wanted, here, there)) for _ in range(n_processes)]
    for worker in workers:
        worker.start()
    here.wait(300)
    total = sum(_pss(worker.pid) for worker in workers if worker.pid is not None)
    there.wait(60)
    for worker in workers:
        worker.join()
    return total


def _read(source: dict[str, Any], wanted: Preprocessing, here: Any, there: Any) -> None:
    splits = data.load(source, wanted)
    for split in splits.values():
        split.images.sum(dtype=torch.int64)  # touches every page
    here.wait(300)
    there.wait(60)


def _pss(pid: int) -> int:
    total, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            ours = ".arrow" in line
        elif ours and line.startswith("Pss:"):
            total += 1024 * int(line.split()[1])
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARETUNE_CACHE"] = f"{folder}/cache"
        write_images(Path(folder) / "images", asked.images)
        source = {"kind": "imagefolder", "path": f"{folder}/images"}
        wanted = preprocessing(create(asked.backbone, device="meta"))
        seconds = []
        for _ in range(6):
            data.look_again()
            begun = time.perf_counter()
            data.load(source, wanted)
            seconds.append(time.perf_counter() - begun)
        size = sum(path.stat().st_size for path in cache().glob("*.arrow"))
        step, share, highest = loader_share(source, asked.backbone)
        memory = {n: mapped_bytes(source, wanted, n) for n in (1, 2, 4)}
    lines = [
        f"# Data: {asked.images:,} JPEG files of 256 x 256 for {asked.backbone}",
        "",
        f"On {os.cpu_count()} CPU cores. Made by `python benchmarks/data.py`.",
        "",
        f"- Decoding, once per machine: {seconds[0]:.2f} s, {asked.images / seconds[0]:,.0f} images a second; "
        f"{size / 2**20:.1f} MiB.",
        f"- Every later use: {1000 * statistics.median(seconds[1:]):.0f} ms "
        f"({1000 * min(seconds[1:]):.0f} to {1000 * max(seconds[1:]):.0f}).",
        f"- Loader's share of a training step of {1000 * step:.0f} ms (LoRA, batch {BATCH}): "
        f"{100 * share:.2f} % (at most {100 * highest:.2f} %).",
        "- PSS of the mapped images, summed over processes: "
        + ", ".join(f"{n}: {b / 2**20:.1f} MiB" for n, b in memory.items())
        + f"; of 4 to that of one: {memory[4] / memory[1]:.3f}.",
        "",
    ]
    print("\n".join(lines))
    (Path(__file__).parent / "results" / "data.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
