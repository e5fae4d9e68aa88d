"""The listing of a data set: the label and the split of each image. No pixel is read here.

A layout (`trainables.data.layouts`) fills a `Draft`: images with class names, problems, and notes on what its rules left out.
`finish` draws the splits that the data set does not declare (stratified, and a function of image names and a seed alone) and
numbers the classes.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from trainables.data.image_column import rows
from trainables.data.label_sets import joined, names_of, strata
from trainables.data.masks import Masks
from trainables.tasks.base import Task
from trainables.tasks.classification import MANY_LABELS, ONE_LABEL
from trainables.tasks.segmentation import SEGMENTATION

SPLITS: Final = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a listing.

    Attributes:
        path: Path relative to the root; with `#ROW` for a row of a Parquet file.
        label: Number of its class; of its set of labels, if images have any number of them; 0 if it has a mask.
        stamp: Size in bytes and modification time (ns) of the file, together with its mask's.
    """

    path: str
    label: int
    stamp: tuple[int, int]


@dataclass(frozen=True)
class Listing:
    """The images of a data set.

    Attributes:
        root: Folder to which the image paths are relative.
        splits: Images of each existing split, in a fixed order.
        classes: Names of the classes, in the order of their numbers.
        problems: Problems that were found; the affected images are not in the splits.
        column: Image column of a Parquet file; None for plain files.
        notes: Files and folders that the rules left out, with the reasons; no problems.
        sets: Classes of each set of labels, by its number; None if an image has one label.
        masks: Masks of the images; None if an image has labels.
    """

    root: Path
    splits: Mapping[str, tuple[Image, ...]]
    classes: tuple[str, ...]
    problems: tuple[str, ...] = ()
    column: str | None = None
    notes: tuple[str, ...] = ()
    sets: tuple[tuple[int, ...], ...] | None = None
    masks: Masks | None = None

    @property
    def task(self) -> Task:
        """The task that these labels ask."""
        if self.masks is not None:
            return SEGMENTATION
        return ONE_LABEL if self.sets is None else MANY_LABELS

    def named(self, label: int) -> str:
        """Return the name of an image's class, or of its set of labels."""
        if self.masks is not None:
            return f"a mask of {len(self.classes)} classes"
        return self.classes[label] if self.sets is None else joined(self.classes[one] for one in self.sets[label])

    def targets(self, labels: NDArray[np.int64]) -> NDArray[np.int64] | NDArray[np.float32]:
        """Return what training aims at: the classes (n,), or, if images have any number of labels, 1 for each (n, classes)."""
        if self.sets is None:
            return labels
        has = np.zeros((len(self.sets), len(self.classes)), np.float32)
        for row, members in zip(has, self.sets, strict=True):
            row[list(members)] = 1.0
        found: NDArray[np.float32] = has[labels]
        return found

    def read(self, split: str) -> Iterator[bytes | None]:
        """Yield the encoded images of a split, in its order; None for an unreadable one."""
        if self.column is None:
            for image in self.splits[split]:
                try:
                    yield (self.root / image.path).read_bytes()
                except OSError:
                    yield None
            return
        for file, images in itertools.groupby(self.splits[split], key=lambda image: image.path.rpartition("#")[0]):
            wanted = iter([int(image.path.rpartition("#")[2]) for image in images])
            yield from rows(self.root / file, self.column, wanted)


_SAID_ONCE: Final = 3  # images of a split without a label that are listed, if it has no other images
Labelled = tuple[str, str, tuple[int, int]]  # path, class, stamp


