"""Images with masks: their layouts, what is resized how, and what is wrong with a mask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from trainables import data as images
from trainables.backbones import Preprocessing
from trainables.data.batches import MaskedSplit
from trainables.data.layouts import listing
from trainables.data.mask_layouts import VOC_CLASSES

from ..tasks.scenes import NAMES, scene, scenes

WANTED = Preprocessing(3, (16, 16), (0.5,) * 3, (0.5,) * 3, "bicubic")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def section(root: Path, **more: Any) -> dict[str, Any]:
    return {"kind": "masks", "path": str(root), "resize": "squash", **more}


def save(path: Path, values: Any, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, np.uint8))
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path)


def test_folders_of_splits_and_drawn_splits_pair_each_image_with_its_mask(tmp_path: Path) -> None:
    found = listing(section(scenes(tmp_path / "a", {"train": 4, "val": 2, "test": 3})))
    assert (found.classes, found.problems, found.notes) == (NAMES, (), ())
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 4, "validation": 2, "test": 3}
    assert found.masks is not None
    assert found.masks.paths["images/val/1.png"] == "masks/val/1.png"
    drawn = listing(section(scenes(tmp_path / "b", {"": 10}), test_fraction=0.2))
    assert {split: len(own) for split, own in drawn.splits.items()} == {"train": 6, "validation": 2, "test": 2}
    assert drawn == listing(section(tmp_path / "b", test_fraction=0.2))


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_a_mask_is_placed_as_its_image_by_nearest_neighbour(tmp_path: Path, resize: str) -> None:
    rng = np.random.default_rng(0)
    for i in range(4):  # an image whose pixels are its mask's
        mask = rng.integers(0, 3, (40, 24))
        save(tmp_path / f"images/train/{i}.png", np.stack([mask * 100] * 3, -1))
        save(tmp_path / f"masks/train/{i}.png", mask, palette=i % 2 == 0)
        save(tmp_path / f"images/val/{i}.png", np.stack([mask * 100 + 1] * 3, -1))
        save(tmp_path / f"masks/val/{i}.png", mask)
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    split = images.load(section(tmp_path, resize=resize, interpolation="nearest"), WANTED)["train"]
    assert isinstance(split, MaskedSplit)
    assert split.labels.shape == (4, 16, 16)
    assert np.array_equal(split.labels.numpy() * 100, split.images[:, 0].numpy())


def test_the_ignored_value_is_no_class_also_where_the_file_names_it(tmp_path: Path) -> None:
    root = scenes(tmp_path, {"train": 4, "val": 2})
    found = images.load(section(root), WANTED)["validation"].labels
    assert set(found.unique().tolist()) == {0, 1, 2, 255}
    for path in (root / "masks").rglob("*.png"):
        mask = np.asarray(Image.open(path)).copy()
        mask[mask == 255] = 0
        save(path, mask)
    other = section(root, ignore_index=0)
    assert images.class_names(other) == ["red", "blue"]
    labels = images.load(other, WANTED)["validation"].labels
    assert np.array_equal(labels == 255, (found == 0) | (found == 255))
    audit = images.audit(other, WANTED)
    assert (audit.n_classes, audit.n_images) == (2, {"train": 4, "validation": 2})
    assert audit.classes == {"red": {"train": 4, "validation": 2}, "blue": {"train": 4, "validation": 2}}


def broken(root: Path, how: str) -> None:
    mask = root / "masks/train/1.png"
    if how == "size":
        save(mask, np.zeros((30, 32)))
    elif how == "value":
        save(mask, np.full((32, 32), 7))
    elif how == "colour":
        save(mask, np.zeros((32, 32, 3)))
    elif how == "missing":
        mask.unlink()
    elif how == "text":
        mask.write_text("no image")
    elif how == "alone":
        (root / "images/val/1.png").unlink()
    elif how == "twice":
        save(mask.with_suffix(".bmp"), np.zeros((32, 32)))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("size", r"train: images/train/1\.png: its mask masks/train/1\.png has 32 x 30 pixels, and the image 32 x 32"),
        ("value", r"masks/train/1\.png has values of no class: 7; classes have 0 to 2, and 255 is ignored"),
        ("colour", r"masks/train/1\.png has the mode RGB; a mask has one channel, with numbers of classes"),
        ("missing", r"images/train/1\.png has no mask masks/train/1\.png"),
        ("text", r"masks/train/1\.png cannot be read \(cannot identify image file"),
        ("alone", r"1 masks have no image or share one: masks/val/1\.png"),
        ("twice", r"images/train/1\.png has 2 masks \(masks/train/1\.bmp, masks/train/1\.png\)"),
    ],
)
def test_what_is_wrong_with_a_mask_is_one_line_that_names_it(tmp_path: Path, how: str, message: str) -> None:
    root = scenes(tmp_path / "set", {"train": 4, "val": 2})
    broken(root, how)
    with pytest.raises(ValueError, match=rf"data: 1 problem in .*\n  .*{message}"):
        images.audit(section(root), WANTED)
    skipped = images.audit(section(root, on_problem="skip"), WANTED)
    assert len(skipped.skipped) == 1
    assert skipped.n_images["train"] == (4 if how == "alone" else 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (None, r"data\.classes: .*classes\.txt cannot be read \(No such file or directory\); it holds a name in each line"),
        ("a\n\nb\n", r"classes\.txt:2 is empty; give each value of the masks a name"),
        ("a\nb\na\n", r"has 'a' twice"),
        ("a\n", r"has 1 name; a study needs at least two classes"),
    ],
)
def test_what_is_wrong_with_the_names_of_classes_is_said(tmp_path: Path, names: str | None, message: str) -> None:
    root = scenes(tmp_path, {"train": 2, "val": 2})
    (root / "classes.txt").unlink() if names is None else (root / "classes.txt").write_text(names)
    with pytest.raises(ValueError, match=message):
        listing(section(root))


def test_folds_divide_images_with_masks(tmp_path: Path) -> None:
    root = scenes(tmp_path, {"train": 6, "val": 3})
    seen: list[bytes] = []
    for fold in range(3):
        splits = images.load(section(root, folds=3, fold=fold, augment="flip"), WANTED)
        assert (len(splits["train"]), len(splits["validation"])) == (6, 3)
        batch = next(splits["validation"].batches(3))
        seen += [pixels.numpy().tobytes() for pixels in batch]
        assert splits["validation"].targets.shape == (3, 16, 16)
    assert len(set(seen)) == 9
    with pytest.raises(ValueError, match=r"data\.folds: .* has 9 training and validation images, fewer than data\.folds = 10"):
        images.load(section(root, folds=10), WANTED)


def test_another_mask_is_another_data_set(tmp_path: Path) -> None:
    root = scenes(tmp_path, {"train": 4, "val": 2})
    before = images.audit(section(root), WANTED).data_digest
    save(root / "masks/train/1.png", np.zeros((32, 32)))
    assert images.audit(section(root), WANTED).data_digest != before


def test_voc_validates_on_its_training_images_and_tests_on_its_validation_images(tmp_path: Path) -> None:
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for split, n in (("train", 10), ("val", 4)):
        for i in range(n):
            image, mask = scene(i + 100 * (split in ("val", "validation")))
            save(root / f"JPEGImages/{split}{i}.jpg", image)
            save(root / f"SegmentationClass/{split}{i}.png", mask, palette=True)
        (root / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{split}{i}\n" for i in range(n)))
    for path in (root, tmp_path):
        found = listing({"kind": "voc", "path": str(path)})
        assert (found.classes, found.problems, len(VOC_CLASSES)) == (VOC_CLASSES, (), 21)
        assert {split: len(own) for split, own in found.splits.items()} == {"train": 8, "validation": 2, "test": 4}
        assert found.notes == (
            "val.txt is the test split, on which papers report; the validation split is drawn from the training images",
        )
    labels = images.load({"kind": "voc", "path": str(root), "resize": "squash"}, WANTED, ("test",))["test"].labels
    assert set(labels.unique().tolist()) == {0, 1, 2, 255}
    with pytest.raises(ValueError, match="has no JPEGImages and SegmentationClass; the layout voc is the folder VOC2012"):
        listing({"kind": "voc", "path": str(root / "JPEGImages")})


def test_ade20k_ignores_0_and_names_its_classes_from_its_own_table(tmp_path: Path) -> None:
    root = tmp_path / "ADEChallengeData2016"
    for split, n in (("training", 10), ("validation", 3)):
        for i in range(n):
            image, mask = scene(i + 100 * (split in ("val", "validation")))
            save(root / f"images/{split}/ADE_{i}.jpg", image)
            save(root / f"annotations/{split}/ADE_{i}.png", np.where(mask == 255, 0, mask + 1))
    found = listing({"kind": "ade20k", "path": str(tmp_path)})
    assert {split: len(own) for split, own in found.splits.items()} == {"train": 8, "validation": 2, "test": 3}
    assert (len(found.classes), found.classes[0]) == (150, "1")
    rows = "".join(f"{i}\t0.1\t5\t1\tname {i}, other\n" for i in range(1, 151))
    (root / "objectInfo150.txt").write_text("Idx\tRatio\tTrain\tVal\tName\n" + rows)
    assert listing({"kind": "ade20k", "path": str(root)}).classes[:2] == ("name 1", "name 2")
    labels = images.load({"kind": "ade20k", "path": str(root), "resize": "squash"}, WANTED)["train"].labels
    assert set(labels.unique().tolist()) == {0, 1, 2, 255}
