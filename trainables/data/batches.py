"""The decoded images of a split in batches: augmented, normalised, and on the training device."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from trainables.backbones import Preprocessing

SHARE_OF_DEVICE: Final = 0.25  # largest fraction of an accelerator's free memory for one split; a larger split stays on the host


@dataclass(frozen=True)
class Split:
    """The images and labels of one split.

    Attributes:
        images: Array (n, channels, height, width) uint8; on the host it may be a memory-mapped file. The images are larger than
            `size` if training crops them.
        labels: Array (n,) int64, on the training device; or (n, classes) float32, 1 for each label of an image, if it has any
            number of them.
        size: Pair (height, width) that the backbone takes.
        augment: Augmentation that `take` applies for training: "none", "flip" (mirror with probability 1/2) or "crop" (a random
            crop of `size`, and mirror). METHODS: "crop" is ARC's for FGVC, applied to the central square.
        digest: Digest of the images, in their order; None if they have no name that another process could know.
        rows: Rows (n,) of `images` that are the split's, on the host; None for all of them.
    """

    images: Tensor
    labels: Tensor
    size: tuple[int, int]
    augment: str = "none"
    digest: str | None = None
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def of_rows(self, rows: Tensor, *, augmented: bool) -> Split:
        """Return some of the images, which are not copied, as another split; only training images are augmented."""
        digest = None if self.digest is None else hashlib.sha256(self.digest.encode() + rows.numpy().tobytes()).hexdigest()
        augment = self.augment if augmented else "none"
        return replace(self, labels=self.labels[rows], augment=augment, digest=digest, rows=rows)

    def to(self, device: torch.device) -> Split:
        """Move the split to a device for training: upload it as a whole if it fits its share of the memory, else per batch."""
        images, rows = self.images, self.rows
        n_bytes = len(self) * images[:1].nbytes
        if device.type == "cuda" and n_bytes <= SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
            images, rows = (images if rows is None else images[rows]).to(device), None
        return replace(self, images=images, labels=self.labels.to(device), rows=rows)

    def take(self, index: Tensor) -> Tensor:
        """Return the augmented images of a training batch, (len(index), channels, height, width) uint8, on the labels' device.

        Random numbers come from torch's default generator on the CPU.
        """
        return _augmented(self._at(index), self.size, self.augment)

    @property
    def targets(self) -> Tensor:
        """The labels of the images that `batches` yields."""
        return self.labels

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the augmented images of a training batch, as `take` does, and their labels."""
        return self.take(index), self.labels.index_select(0, index)

    def labels_of(self, rows: Tensor) -> Tensor:
        """Return the labels of rows that `draw` has returned."""
        return self.labels.index_select(0, rows % len(self))

    def draw(self, index: Tensor) -> Tensor:
        """Return the rows that `take` would return, in a tensor of all images followed by all mirrored ones; it draws the same.

        Raises:
            ValueError: If images are cropped at random, which has no rows.
        """
        if self.augment == "crop":
            raise ValueError("random crops are no rows of a tensor; take the images themselves")
        return index + len(self) * _mirrored(len(index), index.device) if self.augment == "flip" else index

    def batches(self, size: int, *, mirrored: bool = False) -> Iterator[Tensor]:
        """Yield all images in order, without augmentation, in batches of at most `size`; or all of them mirrored."""
        for first in range(0, len(self), size):
            images = _middle(self._at(slice(first, first + size)), self.size)
            yield images.flip(-1) if mirrored else images

    def _at(self, index: Tensor | slice) -> Tensor:
        if self.rows is not None:
            index = self.rows[index] if isinstance(index, slice) else self.rows[index.cpu()]
        return rows_of(self.images, index, self.labels.device)


class MaskedSplit(Split):
    """The images of one split and their masks, (n, height, width) uint8 of the images' size; both are augmented alike."""

    @property
    def targets(self) -> Tensor:
        """The masks of the images that `batches` yields."""
        return _middle(self.labels, self.size)

    def pairs(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images and masks of a training batch, augmented as one."""
        masks = self.labels.index_select(0, index)
        together = _augmented(torch.cat([self._at(index), masks[:, None]], 1), self.size, self.augment)
        return together[:, :-1], together[:, -1]

    def labels_of(self, rows: Tensor) -> Tensor:
        """Return the masks of rows that `draw` has returned."""
        masks = super().labels_of(rows)
        return torch.where((rows >= len(self))[:, None, None], masks.flip(-1), masks)


def rows_of(tensor: Tensor, index: Tensor | slice, device: torch.device) -> Tensor:
    """Return rows of a tensor on a device; the tensor is there already, or on the host, where it may be a mapped file."""
    if tensor.device == device:
        return tensor[index] if isinstance(index, slice) else tensor.index_select(0, index)
    found = tensor[index] if isinstance(index, slice) else tensor.index_select(0, index.cpu())
    return found.pin_memory().to(device, non_blocking=True)


def _augmented(images: Tensor, size: tuple[int, int], how: str) -> Tensor:
    if how == "none":
        return _middle(images, size)
    n, device = len(images), images.device
    if how == "crop":
        room = [have - want + 1 for have, want in zip(images.shape[-2:], size, strict=True)]
        corners = [torch.randint(extent, (n, 1)).to(device) for extent in room]
        rows, columns = (corner + torch.arange(want, device=device) for corner, want in zip(corners, size, strict=True))
        every = torch.arange(n, device=device)[:, None, None, None]
        channels = torch.arange(images.shape[1], device=device)[None, :, None, None]
        images = images[every, channels, rows[:, None, :, None], columns[:, None, None, :]]
    return torch.where(_mirrored(n, device)[:, None, None, None], images.flip(-1), images)


def _mirrored(n: int, device: torch.device) -> Tensor:
    return (torch.rand(n) < 0.5).to(device)


def _middle(images: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = ((have - want) // 2 for have, want in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]


class Normaliser:
    """The conversion of uint8 images into a backbone's input: (pixel / 255 - mean) / std, in float32."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        mean = torch.tensor(preprocessing.mean[: preprocessing.channels], device=device)
        std = torch.tensor(preprocessing.std[: preprocessing.channels], device=device)
        self.scale = (1 / (255 * std)).view(-1, 1, 1)
        self.shift = (-mean / std).view(-1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise (n, channels, height, width) uint8 images into float32 of the same shape."""
        return torch.addcmul(self.shift, images, self.scale)
