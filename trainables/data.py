"""Data sets as uint8 tensors, decoded once per worker.

What a study's `data` may be:

    {"kind": "digits"}                   scikit-learn's 1,797 handwritten digits, 200 train / 800 validation / 797 test
    {"kind": "none", "n_classes": C}     no images: for counting parameters
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trainables.adapters import near
from trainables.backbones import Preprocessing

KINDS: Final = ("digits", "none", "synthetic")
DIGITS_SPLIT: Final = {"train": 200, "validation": 800, "test": 797}


@dataclass(frozen=True)
class Split:
    """Images (n, channels, height, width) uint8 and labels (n,) int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> Split:
        """The same images on a device."""
        return Split(self.images.to(device), self.labels.to(device))


def n_classes(data: Mapping[str, Any]) -> int:
    """Number of classes of a data set, without decoding it.

    Raises:
        ValueError: An unknown kind, or a kind without its keys.
    """
    kind = data.get("kind")
    if kind == "digits":
        return 10
    if kind == "none":
        count = data.get("n_classes")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f'data.n_classes must be a positive whole number with data.kind "none"; got {count!r}')
        return count
    raise ValueError(f"data.kind must be one of {', '.join(KINDS)}; got {kind!r}{near(str(kind), KINDS)}")


def class_names(data: Mapping[str, Any]) -> list[str] | None:
    """What the classes are called, in the order of their labels; None if the data set has no names for them."""
    return [str(digit) for digit in range(10)] if data.get("kind") == "digits" else None


def load(
    data: Mapping[str, Any], preprocessing: Preprocessing, splits: Sequence[str] = ("train", "validation")
) -> dict[str, Split]:
    """The named splits, resized to the backbone's input. A search never names "test".

    Raises:
        ValueError: An unknown kind or split, or a kind without images.
    """
    n_classes(data)
    if data["kind"] != "digits":
        raise ValueError(f"data.kind {data['kind']!r} has no images to train on; use one of digits")
    if unknown := set(splits) - DIGITS_SPLIT.keys():
        raise ValueError(f"splits are {', '.join(DIGITS_SPLIT)}; got {sorted(unknown)}")
    images, labels = _digits()
    order = digits_split()
    return {name: Split(resize(images[order[name]], preprocessing), labels[order[name]]) for name in splits}


@cache
def _digits() -> tuple[Tensor, Tensor]:
    """All 1,797 digits: images (n, 1, 8, 8) uint8, white ink on black, and labels (n,) int64.

    The packaged file holds `sklearn.datasets.load_digits()`, grey levels 0 to 16, in its order (a test compares them); importing
    scikit-learn would take every worker a second. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI
    Machine Learning Repository, 1998 (CC BY 4.0), its test part.
    """
    with np.load(Path(__file__).parent / "digits.npz", allow_pickle=False) as file:
        grey = np.rint(file["images"] * (255 / 16)).astype(np.uint8)
        return torch.from_numpy(grey)[:, None], torch.from_numpy(file["labels"].astype(np.int64))


@cache
def digits_split() -> dict[str, Tensor]:
    """Indices of each split into scikit-learn's order: stratified, disjoint, and a function of the labels alone.

    Within each class images are ordered by a hash of their index; how many of each class a split gets is apportioned by largest
    remainders. Neither depends on a library's random numbers.
    """
    labels = _digits()[1].numpy()
    by_class = [sorted(np.flatnonzero(labels == c).tolist(), key=_digest) for c in range(10)]
    left, split = [len(members) for members in by_class], {}
    for name, size in DIGITS_SPLIT.items():
        taken = apportion(size, left)
        split[name] = torch.tensor(sorted(members.pop() for members, n in zip(by_class, taken, strict=True) for _ in range(n)))
        left = [len(members) for members in by_class]
    return split


def _digest(index: int) -> bytes:
    return hashlib.sha256(f"digits {index}".encode()).digest()


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `weights`, by largest remainders; ties go to the first."""
    exact = [total * w for w in weights]
    shares = [e // sum(weights) for e in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(exact[i] % sum(weights)), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def resize(images: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Brings uint8 images (n, 1 or 3, h, w) to the backbone's size and number of channels."""
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


class Normaliser:
    """uint8 images to what the backbone takes: (pixel / 255 - mean) / std, in float32."""

    def __init__(self, preprocessing: Preprocessing, device: torch.device) -> None:
        mean = torch.tensor(preprocessing.mean[: preprocessing.channels], device=device)
        std = torch.tensor(preprocessing.std[: preprocessing.channels], device=device)
        self.scale = (1 / (255 * std)).view(-1, 1, 1)
        self.shift = (-mean / std).view(-1, 1, 1)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) uint8 -> the same shape, float32."""
        return torch.addcmul(self.shift, images, self.scale)
