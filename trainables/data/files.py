"""Images on a disk: their listing, and the loading of splits from the files of decoded images."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trainables.backbones import Preprocessing
from trainables.data import folds, layouts, pinned
from trainables.data.batches import MaskedSplit, Split
from trainables.data.decoded import Progress, decoded, decoding, digests
from trainables.data.listing import SPLITS, Listing, in_short, listed, printable
from trainables.data.packaged import PACKAGED
from trainables.pixels import Transform, transform_of
from trainables.protocol import Changed
from trainables.tasks.classification import ONE_LABEL


def list_images(data: Mapping[str, Any]) -> Listing:
    """List the files; their problems are reported together with those of the pixels, once the images are decoded."""
    return _listed(json.dumps(dict(data), sort_keys=True, default=str))


def list_pool(data: Mapping[str, Any]) -> Listing:
    """Return the listing; with folds, the images of training and validation together are its training images."""
    return folds.pooled(list_images(data)) if data.get("folds") else list_images(data)


def parts(data: Mapping[str, Any]) -> Mapping[str, int]:
    """Return the part of each image of the pool, by its path; of a packaged data set, by its number.

    Raises:
        ValueError: If the pool cannot be divided so.
    """
    if data["kind"] in layouts.LAYOUTS:
        return folds.parts_of(list_pool(data), data)
    packaged = PACKAGED[data["kind"]]
    pool = [int(index) for index in packaged.pool()]
    found, groups = packaged.images()[1], None if packaged.groups is None else packaged.groups()
    labels = found.tolist() if packaged.task is ONE_LABEL else [0] * len(found)  # a mask is of no one class
    return folds.parts_of_packaged(pool, labels, groups, data)


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


def from_files(
    data: Mapping[str, Any], preprocessing: Preprocessing, splits: Sequence[str], progress: Progress | None
) -> tuple[dict[str, Split], list[str]]:
    """Load splits from the files of decoded images, which are made if they are missing, and list the problems that were skipped.

    Raises:
        ValueError: If a problem may not be skipped, or a split has no usable image.
    """
    listing, augment = list_pool(data), data.get("augment", "none")
    transform, part_of = transform_for(data, preprocessing), parts(data) if data.get("folds") else {}
    wanted = {"train", *splits} if part_of else splits  # the images of both splits are in the pool
    found = {name: decoded(listing, name, transform, progress=progress) for name in listing.splits if name in wanted}
    problems = list(listing.problems)
    for name, pixels in found.items():
        problems += [f"{name}: {listing.splits[name][i].path}: {reason}" for i, reason in pixels.broken.items()]
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
            if part_of:
                problems += folds.without_twins(own, paths, fresh)
            images, labels = found[name].samples(listing)
            if not fresh.all():
                images, labels = images[fresh], labels[fresh]
            augmented = augment if name == "train" else "none"
            digest = digest_of(found[name].digests[fresh], decoding(transform))
            kind = Split if listing.masks is None else MaskedSplit
            kept[name] = kind(torch.from_numpy(images), torch.from_numpy(labels), preprocessing.size, augmented, digest)
            if part_of and name == "train":
                own_parts = [part_of[path] for path, new in zip(paths, fresh, strict=True) if new]
                rows = folds.rows_of_fold(own_parts, data.get("fold", 0))
                kept |= {split: kept[name].of_rows(chosen, augmented=split == "train") for split, chosen in rows.items()}
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


def transform_for(data: Mapping[str, Any], wanted: Preprocessing) -> Transform:
    """Return the conversion of a data set's encoded images into pixels at the backbone's size."""
    return transform_of(data, channels=wanted.channels, size=wanted.size, interpolation=wanted.interpolation)
