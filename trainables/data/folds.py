"""Folds: the training and validation images together, the *pool*, divided into parts that take turns as validation split.

Each part has its share of every class, and all images of a group are in one part. The division is a function of the images' names,
their classes and groups, and the study's seed alone, so that every machine and every version of a library divides alike.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.listing import Image, Listing, by_place, in_short, printable

Parts = NDArray[np.int64]  # (n,) the part of each image


def divide(names: Sequence[str], classes: Sequence[Hashable], n_folds: int, *, seed: int) -> Parts:
    """Divide images into parts whose numbers of images differ by at most one, in all and in each class.

    The images of a class are shuffled, and all of them, class after class, are dealt to the parts in turn.

    Args:
        names: Different names of the images.
        classes: Class of each image, or what else is to be spread evenly.
        n_folds: Number of parts.
        seed: Seed of the study.
    """
    order = sorted(range(len(names)), key=lambda i: (str(classes[i]), _shuffled(seed, names[i])))
    parts = np.empty(len(names), np.int64)
    parts[order] = np.arange(len(names)) % n_folds
    return parts


def divide_groups(classes: Sequence[Hashable], groups: Sequence[str], n_folds: int, *, seed: int) -> Parts:
    """Divide images into parts of whole groups, with about the same share of each class.

    As scikit-learn's StratifiedGroupKFold does: the groups are taken one by one, the most uneven first, and each is given to the
    part with which the parts' shares of the classes differ least.

    Args:
        classes: Class of each image.
        groups: Group of each image.
        n_folds: Number of parts, at most as many as groups.
        seed: Seed of the study.
    """
    columns = {name: n for n, name in enumerate(sorted(set(classes), key=str))}
    counts: dict[str, NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(columns)))
    for name, group in zip(classes, groups, strict=True):
        counts[group][columns[name]] += 1.0
    in_all = np.sum(list(counts.values()), axis=0)
    taken, given = np.zeros((n_folds, len(columns))), dict[str, int]()
    for group in sorted(counts, key=lambda group: (-counts[group].std(), _shuffled(seed, group))):
        found = []
        for part in range(n_folds):
            taken[part] += counts[group]
            found.append(((taken / in_all).std(0).mean(), taken[part].sum(), part))
            taken[part] -= counts[group]
        given[group] = min(found)[-1]
        taken[given[group]] += counts[group]
    return np.array([given[group] for group in groups])


def _shuffled(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"fold {seed} {name}".encode()).digest()


# -- a listing ---------------------------------------------------------------------------------------------------------------------


def pooled(listing: Listing) -> Listing:
    """Return a listing whose training images are those of training and validation together, in a fixed order."""
    both = (*listing.splits["train"], *listing.splits["validation"])
    pool = tuple(sorted(both, key=lambda image: by_place((image.path, "", image.stamp))))
    others = {name: images for name, images in listing.splits.items() if name == "test"}
    return replace(listing, splits={"train": pool, **others})


def parts_of(pool: Listing, data: Mapping[str, Any]) -> dict[str, int]:
    """Return the part of each image of a pooled listing, by its path.

    Raises:
        ValueError: If a class has fewer images or groups than there are folds, or the groups cannot be told.
    """
    images, n_folds, seed = pool.splits["train"], int(data["folds"]), int(data.get("seed", 0))
    classes = _strata(pool, images, n_folds)
    if data.get("group") is None:
        _refuse_small(pool, images, [image.path for image in images], data, "images")
        parts = divide([image.path for image in images], classes, n_folds, seed=seed)
    else:
        groups = groups_of(pool, str(data["group"]), data)
        _refuse_small(pool, images, groups, data, "groups")
        parts = divide_groups(classes, groups, n_folds, seed=seed)
    return {image.path: int(part) for image, part in zip(images, parts, strict=True)}


def _strata(pool: Listing, images: Sequence[Image], n_folds: int) -> list[int]:
    """Return what is spread evenly: the class of each image; its set of labels, where rare sets count as one."""
    labels = [image.label for image in images]
    if pool.sets is None:
        return labels
    counts = Counter(labels)
    return [label if counts[label] >= n_folds else -1 for label in labels]


def _refuse_small(pool: Listing, images: Sequence[Image], units: Sequence[str], data: Mapping[str, Any], what: str) -> None:
    """Refuse a class with fewer images, or groups of them, than there are folds."""
    found: dict[int, set[str]] = {n: set() for n in range(len(pool.classes) if pool.masks is None else 1)}
    for image, unit in zip(images, units, strict=True):
        for label in (image.label,) if pool.sets is None else pool.sets[image.label]:
            found[label].add(unit)
    small = min(found, key=lambda label: (len(found[label]), label))
    if (least := len(found[small])) >= data["folds"]:
        return
    whose = f"the class {printable(pool.classes[small])}" if pool.masks is None else "the data set"
    remedy = f"give data.folds: {least}" if least > 1 else "leave data.folds out"
    if what == "images":
        raise ValueError(
            f"data.folds: {whose} has {least} training and validation images, fewer than data.folds = {data['folds']}, so "
            f"a fold would have none of it; {remedy}, or add images of it"
        )
    raise ValueError(
        f"data.group: the images of {whose} are of {least} group{'s' if least > 1 else ''}, fewer than data.folds = "
        f"{data['folds']}, and a group stays in one fold; {remedy}, or give data.group smaller groups"
    )


def parts_of_packaged(
    pool: Sequence[int], labels: Sequence[int], groups: Sequence[str] | None, data: Mapping[str, Any]
) -> dict[str, int]:
    """Return the part of each image of a packaged data set's pool, by its number.

    Args:
        pool: Numbers of the images in the pool.
        labels: Labels of all images.
        groups: Groups of all images; None if each is a group of its own.
        data: Data section of a study.

    Raises:
        ValueError: If there are more folds than images of a class.
    """
    n_folds, seed, names = int(data["folds"]), int(data.get("seed", 0)), [str(index) for index in pool]
    classes = [labels[index] for index in pool]
    if (least := min(Counter(classes).values())) < n_folds:
        raise ValueError(
            f"data.folds: the smallest class has {least} training and validation images, fewer than data.folds = {n_folds}, so a "
            f"fold would have none of it; give data.folds: {least} or less"
        )
    if groups is None:
        parts = divide(names, classes, n_folds, seed=seed)
    else:
        parts = divide_groups(classes, [groups[index] for index in pool], n_folds, seed=seed)
    return {name: int(part) for name, part in zip(names, parts, strict=True)}


def rows_of_fold(parts: Sequence[int], fold: int, rows: Tensor | None = None) -> dict[str, Tensor]:
    """Return the rows of the training and the validation images of a fold.

    Args:
        parts: Part of each image of the pool.
        fold: Part that is the validation split.
        rows: Row of each image of the pool; None for its position.
    """
    chosen = torch.tensor(parts) == fold
    rows = torch.arange(len(chosen)) if rows is None else rows
    return {"train": rows[~chosen], "validation": rows[chosen]}


def without_twins(digests: Sequence[bytes], paths: Sequence[str], fresh: NDArray[np.bool_]) -> list[str]:
    """Leave out images with the bytes of an earlier one, which could be in another fold; return a problem for each."""
    first: dict[bytes, str] = {}
    problems = []
    for n, (digest, path) in enumerate(zip(digests, paths, strict=True)):
        if fresh[n] and first.setdefault(digest, path) != path:
            fresh[n] = False
            problems.append(f"{path} has the same bytes as {first[digest]}, and folds could train on one and validate on the other")
    return problems


# -- groups ------------------------------------------------------------------------------------------------------------------------


def groups_of(pool: Listing, group: str, data: Mapping[str, Any]) -> list[str]:
    """Return the group of each image of a pooled listing: its value in a column, or what a pattern finds in its path.

    Raises:
        ValueError: If there is no such column, an image has no value in it, or the pattern does not fit each path.
    """
    paths = [image.path for image in pool.splits["train"]]
    if pool.column is not None:
        return _from_parquet(pool.root, paths, group)
    if data.get("labels") is not None:
        rows = _csv_rows(pool.root / Path(data["labels"]).expanduser())
        if group in rows[0]:
            return _all_given(group, paths, {row["file_name"].strip(): (row[group] or "").strip() for row in rows})
    return _from_pattern(group, paths)


def _from_pattern(group: str, paths: Sequence[str]) -> list[str]:
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ValueError(f"data.group: {group!r} is no regular expression ({error}); write one as (\\w+)_ with one group") from None
    if pattern.groups != 1:
        raise ValueError(
            f"data.group: {group!r} has {pattern.groups} groups in parentheses; write one, around the part of a file's path that "
            "all images of a group share"
        )
    found = {path: match.group(1) for path in paths if (match := pattern.search(path)) is not None and match.group(1)}
    if missing := [path for path in paths if path not in found]:
        how_many = "none" if not found else f"{len(found):,}"
        raise ValueError(
            f"data.group: {group!r} finds a group in {how_many} of the {len(paths):,} file names, and not in {in_short(missing, 2)}"
            "; change the pattern so that it fits each of them"
        )
    return [found[path] for path in paths]


def _from_parquet(root: Path, paths: Sequence[str], column: str) -> list[str]:
    values: dict[str, str] = {}
    for file in dict.fromkeys(path.rpartition("#")[0] for path in paths):
        names = pq.read_schema(root / file).names
        if column not in names:
            raise ValueError(f"data.group: {root / file} has no column {column!r}; it has {', '.join(names)}; name one of them")
        read = pq.read_table(root / file, columns=[column]).column(column).to_pylist()
        values |= {f"{file}#{row}": "" if value is None else str(value) for row, value in enumerate(read)}
    return _all_given(column, paths, values)


def _all_given(column: str, paths: Sequence[str], values: Mapping[str, str]) -> list[str]:
    if missing := [path for path in paths if not values[path]]:
        raise ValueError(
            f"data.group: the column {column!r} has no value for {len(missing):,} of {len(paths):,} images ({in_short(missing, 3)})"
            "; fill it in, with a value of its own for an image that belongs to no other"
        )
    return [values[path] for path in paths]


def _csv_rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))
