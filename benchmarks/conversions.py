"""The sizes and losses of conversions to LoRA: each method that merges, trained shortly on the packaged emoji, exported for PEFT.

    python benchmarks/conversions.py [--epochs 6] [--record]

Each method has the defaults of its space and the packaged study's recipe. It is trained once, and exported with the smallest rank
that loses at most 0.2 points of validation accuracy, and with the rank of its whole update. `--record` writes
`benchmarks/results/conversions.md`.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

from search.config.loading import check
from trainables import make, measure
from trainables.adapters import METHODS
from trainables.export.adapter import Exporter, Form, Rank

PAGE = Path(__file__).parent / "results" / "conversions.md"
BACKBONE, DATA = {"name": "vit_emoji"}, {"kind": "emoji"}
FIXED = {"optim.lr": 0.005, "optim.weight_decay": 0.0001, "optim.batch_size": 32, "recipe.drop_path": 0.0}
HEADER = f"""# LoRA in the place of other methods

`vit_emoji` on the packaged emoji (1,200 images to train, 1,000 to validate), {{epochs}} epochs, each
method with the defaults of its space and a learning rate of {FIXED["optim.lr"]}. Accuracy is
`val/top1` in percent; its standard error is about 1.5 points. "Own" is the file of the format
`paretune`, "LoRA" that of `peft`, both with the head. The rank is the smallest that loses at most
0.2 points; the full rank is the update's own. Made by `python benchmarks/conversions.py --record`.

| method | trained | own (kB) | accuracy | rank | loses (points) | LoRA (kB) | full rank | loses at it | at it (kB) | left out |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def rows(epochs: int, folder: Path) -> Iterator[str]:
    raw = {"study": "x", "backbone": BACKBONE, "data": DATA, "methods": list(METHODS), "budget": {"n_trials": 1, "epochs": epochs}}
    space = check(raw).joint_space()
    worker, sizes, exporter = make(BACKBONE, DATA, {"device": "cpu"}), measure(BACKBONE, DATA), Exporter(BACKBONE, DATA)
    for name in METHODS:
        config = {**space.default(name), **FIXED}
        if sizes.unmergeable(config) is not None:
            continue
        trial = folder / name
        worker.start(config, seed=0, epochs=epochs, folder=trial)
        for _ in range(epochs):
            metrics = worker.step()
        worker.finish()

        def export(form: Form, trial: Path = trial, config: dict[str, object] = config) -> tuple[dict[str, object], float]:
            to = trial / f"{form.name}-{form.rank.rank}"
            card = exporter.write(trial, to, config=config, seed=0, origin={}, form=form)
            return dict(card.conversion), (to / card.file).stat().st_size / 1000

        own = export(Form())[1]
        whole, largest = export(Form("peft", Rank(rank=10_000)))
        try:
            chosen, size = export(Form("peft", Rank(loses=0.2)))
            smallest = f"{chosen['rank']} | {lost(chosen):.1f} | {size:,.0f}"
        except ValueError:  # no rank loses so few points
            smallest = "none | | "
        trained, _ = sizes.count(config)
        top1 = 100 * metrics["val/top1"]
        yield (
            f"| {name} | {trained:,} | {own:,.0f} | {top1:.1f} | {smallest} | {whole['rank']} | {lost(whole):.1f} "
            f"| {largest:,.0f} | {', '.join(map(str, whole['left_out']))} |"  # type: ignore[call-overload]
        )


def lost(conversion: dict[str, object]) -> float:
    found = conversion["accuracy"]
    return round(found["loses_points"], 6) + 0.0 if isinstance(found, dict) else math.nan


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--epochs", type=int, default=6)
    words.add_argument("--record", action="store_true")
    asked = words.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = []
        for row in rows(asked.epochs, Path(temporary)):
            found.append(row)
            print(row, flush=True)
    if asked.record:
        PAGE.write_text(HEADER.format(epochs=asked.epochs) + "\n".join(found) + "\n")
