"""Data sets as uint8 images, decoded once per machine.

A study's `data` is one of:

    {"kind": "digits"}                   scikit-learn's 1,797 handwritten digits, packaged
    {"kind": "emoji"}                    3,356 emoji and who drew them, packaged
    {"kind": "imagefolder", "path": P}   and `vtab`, `fgvc`, `parquet`: images on a disk, see `trainables.data.layouts`
    {"kind": "none", "n_classes": C}     no images: for counting parameters

Images on a disk accept more keys: `on_problem` ("refuse" or "skip"), `resize` ("crop" or "squash"), `crop_fraction`,
`interpolation`, `augment` ("none", "flip", "crop"), `exif` ("ignore", "apply"), `background` (null, "black", "white"), `normalize`
("backbone", "imagenet", "none", or `mean` and `std`), and the keys of their layout.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables import pixels
from trainables.adapters import near
from trainables.backbones import Preprocessing
from trainables.data import layouts, pinned
from trainables.data.batches import Normaliser, Split
from trainables.data.decoded import Decoded, Progress, decoded, decoding, digests
from trainables.data.listing import SPLITS, Listing, in_short, listed, printable
from trainables.data.packaged import PACKAGED, resize
from trainables.pixels import Transform
from trainables.protocol import Changed

__all__ = [
    "Audit",
    "Normaliser",
    "Split",
    "audit",
    "class_names",
    "load",
    "load_final",
    "look_again",
    "many_labels",
    "n_classes",
    "n_fixed_inputs",
    "n_images",
    "refuse_untestable",
    "save_listing",
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
        return len(listing_of(data).classes)
    if kind == "none":
        count = data.get("n_classes")
        if not isinstance(count, int) or count < 1:
            raise ValueError(f'data.n_classes must be a positive whole number with data.kind "none"; got {count!r}')
        return count
    kinds = (*PACKAGED, *layouts.LAYOUTS, "none", "synthetic")
    raise ValueError(f"data.kind must be one of {', '.join(kinds)}; got {kind!r}{near(str(kind), kinds)}")


def many_labels(data: Mapping[str, Any]) -> bool:
    """Return whether an image has any number of labels; False if it has one."""
    return data.get("kind") in layouts.LAYOUTS and listing_of(data).sets is not None


def n_images(data: Mapping[str, Any], split: str) -> int | None:
    """Return the size of a split without decoding it; None for data without images. Images that are skipped count."""
    if data.get("kind") in layouts.LAYOUTS:
        return len(listing_of(data).splits[split])
    packaged = PACKAGED.get(data.get("kind", ""))
    return packaged.sizes[split] if packaged else None


def n_fixed_inputs(data: Mapping[str, Any]) -> int:
    """Return the number of different inputs in training and validation: a mirrored image is another one; 0 for random crops."""
    train, validation = (n_images(data, split) or 0 for split in ("train", "validation"))
    return {"none": train + validation, "flip": 2 * train + validation, "crop": 0}[data.get("augment", "none")]


def class_names(data: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes, in the order of their labels; None if the data set does not name them."""
    if data.get("kind") in layouts.LAYOUTS:
        return list(listing_of(data).classes)
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
    known = tuple(listing_of(data).splits) if data["kind"] in layouts.LAYOUTS else SPLITS
    if data["kind"] not in (*PACKAGED, *layouts.LAYOUTS):
        usable = ", ".join((*PACKAGED, *layouts.LAYOUTS))
        raise ValueError(f"data.kind {data['kind']!r} has no images to train on; use one of {usable}")
    if unknown := set(splits) - set(known):
        raise ValueError(f"splits are {', '.join(known)}; got {sorted(unknown)}")
    if data["kind"] in layouts.LAYOUTS:
        return _from_files(data, preprocessing, splits, progress)[0]
    (images, labels), order = PACKAGED[data["kind"]].images(), PACKAGED[data["kind"]].split()
    size = preprocessing.size
    sized = {name: resize(images[order[name]], preprocessing) for name in splits}
    return {name: Split(found, labels[order[name]], size, digest=digest_of(found.numpy())) for name, found in sized.items()}


