"""The layout `parquet`: tables with a column of encoded images and a column of labels. docs/data.md states its rules."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.data.folder_tree import scan
from trainables.data.image_column import encoded, is_bytes
from trainables.data.label_sets import joined
from trainables.data.listing import SPLITS, Draft, Labelled, in_short, stamp_of
from trainables.data.naming import is_parquet, splits_in, why_unreadable


def parquet(root: Path, data: Mapping[str, Any]) -> Draft:
    """List the rows of one file, or of all files below a folder, whose names or folders tell their split."""
    image, label = data.get("image_column", "image"), data.get("label_column", "label")
    if root.is_file():
        draft = Draft(root.parent, column=image, declared=False)
        files = {"train": [root.name]}
    else:
        found = scan(root, is_parquet, "Parquet file")
        draft = Draft(root, problems=found.problems, notes=found.notes, column=image)
        paths = [path for path, _ in found.top.all_files()]
        if not paths:
            raise ValueError(f"data.path: {root} has no .parquet file" + (f"; {in_short(draft.notes)}" if draft.notes else ""))
        files = _by_split(root, paths, draft)
    columns = read_labels(root if root.is_dir() else root.parent, files, image, label)
    _refuse_mixed_files(columns)
    return add_rows(draft, _without_minus_one(columns))


def class_name(value: Any) -> str | None:
    """Return the class that a label names; None for a missing one. Whole numbers are the same as 2, 2.0 or Decimal 2.00."""
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace") or None
    if isinstance(value, float | Decimal):
        return None if math.isnan(value) else str(int(value)) if value % 1 == 0 else str(value)
    return None if value is None or value == "" else str(value)


def read_labels(
    root: Path,
    files: Mapping[str, Sequence[str]],
    image: str,
    label: str,
    class_name: Callable[[Any], str | None] = class_name,
) -> dict[str, dict[str, LabelColumn]]:
    """Return the label column of each file of each split."""
    return {split: {path: _labels(root / path, image, label, class_name) for path in paths} for split, paths in files.items()}


def add_rows(draft: Draft, columns: Mapping[str, Mapping[str, LabelColumn]]) -> Draft:
    """Add the rows of the files of each split, with the classes that the files declare."""
    names: list[str] | None = None
    for split, of_files in columns.items():
        images: list[Labelled] = []
        problems: list[str] = []
        for path, column in of_files.items():
            if names is None or column.names is None:
                names = column.names
            elif set(column.names) != set(names):
                differ = sorted(set(column.names) ^ set(names))
                raise ValueError(
                    f"data.path: {draft.root / path} declares other classes than the files before it ({_few(differ)}); are these "
                    "two data sets?"
                )
            stamp = stamp_of(draft.root / path)
            for row, name in enumerate(column.labels):
                if name is not None:
                    images.append((f"{path}#{row}", name, stamp))
                else:
                    missing = column.values[row] in (None, "") or not column.lacks or column.values[row] != column.values[row]
                    problems.append(
                        f"{path}#{row}: the label " + ("is missing" if missing else f"{column.values[row]!r} {column.lacks}")
                    )
        source = next(iter(of_files)) if len(of_files) == 1 else f"{split} ({len(of_files)} files)"
        draft.add_split(split, images, problems, source=source)
    draft.classes = names
    draft.many = any(column.many for of_files in columns.values() for column in of_files.values())
    return draft


def _refuse_mixed_files(columns: Mapping[str, Mapping[str, LabelColumn]]) -> None:
    """Refuse files of which some declare names for their classes and others have labels that are no such names.

    Raises:
        ValueError: If there are such files, or one declares a name twice.
    """
    every = [(path, column) for of_files in columns.values() for path, column in of_files.items()]
    if len({column.many for _, column in every}) > 1:
        lists = next(path for path, column in every if column.many)
        raise ValueError(f"data.path: {lists} has lists of labels, and other files have one label each; are these two data sets?")
    declared = [(path, column.names) for path, column in every if column.names is not None]
    for path, names in declared:
        if len(set(names)) < len(names):
            twice = next(name for n, name in enumerate(names) if name in names[:n])
            raise ValueError(f"data.path: {path} declares the class {twice!r} twice; give every class a name of its own")
    if not declared or every[0][1].many:
        return
    known = {*declared[0][1], None, "-1"}
    for path, column in every:
        if column.names is None and (other := next((label for label in column.labels if label not in known), None)):
            raise ValueError(
                f"data.path: {path} declares no names of classes and has the label {other}, {declared[0][0]} declares "
                f"{_few(declared[0][1])}; are these two data sets?"
            )


def _without_minus_one(columns: Mapping[str, Mapping[str, LabelColumn]]) -> Mapping[str, Mapping[str, LabelColumn]]:
    """Return the columns in which -1 is no label where 0 is one, or where names are: so data sets mark images without a label.

    A column that declares no names gets those of the others, which its words are.
    """
    every = [column for of_files in columns.values() for column in of_files.values()]
    names = next((column.names for column in every if column.names is not None), None)
    if every[0].many or (names is None and not any("0" in column.labels for column in every)):
        return columns

    def read(column: LabelColumn) -> LabelColumn:
        if column.names is not None:
            return column
        labels = [None if label == "-1" else label for label in column.labels]
        return replace(column, labels=labels, names=names, lacks=_NO_LABEL)

    return {split: {path: read(column) for path, column in of_files.items()} for split, of_files in columns.items()}


_NO_LABEL = "means that there is none; if it is a class, write words instead of numbers"


def _by_split(root: Path, paths: Sequence[str], draft: Draft) -> dict[str, list[str]]:
    """Return the files of each split; all are of `train`, still undivided, if none names a split."""
    files: dict[str, list[str]] = {}
    unclaimed: list[str] = []
    configurations: dict[str, str] = {}
    words: dict[str, dict[str, str]] = {}
    for path in paths:
        split, word, configuration = _split_and_configuration(path, draft)
        configurations.setdefault(configuration, path)
        if split is not None:
            files.setdefault(split, []).append(path)
            words.setdefault(split, {}).setdefault(word, path)
        elif not draft.problems or not draft.problems[-1].startswith(f"{path}: "):
            unclaimed.append(path)
    if len(configurations) > 1:
        names = ", ".join(name or "the folder itself" for name in configurations)
        of_splits = {name for name, path in configurations.items() if any(path in paths for paths in files.values())}
        example = next(name for name in sorted(configurations, key=lambda name: name not in of_splits) if name)
        raise ValueError(
            f"data.path: {root} holds several data sets or configurations ({names}); name one, "
            f"for example data.path: {root / example}"
        )
    for split, named in words.items():
        if len(named) > 1:
            raise ValueError(f"data.path: {root} holds {split} twice, as {' and '.join(named.values())}; keep one")
    if not files:
        draft.declared = False
        return {"train": unclaimed}
    draft.problems += [
        f"{path}: no split, but {next(iter(files.values()))[0]} is of one; name it, or its folder, train, validation or test"
        for path in unclaimed
    ]
    return {split: files[split] for split in SPLITS if split in files}


def _split_and_configuration(path: str, draft: Draft) -> tuple[str | None, str, str]:
    """Return the split that a file's name or the nearest folder names, the word for it, and the folders above what names it."""
    parts = PurePosixPath(path)
    folders = list(parts.parts[:-1])
    own = splits_in(parts.stem)
    above = next(((n, found) for n in reversed(range(len(folders))) if (found := splits_in(folders[n]))), None)
    configuration = "/".join(folders if above is None else folders[: above[0]])
    named = above[1] if above is not None else own
    if len(named) > 1 or (own and own.keys() != named.keys()):
        told = sorted(own.keys() | named.keys())
        draft.problems.append(f"{path}: its name and folders tell several splits ({', '.join(told)}); rename it")
        return None, "", configuration
    return *next(iter(named.items()), (None, "")), configuration


