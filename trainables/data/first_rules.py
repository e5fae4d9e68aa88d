"""The rules of `imagefolder` and `parquet` that studies without a version of the rules began with, and go on with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from trainables.data.listing import SPLITS, Draft, Labelled, stamp_of
from trainables.data.parquet_tables import add_rows, read_labels

ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"})
_FOLDERS: Final = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


def image_folder(root: Path, data: Mapping[str, Any]) -> Draft:
    """List PATH/train/CLASS/IMAGE and so on, or PATH/CLASS/IMAGE; what has other names is not seen."""
    draft = Draft(root)
    tops = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if declared := [name for name in tops if name in _FOLDERS]:
        for name in declared:
            if _FOLDERS[name] in draft.splits:
                raise ValueError(f"data.path: {root} holds {_FOLDERS[name]} twice, as {' and '.join(declared)}; keep one")
            draft.splits[_FOLDERS[name]] = list(_classes(root, Path(name)))
    else:
        draft.splits["train"], draft.declared = list(_classes(root, Path())), False
    if not draft.splits.get("train"):
        raise ValueError(f"data.path: {root} has no CLASS/IMAGE, nor train/CLASS/IMAGE; images end in {' '.join(sorted(ENDINGS))}")
    return draft


def _classes(root: Path, below: Path) -> Iterator[Labelled]:
    for folder in sorted(entry.name for entry in os.scandir(root / below) if entry.is_dir()):
        for path in sorted(Path(root, below, folder).rglob("*")):
            if path.suffix.lower() in ENDINGS:
                yield str(path.relative_to(root)), folder, stamp_of(path)


def parquet(root: Path, data: Mapping[str, Any]) -> Draft:
    """List the rows of one file, or of the files whose names begin with a split's; if none does, all are training rows."""
    image, label = data.get("image_column", "image"), data.get("label_column", "label")
    if root.is_file():
        columns = read_labels(root.parent, {"train": [root.name]}, image, label, _as_written)
        return add_rows(Draft(root.parent, column=image, declared=False), columns)
    draft = Draft(root, column=image)
    found = [str(path.relative_to(root)) for path in sorted(root.rglob("*.parquet"))]
    if not found:
        raise ValueError(f"data.path: {root} has no .parquet file")
    files = {
        split: [path for path in found if _FOLDERS.get(Path(path).name.split("-")[0].split(".")[0]) == split] for split in SPLITS
    }
    files = {split: paths for split, paths in files.items() if paths}
    if not files:
        files, draft.declared = {"train": found}, False
    return add_rows(draft, read_labels(root, files, image, label, _as_written))


def _as_written(value: Any) -> str | None:
    return None if value is None else str(value)
