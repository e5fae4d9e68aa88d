"""Data sets as uint8 images, decoded once per machine.

A study's `data` is one of:

    {"kind": "digits"}                   scikit-learn's 1,797 handwritten digits, packaged
    {"kind": "emoji"}                    3,356 emoji and who drew them, packaged
    {"kind": "scenes"}                   600 scenes of emoji on photographs, with masks, packaged
    {"kind": "imagefolder", "path": P}   and `vtab`, `fgvc`, `parquet`: images on a disk, see `trainables.data.layouts`
    {"kind": "masks", "path": P}         and `voc`, `ade20k`: images with masks, see `trainables.data.mask_layouts`
    {"kind": "none", "n_classes": C}     no images: for counting parameters

Images on a disk accept more keys: `on_problem` ("refuse" or "skip"), `resize` ("crop" or "squash"), `crop_fraction`,
`interpolation`, `augment` ("none", "flip", "crop"), `exif` ("ignore", "apply"), `background` (null, "black", "white"), `normalize`
("backbone", "imagenet", "none", or `mean` and `std`), and the keys of their layout. Training and validation images are one pool in
`folds` parts if it is given: part `fold` (0 by default) is the validation split then, and images of one `group` stay together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.adapters import near
from trainables.backbones import Preprocessing
from trainables.data import folds, layouts, pinned
from trainables.data.batches import MaskedSplit, Normaliser, Split
from trainables.data.decoded import Decoded, Progress, decoded
from trainables.data.files import digest_of, from_files, list_images, list_pool, look_again, parts, transform_for
from trainables.data.listing import SPLITS, Listing, in_short, printable
from trainables.data.packaged import PACKAGED, resize, resize_masks
from trainables.tasks.base import Task
from trainables.tasks.classification import ONE_LABEL
from trainables.tasks.segmentation import SEGMENTATION

__all__ = [
    "Audit",
    "Normaliser",
    "Split",
    "audit",
    "class_names",
    "digest_of",
    "load",
    "load_final",
    "look_again",
    "n_classes",
    "n_fixed_inputs",
    "n_images",
    "refuse_untestable",
    "save_listing",
    "task_of",
    "task_of_kind",
]


def n_classes(data: Mapping[str, Any]) -> int:
    """Return the number of classes of a data set, without decoding it.

    Raises:
        ValueError: If the kind is unknown or lacks its keys, or the data set cannot be read at all.
    """
    kind = data.get("kind")
    if kind in PACKAGED:
        return len(PACKAGED[kind].classes)
    if kind in layouts.LAYOUTS:
        return len(list_images(data).classes)
    if kind == "none":
        count = data.get("n_classes")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f'data.n_classes must be a positive whole number with data.kind "none"; got {count!r}')
        return count
    kinds = (*PACKAGED, *layouts.LAYOUTS, "none", "synthetic")
    raise ValueError(f"data.kind must be one of {', '.join(kinds)}; got {kind!r}{near(str(kind), kinds)}")


def task_of(data: Mapping[str, Any]) -> Task:
    """Return the task that the labels of a data set ask."""
    kind = str(data.get("kind"))
    return list_images(data).task if kind in layouts.LAYOUTS else task_of_kind(kind)


def task_of_kind(kind: str) -> Task:
    """Return a task with the head that models of this kind of data have; no file is read."""
    if kind in PACKAGED:
        return PACKAGED[kind].task
    return SEGMENTATION if kind in layouts.WITH_MASKS else ONE_LABEL


def n_images(data: Mapping[str, Any], split: str) -> int | None:
    """Return the size of a split without decoding it; None for data without images. Images that are skipped count."""
    if data.get("folds") and split != "test" and data.get("kind") in (*PACKAGED, *layouts.LAYOUTS):
        return len(folds.rows_of_fold(list(parts(data).values()), data.get("fold", 0))[split])
    if data.get("kind") in layouts.LAYOUTS:
        return len(list_images(data).splits[split])
    packaged = PACKAGED.get(data.get("kind", ""))
    return packaged.sizes[split] if packaged else None


def n_fixed_inputs(data: Mapping[str, Any]) -> int:
    """Return the number of different inputs in training and validation: a mirrored image is another one; 0 for random crops."""
    train, validation = (n_images(data, split) or 0 for split in ("train", "validation"))
    return {"none": train + validation, "flip": 2 * train + validation, "crop": 0}[data.get("augment", "none")]


def class_names(data: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes, in the order of their labels; None if the data set does not name them."""
    if data.get("kind") in layouts.LAYOUTS:
        return list(list_images(data).classes)
    packaged = PACKAGED.get(data.get("kind", ""))
    return list(packaged.classes) if packaged else None


