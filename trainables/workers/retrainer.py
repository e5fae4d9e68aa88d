"""Final training: a configuration, chosen on the validation split, retrained on train and validation together and tested once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.folder import Folder
from trainables.imports import large_imports


@dataclass(frozen=True)
class Final:
    """What one retrained model did.

    Attributes:
        correct: Which test images it gets right, (n,) bool, in the order of the split.
        metrics: `test/top1` (fraction), `test/loss` (cross-entropy), `train/loss` and `cost/*` of the last epoch.
    """

    correct: NDArray[np.bool_]
    metrics: dict[str, float]


class Retrainer:
    """One per worker: frozen backbone and decoded data, loaded once.

    Args:
        backbone: As of `trainables.make`.
        data: As of `trainables.make`; with a test split.
        recipe: As of `trainables.make`.

    Raises:
        ValueError: As `trainables.make`; and a data set without a test split.
    """

    def __init__(self, backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        if data.get("kind") == "synthetic":
            raise ValueError("a synthetic surface has no test split; there is nothing to retrain")
        with large_imports():
            from trainables.training.trial import AdapterWorker

            self._trial = AdapterWorker(backbone, data, recipe, final=True)

    def __call__(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder) -> Final:
        """Train a configuration to its last epoch, from the checkpoint in `folder` if there is one, and meet the test split.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        trial = self._trial
        done = trial.start(config, seed=seed, epochs=epochs, folder=folder)
        metrics = trial.replay() or {}
        for _ in range(done, epochs):
            metrics = trial.step()
        correct, loss = trial.correct("test")
        found = correct.cpu().numpy()
        trial.finish()
        return Final(found, {"test/top1": float(found.mean()), "test/loss": loss, **metrics})
