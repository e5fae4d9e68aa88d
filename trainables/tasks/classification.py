"""Classes of whole images: one for each image, or any number of labels. The head is timm's linear classifier."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from trainables import backbones
from trainables.tasks.base import EVAL_BATCH, Answers


class _Classification:
    """The parts that both kinds of labels share."""

    eval_batch = EVAL_BATCH
    formats = ("adapter", "merged", "peft", "onnx")

    def set_head(self, model: nn.Module, n_classes: int, generator: torch.Generator, init: str = "trunc_normal") -> None:
        """Add a linear classifier."""
        backbones.set_head(model, n_classes, generator, init)

    def remove_head(self, model: nn.Module) -> None:
        """Remove the classifier."""
        backbones.remove_head(model)

    def no_labels(self, n_images: int, size: tuple[int, int], device: torch.device) -> Tensor:
        """Return the first class for each image."""
        return torch.zeros(n_images, dtype=torch.long, device=device)

    def keep(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Keep the logits (n, classes)."""
        return logits


class OneLabel(_Classification):
    """One class for each image: labels (n,) int64, cross-entropy, accuracy."""

    name = "classification"
    metric = "top1"

    def class_weights(self, labels: Tensor, n_classes: int) -> Tensor:
        """Return n / (C n_c), as scikit-learn's `balanced`.

        C counts the classes that occur. The weights of all n images sum to n; a class without images has weight 0.
        """
        counts = torch.bincount(labels, minlength=n_classes)
        return torch.where(counts > 0, len(labels) / (counts.clamp(min=1) * (counts > 0).sum()), 0.0).float()

    def loss(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the cross-entropy of each image, smoothed labels included, times the weight of its class; summed, over n_images.

        So an epoch's mean is that of equally common classes if the weights are balanced.
        """
        if weights is None:
            return F.cross_entropy(logits, labels, label_smoothing=label_smoothing) * (len(labels) / n_images)
        losses = F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
        return (losses * weights[labels]).sum() / n_images

    def loss_in_split(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the same, summed before it is divided."""
        if weights is not None:
            return self.loss(logits, labels, n_images, label_smoothing, weights)
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="sum") / n_images

    def scores(self, kept: Tensor, labels: Tensor) -> dict[str, float]:
        """Return accuracy and loss."""
        accuracy = (kept.argmax(-1) == labels).double().mean().item()
        return {"top1": accuracy, "loss": F.cross_entropy(kept, labels).item()}

    def correct(self, kept: Tensor, labels: Tensor) -> NDArray[np.bool_]:
        """Return whether the most probable class is the image's."""
        found: NDArray[np.bool_] = (kept.argmax(-1) == labels).cpu().numpy()
        return found

    def answers(self, kept: Tensor, labels: Tensor) -> Answers:
        """Return probabilities (n, classes) and labels."""
        return self.probabilities(kept.double()).cpu().numpy(), labels.long().cpu().numpy()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return probabilities whose rows sum to one."""
        return logits.softmax(-1)

    def images_of_classes(self, labels: Tensor, n_classes: int) -> list[int]:
        """Count the images of each class."""
        return [int(n) for n in torch.bincount(labels, minlength=n_classes)]


class ManyLabels(_Classification):
    """Any number of labels for each image: labels (n, classes) float32, 1 for each that it has; binary cross-entropies."""

    name = "multilabel"
    metric = "map"

    def class_weights(self, labels: Tensor, n_classes: int) -> Tensor:
        """Refuse: an image has no one class."""
        raise ValueError("balanced needs one label for each image, and these have any number; use none")

    def loss(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Return the mean over classes of the binary cross-entropy, each aim moved towards one half by the smoothing."""
        aims = labels * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, aims) * (len(labels) / n_images)

    loss_in_split = loss

    def scores(self, kept: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the loss; there is no accuracy."""
        return {"loss": self.loss(kept, labels, len(labels)).item()}

    def correct(self, kept: Tensor, labels: Tensor) -> None:
        """Return None: some labels of an image may be right."""
        return

    def answers(self, kept: Tensor, labels: Tensor) -> Answers:
        """Return probabilities and labels, (n, classes) each."""
        return self.probabilities(kept.double()).cpu().numpy(), labels.long().cpu().numpy()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each label."""
        return logits.sigmoid()

    def images_of_classes(self, labels: Tensor, n_classes: int) -> list[int]:
        """Count the images with each label."""
        return [int(n) for n in labels.sum(0)]


ONE_LABEL: Final = OneLabel()
MANY_LABELS: Final = ManyLabels()