def load(
    data: Mapping[str, Any],
    preprocessing: Preprocessing,
    splits: Sequence[str] = ("train", "validation"),
    *,
    progress: Progress | None = None,
) -> dict[str, Split]:
    """Load splits at the backbone's size. A search never loads "test".

    Args:
        data: Data section of a study, see the module's docstring.
        preprocessing: Image format that the backbone expects.
        splits: Names of the splits, from "train", "validation" and "test".
        progress: Callback for each image that has to be decoded.

    Raises:
        ValueError: If the kind or split is unknown, the kind has no images, or images have problems that may not be skipped.
    """
    n_classes(data)
    known = tuple(list_images(data).splits) if data["kind"] in layouts.LAYOUTS else SPLITS
    if data["kind"] not in (*PACKAGED, *layouts.LAYOUTS):
        usable = ", ".join((*PACKAGED, *layouts.LAYOUTS))
        raise ValueError(f"data.kind {data['kind']!r} has no images to train on; use one of {usable}")
    if unknown := set(splits) - set(known):
        raise ValueError(f"splits are {', '.join(known)}; got {sorted(unknown)}")
    if data["kind"] in layouts.LAYOUTS:
        return from_files(data, preprocessing, splits, progress)[0]
    packaged = PACKAGED[data["kind"]]
    (images, labels), order = packaged.images(), dict(packaged.split())
    if data.get("folds"):
        order |= folds.rows_of_fold(list(parts(data).values()), data.get("fold", 0), packaged.pool())
    size = preprocessing.size
    sized = {name: resize(images[order[name]], preprocessing) for name in splits}
    if packaged.task is SEGMENTATION:
        labels = resize_masks(labels, preprocessing)
    kind = MaskedSplit if packaged.task is SEGMENTATION else Split
    return {name: kind(found, labels[order[name]], size, digest=digest_of(found.numpy())) for name, found in sized.items()}


def load_final(data: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Split]:
    """Load the splits of a final training: `train` (train and validation together) and `test`.

    Raises:
        ValueError: If `load` raises it, or the data set has no test split.
    """
    refuse_untestable(data)
    splits = load({**data, "folds": None}, preprocessing, SPLITS)
    train, validation = splits["train"], splits["validation"]
    images, labels = torch.cat([train.images, validation.images]), torch.cat([train.labels, validation.labels])
    together = replace(train, images=images, labels=labels, digest=digest_of(train.digest, validation.digest))
    return {"train": together, "test": splits["test"]}


def refuse_untestable(data: Mapping[str, Any]) -> None:
    """Refuse a data set without a test split.

    Raises:
        ValueError: If there is none, or `n_classes` raises it.
    """
    n_classes(data)
    if data["kind"] in layouts.LAYOUTS and "test" not in list_images(data).splits:
        unlabelled = "; ".join(note for note in list_images(data).notes if "has no test split" in note)
        raise ValueError(
            f"data: {data['path']} has no test split"
            + (f" ({unlabelled})" if unlabelled else "")
            + "; add one with labels (docs/data.md), or set data.test_fraction in a new study"
        )


