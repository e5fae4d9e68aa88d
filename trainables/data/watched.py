"""Data sets that are watched: a model is scored on them when its training is complete, and never trained or chosen on them.

A watched data set has the classes of the study's, in any layout: photographs of another site, drawings instead of photographs, what
a backbone could tell before it was adapted. All of its images with a label count, whatever split they are in. They are decoded
and normalised as the validation images are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from trainables.backbones import Preprocessing
from trainables.data import pinned
from trainables.data.batches import Split
from trainables.data.decoded import Progress, decoded
from trainables.data.files import list_images, list_pool, transform_for
from trainables.data.first_look import layout_of
from trainables.data.layouts import LAYOUTS
from trainables.data.listing import Draft, Listing, by_place, in_short, listed, numbered, printable
from trainables.protocol import Changed

WATCHED: Final = "watched"  # name of the one split of such a listing
_KEYS: Final = ("labels", "image_column", "label_column")  # of the study's section; they hold for data of the same layout


@dataclass(frozen=True)
class Watched:
    """The contents of a watched data set.

    Attributes:
        n_images: Number of images that are scored.
        digest: Digest of names, sizes and labels of all images.
        skipped: One line for each problem that was skipped.
        split: The images.
    """

    n_images: int
    digest: str
    skipped: tuple[str, ...]
    split: Split


def load(data: Mapping[str, Any], preprocessing: Preprocessing, *, progress: Progress | None = None) -> dict[str, Watched]:
    """Load the data sets of `data["watch"]` at the backbone's size, by name.

    Args:
        data: Data section of a study; `watch` holds a mapping with `path`, and `digest` if the study has begun, for each name.
        preprocessing: Image format that the backbone expects.
        progress: Callback for each image that has to be decoded.

    Raises:
        Changed: If one is not what it was when the study began; a ValueError.
        ValueError: If one cannot be read, its labels are of another kind, or it has problems that may not be skipped.
    """
    return {name: _load(name, watch, data, preprocessing, progress) for name, watch in data.get("watch", {}).items()}


def refuse_changed(data: Mapping[str, Any]) -> None:
    """Refuse watched data sets that are not those with which a study began; see `load`."""
    for name, watch in data.get("watch", {}).items():
        _listing(name, watch, data, list_images(data))


def _load(
    name: str, watch: Mapping[str, Any], data: Mapping[str, Any], preprocessing: Preprocessing, progress: Progress | None
) -> Watched:
    own = list_pool(data)
    listing, transform = _listing(name, watch, data, own), transform_for(data, preprocessing)
    found = decoded(listing, WATCHED, transform, progress=progress)
    problems = [*listing.problems, *(f"{listing.splits[WATCHED][i].path}: {reason}" for i, reason in found.broken.items())]
    whole = [image for i, image in enumerate(listing.splits[WATCHED]) if i not in found.broken]
    chosen_on = {row.tobytes(): split for split in own.splits if split != "test" for row in decoded(own, split, transform).digests}
    splits = [chosen_on.get(row.tobytes()) for row in found.digests]
    problems += [
        f"{image.path} has the same bytes as an image of the study's split {split}"
        for image, split in zip(whole, splits, strict=True)
        if split is not None
    ]
    problems = [printable(f"data.watch.{name}: {problem}") for problem in problems]
    if problems and data.get("on_problem", "refuse") == "refuse":
        count = f"{len(problems)} problem{'s' * (len(problems) > 1)}"
        lines = "".join(f"\n  {line}" for line in listed(problems))
        raise ValueError(f"data.watch.{name}: {count} in {watch['path']}; fix them, or set data.on_problem: skip{lines}")
    fresh = np.array([split is None for split in splits], bool)
    if not fresh.any():
        raise ValueError(f"data.watch.{name}: {watch['path']} has no usable image; {in_short(problems)}")
    images, labels = found.images, listing.targets(found.labels)
    if not fresh.all():
        images, labels = images[fresh], labels[fresh]
    split = Split(torch.from_numpy(images), torch.from_numpy(labels), transform.size)
    return Watched(len(split), pinned.digest(listing), tuple(problems), split)


def _listing(name: str, watch: Mapping[str, Any], data: Mapping[str, Any], own: Listing) -> Listing:
    """List a watched data set, with the numbers that the study's classes have."""
    root = Path(watch["path"]).expanduser()
    try:
        draft = _draft(root, data, own)
        labels = Counter(label for _, label, _ in draft.splits[WATCHED])
        if not own.sets and (unknown := [label for label in labels if label not in own.classes]):
            draft.problems += [f"class {label!r}: {labels[label]:,} images; the study has no such class" for label in unknown]
            draft.splits[WATCHED] = [image for image in draft.splits[WATCHED] if image[1] not in unknown]
        if not draft.splits[WATCHED]:
            raise ValueError(f"it has no image of the study's classes ({in_short(own.classes, 5)}); {in_short(draft.problems, 5)}")
        listing = numbered(draft, 0)
    except ValueError as error:
        raise ValueError(f"data.watch.{name}: {root}: {str(error).removeprefix(f'data.path: {root} ')}") from error
    if (then := watch.get("digest")) is not None and pinned.digest(listing) != then:
        raise Changed(
            f"data.watch.{name}: {root} is not what it was when the study began: it has "
            f"{len(listing.splits[WATCHED]):,} images now, with digest {pinned.digest(listing)[:12]}; restore it, or begin a study "
            "of another name"
        )
    return listing


def _draft(root: Path, data: Mapping[str, Any], own: Listing) -> Draft:
    """Return a data set whose splits are one, with the study's classes."""
    if not root.exists():
        raise ValueError("it does not exist")
    kind = layout_of(root)
    keys = {key: data[key] for key in _KEYS if data.get(key) is not None} if kind == data["kind"] else {}
    draft = LAYOUTS[kind](root, {"kind": kind, "path": str(root), "any_split": True, **keys})
    if draft.many != (own.sets is not None):
        raise ValueError(f"its images have {_labels(draft.many)}, those of the study {_labels(own.sets is not None)}")
    images = sorted((image for split in draft.splits.values() for image in split), key=by_place)
    return replace(draft, splits={WATCHED: images}, classes=list(own.classes))


def _labels(many: bool) -> str:
    return "any number of labels" if many else "one label"
