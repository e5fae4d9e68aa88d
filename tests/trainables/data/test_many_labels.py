"""Images with any number of labels: a CSV next to a folder, and Parquet with lists."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainables import data as images
from trainables.backbones import Preprocessing
from trainables.data import pinned
from trainables.data.first_look import look
from trainables.data.layouts import listing
from trainables.data.listing import Listing

from .pictures import picture

NAMES = ("across", "down", "slanted")
SETS = ([], ["across"], ["down", "across"], ["across", "down", "slanted"], ["slanted"])  # one of them for each image, in turn


def labelled_folder(root: Path, n: int = 20, *, splits: tuple[str, ...] = ("",), header: str = "file_name,labels") -> Path:
    """root/SPLIT/NNN.png and labels.csv."""
    lines = [header]
    for s, split in enumerate(splits):
        (root / split).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            path = f"{split}/{i:03d}.png".removeprefix("/")
            (root / path).write_bytes(picture(i % 3, 1000 * s + i))
            lines.append(f"{path},{'|'.join(SETS[i % len(SETS)])}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")
    return root


def table(path: Path, labels: list[Any], feature: Any = None) -> Path:
    """A Parquet file of images with lists of labels."""
    made = pa.table({"image": pa.array([picture(i % 3, i) for i in range(len(labels))], pa.binary()), "label": pa.array(labels)})
    if feature is not None:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": {"label": feature}}})})
    pq.write_table(made, path)
    return path


def of(root: Path, kind: str = "imagefolder", **more: Any) -> Listing:
    return listing({"kind": kind, "path": str(root), "labels": "labels.csv" if kind == "imagefolder" else None, **more})


def labels_of(found: Listing, split: str) -> dict[str, set[str]]:
    """The labels of each image of a split."""
    assert found.sets is not None
    return {image.path: {found.classes[c] for c in found.sets[image.label]} for image in found.splits[split]}


def test_a_csv_gives_each_file_its_labels_also_none_and_splits_are_drawn_set_by_set(tmp_path: Path) -> None:
    found = of(labelled_folder(tmp_path, 50))
    assert (found.classes, found.problems, found.notes) == (NAMES, (), ())
    for split, n in (("train", 8), ("validation", 2)):
        labels = labels_of(found, split)
        assert all(these == set(SETS[int(path[:3]) % len(SETS)]) for path, these in labels.items())
        assert Counter(frozenset(these) for these in labels.values()) == dict.fromkeys(map(frozenset, SETS), n)
    assert of(tmp_path) == found


def test_rare_sets_share_a_validation_split_instead_of_giving_an_image_each(tmp_path: Path) -> None:
    rows = [["a"]] * 10 + [["b"]] * 10 + [["a", "b", str(i % 5)] for i in range(20)]  # four images of each of five sets
    found = of(table(tmp_path / "all.parquet", rows), "parquet")
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 32, "validation": 8}
    assert sum(len(these) == 3 for these in labels_of(found, "validation").values()) == 4


def test_splits_are_those_of_the_folders_or_of_a_column(tmp_path: Path) -> None:
    found = of(labelled_folder(tmp_path / "a", 10, splits=("train", "val", "test")))
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 10, "validation": 10, "test": 10}
    labelled_folder(tmp_path / "b", 15)
    rows = (tmp_path / "b" / "labels.csv").read_text().splitlines()
    named = [f"{row},{'val' if i % 3 == 0 else 'train'}" for i, row in enumerate(rows[1:])]
    (tmp_path / "b" / "labels.csv").write_text("\n".join([rows[0] + ",split", *named]))
    assert {split: len(own) for split, own in of(tmp_path / "b").splits.items()} == {"train": 10, "validation": 5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("file_name", "file"), r"labels.csv has no column file_name; it needs .* and has file, labels"),
        (lambda text: text + "007.png,down\n", r"labels.csv:22: 007.png is listed twice"),
        (lambda text: text + "gone.png,down\n", r"labels.csv:22: gone.png is no image below"),
        (lambda text: text.replace("down", "across").replace("slanted", "across"), r"has 1 label; a study needs at least two"),
    ],
)
def test_what_is_wrong_with_the_csv_is_said_with_its_line(tmp_path: Path, change: Any, message: str) -> None:
    labelled_folder(tmp_path)
    (tmp_path / "labels.csv").write_text(change((tmp_path / "labels.csv").read_text()))
    with pytest.raises(ValueError, match=message):
        raise ValueError("; ".join(of(tmp_path).problems))


def test_a_missing_csv_unnamed_images_and_unknown_labels_are_said(tmp_path: Path) -> None:
    labelled_folder(tmp_path, 10, splits=("train", "val"))
    with pytest.raises(ValueError, match=r"data\.labels: .*other\.csv cannot be read as CSV in UTF-8 \(No such file"):
        of(tmp_path, labels="other.csv")
    (tmp_path / "train" / "new.png").write_bytes(picture(0, 5))
    text = (tmp_path / "labels.csv").read_text().replace("val/001.png,across", "val/001.png,acros")
    (tmp_path / "labels.csv").write_text(text)
    found = of(tmp_path)
    assert found.notes == ("1 images are left out: labels.csv does not name them (train/new.png)",)
    assert found.problems == ("val/001.png: the validation image's label 'acros' is not among the classes (did you mean across?)",)


@pytest.mark.parametrize("feature", [None, [{"names": list(NAMES)}], {"feature": {"names": list(NAMES)}, "_type": "List"}])
def test_lists_in_parquet_are_sets_of_labels_of_names_or_numbers(tmp_path: Path, feature: Any) -> None:
    numbers = [[NAMES.index(name) for name in SETS[i % len(SETS)]] for i in range(20)]
    rows = [list(SETS[i % len(SETS)]) for i in range(20)] if feature is None else numbers
    found = of(table(tmp_path / "all.parquet", rows, feature), "parquet")
    assert (found.classes, found.problems) == (NAMES, ())
    every = labels_of(found, "train") | labels_of(found, "validation")
    assert every == {f"all.parquet#{i}": set(SETS[i % len(SETS)]) for i in range(20)}


def test_a_row_without_a_list_or_with_a_number_of_no_class_is_a_problem(tmp_path: Path) -> None:
    rows = [[0, 1], [1], None, [0, 7], [2], [0], [1, 2], [0, 1]]
    found = of(table(tmp_path / "all.parquet", rows, {"feature": {"names": list(NAMES)}}), "parquet")
    assert found.problems[0] == "all.parquet#2: the label is missing"
    assert "all.parquet#3: the label [0, 7] has a label that is none of the file's 3 classes" in found.problems


def test_files_with_lists_and_files_without_are_two_data_sets(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", [["a"], ["b"]] * 4)
    table(tmp_path / "val.parquet", ["a", "b"])
    with pytest.raises(ValueError, match=r"train\.parquet has lists of labels, and other files have one label each"):
        of(tmp_path, "parquet")


def test_loaded_they_are_a_row_of_ones_and_zeros_and_are_counted_by_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    section = {"kind": "imagefolder", "path": str(labelled_folder(tmp_path / "set", 10, splits=("train", "val", "test")))}
    section["labels"] = "labels.csv"
    wanted = Preprocessing(3, (32, 32), (0.5,) * 3, (0.5,) * 3, "bicubic")
    splits = images.load(section, wanted)
    expected = np.array([[name in SETS[i % len(SETS)] for name in NAMES] for i in range(10)], np.float32)
    assert np.array_equal(splits["train"].labels.numpy(), expected)
    audit = images.audit(section, wanted)
    assert audit.n_images == {"train": 10, "validation": 10, "test": 10}
    assert audit.classes["across"] == {"train": 6, "validation": 6, "test": 6}
    assert images.load_final(section, wanted)["train"].labels.shape == (20, 3)


def test_another_label_is_another_data_set(tmp_path: Path) -> None:
    found = of(labelled_folder(tmp_path, 20))
    pinned.save(found, tmp_path / "then.parquet")
    text = (tmp_path / "labels.csv").read_text()
    (tmp_path / "labels.csv").write_text(text.replace("000.png,", "000.png,down"))
    now = of(tmp_path)
    assert pinned.digest(now) != pinned.digest(found)
    assert "of another class (000.png)" in pinned.difference(now, tmp_path / "then.parquet")


def test_a_first_look_counts_images_of_each_label(tmp_path: Path) -> None:
    seen = look(table(tmp_path / "all.parquet", [list(SETS[i % len(SETS)]) for i in range(20)]))
    assert (seen.many_labels, seen.n_classes) == (True, 3)
    assert 0 < seen.smallest_class <= 8
