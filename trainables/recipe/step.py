"""The forward and backward pass of one training step: the precision of each part, and batches processed in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters import regulariser
from trainables.recipe.recipe import Recipe


class Forward(NamedTuple):
    """A forward pass.

    Attributes:
        features: Function from images, or from tokens that are kept in front of a block, to the input of the head.
        head: Function from there to logits.
    """

    features: Callable[[Tensor], Tensor]
    head: Callable[[Tensor], Tensor]


def whole(model: nn.Module) -> Forward:
    """Return the whole forward pass of a timm model."""
    vit = cast(VisionTransformer, model)
    return Forward(vit.forward_features, vit.forward_head)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Return a context in which bfloat16 replaces float32 where it helps, if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def logits(model: nn.Module, inputs: Tensor, precision: str, forward: Forward | None = None) -> Tensor:  # -> (B, classes)
    """Compute the logits. With `bfloat16`, everything up to the head runs under autocast; the head is always float32.

    Args:
        model: Any timm backbone, adapted or not.
        inputs: Normalised images, (B, C, H, W), or what `forward` takes.
        precision: "bfloat16", or "float32" for the type of the weights.
        forward: The forward pass; None for the model's own.
    """
    features, head = forward or whole(model)
    with autocast(inputs.device, precision):
        found = features(inputs)
    return head(found.float() if precision == "bfloat16" else found)


def class_weights(labels: Tensor, n_classes: int) -> Tensor:
    """Return the weights (C,) with which every class counts the same: n / (C n_c), as scikit-learn's `balanced`.

    C counts the classes that occur. The weights of all n images sum to n; a class without images has weight 0.
    """
    counts = torch.bincount(labels, minlength=n_classes)
    return torch.where(counts > 0, len(labels) / (counts.clamp(min=1) * (counts > 0).sum()), 0.0).float()


def batch_loss(found: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None) -> Tensor:
    """Return the part of a batch's loss that some of its images have: the sum of their losses over the batch's images.

    The loss of an image is its cross-entropy, smoothed labels included, times the weight of its class. So it does not depend on
    which other images are in the batch or the part, and an epoch's mean is that of equally common classes. If images have any
    number of labels, it is the mean over classes of the binary cross-entropy, each aim moved towards one half by the smoothing.

    Args:
        found: Logits (b, classes).
        labels: Classes (b,), or 1 for each label (b, classes).
        n_images: Number of images in the full batch.
        label_smoothing: Probability mass moved from the true class to all.
        weights: Weight (classes,) of each class; None for 1.
    """
    if labels.ndim == 2:
        aims = labels * (1 - label_smoothing) + label_smoothing / 2
        return F.binary_cross_entropy_with_logits(found, aims) * (len(labels) / n_images)
    if weights is None:
        return F.cross_entropy(found, labels, label_smoothing=label_smoothing) * (len(labels) / n_images)
    losses = F.cross_entropy(found, labels, label_smoothing=label_smoothing, reduction="none")
    return (losses * weights[labels]).sum() / n_images


def backward(
    model: nn.Module,
    parts: Iterable[tuple[Tensor, Tensor]],
    n_images: int,
    recipe: Recipe,
    forward: Forward | None = None,
    *,
    weights: Tensor | None = None,
) -> Tensor:
    """Accumulate the gradient of a batch's loss (`batch_loss`, plus the method's regulariser once), part by part.

    Args:
        model: Adapted model in training mode.
        parts: Pairs (inputs of `forward`, labels), one for each part of the batch; one part at a time is in memory.
        n_images: Number of images in the full batch.
        recipe: Recipe; only label smoothing and precision are used.
        forward: The `forward` argument of `logits`.
        weights: The `weights` argument of `batch_loss`.

    Returns:
        The loss of the batch, a scalar without a graph.
    """
    total: Tensor | None = None
    for inputs, labels in parts:
        found = logits(model, inputs, recipe.precision, forward)
        loss = batch_loss(found, labels, n_images, recipe.label_smoothing, weights)
        if total is None and (extra := regulariser(model)) is not None:
            loss = loss + extra
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    if total is None:
        raise ValueError("a batch must have at least one part; got none")
    return total
