"""One image through the backbone with each adapter: what a study file promises is tried before anything starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainables import backbones
from trainables.adapters import adapt, method_of, remove, supported_blocks


def rehearse(
    backbone: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    *,
    on_done: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Build the backbone with its weights, and pass one image through it, plain and with each configuration's adapter.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        configs: Configurations to try; one whose method refuses it is left out.
        on_done: Callback that receives (tried models, all models).

    Raises:
        ValueError: If the backbone does not take images of its size, or its output or a configuration's is not finite.
    """
    name = backbone["name"]
    model = backbones.create(name, backbone.get("weights"), backbone.get("img_size"))
    supported_blocks(model)
    wanted = backbones.preprocessing(model)
    refuse_size(model, wanted.size)
    image = torch.rand(1, wanted.channels, *wanted.size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values[: wanted.channels]).view(-1, 1, 1) for values in (wanted.mean, wanted.std))
    image = (image - mean) / std
    if not _forward(model, image, name).isfinite().all():
        raise ValueError(
            f"backbone: {name} gives numbers that are not finite for an ordinary image: its weights "
            f"({backbone.get('weights') or 'its own'}) hold NaN or infinity; use other weights"
        )
    on_done(1, 1 + len(configs))
    for done, config in enumerate(configs, start=2):
        try:
            adapt(model, method_of(config))
        except ValueError:
            on_done(done, 1 + len(configs))
            continue
        try:
            if not _forward(model, image, name).isfinite().all():
                raise ValueError(f"methods: {config['method']} on {name} gives numbers that are not finite before it is trained")
        finally:
            remove(model)
        on_done(done, 1 + len(configs))


def refuse_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuse a size of images that patches do not divide: rows of pixels would be dropped.

    Raises:
        ValueError: If a side is no multiple of the patch's; the message has the nearest ones.
    """
    embed = getattr(model, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if patch is None or getattr(embed, "dynamic_img_pad", False):
        return
    for side, of_patch in zip(size, patch, strict=True):
        if side % of_patch:
            near = sorted({max(1, math.floor(side / of_patch)) * of_patch, math.ceil(side / of_patch) * of_patch})
            raise ValueError(
                f"backbone.img_size: {side} is no multiple of the patch size {of_patch}; nearest: {' or '.join(map(str, near))}"
            )


def _forward(model: nn.Module, image: torch.Tensor, name: str) -> torch.Tensor:
    try:
        with torch.no_grad():
            found: torch.Tensor = model(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = " x ".join(map(str, image.shape[-2:]))
        raise ValueError(
            f"backbone: {name} does not take an image of {size} pixels: {' '.join(str(error).split())[:200]}"
        ) from error
    return found
