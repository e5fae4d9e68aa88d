"""The final training: a configuration chosen on the validation split is retrained on train and validation, and tested once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trainables import refuse_untestable
from trainables.folder import Folder
from trainables.imports import large_imports
from trainables.tasks.quality import Answers

if TYPE_CHECKING:
    from trainables.training.trial import AdapterWorker


@dataclass(frozen=True)
class Final:
    """The result of one retraining.

    Attributes:
        correct: Correctness of the prediction on each test image, (n,) bool, in the order of the split; None if images have any
            number of labels.
        answers: Probabilities (n, classes) and labels of the test images, if the study is not judged by accuracy; else None.
        metrics: Metrics `test/top1` (fraction), `test/loss` (cross-entropy), the study's own as `test/NAME`, and `train/loss` and
            `cost/*` of the last epoch.
    """

    correct: NDArray[np.bool_] | None
    metrics: dict[str, float]
    answers: Answers | None = None


class Retrainer:
    """The retraining of one worker: frozen backbone and decoded data, loaded once, by `load` or the first call.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        data: The `data` argument of `trainables.make`, with a test split.
        recipe: The `recipe` argument of `trainables.make`.
        methods: The `methods` argument of `trainables.make`.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        data: Mapping[str, Any],
        recipe: Mapping[str, Any],
        methods: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._arguments = backbone, data, recipe, methods
        self._trial: AdapterWorker | None = None

    def load(self) -> AdapterWorker:
        """Load backbone and data. It is no part of the constructor, because Ray hides the type of what a constructor raises.

        Raises:
            Changed: If one of them is not what it was when the study began; a ValueError.
            ValueError: If `trainables.make` raises it, or the data set has no test split.
        """
        if self._trial is None:
            refuse_untestable(self._arguments[1])
            with large_imports():
                from trainables.training.trial import AdapterWorker

                self._trial = AdapterWorker(*self._arguments, final=True)
        return self._trial

    def __call__(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder) -> Final:
        """Train a configuration to its last epoch, resuming from the checkpoint in `folder` if there is one, and test it.

        Raises:
            FloatingPointError: If the loss is not finite.
            ValueError: If `load` raises it.
        """
        trial = self.load()
        done = trial.start(config, seed=seed, epochs=epochs, folder=folder)
        metrics = trial.replay() or {}
        for _ in range(done, epochs):
            metrics = trial.step()
        tested, correct, answers = trial.test()
        trial.finish()
        return Final(correct, {**tested, **metrics}, answers)
