"""The final training: a configuration chosen on the validation split is retrained on train and validation, and tested once."""

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
    """The result of one retraining.

    Attributes:
        correct: Correctness of the prediction on each test image, (n,) bool, in the order of the split.
        metrics: Metrics `test/top1` (fraction), `test/loss` (cross-entropy), and `train/loss` and `cost/*` of the last epoch.
    """

    correct: NDArray[np.bool_]
    metrics: dict[str, float]


class Retrainer:
    """The retraining of one worker: frozen backbone and decoded data, loaded once.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        data: The `data` argument of `trainables.make`, with a test split.
        recipe: The `recipe` argument of `trainables.make`.

    Raises:
        ValueError: If `trainables.make` raises it, or the data set has no test split.
    """

    def __init__(self, backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
        if data.get("kind") == "synthetic":
            raise ValueError("a synthetic surface has no test split; there is nothing to retrain")
        with large_imports():
            from trainables.training.trial import AdapterWorker

            self._trial = AdapterWorker(backbone, data, recipe, final=True)

    def __call__(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder) -> Final:
        """Train a configuration to its last epoch, resuming from the checkpoint in `folder` if there is one, and test it.

        Raises:
            FloatingPointError: If the loss is not finite.
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