@dataclass(frozen=True)
class LabelColumn:
    """The label column of a file.

    Attributes:
        labels: Class names; None for a row without a usable label.
        values: Values in the file.
        names: Names of all classes, if the file declares them.
        lacks: Reason why a value has no class name.
        many: True if the labels are sets (`label_sets.joined`).
    """

    labels: Sequence[str | None]
    values: Sequence[Any]
    names: list[str] | None
    lacks: str
    many: bool = False


def _labels(path: Path, image: str, label: str, class_name: Callable[[Any], str | None]) -> LabelColumn:
    """Read the labels of a file, and check that its images have bytes."""
    try:
        schema = pq.read_schema(path)
        for column in (image, label):
            if column not in schema.names:
                raise ValueError(
                    f"data.path: {path} has no column {column!r}; it has {', '.join(schema.names)}; "
                    "set data.image_column, data.label_column"
                )
            if schema.names.count(column) > 1:
                raise ValueError(f"data.path: {path} has {schema.names.count(column)} columns {column!r}; rename all but one")
        _refuse_other_images(path, image, schema.field(image).type)
        kind = schema.field(label).type
        many = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        if pa.types.is_nested(kind.value_type if many else kind):
            raise ValueError(
                f"data.path: column {label!r} of {path} is {kind}; a column with names or numbers, or lists of them, is needed; "
                "set data.label_column"
            )
        values = pq.read_table(path, columns=[label]).column(label).to_pylist()
    except (pa.ArrowException, KeyError, OSError) as error:
        raise ValueError(f"data.path: {path} cannot be read as Parquet ({why_unreadable(path) or error})") from None
    names = _declared(path, schema, label)
    if many:
        return _of_lists(values, names, class_name)
    if names is None:
        fraction = next((v for v in values if isinstance(v, float | Decimal) and (v % 1 > 0 or math.isinf(v))), None)
        if fraction is not None:
            raise ValueError(
                f"data.path: column {label!r} of {path} holds {fraction}, which is no whole number and no name of a class; "
                "set data.label_column"
            )
        return LabelColumn([class_name(value) for value in values], values, None, "")
    known = frozenset(names)

    def named(value: Any) -> str | None:
        if isinstance(value, float | Decimal) and value == value // 1:
            value = int(value)  # pandas makes real numbers of whole ones when it sees a missing one
        if isinstance(value, int):
            return names[value] if 0 <= value < len(names) else None
        return value if isinstance(value, str) and value in known else None

    return LabelColumn([named(value) for value in values], values, names, f"is none of the file's {len(names):,} classes")


