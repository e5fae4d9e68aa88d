"""Folds divide training and validation images: every image once, classes evenly, groups whole, and never the test split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trainables import data
from trainables.backbones import Preprocessing
from trainables.data.folds import divide, divide_groups

INPUT = Preprocessing(1, (8, 8), (0.5,), (0.5,), "bilinear")
PROBLEM = {
    "images": r"data\.folds: the class b has 4 training and validation images, fewer than data\.folds = 5.*give data\.folds: 4",
    "groups": r"data\.group: the images of the class a are of 2 groups, fewer than data\.folds = 3.*give data\.folds: 2",
    "none": r"data\.group: '\(patient\\\\d\)' finds a group in none of the 12 file names, and not in a/o0-0\.png.*change",
    "some": r"data\.group: '\(o0\)' finds a group in 4 of the 12 file names, and not in",
    "broken": r"data\.group: '\(' is no regular expression",
    "two": r"data\.group: '\(a\)\(b\)' has 2 groups in parentheses; write one",
    "column": r"data\.group: .*rows\.parquet has no column 'patient'; it has image, label, object",
    "empty": r"data\.group: the column 'object' has no value for 1 of 6 images \(rows\.parquet#0\)",
}


def folder(root: Path, images: dict[str, int]) -> Path:
    """Images of one grey level each, all different; name to number of copies with names of their own."""
    level = 0
    for name, n_images in images.items():
        for n in range(n_images):
            path = root / f"{name}-{n}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8), level, np.uint8)).save(path)
            level += 1
    return root


def section(path: Path, **values: Any) -> dict[str, Any]:
    return {"kind": "imagefolder", "path": str(path), "seed": 0, **values}


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 6), st.integers(0, 3))
def test_parts_are_as_even_as_whole_images_allow(classes: list[int], n_folds: int, seed: int) -> None:
    names = [f"{n}.png" for n in range(len(classes))]
    parts = divide(names, classes, n_folds, seed=seed)
    for members in (np.arange(len(classes)), *(np.flatnonzero(np.array(classes) == c) for c in set(classes))):
        sizes = np.bincount(parts[members], minlength=n_folds)
        assert sizes.sum() == len(members)
        assert sizes.max() - sizes.min() <= 1
    other = np.random.default_rng(seed).permutation(len(classes))
    again = divide([names[i] for i in other], [classes[i] for i in other], n_folds, seed=seed)
    assert again.tolist() == parts[other].tolist()  # the order of the listing does not matter


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 15)), min_size=12, max_size=80), st.integers(2, 4))
def test_groups_stay_whole_and_classes_as_even_as_scikit_learn_has_them(pairs: list[tuple[int, int]], n_folds: int) -> None:
    from sklearn.model_selection import StratifiedGroupKFold

    classes, groups = [c for c, _ in pairs], [f"g{g}" for _, g in pairs]
    least = min(len({g for c, g in pairs if c == one}) for one in set(classes))
    if least < n_folds or min(Counter(classes).values()) < n_folds:
        return
    parts = divide_groups(classes, groups, n_folds, seed=1)
    assert all(len({int(p) for p, g in zip(parts, groups, strict=True) if g == one}) == 1 for one in set(groups))
    oracle = np.empty(len(pairs), np.int64)
    for part, (_, rows) in enumerate(StratifiedGroupKFold(n_folds).split(classes, classes, groups)):
        oracle[rows] = part

    def unevenness(found: np.ndarray[Any, Any]) -> float:
        shares = [np.bincount(found[np.array(classes) == c], minlength=n_folds) / classes.count(c) for c in set(classes)]
        return float(np.std(shares, axis=1).mean())

    assert unevenness(parts) <= unevenness(oracle) + 0.1  # both are greedy; ties are broken differently


def test_every_image_of_the_pool_validates_once_and_no_image_of_the_test_split_is_read(tmp_path: Path) -> None:
    images = {"train/a/x": 6, "train/b/x": 5, "val/a/y": 3, "val/b/y": 4, "test/a/z": 2, "test/b/z": 2}
    question = section(folder(tmp_path / "images", images), folds=3)
    plain = data.load({**question, "folds": None}, INPUT)
    pool = sorted(int(image.flatten()[0]) for split in plain.values() for image in split.images)
    validated = []
    for fold in range(3):
        splits = data.load({**question, "fold": fold}, INPUT)
        levels = {name: [int(batch[0, 0, 0]) for batch in torch.cat(list(split.batches(4)))] for name, split in splits.items()}
        assert sorted(levels["train"] + levels["validation"]) == pool
        assert {name: len(split) for name, split in splits.items()} == {
            name: data.n_images({**question, "fold": fold}, name) for name in splits
        }
        in_order = splits["train"].take(torch.arange(len(splits["train"])))
        assert [int(image[0, 0, 0]) for image in in_order] == levels["train"]
        assert splits["train"].digest != plain["train"].digest
        counts = torch.bincount(splits["validation"].labels).tolist()
        assert counts == [3, 3]
        validated += levels["validation"]
    assert sorted(validated) == pool
    assert len(data.load_final(question, INPUT)["train"]) == len(pool)  # the final training is on the whole pool, as without folds
    assert data.audit(question, INPUT).n_images == {"train": 12, "validation": 6, "test": 4}


def test_images_of_one_object_stay_in_one_fold_by_pattern_and_by_column(tmp_path: Path) -> None:
    images = {f"a/o{n}": 2 for n in range(4)} | {f"b/o{n}": 3 for n in range(4, 8)}
    by_pattern = section(folder(tmp_path / "images", images), folds=2, group=r"(o\d+)-", val_fraction=0.3)
    rows = [(path.read_bytes(), path.parent.name, path.name[:2]) for path in sorted((tmp_path / "images").glob("*/*"))]
    table = pa.table({"image": [r[0] for r in rows], "label": [r[1] for r in rows], "object": [r[2] for r in rows]})
    pq.write_table(table, tmp_path / "rows.parquet")
    by_column = {**section(tmp_path / "rows.parquet", folds=2, group="object", val_fraction=0.3), "kind": "parquet"}
    shown = {int(np.asarray(Image.open(path))[0, 0]): path.name[:2] for path in (tmp_path / "images").glob("*/*")}
    for question in (by_pattern, by_column):
        found = data.load(question, INPUT)
        objects = {
            name: {shown[int(image[0, 0, 0])] for image in torch.cat(list(split.batches(8)))} for name, split in found.items()
        }
        assert not objects["train"] & objects["validation"]
        assert torch.bincount(found["validation"].labels).tolist() == [4, 6]


@pytest.mark.parametrize("problem", PROBLEM)
def test_folds_that_cannot_be_are_refused_with_the_remedy(problem: str, tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {"a/o0": 4, "a/o1": 4, "b/o2": 1, "b/o3": 1, "b/o4": 2})
    rows = {"image": [path.read_bytes() for path in sorted(images.glob("*/*"))][:6], "label": ["a", "b"] * 3}
    pq.write_table(pa.table({**rows, "object": [None, "p", "q", "r", "s", "t"]}), tmp_path / "rows.parquet")
    question = {
        "images": section(images, folds=5),
        "groups": section(images, folds=3, group=r"(o\d)"),
        "none": section(images, folds=2, group=r"(patient\d)"),
        "some": section(images, folds=2, group="(o0)"),
        "broken": section(images, folds=2, group="("),
        "two": section(images, folds=2, group="(a)(b)"),
        "column": {**section(tmp_path / "rows.parquet", folds=2, group="patient"), "kind": "parquet"},
        "empty": {**section(tmp_path / "rows.parquet", folds=2, group="object"), "kind": "parquet"},
    }[problem]
    with pytest.raises(ValueError, match=PROBLEM[problem]):
        data.n_images(question, "validation")


def test_images_with_any_number_of_labels_fold_by_the_column_of_their_table(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {f"o{n}": 2 for n in range(6)})
    lines = [f"o{n}-{k}.png,{'cat|dog' if n % 2 else 'dog'},{n}" for n in range(6) for k in range(2)]
    (images / "labels.csv").write_text("\n".join(["file_name,labels,object", *lines]))
    question = section(images, folds=3, labels="labels.csv", group="object", val_fraction=0.4)
    for fold in range(3):
        found = data.load({**question, "fold": fold}, INPUT, ["validation"])["validation"]
        assert found.labels.sum(0).tolist() == [2.0, 4.0]  # two images with both labels, two with one
    with pytest.raises(ValueError, match=r"the class cat are of 3 groups, fewer than data\.folds = 4"):
        data.n_images({**question, "folds": 4}, "train")


def test_the_same_bytes_twice_in_the_pool_are_a_problem_only_with_folds(tmp_path: Path) -> None:
    images = folder(tmp_path / "images", {"a/x": 4, "b/x": 4})
    (images / "b" / "twin.png").write_bytes((images / "b" / "x-1.png").read_bytes())
    question = section(images, folds=2)
    with pytest.raises(ValueError, match=r"b/x-1\.png.* same bytes|same bytes as b/.*folds could train on one"):
        data.load(question, INPUT)
    splits = data.load({**question, "on_problem": "skip"}, INPUT)
    assert sum(map(len, splits.values())) == 8


def test_packaged_images_fold_too_and_an_emoji_stays_with_its_variants() -> None:
    from trainables.data.emoji import emoji_groups
    from trainables.data.files import parts

    groups = emoji_groups()
    found = parts({"kind": "emoji", "folds": 5, "seed": 3})
    assert len(found) == 2200
    assert max(Counter(found.values()).values()) - min(Counter(found.values()).values()) <= 40
    assert len({(groups[int(index)], part) for index, part in found.items()}) == len({groups[int(index)] for index in found})
    splits = data.load({"kind": "digits", "folds": 5, "fold": 1, "seed": 3}, INPUT)
    assert {name: len(split) for name, split in splits.items()} == {"train": 800, "validation": 200}
    with pytest.raises(ValueError, match=r"data\.folds: the smallest class has 96 .* give data\.folds: 96 or less"):
        data.n_images({"kind": "digits", "folds": 98}, "train")