@dataclass
class Draft:
    """A listing under construction, with class names as labels. A layout fills it.

    Attributes:
        root: Folder that the images' paths are relative to.
        splits: Images of `train`, and of `validation` and `test` if the data set has them: (path, class, stamp).
        problems: Messages, one for each faulty line or image.
        classes: Names of the classes; None for those of the training images.
        column: Column of a Parquet file that holds the images; None for plain files.
        declared: True if the splits are the data set's own; otherwise they are drawn here.
        notes: Files and folders that the layout's rules left out, with the reasons.
        many: True if the class of an image is a set of labels (`label_sets.joined`).
        masks: Masks of the images, whose class is ""; None for other labels.
    """

    root: Path
    splits: dict[str, list[Labelled]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    classes: list[str] | None = None
    column: str | None = None
    declared: bool = True
    notes: list[str] = field(default_factory=list)
    many: bool = False
    masks: Masks | None = None

    def add_split(self, split: str, images: Sequence[Labelled], problems: Sequence[str], *, source: str) -> None:
        """Add the images of a split and the problems of its other images, which have no usable label.

        A test split in which no image has a label is left out: a search does not read it.

        Args:
            split: `train`, `validation` or `test`.
            images: Images with a label.
            problems: One message for each image without.
            source: Name of the file or folder, for the note.
        """
        if split == "test" and problems and not images:
            self.notes.append(without_labels(source, len(problems)))
            return
        if problems and not images and len(problems) > _SAID_ONCE:
            problems = [f"{source}: none of its {len(problems):,} images has a usable label; the first: {problems[0]}"]
        self.splits.setdefault(split, []).extend(images)
        self.problems.extend(problems)


def without_labels(source: str, count: int) -> str:
    """Return the note on a test split whose images have no labels."""
    return f"{source} is left out: its {count:,} images have no label; the study has no test split, so it cannot be finalized"


def finish(draft: Draft, data: Mapping[str, Any]) -> Listing:
    """Draw the splits that are missing, and number the classes.

    Raises:
        ValueError: If a split has no usable image, or there is one class only.
    """
    if not draft.declared or "validation" not in draft.splits:
        _split(draft, data)
    return numbered(draft, data.get("min_images", 0 if data["kind"] == "vtab" else 1))


def numbered(draft: Draft, least: int) -> Listing:
    """Return the listing with numbers as labels, without classes that have fewer than `least` training images.

    Raises:
        ValueError: If a split has no usable image, or there is one class only.
    """
    if draft.masks is not None:
        return _with_masks(draft)
    return _numbered_sets(draft, least) if draft.many else _numbered(draft, least)


def stamp_of(path: Path) -> tuple[int, int]:
    """Return the size in bytes and the modification time (ns) of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


# -- splits and numbers ------------------------------------------------------------------------------------------------------------


def _split(draft: Draft, data: Mapping[str, Any]) -> None:
    """Move a share of each class's training images to a validation split, and to a test split if requested."""
    fractions = {"validation": data.get("val_fraction", 0.2)}
    if not draft.declared:
        fractions["test"] = data.get("test_fraction", 0.0)
    needed = 1 + sum(fraction > 0 for fraction in fractions.values())
    images, by_class = draft.splits["train"], dict[str, list[Labelled]]()
    labels = [label for _, label, _ in images]
    smallest = min((fraction for fraction in fractions.values() if fraction > 0), default=1.0)
    groups = strata(labels, math.ceil(1 / smallest)) if draft.many else labels
    for group, image in zip(groups, images, strict=True):
        by_class.setdefault(group, []).append(image)
    alone = by_class.pop("") if draft.many and len(by_class.get("", [])) < needed and "" in by_class else []
    seed = data.get("seed", 0)
    for name, images in sorted(by_class.items()):
        images.sort(key=lambda image: hashlib.sha256(f"{seed} {image[0]}".encode()).digest())
        if len(images) < needed:
            draft.problems.append(f"class {name}: {len(images)} image, too few for {needed} splits")
            images.clear()
    total = sum(map(len, by_class.values()))
    for split, fraction in fractions.items():
        if fraction == 0:
            continue
        shares = _shares(round(fraction * total), [len(images) for images in by_class.values()])
        taken = [images.pop() for images, n in zip(by_class.values(), shares, strict=True) for _ in range(n)]
        draft.splits[split] = sorted(taken, key=by_place)
    draft.splits["train"] = sorted([*alone, *(image for images in by_class.values() for image in images)], key=by_place)


def _shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Return how many of `total` images each class gives: by largest remainders, at least one, and never its last image."""
    whole = apportion(total, sizes) if any(sizes) else [0] * len(sizes)
    return [max(1, min(share, size - 1)) if size else 0 for share, size in zip(whole, sizes, strict=True)]


def by_place(image: Labelled) -> tuple[str, int]:
    """Return the key that sorts images by their paths, rows of a file by their numbers."""
    file, _, row = image[0].rpartition("#")
    return (file, int(row)) if file and row.isdecimal() else (image[0], 0)


def _numbered(draft: Draft, least: int) -> Listing:
    """Return the listing with numbers as labels, without images of unknown classes and classes with too few images."""
    classes = draft.classes or sorted({label for _, label, _ in draft.splits["train"]}, key=_natural)
    problems, notes = list(draft.problems), list(draft.notes)
    counts = Counter(label for _, label, _ in draft.splits.get("train", ()))
    few = {name for name in classes if counts[name] < least}
    problems += [f"class {name}: {counts[name]} training images, data.min_images is {least}" for name in classes if name in few]
    classes = [name for name in classes if name not in few]
    if len(classes) == 1:
        others = f" ({in_short(notes)})" if notes else ""
        raise ValueError(f"data.path: {draft.root} has one class, {classes[0]}{others}; a study needs at least two to tell apart")
    alike: dict[str, str] = {}
    notes += [
        f"{other!r} and {name!r} are two classes, whose names differ only in case or spaces"
        for name in classes
        if (other := alike.setdefault(" ".join(name.split()).casefold(), name)) != name
    ]
    number = {name: n for n, name in enumerate(classes)}
    splits: dict[str, tuple[Image, ...]] = {}
    for split, images in sorted(draft.splits.items(), key=lambda item: [*SPLITS, *draft.splits].index(item[0])):
        kept = [Image(image_path, number[label], stamp) for image_path, label, stamp in images if label in number]
        unknown = [(image_path, label) for image_path, label, _ in images if label not in number and label not in few]
        if split == "test" and not kept and unknown:
            labels = ", ".join(sorted({label for _, label in unknown})[:3])
            notes.append(without_labels(f"test ({labels}, which is no training class)", len(unknown)))
            continue
        problems += [
            f"{image_path}: the {split} image's label {label!r} is not among the classes{_meant(label, classes)}"
            for image_path, label in unknown
        ]
        splits[split] = tuple(kept)
        if not kept:
            raise ValueError(f"data.path: {draft.root} has no usable {split} image; {in_short(problems) or 'its files are empty'}")
    told = (tuple(map(printable, lines)) for lines in (problems, notes))
    return Listing(draft.root, splits, tuple(classes), next(told), draft.column, next(told))


def _numbered_sets(draft: Draft, least: int) -> Listing:
    """Return the same for images with any number of labels: each set of labels that occurs has a number."""
    counts = Counter(name for _, text, _ in draft.splits.get("train", ()) for name in names_of(text))
    classes = draft.classes or sorted(counts, key=_natural)
    problems, notes = list(draft.problems), list(draft.notes)
    few = {name for name in classes if counts[name] < least}
    problems += [f"label {name}: {counts[name]} training images, data.min_images is {least}" for name in classes if name in few]
    classes = [name for name in classes if name not in few]
    if len(classes) < 2:
        raise ValueError(f"data.path: {draft.root} has {len(classes)} label; a study needs at least two to tell apart")
    number = {name: n for n, name in enumerate(classes)}
    sets: dict[tuple[int, ...], int] = {}
    splits: dict[str, tuple[Image, ...]] = {}
    for split in sorted(draft.splits, key=[*SPLITS, *draft.splits].index):
        kept = []
        for path, text, stamp in draft.splits[split]:
            names = names_of(text)
            unknown = [name for name in names if name not in number and name not in few]
            problems += [
                f"{path}: the {split} image's label {name!r} is not among the classes{_meant(name, classes)}" for name in unknown
            ]
            if not unknown:
                members = tuple(sorted(number[name] for name in names if name in number))
                kept.append(Image(path, sets.setdefault(members, len(sets)), stamp))
        splits[split] = tuple(kept)
        if not kept:
            raise ValueError(f"data.path: {draft.root} has no usable {split} image; {in_short(problems) or 'its files are empty'}")
    told = (tuple(map(printable, lines)) for lines in (problems, notes))
    return Listing(draft.root, splits, tuple(classes), next(told), draft.column, next(told), tuple(sets))


def _with_masks(draft: Draft) -> Listing:
    """Return the listing of images with masks, whose names of classes are known."""
    classes = tuple(draft.classes or ())
    if empty := [split for split, images in draft.splits.items() if not images]:
        raise ValueError(f"data.path: {draft.root} has no usable {empty[0]} image; {in_short(draft.problems)}")
    splits = {
        name: tuple(Image(path, 0, stamp) for path, _, stamp in draft.splits[name])
        for name in sorted(draft.splits, key=SPLITS.index)
    }
    problems, notes = (tuple(map(printable, lines)) for lines in (draft.problems, draft.notes))
    return Listing(draft.root, splits, classes, problems, notes=notes, masks=draft.masks)


def _meant(label: str, classes: Sequence[str]) -> str:
    folded = {name.strip().casefold(): name for name in classes}
    near = difflib.get_close_matches(label.strip().casefold(), folded, n=1)
    return f" (did you mean {folded[near[0]]}?)" if near else ""


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)


def apportion(total: int, weights: Sequence[int]) -> list[int]:
    """Split `total` into whole shares in proportion to `weights`, by largest remainders; the first wins a tie."""
    exact = [total * w for w in weights]
    shares = [e // sum(weights) for e in exact]
    by_remainder = sorted(range(len(weights)), key=lambda i: (-(exact[i] % sum(weights)), i))
    for i in by_remainder[: total - sum(shares)]:
        shares[i] += 1
    return shares


def printable(text: str) -> str:
    """Return a message in one line: what a terminal would obey or not show, in names that people give to files, is escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_short(problems: Iterable[str], most: int = 20) -> str:
    """Join the first problems, and count the others."""
    return "; ".join(listed(problems, most))


def listed(problems: Iterable[str], most: int = 20) -> list[str]:
    """Return the first problems, one each, and the number of the others."""
    every = [printable(problem) for problem in problems]
    return every[:most] + ([f"and {len(every) - most} more"] if len(every) > most else [])
