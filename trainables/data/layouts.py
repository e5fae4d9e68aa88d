"""The layouts of image data sets on a disk: the label and the split of each image. No pixel is read here.

    imagefolder   PATH/train/CLASS/*.jpg, PATH/val/CLASS/*.jpg, PATH/test/CLASS/*.jpg; or PATH/CLASS/*.jpg, split here
    vtab          PATH/train800.txt, val200.txt, train800val200.txt, test.txt: lines "images/1.jpg 3" (VTAB-1k as the papers use it)
    fgvc          PATH/train.json, val.json, test.json: {"image": label} (the FGVC splits of VPT, arXiv:2203.12119)
    parquet       PATH/train-*.parquet, validation-*.parquet, test-*.parquet (or below PATH), or one FILE, split here: a column of
                  structs of `bytes` and `path`, and one of labels (Hugging Face's layout)

Splits that a data set does not declare are created here: stratified, and a function of image names and a seed alone.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

SPLITS: Final = ("train", "validation", "test")
ENDINGS: Final = frozenset({".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".webp", ".tif", ".tiff"})
_FOLDERS: Final = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a listing.

    Attributes:
        path: Path relative to the root; with `#ROW` for a row of a Parquet file.
        label: Number of its class.
        stamp: Size in bytes and modification time (ns) of the file.
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
    """

    root: Path
    splits: Mapping[str, tuple[Image, ...]]
    classes: tuple[str, ...]
    problems: tuple[str, ...] = ()
    column: str | None = None

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
            yield from _rows(self.root / file, self.column, wanted)


