"""The validation images of a study, on which an export is measured and checked before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainables import data
from trainables.backbones import Preprocessing
from trainables.tasks import quality
from trainables.tasks.base import Task


@dataclass(frozen=True)
class Validation:
    """The validation split and its normalisation.

    Attributes:
        split: The images (n, channels, height, width) uint8, and their labels.
        normalise: Conversion of a batch of them into the backbone's input.
        task: Task of the labels.
    """

    split: data.Split
    normalise: data.Normaliser
    task: Task

    @property
    def metric(self) -> str:
        """The metric that `accuracy` is: `top1`, or `map` if an image has any number of labels."""
        return self.task.metric

    def accuracy(self, model: nn.Module) -> float:
        """Return the accuracy of a model in eval mode, in [0, 1]."""
        with torch.inference_mode():
            logits = torch.cat([model(self.normalise(images)) for images in self.split.batches(self.task.eval_batch)])
        probabilities = self.task.probabilities(logits)
        return quality.measure(self.metric, probabilities.numpy(), self.split.labels.numpy())

    def pixels(self, n: int) -> Tensor:
        """Return n images, evenly spaced over the split, or all of them if they are fewer; (n, ...) uint8."""
        index = torch.linspace(0, len(self.split) - 1, min(n, len(self.split))).long()
        return self.split.take(index)


def validation(section: Mapping[str, Any], wanted: Preprocessing) -> Validation:
    """Load the validation split of a data section at the backbone's size.

    Raises:
        ValueError: If the data set is unusable, or is not there any more.
    """
    split = data.load(section, wanted, ("validation",))["validation"]
    return Validation(split, data.Normaliser(wanted, torch.device("cpu")), data.task_of(section))
