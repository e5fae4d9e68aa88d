"""The speed of training with the frozen part in front of the adapter computed once, against computing it in every epoch.

One worker is that of a study that began before tokens were kept, the other keeps them. Both train the same configurations, epoch by
epoch in turn, on the packaged digits. What counts is the training part of an epoch (`cost/train_seconds`) after the first one, in
which the tokens are computed. The figure is the median over the pairs of epochs.

    python benchmarks/prefix.py [--backbone vit_small_patch14_dinov2] [--img-size 56] [--epochs 6] [--threads 2] [--record]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from trainables.backbones import create
from trainables.recipe.cut import last_cut
from trainables.training.trial import AdapterWorker

LEAST = {"last-4": 1.8, "last-2": 3.3, "last-1": 6.5, "head only": 100.0, "all": 0.97}  # the goals, on two cores


class Pair(NamedTuple):
    """The seconds of training in an epoch.

    Attributes:
        case: Adapted blocks.
        before: Seconds of each epoch with the frozen part computed in it.
        kept: Seconds of each epoch with the tokens kept.
        first: Seconds of the first epoch with the tokens kept, in which they are computed.
    """

    case: str
    before: list[float]
    kept: list[float]
    first: float

    @property
    def speedup(self) -> float:
        """The median ratio of the pairs."""
        return statistics.median(before / kept for before, kept in zip(self.before, self.kept, strict=True))


def config_of(case: str) -> dict[str, Any]:
    method = {"method": "head_only"} if case == "head only" else {"method": "lora", "lora.layers": case}
    return method | {"optim.batch_size": 32}


def measure(backbone: Mapping[str, Any], *, epochs: int, threads: int, device: str = "cpu") -> Iterator[Pair]:
    """Yield the seconds of each case; the folder of files is a temporary one."""
    n_blocks = last_cut(create(backbone["name"], device="meta")) - 1
    recipe = {"n_threads": threads, "device": device}
    keeping = {"prefix_cuts": [n_blocks - 4, n_blocks - 2, n_blocks - 1, n_blocks + 1], "prefix_bytes": 2**31}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PARETUNE_CACHE"] = folder
        workers = [AdapterWorker(backbone, {"kind": "digits"}, recipe | more) for more in ({}, keeping)]
        for worker in workers:
            del worker._splits["validation"]  # validation kept its tokens before, too
        for case in LEAST:
            seconds: list[list[float]] = [[], []]
            for worker in workers:
                worker.start(config_of(case), seed=0, epochs=epochs + 1, folder=None)
            for epoch in range(epochs + 1):
                for i in (0, 1) if epoch % 2 else (1, 0):
                    seconds[i].append(workers[i].step()["cost/train_seconds"])
            for path in (Path(folder) / "tokens").glob("*.tokens"):
                path.unlink()
            for worker in workers:
                worker.finish()
            workers[1]._prefixes.forget()
            yield Pair(case, seconds[0][1:], seconds[1][1:], seconds[1][0])


def table(pairs: list[Pair]) -> list[str]:
    rows = [
        f"| {pair.case} | {1000 * statistics.median(pair.before):,.1f} | {1000 * statistics.median(pair.kept):,.1f} "
        f"| {1000 * pair.first:,.0f} | {pair.speedup:.2f} | {LEAST[pair.case]:g} |"
        for pair in pairs
    ]
    head = "| adapted blocks | before (ms) | kept (ms) | first epoch (ms) | times as fast | goal |"
    return [head, "|---|---|---|---|---|---|", *rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_small_patch14_dinov2")
    parser.add_argument("--img-size", type=int, default=56)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--record", action="store_true", help="write benchmarks/results/prefix.md")
    asked = parser.parse_args()
    backbone = {"name": asked.backbone, "weights": "random", "img_size": asked.img_size}
    pairs = []
    for pair in measure(backbone, epochs=asked.epochs, threads=asked.threads):
        pairs.append(pair)
        print(f"{pair.case}: {pair.speedup:.2f} times as fast", flush=True)
    lines = [
        f"# Training with the frozen part computed once: {asked.backbone}, {asked.img_size} pixels",
        "",
        f"Training part of an epoch of 200 digits, {asked.threads} threads, {asked.epochs} epochs of each in turn. In the first",
        "epoch the tokens of the training images are computed. Made by `python benchmarks/prefix.py --record`.",
        "",
        *table(pairs),
        "",
    ]
    print("\n".join(lines))
    if asked.record:
        (Path(__file__).parent / "results" / "prefix.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
