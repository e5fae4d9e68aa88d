"""Facts about a folder of images, before a study file names it: its layout, its counts, and how large the images are."""

from __future__ import annotations

import io
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as Picture

from trainables.data.decoded import digests
from trainables.data.layouts import listing
from trainables.data.listing import SPLITS, Listing

N_OPENED: Final = 100  # images whose size is read
N_COMPARED: Final = 20_000  # images; of more than these, only the search looks for the same bytes in two splits
FRACTIONS: Final = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}  # of splits that a data set does not declare


@dataclass(frozen=True)
class FirstLook:
    """Facts about a data set, before any image is decoded.

    Attributes:
        kind: Layout, a `data.kind`.
        n_images: Number of images of each split; splits that the data set does not declare are drawn.
        n_classes: Number of classes.
        smallest_class: Number of training images of the smallest class.
        side: Median of the shorter sides of some training images, in pixels; 0 if none can be read.
        draws_test: True if the data set declares no splits, so that its test split is a drawn fifth of the images.
        problems: Number of images that cannot be used: without a class, say, or with the bytes of an image of a later split.
        many_labels: True if an image has any number of labels.
    """

    kind: str
    n_images: Mapping[str, int]
    n_classes: int
    smallest_class: int
    side: int
    draws_test: bool
    problems: int
    many_labels: bool = False


def look(path: Path) -> FirstLook:
    """Find the layout of a folder, or of a Parquet file, and count.

    Raises:
        ValueError: If it holds no images in a layout that `trainables.data.layouts` reads.
    """
    kind = layout_of(path)
    if kind == "imagefolder" and (path / "images").is_dir() and (path / "masks").is_dir():
        raise ValueError(
            f"{path} has the folders images and masks: init writes no file for segmentation; docs/segmentation.md shows one"
        )
    found = listing(data := {"kind": kind, "path": str(path), **FRACTIONS})
    declared = listing(data | {"test_fraction": 0.0})
    train = found.splits["train"]
    has = found.targets(np.array([image.label for image in train]))
    counts = np.bincount(has) if found.sets is None else has.sum(0)
    few = replace(found, splits={"train": train[:: max(1, len(train) // N_OPENED)][:N_OPENED]})
    sides = [side for data in few.read("train") if data is not None and (side := _side(data)) is not None]
    return FirstLook(
        kind=kind,
        n_images={split: len(images) for split, images in found.splits.items()},
        n_classes=len(found.classes),
        smallest_class=int(counts[counts > 0].min()),
        side=round(statistics.median(sides)) if sides else 0,
        draws_test="test" in found.splits and "test" not in declared.splits,
        problems=len(found.problems) + _in_later_splits(found),
        many_labels=found.sets is not None,
    )


def _in_later_splits(found: Listing) -> int:
    """Return how many images have the same bytes as one of a later split; 0 if there are too many images to look."""
    if sum(map(len, found.splits.values())) > N_COMPARED:
        return 0
    seen: set[bytes] = set()
    n_twice = 0
    for split in reversed(SPLITS):
        if split in found.splits:
            own = [row.tobytes() for row in digests(found, split)]
            n_twice += sum(digest in seen for digest in own)
            seen.update(own)
    return n_twice


def layout_of(path: Path) -> str:
    """Return the `data.kind` of a folder or file, from the files that mark it."""
    if path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet"))):
        return "parquet"
    if (path / "train800.txt").is_file():
        return "vtab"
    return "fgvc" if (path / "train.json").is_file() else "imagefolder"


def _side(data: bytes) -> int | None:
    try:
        with Picture.open(io.BytesIO(data)) as picture:
            return min(picture.size)
    except (OSError, ValueError, SyntaxError, Picture.DecompressionBombError):
        return None