def _of_lists(values: Sequence[Any], names: list[str] | None, class_name: Callable[[Any], str | None]) -> LabelColumn:
    """Return a column of lists of labels, each as one text; without a list, or with an unknown label in it, a row has none."""

    def one(value: Any) -> str | None:
        if names is not None and isinstance(value, int):
            return names[value] if 0 <= value < len(names) else None
        found = class_name(value)
        return found if names is None or found in names else None

    rows = [None if value is None else [one(part) for part in value] for value in values]
    labels = [None if row is None or None in row else joined(part for part in row if part is not None) for row in rows]
    lacks = "has an empty label" if names is None else f"has a label that is none of the file's {len(names):,} classes"
    return LabelColumn(labels, values, names, lacks, many=True)


def _declared(path: Path, schema: pa.Schema, label: str) -> list[str] | None:
    """Return the names of the classes that Hugging Face's `datasets` wrote into a file; None if there are none."""
    if (written := (schema.metadata or {}).get(b"huggingface")) is None:
        return None
    try:
        info = json.loads(written).get("info") or {}
        feature: Any = (info.get("features") or {}).get(label) or {}
        if isinstance(feature, list):  # of lists, as earlier versions of datasets wrote it
            feature = feature[0] if feature else {}
        names = (feature.get("feature") or feature).get("names")
        if names is not None and (not isinstance(names, list) or any(isinstance(name, list | dict) for name in names)):
            raise ValueError(names)
    except (ValueError, AttributeError):
        raise ValueError(
            f"data.path: {path} has metadata `huggingface` that are not those of the library datasets; write the file without them"
        ) from None
    return None if names is None else [str(name) for name in names]


def _refuse_other_images(path: Path, column: str, kind: pa.DataType) -> None:
    """Refuse a column whose values are no encoded images: of another type, or paths without bytes."""
    content = kind
    if pa.types.is_struct(kind):
        if kind.get_field_index("bytes") < 0:
            raise ValueError(f"data.path: column {column!r} of {path} is {kind}, a struct without the field bytes")
        content = kind.field("bytes").type
    if not is_bytes(content):
        raise ValueError(
            f"data.path: column {column!r} of {path} is {kind}; a column of encoded images (binary, or a struct of bytes and path) "
            "is needed; set data.image_column"
        )
    file = pq.ParquetFile(path)
    first = next(file.iter_batches(8, columns=[column]), None)
    if first is None or len(first) == 0 or encoded(first.column(0)).null_count < len(first):
        return
    if all(encoded(batch.column(0)).null_count == len(batch) for batch in file.iter_batches(1024, columns=[column])):
        row = first.column(0)[0].as_py()
        example = f" (the first is {row['path']})" if isinstance(row, dict) and row.get("path") else ""
        raise ValueError(
            f"data.path: column {column!r} of {path} holds paths and no bytes{example}; write the table with the images in it "
            "(datasets: cast the column to Image and call `embed_table_storage`), or use the files themselves with "
            "data.kind: imagefolder"
        )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
