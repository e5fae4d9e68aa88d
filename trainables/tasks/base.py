"""The protocol of a task.

A *batch* has `n` images; its *logits* are what the model returns for it, and its *labels* what a split holds for it. What is *kept*
of the logits has one row for each image: it is all that the scores of a split need, so that no split's logits are in memory at once
where they are large.
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.tasks.quality import Answers

__all__ = ["EVAL_BATCH", "Answers", "Task"]

EVAL_BATCH: Final = 200  # images; affects only speed and memory, except with Lily's router "batch"


class Task(Protocol):
    """The question that a model answers about each image; an object without a state."""

    @property
    def name(self) -> str:
        """The name, a key of `search.metrics.TASKS`."""

    @property
    def metric(self) -> str:
        """The metric (`trainables.tasks.quality`) by which an export is compared with the trial."""

    @property
    def eval_batch(self) -> int:
        """The number of images of a batch in evaluation."""

    @property
    def formats(self) -> tuple[str, ...]:
        """The forms of `trainables.export.card.FILES` in which a model can be exported."""

    # -- the head ------------------------------------------------------------------------------------------------------------------

    def set_head(self, model: nn.Module, n_classes: int, generator: torch.Generator, init: str = "trunc_normal") -> None:
        """Add a new head to a backbone that has none; then the model returns logits.

        The head is the model's classifier: it is counted, trained and stored with the adapter, and operations and latency are those
        of the backbone, the adapter and the head for one image.

        Args:
            model: Backbone.
            n_classes: Number of classes.
            generator: CPU generator of the initial values.
            init: Initial values of the weights, see `trainables.backbones.set_head`.

        Raises:
            ValueError: If the backbone cannot have such a head.
        """

    def remove_head(self, model: nn.Module) -> None:
        """Remove the head: the model is the backbone again."""

    # -- the loss ------------------------------------------------------------------------------------------------------------------

    def no_labels(self, n_images: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return labels of a batch of images of this height and width, of no meaning, to count a step."""

    def class_weights(self, labels: Tensor, n_classes: int) -> Tensor:
        """Return the weights (n_classes,) with which every class counts the same in the loss of a split.

        Raises:
            ValueError: If the labels have no such weights.
        """

    def loss(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the part of a batch's loss that some of its images have: the sum of their losses over the batch's images.

        The loss of an image does not depend on which other images are in the batch or the part.

        Args:
            logits: Logits of these images.
            labels: Labels of these images.
            n_images: Number of images in the full batch.
            label_smoothing: Probability mass moved from the true class to all.
            weights: Weight (n_classes,) of each class; None for 1.
        """

    def loss_in_split(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the same for images of a split of n images, whose parts are summed."""

    # -- the metrics ---------------------------------------------------------------------------------------------------------------

    def keep(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return what is kept of a batch's logits, one row for each image."""

    def scores(self, kept: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the scores that every epoch reports for a split: `loss`, without smoothing or weights, and those by name."""

    def correct(self, kept: Tensor, labels: Tensor) -> NDArray[np.bool_] | None:
        """Return whether each answer is right (n,); None if an answer is more than right or wrong."""

    def answers(self, kept: Tensor, labels: Tensor) -> Answers:
        """Return what `trainables.tasks.quality.measure` takes."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probabilities of the classes, of the shape of the logits."""

    # -- the data ------------------------------------------------------------------------------------------------------------------

    def images_of_classes(self, labels: Tensor, n_classes: int) -> list[int]:
        """Return the number of images of a split that have each class."""
