"""The layout `imagefolder` with a CSV file, which gives each image any number of labels. docs/data.md states its rules."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.folder_tree import scan
from trainables.data.label_sets import joined
from trainables.data.listing import Draft, in_short
from trainables.data.naming import is_image, split_of

SEPARATOR = "|"


def labelled_files(root: Path, data: Mapping[str, Any]) -> Draft:
    """List the images that a CSV file names: columns `file_name`, `labels` (separated by |) and, if it has one, `split`."""
    table = root / Path(data["labels"]).expanduser()
    found = scan(root, lambda path: is_image(path) or path == table, "image")
    draft = Draft(root, problems=found.problems, notes=found.notes, many=True)
    stamps = {path: stamp for path, stamp in found.top.all_files() if root / path != table}
    rows = _rows(table)
    named: set[str] = set()
    unclaimed: list[str] = []
    for line, row in rows:
        path = str(row["file_name"]).strip()
        if path in named:
            draft.problems.append(f"{table.name}:{line}: {path} is listed twice")
        elif path not in stamps:
            draft.problems.append(f"{table.name}:{line}: {path} is no image below {root}")
        else:
            word = row["split"].strip() if row.get("split") else path.split("/")[0] if "/" in path else ""
            split = split_of(word)
            if split is None and row.get("split"):
                draft.problems.append(f"{table.name}:{line}: the split {word!r} is not train, val or test")
                continue
            labels = joined(name.strip() for name in str(row["labels"] or "").split(SEPARATOR) if name.strip())
            draft.splits.setdefault(split or "", []).append((path, labels, stamps[path]))
            if split is None:
                unclaimed.append(path)
        named.add(path)
    if others := sorted(stamps.keys() - named):
        draft.notes.append(f"{len(others):,} images are left out: {table.name} does not name them ({in_short(others, 3)})")
    if draft.splits.keys() == {""}:
        draft.declared, draft.splits = False, {"train": draft.splits[""]}
    elif draft.splits.pop("", None):
        draft.problems.append(f"{table.name}: no split of {in_short(unclaimed, 3)}, but of other images; give each one")
    return draft


def _rows(table: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            columns = reader.fieldnames or []
            if missing := [name for name in ("file_name", "labels") if name not in columns]:
                raise ValueError(
                    f"data.labels: {table} has no column {missing[0]}; it needs file_name (a path below data.path) and labels "
                    f"(names separated by {SEPARATOR}), and has {', '.join(columns) or 'nothing'}"
                )
            return [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"data.labels: {table} cannot be read as CSV in UTF-8 ({why})") from None
