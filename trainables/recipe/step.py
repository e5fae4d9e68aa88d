"""The forward and backward pass of one training step: the precision of each part, and batches processed in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from trainables.adapters import regulariser
from trainables.recipe.recipe import Recipe
from trainables.tasks.base import Task
from trainables.tasks.classification import ONE_LABEL


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


def backward(
    model: nn.Module,
    parts: Iterable[tuple[Tensor, Tensor]],
    n_images: int,
    recipe: Recipe,
    forward: Forward | None = None,
    *,
    task: Task = ONE_LABEL,
    weights: Tensor | None = None,
) -> Tensor:
    """Accumulate the gradient of a batch's loss (the task's, plus the method's regulariser once), part by part.

    Args:
        model: Adapted model in training mode.
        parts: Pairs (inputs of `forward`, labels), one for each part of the batch; one part at a time is in memory.
        n_images: Number of images in the full batch.
        recipe: Recipe; only label smoothing and precision are used.
        forward: The `forward` argument of `logits`.
        task: The task.
        weights: The `weights` argument of the task's loss.

    Returns:
        The loss of the batch, a scalar without a graph.
    """
    total: Tensor | None = None
    for inputs, labels in parts:
        found = logits(model, inputs, recipe.precision, forward)
        loss = task.loss(found, labels, n_images, recipe.label_smoothing, weights)
        if total is None and (extra := regulariser(model)) is not None:
            loss = loss + extra
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    if total is None:
        raise ValueError("a batch must have at least one part; got none")
    return total
