"""The packaged data sets, which need no file of the user's: `digits`, `emoji` and `scenes`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.backbones import Preprocessing
from trainables.data.digits import DIGITS_SPLIT, digits, digits_split
from trainables.data.emoji import EMOJI_SETS, EMOJI_SPLIT, emoji, emoji_groups, emoji_split
from trainables.data.scenes import SCENE_CLASSES, SCENES_SPLIT, scenes, scenes_split
from trainables.tasks.base import Task
from trainables.tasks.classification import ONE_LABEL
from trainables.tasks.segmentation import SEGMENTATION


@dataclass(frozen=True)
class Packaged:
    """A data set in the package.

    Attributes:
        sizes: Number of images by split.
        classes: Names of the classes, in the order of their labels.
        images: Function that loads all images (n, channels, height, width) uint8, and labels (n,) int64; or masks (n, height,
            width) uint8.
        split: Function that returns the indices of each split.
        groups: Function that returns the group of each image, which stays in one fold; None if an image has none but its own.
        task: Task of the labels.
    """

    sizes: Mapping[str, int]
    classes: tuple[str, ...]
    images: Callable[[], tuple[Tensor, Tensor]]
    split: Callable[[], dict[str, Tensor]]
    groups: Callable[[], list[str]] | None = None
    task: Task = ONE_LABEL

    def pool(self) -> Tensor:
        """Return the indices of training and validation images, which folds divide."""
        order = self.split()
        return torch.cat([order["train"], order["validation"]]).sort().values


PACKAGED: Final = {
    "digits": Packaged(DIGITS_SPLIT, tuple(str(digit) for digit in range(10)), digits, digits_split),
    "emoji": Packaged(EMOJI_SPLIT, EMOJI_SETS, emoji, emoji_split, emoji_groups),
    "scenes": Packaged(SCENES_SPLIT, SCENE_CLASSES, scenes, scenes_split, task=SEGMENTATION),
}


def resize_masks(masks: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize masks (n, h, w) to the backbone's size by nearest neighbour."""
    if masks.shape[-2:] == preprocessing.size:
        return masks
    return F.interpolate(masks[:, None].float(), preprocessing.size, mode="nearest-exact")[:, 0].to(masks.dtype)


def resize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Resize uint8 images (n, 1 or 3, h, w) to the backbone's size and number of channels."""
    if images.shape[-2:] != preprocessing.size:
        smooth = preprocessing.interpolation in ("bilinear", "bicubic")
        resized = F.interpolate(images.float(), preprocessing.size, mode=preprocessing.interpolation, antialias=smooth)
        images = resized.round().clamp(0, 255).to(torch.uint8)
    if images.shape[1] == preprocessing.channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, preprocessing.channels, -1, -1).contiguous()
    raise ValueError(
        f"images of {images.shape[1]} channels do not fit a backbone of {preprocessing.channels}; use another backbone"
    )
