"""The comparison of a data set with the one a study began with: a digest, and the whole listing, to name what has changed.

Names, sizes, labels and splits count. The folder does not: a data set may move. Times do not: a copy has others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.listing import Listing, printable

_Row = tuple[str, str, int]  # split, class, size in bytes


def digest(listing: Listing) -> str:
    """Return the SHA-256 of a listing."""
    total = hashlib.sha256()
    for path, (split, name, size) in _rows(listing):
        total.update(f"{split}\0{path}\0{name}\0{size}\n".encode())
    return total.hexdigest()


def save(listing: Listing, path: Path) -> None:
    """Write a listing as Parquet: columns `path`, `split`, `class` and `size`."""
    rows = list(_rows(listing))
    columns = {"path": [path for path, _ in rows]}
    columns |= {name: [row[i] for _, row in rows] for i, name in enumerate(("split", "class", "size"))}  # type: ignore[misc]
    pq.write_table(pa.table(columns), path, compression="zstd")


def difference(listing: Listing, saved: Path) -> str:
    """Describe what has changed since a listing was saved; "" if that cannot be told, because the file is not there."""
    try:
        table = pq.read_table(saved).to_pylist()
    except (OSError, pa.ArrowException):
        return ""
    then = {row["path"]: (row["split"], row["class"], row["size"]) for row in table}
    now = dict(_rows(listing))
    both = then.keys() & now.keys()
    told = [
        ("new", now.keys() - then.keys()),
        ("gone", then.keys() - now.keys()),
        ("of another size", {path for path in both if then[path][2] != now[path][2]}),
        ("of another class", {path for path in both if then[path][1] != now[path][1]}),
        ("in another split", {path for path in both if then[path][0] != now[path][0]}),
    ]
    return "; ".join(
        f"{len(paths):,} {'images are' if len(paths) > 1 else 'image is'} {what} ({_few(paths)})" for what, paths in told if paths
    )


def _rows(listing: Listing) -> Iterator[tuple[str, _Row]]:
    for split, images in listing.splits.items():
        for image in images:
            yield image.path, (split, listing.named(image.label), image.stamp[0])


def _few(paths: set[str]) -> str:
    return ", ".join(map(printable, sorted(paths)[:3])) + (", ..." if len(paths) > 3 else "")


def refusal(data: Mapping[str, object], listing: Listing) -> str:
    """Return the message that refuses a changed data set."""
    saved = data.get("listing")
    what = difference(listing, Path(str(saved))) if saved is not None else ""
    sizes = ", ".join(f"{len(images):,} {split}" for split, images in listing.splits.items())
    what = what or f"it holds {sizes} images of {len(listing.classes)} classes now, with digest {digest(listing)[:12]}"
    return (
        f"data: {data['path']} is not what it was when the study began: {what}; restore it, or begin a study of another name: "
        "accuracies on different images cannot be compared"
    )
