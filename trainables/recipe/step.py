"""One training step's forward and backward pass: which part runs in which precision, and a batch taken in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters import regulariser
from trainables.recipe.recipe import Recipe

Features = Callable[[Tensor], Tensor]  # images -> what the classification head reads


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Where float32 operations that gain from it run in bfloat16, if that is the precision."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def logits(
    model: nn.Module, images: Tensor, precision: str, features: Features | None = None
) -> Tensor:  # (B, C, H, W) -> (B, classes)
    """The model's answer. With `bfloat16` everything up to the head runs under autocast; the head is always float32.

    Args:
        model: Any backbone of timm, adapted or not.
        images: Normalised.
        precision: `float32` (or whatever the weights are) or `bfloat16`.
        features: `model.forward_features`, compiled; None for the plain one.
    """
    vit = cast(VisionTransformer, model)
    features = vit.forward_features if features is None else features
    with autocast(images.device, precision):
        found = features(images)
    return cast(Tensor, vit.forward_head(found.float() if precision == "bfloat16" else found))


def backward(
    model: nn.Module,
    parts: Iterable[tuple[Tensor, Tensor]],
    n_images: int,
    recipe: Recipe,
    features: Features | None = None,
) -> Tensor:
    """Adds the gradient of a batch's loss (mean cross-entropy, plus the method's regulariser once), part by part.

    Args:
        model: The adapted model, in training mode.
        parts: (normalised images, labels) of each part of the batch; one part at a time is in memory.
        n_images: Of the whole batch.
        recipe: Its label smoothing and precision count.
        features: As of `logits`.

    Returns:
        The loss of the batch, a scalar without a graph.
    """
    total: Tensor | None = None
    for images, labels in parts:
        found = logits(model, images, recipe.precision, features)
        loss = F.cross_entropy(found, labels, label_smoothing=recipe.label_smoothing) * (len(labels) / n_images)
        if total is None and (extra := regulariser(model)) is not None:
            loss = loss + extra
        loss.backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    if total is None:
        raise ValueError("a batch has at least one part; got none")
    return total
