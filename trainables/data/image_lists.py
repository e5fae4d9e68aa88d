"""The layouts `vtab` and `fgvc`: lists of image files with whole numbers as labels, one file for each split."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainables.data.listing import Draft, Labelled, stamp_of


def vtab(root: Path, data: Mapping[str, Any]) -> Draft:
    """List the images of train800.txt, val200.txt and test.txt: lines "images/1.jpg 3"."""
    draft = Draft(root)
    for split, file in {"train": "train800.txt", "validation": "val200.txt", "test": "test.txt"}.items():
        if not (root / file).is_file():
            if split == "test":
                continue
            raise ValueError(f"data.path: {root} has no {file}; the layout vtab is train800.txt, val200.txt, test.txt and images")
        lines = []
        for number, line in enumerate((root / file).read_text(encoding="utf-8-sig").splitlines(), start=1):
            image_path, _, label = line.strip().rpartition(" ")
            if line.strip():
                lines.append((f"{file}:{number}", image_path, label))
        _add(draft, split, lines, source=file)
    seen = [int(label) for images in draft.splits.values() for _, label, _ in images]
    count = data.get("n_classes") or 1 + max(seen, default=0)
    draft.classes = [str(number) for number in range(count)]
    return draft


def fgvc(root: Path, data: Mapping[str, Any]) -> Draft:
    """List the images of train.json, val.json and test.json: {"image": label}."""
    draft = Draft(root)
    folder = next((Path(name) for name in ("images", "Images") if (root / name).is_dir()), Path())
    for split, file in {"train": "train.json", "validation": "val.json", "test": "test.json"}.items():
        if not (root / file).is_file():
            continue
        try:
            labels = json.loads((root / file).read_text(encoding="utf-8-sig"))
        except ValueError as error:
            raise ValueError(f"data.path: {root / file} is not JSON ({error})") from None
        if not isinstance(labels, dict):
            raise ValueError(f'data.path: {root / file} is not a mapping {{"image": label}}')
        if any(isinstance(label, list) for label in labels.values()):
            raise ValueError(
                f"data.path: {root / file} holds lists of labels, which the layout fgvc does not know; give each image one, or use "
                "data.kind: imagefolder with data.labels"
            )
        lines = []
        for image_path, label in labels.items():
            here = image_path if (root / image_path).is_file() else str(folder / image_path)
            lines.append((f"{file}: {image_path}", here, str(label)))
        _add(draft, split, lines, source=file)
    if "train" not in draft.splits:
        raise ValueError(f"data.path: {root} has no train.json; the layout fgvc is train.json, val.json, test.json and images")
    draft.classes = sorted({label for _, label, _ in draft.splits["train"]}, key=int)
    return draft


def _add(draft: Draft, split: str, lines: Iterable[tuple[str, str, str]], *, source: str) -> None:
    """Add the lines (place in the file, image, label) of a list, if the label is a whole number and the image exists."""
    images: list[Labelled] = []
    problems: list[str] = []
    unlabelled = True
    for where, image_path, label in lines:
        if not label.isdecimal():
            problems.append(f"{where}: the label {label!r} is not a whole number")
            continue
        unlabelled = False
        try:
            images.append((image_path, str(int(label)), stamp_of(draft.root / image_path)))
        except OSError:
            problems.append(f"{where}: image {image_path} does not exist")
    if unlabelled or split != "test":
        draft.add_split(split, images, problems, source=source)
    else:
        draft.splits[split] = images
        draft.problems += problems