_Labelled = tuple[str, str, tuple[int, int]]  # path, class, stamp


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
    """

    root: Path
    splits: dict[str, list[_Labelled]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    classes: list[str] | None = None  # None: the classes of the training images
    column: str | None = None
    declared: bool = True  # the splits are the data set's own


def listing(data: Mapping[str, Any]) -> Listing:
    """List the data set at `data["path"]`.

    Args:
        data: Mapping with `kind`, `path`, and the keys of the kind: `val_fraction`, `test_fraction` and `seed` of the splits that
            are created here, `min_images` of a class among the training images, `n_classes` (vtab), `image_column` and
            `label_column` (parquet).

    Raises:
        ValueError: If there is no data set of this layout; the message says what was expected.
    """
    root = Path(data["path"]).expanduser()
    if not root.exists():
        raise ValueError(f"data.path: {root} does not exist")
    draft = LAYOUTS[data["kind"]](root, data)
    if "train" not in draft.splits:
        raise ValueError(
            f"data.path: {root} has no training images of the layout {data['kind']}; see `docs/data.md` for this layout"
        )
    if not draft.declared or "validation" not in draft.splits:
        _split(draft, data)
    return _numbered(draft, least=data.get("min_images", 0 if data["kind"] == "vtab" else 1))


# -- the layouts -------------------------------------------------------------------------------------------------------------------


def _image_folder(root: Path, data: Mapping[str, Any]) -> Draft:
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
        endings = " ".join(sorted(ENDINGS))
        raise ValueError(f"data.path: {root} has no CLASS/IMAGE, nor train/CLASS/IMAGE; images end in {endings}")
    return draft


def _classes(root: Path, below: Path) -> Iterator[_Labelled]:
    for folder in sorted(entry.name for entry in os.scandir(root / below) if entry.is_dir()):
        for path in sorted(Path(root, below, folder).rglob("*")):
            if path.suffix.lower() in ENDINGS:
                yield str(path.relative_to(root)), folder, _stamp(path)


def _vtab(root: Path, data: Mapping[str, Any]) -> Draft:
    draft = Draft(root)
    for split, file in {"train": "train800.txt", "validation": "val200.txt", "test": "test.txt"}.items():
        if not (root / file).is_file():
            if split == "test":
                continue
            raise ValueError(f"data.path: {root} has no {file}; the layout vtab is train800.txt, val200.txt, test.txt and images")
        images = draft.splits.setdefault(split, [])
        for number, line in enumerate((root / file).read_text().splitlines(), start=1):
            image_path, _, label = line.strip().rpartition(" ")
            if line.strip():
                _add(draft, images, f"{file}:{number}", image_path, label)
    seen = [int(label) for images in draft.splits.values() for _, label, _ in images]
    count = data.get("n_classes") or 1 + max(seen, default=0)
    draft.classes = [str(number) for number in range(count)]
    return draft


def _fgvc(root: Path, data: Mapping[str, Any]) -> Draft:
    draft = Draft(root)
    folder = next((Path(name) for name in ("images", "Images") if (root / name).is_dir()), Path())
    for split, file in {"train": "train.json", "validation": "val.json", "test": "test.json"}.items():
        if not (root / file).is_file():
            continue
        try:
            labels = json.loads((root / file).read_text())
        except ValueError as error:
            raise ValueError(f"data.path: {root / file} is not JSON ({error})") from None
        if not isinstance(labels, dict):
            raise ValueError(f'data.path: {root / file} is not a mapping {{"image": label}}')
        images = draft.splits.setdefault(split, [])
        for image_path, label in labels.items():
            here = image_path if (root / image_path).is_file() else str(folder / image_path)
            _add(draft, images, f"{file}: {image_path}", here, str(label))
    if "train" not in draft.splits:
        raise ValueError(f"data.path: {root} has no train.json; the layout fgvc is train.json, val.json, test.json and images")
    draft.classes = sorted({label for _, label, _ in draft.splits["train"]}, key=int)
    return draft


def _add(draft: Draft, images: list[_Labelled], where: str, image_path: str, label: str) -> None:
    """Add one line of a list, if its label is a whole number and its image exists."""
    if not label.isdecimal():
        draft.problems.append(f"{where}: the label {label!r} is not a whole number")
        return
    try:
        images.append((image_path, str(int(label)), _stamp(draft.root / image_path)))
    except OSError:
        draft.problems.append(f"{where}: image {image_path} does not exist")


def _parquet(root: Path, data: Mapping[str, Any]) -> Draft:
    image, label = data.get("image_column", "image"), data.get("label_column", "label")
    if root.is_file():
        draft = Draft(root.parent, column=image, declared=False)
        files = {"train": [root]}
    else:
        draft = Draft(root, column=image)
        found = sorted(root.rglob("*.parquet"))
        files = {split: [f for f in found if _FOLDERS.get(f.name.split("-")[0].split(".")[0]) == split] for split in SPLITS}
        files = {split: paths for split, paths in files.items() if paths}
        if not files and found:
            files, draft.declared = {"train": found}, False
        if not found:
            raise ValueError(f"data.path: {root} has no .parquet file")
    names: list[str] | None = None
    for split, paths in files.items():
        images = draft.splits.setdefault(split, [])
        for path in paths:
            labels, names = _labels(path, image, label, names)
            image_path, stamp = path.relative_to(draft.root), _stamp(path)
            for row, value in enumerate(labels):
                known = value is not None and (names is None or value in names)
                if known:
                    images.append((f"{image_path}#{row}", str(value), stamp))
                else:
                    draft.problems.append(f"{image_path}#{row}: the label {value!r} is unknown")
    draft.classes = names
    return draft


def _labels(path: Path, image: str, label: str, names: list[str] | None) -> tuple[list[str | None], list[str] | None]:
    """Return the labels of a Parquet file as class names, and all class names if the file declares them."""
    try:
        schema = pq.read_schema(path)
        for column in (image, label):
            if column not in schema.names:
                raise ValueError(
                    f"data.path: {path} has no column {column!r}; it has {', '.join(schema.names)}; "
                    "set data.image_column, data.label_column"
                )
        kind = schema.field(image).type
        if not pa.types.is_struct(kind) or not pa.types.is_binary(kind.field("bytes").type):
            raise ValueError(f"data.path: column {image!r} of {path} is {kind}, not a struct of bytes and path")
        values = pq.read_table(path, columns=[label]).column(label).to_pylist()
    except (pa.ArrowException, KeyError) as error:
        raise ValueError(f"data.path: {path} cannot be read as Parquet ({error})") from None
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(label, {}).get("names") or names
    if names is None:
        return [None if value is None else str(value) for value in values], None
    return [names[v] if isinstance(v, int) and 0 <= v < len(names) else v if v in names else None for v in values], names


def _rows(path: Path, column: str, wanted: Iterator[int]) -> Iterator[bytes | None]:
    """Yield the encoded images in the given ascending rows of a Parquet file."""
    file, first, row = pq.ParquetFile(path), 0, next(wanted, None)
    for group in range(file.num_row_groups):
        behind = first + file.metadata.row_group(group).num_rows
        if row is not None and row < behind:
            for batch in file.iter_batches(64, row_groups=[group], columns=[column]):
                encoded = batch.column(0).field("bytes")
                while row is not None and row < first + len(batch):
                    yield encoded[row - first].as_py()
                    row = next(wanted, None)
                first += len(batch)
        first = behind


LAYOUTS: dict[str, Callable[[Path, Mapping[str, Any]], Draft]] = {
    "imagefolder": _image_folder,
    "vtab": _vtab,
    "fgvc": _fgvc,
    "parquet": _parquet,
}


# -- splits and numbers ------------------------------------------------------------------------------------------------------------


def _split(draft: Draft, data: Mapping[str, Any]) -> None:
    """Move a share of each class's training images to a validation split, and to a test split if requested."""
    fractions = {"validation": data.get("val_fraction", 0.2)}
    if not draft.declared:
        fractions["test"] = data.get("test_fraction", 0.0)
    by_class: dict[str, list[_Labelled]] = {}
    for image in draft.splits["train"]:
        by_class.setdefault(image[1], []).append(image)
    seed = data.get("seed", 0)
    for name, images in sorted(by_class.items()):
        images.sort(key=lambda image: hashlib.sha256(f"{seed} {image[0]}".encode()).digest())
        if len(images) < (needed := 1 + sum(fraction > 0 for fraction in fractions.values())):
            draft.problems.append(f"class {name}: {len(images)} image, too few for {needed} splits")
            images.clear()
    total = sum(map(len, by_class.values()))
    for split, fraction in fractions.items():
        if fraction == 0:
            continue
        shares = _shares(round(fraction * total), [len(images) for images in by_class.values()])
        taken = [images.pop() for images, n in zip(by_class.values(), shares, strict=True) for _ in range(n)]
        draft.splits[split] = sorted(taken, key=_by_place)
    draft.splits["train"] = sorted((image for images in by_class.values() for image in images), key=_by_place)