def load_final(data: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, Split]:
    """Load the splits of a final training: `train` (train and validation together) and `test`.

    Raises:
        ValueError: If `load` raises it, or the data set has no test split.
    """
    refuse_untestable(data)
    splits = load(data, preprocessing, SPLITS)
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
    if data["kind"] in layouts.LAYOUTS and "test" not in listing_of(data).splits:
        unlabelled = "; ".join(note for note in listing_of(data).notes if "has no test split" in note)
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
    tests: dict[str, torch.Tensor] = {}  # their labels are listed, and no image is decoded
    digest = None
    if data.get("kind") in layouts.LAYOUTS:
        listing, transform = listing_of(data), transform_of(data, preprocessing)
        splits, skipped = _from_files(data, preprocessing, ("train", "validation"), progress)
        found = {name: decoded(listing, name, transform) for name in splits}
        n_turned, n_transparent = (sum(getattr(split, n) for split in found.values()) for n in ("n_turned", "n_transparent"))
        notes, digest = (*listing.notes, *_doubts(listing, found, splits)), pinned.digest(listing)
        if images := listing.splits.get("test"):
            tests = {"test": torch.from_numpy(listing.targets(np.array([image.label for image in images])))}
    else:
        splits, skipped = load(data, preprocessing), []
    count = n_classes(data)
    names = class_names(data) or [str(number) for number in range(count)]
    labels = {name: split.labels for name, split in splits.items()} | tests
    counts = {name: _images_of_classes(found, count) for name, found in labels.items()}
    return Audit(
        {name: len(found) for name, found in labels.items()},
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
    validated = _images_of_classes(splits["validation"].labels, len(listing.classes))
    if without := [name for name, n in zip(listing.classes, validated, strict=True) if not n]:
        doubts.append(f"no validation image of {len(without):,} of {len(listing.classes):,} classes: {in_short(without, 5)}")
    return doubts


def _images_of_classes(labels: torch.Tensor, n_classes: int) -> list[int]:
    found = torch.bincount(labels, minlength=n_classes) if labels.ndim == 1 else labels.sum(0)
    return [int(n) for n in found]


def save_listing(data: Mapping[str, Any], path: Path) -> None:
    """Write the listing of a data set to a file, to name later what has changed; does nothing for packaged data."""
    if data.get("kind") in layouts.LAYOUTS:
        pinned.save(listing_of(data), path)


# -- images on a disk --------------------------------------------------------------------------------------------------------------


def listing_of(data: Mapping[str, Any]) -> Listing:
    """List the files; their problems are reported together with those of the pixels, once the images are decoded."""
    return _listed(json.dumps(dict(data), sort_keys=True, default=str))


def look_again() -> None:
    """Forget all listings, because files may have changed since; call it where a data set is used again."""
    _listed.cache_clear()


@functools.lru_cache(maxsize=4)
def _listed(data: str) -> Listing:
    section = json.loads(data)
    found = layouts.listing(section)
    if (then := section.get("digest")) is not None and pinned.digest(found) != then:
        raise Changed(pinned.refusal(section, found))
    return found


def _refuse(data: Mapping[str, Any], problems: Sequence[str]) -> None:
    if problems and data.get("on_problem", "refuse") == "refuse":
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        lines = "".join(f"\n  {line}" for line in listed(problems))
        raise ValueError(f"data: {count} in {data['path']}; fix them, or set data.on_problem: skip{lines}")


def _from_files(
    data: Mapping[str, Any], preprocessing: Preprocessing, splits: Sequence[str], progress: Progress | None
) -> tuple[dict[str, Split], list[str]]:
    listing, augment = listing_of(data), data.get("augment", "none")
    transform = transform_of(data, preprocessing)
    found = {name: decoded(listing, name, transform, progress=progress) for name in splits}
    problems = list(listing.problems)
    for name in splits:
        problems += [f"{name}: {listing.splits[name][i].path}: {reason}" for i, reason in found[name].broken.items()]
    # an image in two splits is kept in the later one, so that evaluation splits never change
    seen = {name: found[name].digests if name in found else digests(listing, name) for name in listing.splits}
    later: dict[str, dict[bytes, str]] = {}  # per split: digests and paths of its images
    kept: dict[str, Split] = {}
    for name in reversed(SPLITS):
        if name not in seen:
            continue
        own = [row.tobytes() for row in seen[name]]
        broken = found[name].broken if name in found else {}
        paths = [image.path for i, image in enumerate(listing.splits[name]) if i not in broken]
        if name in found:
            fresh = np.array([not any(digest in taken for taken in later.values()) for digest in own], bool)
            for image_path, digest, new in zip(paths, own, fresh, strict=True):
                if not new:
                    other = next(other for other, taken in later.items() if digest in taken)
                    problems.append(f"{name}: {image_path} has the same bytes as {later[other][digest]} of the later split {other}")
            images, labels = found[name].images, listing.targets(found[name].labels)
            if not fresh.all():
                images, labels = images[fresh], labels[fresh]
            augmented = augment if name == "train" else "none"
            digest = digest_of(found[name].digests[fresh], decoding(transform))
            kept[name] = Split(torch.from_numpy(images), torch.from_numpy(labels), preprocessing.size, augmented, digest)
        later[name] = dict(zip(reversed(own), reversed(paths), strict=True))  # the first of equal ones
    problems = [printable(problem) for problem in problems]
    _refuse(data, problems)
    for name, split in kept.items():
        if len(split) == 0:
            raise ValueError(f"data: {data['path']} has no usable {name} image; {in_short(problems)}")
    return {name: kept[name] for name in splits}, problems


def digest_of(*parts: str | np.ndarray[Any, Any] | None) -> str:
    """Return a digest of texts and arrays."""
    digest = hashlib.sha256()
    for part in parts:
        content = part.tobytes() if isinstance(part, np.ndarray) else str(part).encode()
        digest.update(f"{len(content)}:".encode() + content)
    return digest.hexdigest()


def transform_of(data: Mapping[str, Any], wanted: Preprocessing) -> Transform:
    """Return the conversion of an encoded image that a data section asks for, at the backbone's size."""
    return pixels.transform_of(data, channels=wanted.channels, size=wanted.size, interpolation=wanted.interpolation)
