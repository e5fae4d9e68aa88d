"""The packaged data set: scikit-learn's 1,797 handwritten digits, 200 train / 800 validation / 797 test."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from trainables.data.listing import apportion

DIGITS_SPLIT: Final = {"train": 200, "validation": 800, "test": 797}


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Load all 1,797 digits: images (n, 1, 8, 8) uint8, white ink on black, and labels (n,) int64.

    The packaged file holds `sklearn.datasets.load_digits()`, grey levels 0 to 16, in its order (a test compares them); importing
    scikit-learn would take every worker a second. Source: Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI
    Machine Learning Repository, 1998 (CC BY 4.0), its test part.
    """
    with np.load(Path(__file__).parent / "digits.npz", allow_pickle=False) as file:
        grey = np.rint(file["images"] * (255 / 16)).astype(np.uint8)
        return torch.from_numpy(grey)[:, None], torch.from_numpy(file["labels"].astype(np.int64))


@cache
def digits_split() -> dict[str, Tensor]:
    """Return the indices of each split into scikit-learn's order: stratified, disjoint, and a function of the labels alone.

    Within each class, images are ordered by a hash of their index. The number of images of each class in a split is apportioned by
    largest remainders. Neither depends on a library's random numbers.
    """
    labels = digits()[1].numpy()
    by_class = [sorted(np.flatnonzero(labels == c).tolist(), key=_digest) for c in range(10)]
    left, split = [len(members) for members in by_class], {}
    for name, size in DIGITS_SPLIT.items():
        taken = apportion(size, left)
        split[name] = torch.tensor(sorted(members.pop() for members, n in zip(by_class, taken, strict=True) for _ in range(n)))
        left = [len(members) for members in by_class]
    return split


def _digest(index: int) -> bytes:
    return hashlib.sha256(f"digits {index}".encode()).digest()