def _shares(total: int, sizes: Sequence[int]) -> list[int]:
    """Return how many of `total` images each class gives: by largest remainders, at least one, and never its last image."""
    whole = apportion(total, sizes) if any(sizes) else [0] * len(sizes)
    return [max(1, min(share, size - 1)) if size else 0 for share, size in zip(whole, sizes, strict=True)]


def _by_place(image: _Labelled) -> tuple[str, int]:
    file, _, row = image[0].rpartition("#")
    return (file, int(row)) if file and row.isdecimal() else (image[0], 0)


def _numbered(draft: Draft, least: int) -> Listing:
    """Return the listing with numbers as labels, without images of unknown classes and classes with too few images."""
    classes = draft.classes or sorted({label for _, label, _ in draft.splits["train"]}, key=_natural)
    problems = list(draft.problems)
    counts = Counter(label for _, label, _ in draft.splits["train"])
    few = {name for name in classes if counts[name] < least}
    problems += [f"class {name}: {counts[name]} training images, data.min_images is {least}" for name in classes if name in few]
    classes = [name for name in classes if name not in few]
    number = {name: n for n, name in enumerate(classes)}
    splits: dict[str, tuple[Image, ...]] = {}
    for split in (name for name in SPLITS if name in draft.splits):
        kept = []
        for image_path, label, stamp in draft.splits[split]:
            if label in number:
                kept.append(Image(image_path, number[label], stamp))
            elif label not in few:
                problems.append(f"{image_path}: the {split} image's label {label!r} is not among the classes")
        splits[split] = tuple(kept)
        if not kept:
            raise ValueError(f"data.path: {draft.root} has no usable {split} image; " + in_short(problems))
    return Listing(draft.root, splits, tuple(classes), tuple(problems), draft.column)


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


def in_short(problems: Iterable[str], most: int = 20) -> str:
    """Join the first problems, and count the others."""
    listed = list(problems)
    return "; ".join(listed[:most]) + (f"; and {len(listed) - most} more" if len(listed) > most else "")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