@dataclass(frozen=True)
class Audit:
    """The contents of a data set, as a search sees them.

    Attributes:
        n_images: Number of images of each split; those of the test split are counted as they are listed.
        n_classes: Number of classes.
        skipped: One line for each problem that was skipped.
        classes: Number of images of each class by split, in the order of the labels; the names are numbers if there are none.
        notes: Files and folders that the layout's rules left out, with the reasons.
        n_turned: Number of images with an EXIF orientation.
        n_transparent: Number of images with transparent pixels.
        data_digest: Digest of names, sizes and labels of all images; None for a packaged data set.
        watched: Number of images of each watched data set, and the digest of its names, sizes and labels.
        weights_digest: Digest of the backbone's weights.
        normalisation: Normalisation of the images and where it comes from, in words.
    """

    n_images: Mapping[str, int]
    n_classes: int
    skipped: tuple[str, ...] = ()
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    n_turned: int = 0
    n_transparent: int = 0
    data_digest: str | None = None
    watched: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    weights_digest: str = ""
    normalisation: str = ""


def audit(data: Mapping[str, Any], preprocessing: Preprocessing, *, progress: Progress | None = None) -> Audit:
    """Check every image, decoding those that this machine has not decoded yet.

    Raises:
        ValueError: If there are problems that may not be skipped; the message lists them.
    """
    look_again()
    n_turned = n_transparent = 0
    notes: tuple[str, ...] = ()
    untold: dict[str, int] = {}
    tests: dict[str, torch.Tensor] = {}  # their labels are listed, and no image is decoded
    digest = None
    if data.get("kind") in layouts.LAYOUTS:
        listing, transform = list_pool(data), transform_for(data, preprocessing)
        splits, skipped = from_files(data, preprocessing, ("train", "validation"), progress)
        found = {name: decoded(listing, name, transform) for name in splits if name in listing.splits}
        n_turned, n_transparent = (sum(getattr(split, n) for split in found.values()) for n in ("n_turned", "n_transparent"))
        notes, digest = (*listing.notes, *_doubts(listing, found, splits)), pinned.digest(list_images(data))
        images = listing.splits.get("test", ())
        untold = {"test": len(images)} if images and listing.masks is not None else {}  # their masks are not read before they are
        if images and not untold:
            tests = {"test": torch.from_numpy(listing.targets(np.array([image.label for image in images])))}
    else:
        splits, skipped = load(data, preprocessing), []
    count, task = n_classes(data), task_of(data)
    names = class_names(data) or [str(number) for number in range(count)]
    labels = {name: split.labels for name, split in splits.items()} | tests
    counts = {name: task.images_of_classes(found, count) for name, found in labels.items()}
    return Audit(
        {name: len(found) for name, found in labels.items()} | untold,
        count,
        tuple(skipped),
        {printable(name): {split: counts[split][label] for split in counts} for label, name in enumerate(names)},
        notes,
        n_turned,
        n_transparent,
        digest,
    )


def _doubts(listing: Listing, found: Mapping[str, Decoded], splits: Mapping[str, Split]) -> list[str]:
    """Return notes on what is usable and may be an error: images of two classes, and classes without a validation image."""
    doubts = []
    labels: dict[bytes, int] = {}
    twice: list[str] = []
    for name, split in found.items():
        whole = (image for i, image in enumerate(listing.splits[name]) if i not in split.broken)
        for image, digest, label in zip(whole, split.digests, split.labels, strict=True):
            if labels.setdefault(digest.tobytes(), int(label)) != label:
                twice.append(image.path)
    if twice:
        doubts.append(f"the same bytes are in two classes: {in_short(twice, 3)}")
    validated = listing.task.images_of_classes(splits["validation"].labels, len(listing.classes))
    if without := [name for name, n in zip(listing.classes, validated, strict=True) if not n]:
        doubts.append(f"no validation image of {len(without):,} of {len(listing.classes):,} classes: {in_short(without, 5)}")
    return doubts


def save_listing(data: Mapping[str, Any], path: Path) -> None:
    """Write the listing of a data set to a file, to name later what has changed; does nothing for packaged data."""
    if data.get("kind") in layouts.LAYOUTS:
        pinned.save(list_images(data), path)
