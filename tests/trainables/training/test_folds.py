"""A run on another fold is a trial as any other: it trains on the other parts, resumes from its own file, and leaves no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from trainables import data, make
from trainables.folder import RunFolder
from trainables.training.trial import AdapterWorker

pytestmark = pytest.mark.slow

CONFIG: dict[str, Any] = {"method": "lora", "lora.rank": 2, "optim.lr": 3e-3, "optim.batch_size": 32, "recipe.drop_path": 0.2}
DATA = {"kind": "digits", "folds": 6, "seed": 0}


def quality(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if not key.startswith("cost/")}


def test_a_run_on_another_fold_is_cut_and_resumed_without_a_trace_in_the_first(tmp_path: Path) -> None:
    worker = make({"name": "vit_glyphs"}, DATA, {"device": "cpu", "prefix_cuts": [], "prefix_bytes": 0})
    assert isinstance(worker, AdapterWorker)
    folder = tmp_path / "trials" / "0001"

    def start(where: Path | RunFolder | None, fold: int) -> int:
        return worker.start(CONFIG, seed=7 + fold, epochs=2, folder=where, fold=fold)

    start(folder, 0)
    first = [quality(worker.step()), quality(worker.step())]
    kept = (folder / "checkpoint.safetensors").read_bytes()
    start(None, 3)
    whole = [quality(worker.step()), quality(worker.step())]
    wanted = data.load({**DATA, "fold": 3}, worker._wanted)
    assert torch.equal(worker._splits["validation"].labels, wanted["validation"].labels)
    assert whole != first
    start(RunFolder(folder, 2), 3)
    assert quality(worker.step()) == whole[0]
    worker.finish()
    start(None, 0)  # another trial in between
    assert start(RunFolder(folder, 2), 3) == 1
    assert quality(worker.replay() or {}) == whole[0]
    assert quality(worker.step()) == whole[1]
    assert (folder / "checkpoint.safetensors").read_bytes() == kept
    start(None, 0)
    assert quality(worker.step()) == first[0]
    worker.finish()
