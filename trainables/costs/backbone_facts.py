"""Facts about a backbone before its weights are read: its image size, its patches, and which methods fit it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from timm.models.vision_transformer import VisionTransformer

from trainables import backbones
from trainables.adapters import METHODS, adapt, remove, supported_blocks


@dataclass(frozen=True)
class BackboneFacts:
    """Facts about a backbone.

    Attributes:
        name: Name in timm.
        weights: File or folder of its weights; None for its own.
        is_downloaded: True if timm downloads its weights when it is first built with them.
        own_size: Height of the images for which it was made, in pixels.
        patch: Height of a patch; None if its images have one size only.
        n_params: Number of its parameters.
        methods: Names of the methods that fit it with their defaults, in the order in which they were asked for.
    """

    name: str
    weights: str | None
    is_downloaded: bool
    own_size: int
    patch: int | None
    n_params: int
    methods: tuple[str, ...]


def backbone_facts(name: str, weights: str | None, methods: Sequence[str]) -> BackboneFacts:
    """Build a backbone on torch's meta device, and try methods on it.

    Args:
        name: The `name` of a backbone, see `trainables.backbones.create`.
        weights: Weights of the backbone, as a study file names them; of a file nothing is read, of a folder only its description.
        methods: Names of methods to try.

    Raises:
        ValueError: If there is no such backbone, or adapters do not support it.
    """
    model: Any = backbones.create(name, weights, device="meta")
    supported_blocks(model)
    fitting = []
    for method in methods:
        with suppress(ValueError):
            adapt(model, METHODS[method]())
            remove(model)
            fitting.append(method)
    height, width = backbones.preprocessing(model).size
    resizable = type(model) is VisionTransformer and height == width
    n_params = sum(parameter.numel() for parameter in model.parameters())
    return BackboneFacts(
        name=name,
        weights=weights,
        is_downloaded=weights is None and name not in backbones.OURS,
        own_size=height,
        patch=int(model.patch_embed.patch_size[0]) if resizable else None,
        n_params=n_params,
        methods=tuple(fitting),
    )
