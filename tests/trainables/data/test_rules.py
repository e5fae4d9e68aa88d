"""Which folder or file is a split, a class, or neither: docs/data.md, rule by rule, on trees as people have them."""

from __future__ import annotations

import io
import json
import os
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, features

from trainables.data import audit, class_names, load_final
from trainables.data.layouts import listing
from trainables.data.listing import Listing
from trainables.data.naming import split_of, splits_in

from .test_layouts import GREY

NAMES = ("red", "green", "blue")


def picture(name: str, number: int = 0, kind: str = "PNG") -> bytes:
    """A small image of one colour."""
    encoded = io.BytesIO()
    red, green, blue = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220)}.get(name, (128, 128, 128))
    Image.new("RGB", (20, 18), (red, green, (blue + number) % 256)).save(encoded, kind)
    return encoded.getvalue()


def put(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def classes(root: Path, names: tuple[str, ...] = NAMES, n: int = 4, first: int = 0) -> Path:
    """root/CLASS/*.png."""
    for name in names:
        for i in range(n):
            put(root / name / f"{name}{i:02}.png", picture(name, first + i))
    return root


def table(
    path: Path, labels: list[Any], names: tuple[str, ...] | None = NAMES, image: pa.DataType | None = None, **more: pa.Array
) -> Path:
    """A Parquet file in the layout of Hugging Face's hub."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = image or pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    encoded = [picture("grey", hash((path.name, i)) % 90) for i in range(len(labels))]
    rows = [{"bytes": one, "path": f"{i}.png"} for i, one in enumerate(encoded)] if pa.types.is_struct(kind) else encoded
    made = pa.table({"image": pa.array(rows, kind), "label": pa.array(labels), **more})
    if names is not None:
        features = {"label": {"names": list(names), "_type": "ClassLabel"}}
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(made, path)
    return path


def of(root: Path, kind: str = "imagefolder", **more: Any) -> Listing:
    return listing({"kind": kind, "path": str(root), **more})


def sizes(found: Listing) -> dict[str, int]:
    return {split: len(images) for split, images in found.splits.items()}


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"), ("Training", "train"), ("TRAIN", "train"), ("train_images", "train"), ("TrainSet", "train"),
        ("trainset", "train"), ("seg_train", "train"), ("train2017", "train"), ("training-data", "train"),
        ("val", "validation"), ("Val", "validation"), ("valid", "validation"), ("dev", "validation"), ("val_set", "validation"),
        ("Testing", "test"), ("test1", "test"), ("eval", "test"), ("tst", "test"),
        ("train station", None), ("testament", None), ("trainval", None), ("train_test", None), ("cats", None), ("red", None),
    ],
)  # fmt: skip
def test_a_folder_is_a_split_by_its_whole_name(folder: str, split: str | None) -> None:
    assert split_of(folder) == split


def test_a_parquet_file_is_of_the_split_whose_word_is_in_its_name() -> None:
    assert splits_in("flowers_train-00000-of-00002") == {"train": "train"}
    assert splits_in("partial-train") == {"train": "train"}
    assert splits_in("0000") == {}
    assert splits_in("testing_trn_split") == {"train": "trn", "test": "testing"}


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("Train", "Val", "Test"), ("Training", "Validation", "Testing"), ("seg_train", "dev", "eval")])
def test_splits_have_their_usual_names_in_any_case(tmp_path: Path, names: tuple[str, ...]) -> None:
    for n, name in enumerate(names):
        classes(tmp_path / name, n=4 - n, first=10 * n)
    found = of(tmp_path)
    assert found.classes == tuple(sorted(NAMES))
    assert sizes(found) == {"train": 12, "validation": 9, "test": 6}
    assert found.problems == found.notes == ()


def test_a_split_that_is_missing_is_drawn_from_the_training_images(tmp_path: Path) -> None:
    classes(tmp_path / "Training", n=5)
    classes(tmp_path / "Testing", n=2, first=50)
    assert sizes(of(tmp_path)) == {"train": 12, "validation": 3, "test": 6}


def test_hidden_and_system_folders_and_files_are_left_out_and_said(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "val", n=2, first=50)
    put(tmp_path / "train" / ".ipynb_checkpoints" / "x.png", picture("red", 99))
    put(tmp_path / "__MACOSX" / "train" / "red" / "._red00.png", b"junk")
    put(tmp_path / "train" / "red" / "._red00.png", b"junk")
    put(tmp_path / "train" / "red" / "Thumbs.db", b"junk")
    put(tmp_path / "train" / "@eaDir" / "y.png", picture("red", 98))
    put(tmp_path / "train" / "red" / "notes.txt", b"about red")
    put(tmp_path / "README.md", b"about all")
    found = of(tmp_path)
    assert found.classes == tuple(sorted(NAMES))
    assert sizes(found) == {"train": 12, "validation": 6}
    assert found.problems == ()
    told = "\n".join(found.notes)
    for left_out in (
        ".ipynb_checkpoints/",
        "__MACOSX/",
        "@eaDir/",
        "2 files are left out: hidden",
        "2 files are left out: no image (.md 1, .txt 1;",
    ):
        assert left_out in told


def test_a_class_folder_that_holds_only_folders_is_refused_with_what_was_probably_meant(tmp_path: Path) -> None:
    classes(tmp_path / "Entrenamiento")
    classes(tmp_path / "Prueba", n=2)
    with pytest.raises(
        ValueError, match=r"Entrenamiento: holds only folders \(blue, green, red\), so it is no class; name it train"
    ):
        of(tmp_path)


def test_classes_whose_images_are_in_a_folder_images_are_refused_with_the_remedy(tmp_path: Path) -> None:
    for name in NAMES:  # as in Tiny ImageNet
        put(tmp_path / "train" / name / "images" / "0.png", picture(name))
    with pytest.raises(ValueError, match=r"train/blue: .*; put the images of its folder images directly into it"):
        of(tmp_path)


def test_classes_around_splits_are_refused_with_the_right_order(tmp_path: Path) -> None:
    for name in NAMES:
        for split in ("train", "test"):
            put(tmp_path / name / split / "0.png", picture(name))
    with pytest.raises(ValueError, match="the order is SPLIT/CLASS/IMAGE"):
        of(tmp_path)


def test_a_folder_of_splits_next_to_one_without_images_is_recognised_and_next_to_others_named(tmp_path: Path) -> None:
    classes(tmp_path / "images" / "train")
    classes(tmp_path / "images" / "val", n=2, first=50)
    put(tmp_path / "labels" / "train" / "red00.txt", b"0 0.5 0.5")
    found = of(tmp_path)
    assert sizes(found) == {"train": 12, "validation": 6}
    assert "images/ is read as the data set: the only folder in it with images" in found.notes
    classes(tmp_path / "masks" / "train", first=90)
    with pytest.raises(
        ValueError, match=rf"images: holds only folders \(train, val\), .* set data.path: {tmp_path}/images, if its"
    ):
        of(tmp_path)


def test_classes_whose_names_differ_in_case_or_spaces_are_said(tmp_path: Path) -> None:
    classes(tmp_path, ("Red", "red", "green"))
    assert of(tmp_path).notes == ("'Red' and 'red' are two classes, whose names differ only in case or spaces",)


def test_doubts_about_usable_images_are_said_and_test_images_counted(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "val", ("red", "green"), n=2, first=50)
    classes(tmp_path / "test", n=1, first=90)
    put(tmp_path / "train" / "green" / "x.png", picture("red", 0))
    found = audit({"kind": "imagefolder", "path": str(tmp_path)}, GREY)
    assert found.notes == (
        "the same bytes are in two classes: train/red/red00.png",
        "no validation image of 1 of 3 classes: blue",
    )
    assert found.n_images == {"train": 13, "validation": 4, "test": 3}
    assert found.classes["blue"] == {"train": 4, "validation": 0, "test": 1}


@pytest.mark.parametrize("below", ["flowers", "archive/flowers"])
def test_one_level_too_many_is_recognised_and_named(tmp_path: Path, below: str) -> None:
    classes(tmp_path / below / "train")
    classes(tmp_path / below / "val", n=2, first=50)
    found = of(tmp_path)
    assert sizes(found) == {"train": 12, "validation": 6}
    assert found.notes == (f"{below}/ is read as the data set: the only folder in it",)


def test_a_split_in_a_folder_of_its_own_name_is_recognised_and_named(tmp_path: Path) -> None:
    classes(tmp_path / "seg_train" / "seg_train", n=5)
    classes(tmp_path / "seg_test" / "seg_test", n=2, first=50)
    found = of(tmp_path)
    assert sizes(found) == {"train": 12, "validation": 3, "test": 6}
    assert "seg_train/seg_train/ is read as seg_train/: the only folder in it" in found.notes


def test_what_no_split_claims_is_an_error_or_a_line(tmp_path: Path) -> None:
    classes(tmp_path / "train")
    classes(tmp_path / "val", n=2, first=50)
    classes(tmp_path / "extra", n=1, first=80)
    put(tmp_path / "loose.png", picture("grey", 1))
    put(tmp_path / "train" / "loose.png", picture("grey", 2))
    data = {"kind": "imagefolder", "path": str(tmp_path)}
    with pytest.raises(ValueError, match="3 problems"):
        audit(data, GREY)
    skipped = audit(data | {"on_problem": "skip"}, GREY).skipped
    assert [line.split(":")[0] for line in skipped] == ["1 image is in no split and no class (loose.png)", "extra", "train"]


def test_the_same_split_twice_is_refused(tmp_path: Path) -> None:
    for name in ("train", "Training"):
        classes(tmp_path / name)
    with pytest.raises(ValueError, match="holds train twice, as Training and train"):
        of(tmp_path)


def test_a_class_named_like_a_split_among_classes_is_refused_with_the_remedy(tmp_path: Path) -> None:
    classes(tmp_path, ("boat", "bus", "train"))
    with pytest.raises(ValueError, match="if all of these are classes, put them into a folder train"):
        of(tmp_path)
    classes(tmp_path / "all" / "train", ("boat", "bus", "train"))
    assert of(tmp_path / "all").classes == ("boat", "bus", "train")


def test_splits_without_training_images_are_said(tmp_path: Path) -> None:
    classes(tmp_path / "val")
    with pytest.raises(ValueError, match="it holds val/ alone: the training images are missing"):
        of(tmp_path)


def test_a_table_of_labels_next_to_one_folder_of_images_is_said(tmp_path: Path) -> None:
    put(classes(tmp_path, ("images",)) / "labels.csv", b"image,label")
    with pytest.raises(ValueError, match=r"has one class, images \(1 file is left out: no image \(\.csv 1; labels\.csv\)\)"):
        of(tmp_path)


def test_one_class_is_refused(tmp_path: Path) -> None:
    classes(tmp_path, ("red",))
    with pytest.raises(ValueError, match="has one class, red; a study needs at least two"):
        of(tmp_path)


def test_a_folder_of_images_without_classes_is_refused(tmp_path: Path) -> None:
    for i in range(3):
        put(tmp_path / f"{i}.png", picture("red", i))
    with pytest.raises(ValueError, match="3 images are in no folder of a class"):
        of(tmp_path)


def test_a_class_without_images_is_told(tmp_path: Path) -> None:
    classes(tmp_path)
    (tmp_path / "violet").mkdir()
    assert of(tmp_path).problems == ("violet: holds no image; delete the folder, or add the images of its class",)


def test_images_below_a_class_folder_belong_to_it_and_are_counted(tmp_path: Path) -> None:
    classes(tmp_path)
    put(tmp_path / "red" / "dark" / "x.png", picture("red", 70))
    found = of(tmp_path)
    assert sum(sizes(found).values()) == 13
    assert found.notes == ("red/: 1 images in folders below it belong to its class",)


def test_accents_written_in_two_ways_are_one_class_and_another_case_is_asked_about(tmp_path: Path) -> None:
    classes(tmp_path / "train", ("caf\u00e9", "Tee"))
    classes(tmp_path / "val", ("cafe\u0301", "tee"), n=2, first=50)
    found = of(tmp_path)
    assert found.classes == ("Tee", "caf\u00e9")
    assert len(found.splits["validation"]) == 2
    assert found.problems[0].endswith("'tee' is not among the classes (did you mean Tee?)")


# -- files -----------------------------------------------------------------------------------------------------------


def test_what_pillow_can_read_is_an_image_whatever_its_ending(tmp_path: Path) -> None:
    classes(tmp_path)
    kinds = {"a.webp": "WEBP", "b.JFIF": "JPEG", "c.gif": "GIF", "d": "PNG", "e.jpg_large": "JPEG", "f.png": "JPEG", "g.ICO": "ICO"}
    for n, (name, kind) in enumerate(kinds.items()):
        put(tmp_path / "red" / name, picture("red", 100 + n, kind))
    frames = [Image.new("RGB", (16, 16), (i, i, i)) for i in (40, 200)]
    for n, (name, kind) in enumerate({"z1.gif": "GIF", "z2.webp": "WEBP", "z3.mpo": "MPO"}.items()):
        frames[0].putpixel((0, 0), (n, 0, 0))
        frames[0].save(tmp_path / "red" / name, kind, save_all=True, append_images=frames[1:])
    frames[0].convert("CMYK").save(tmp_path / "red" / "z4.jpg")
    data = {"kind": "imagefolder", "path": str(tmp_path)}
    assert sum(audit(data, GREY).n_images.values()) == 12 + len(kinds) + 4
    for name in ("z1.gif", "z2.webp", "z3.mpo", "z4.jpg"):
        assert abs(int(pixels_of(data, name)[8, 8]) - 40) <= 4  # the first frame


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read_where_pillow_has_it(tmp_path: Path) -> None:
    put(classes(tmp_path) / "red" / "a.avif", picture("red", 100, "AVIF"))
    assert sum(audit({"kind": "imagefolder", "path": str(tmp_path)}, GREY).n_images.values()) == 13


def damaged() -> bytes:
    Image.effect_noise((64, 64), 50).save(encoded := io.BytesIO(), "TIFF", compression="tiff_adobe_deflate")
    return encoded.getvalue()[:500] + b"\xff" * 300 + encoded.getvalue()[800:]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("page.jpg", b"<html>404</html>", "not an image that Pillow can read; if other programs can, convert it to PNG or JPEG"),
        ("phone.HEIC", b"\0\0\0\x18ftypheic" + bytes(40), "not an image that Pillow can read; if other programs can, convert it"),
        ("empty.png", b"", "the file is empty"),
        ("big.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "a pointer of Git LFS instead of the"),
        ("damaged.tif", damaged(), "it cannot be decoded (decoder error"),
        ("cut.jpg", picture("red", 5, "JPEG")[:-40], "it cannot be decoded (Truncated File Read"),
        ("a\nb\x1b[31m\u202e.png", b"?", "not an image"),
    ],
)
def test_what_is_named_an_image_and_is_none_is_a_problem(
    tmp_path: Path, name: str, content: bytes, problem: str, capfd: pytest.CaptureFixture[str]
) -> None:
    put(classes(tmp_path) / "red" / name, content)
    with pytest.raises(ValueError, match="1 problem in ") as refused:
        audit({"kind": "imagefolder", "path": str(tmp_path)}, GREY)
    shown = name.replace("\n", r"\n").replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")  # a terminal obeys no name
    assert f"red/{shown}: {problem}" in str(refused.value)
    assert capfd.readouterr() == ("", "")  # libraries in C tell the terminal nothing


def test_links_to_nothing_are_problems_and_links_in_circles_end(tmp_path: Path) -> None:
    classes(tmp_path / "set")
    classes(tmp_path / "elsewhere", ("violet",))
    os.symlink("/nowhere/x.png", tmp_path / "set" / "red" / "zz.png")
    os.symlink("/nowhere", tmp_path / "set" / "green" / "lost")
    os.symlink(tmp_path / "set", tmp_path / "set" / "blue" / "around")
    os.symlink(tmp_path / "elsewhere" / "violet", tmp_path / "set" / "violet")
    found = of(tmp_path / "set")
    assert found.classes == ("blue", "green", "red", "violet")
    assert sorted(found.problems) == [
        "blue/around: a link to a folder around it",
        "green/lost: a link to /nowhere, which does not exist",
        "red/zz.png: a link to /nowhere/x.png, which does not exist",
    ]


def test_what_is_skipped_is_named_whatever_is_in_its_name(tmp_path: Path) -> None:
    classes(tmp_path / "train", n=5)
    classes(tmp_path / "val", n=2, first=50)
    put(tmp_path / "val" / "red" / "shot: 1.png", (tmp_path / "train" / "red" / "red00.png").read_bytes())
    put(tmp_path / "train" / "red" / "shot: 2.png", b"broken")
    os.symlink("/nowhere/x.png", tmp_path / "train" / "red" / "zz.png")
    found = audit({"kind": "imagefolder", "path": str(tmp_path), "on_problem": "skip"}, GREY)
    assert found.n_images == {"train": 14, "validation": 7}
    assert found.skipped == (
        "train/red/zz.png: a link to /nowhere/x.png, which does not exist",
        "train: train/red/shot: 2.png: not an image that Pillow can read; if other programs can, convert it to PNG or JPEG",
        "train: train/red/red00.png has the same bytes as val/red/shot: 1.png of the later split validation",
    )


def test_an_image_of_several_later_splits_names_the_first_in_the_one_that_keeps_it(tmp_path: Path) -> None:
    classes(tmp_path / "train", n=5)
    classes(tmp_path / "val", n=2, first=50)
    classes(tmp_path / "test", n=2, first=70)
    copied = (tmp_path / "train" / "red" / "red00.png").read_bytes()
    put(tmp_path / "test" / "red" / "broken.png", b"broken")  # has no digest
    put(tmp_path / "val" / "red" / "x.png", copied)
    put(tmp_path / "test" / "red" / "y.png", copied)
    put(tmp_path / "test" / "red" / "z.png", copied)
    found = audit({"kind": "imagefolder", "path": str(tmp_path), "on_problem": "skip"}, GREY)
    assert [line for line in found.skipped if "same bytes" in line] == [
        "validation: val/red/x.png has the same bytes as test/red/y.png of the later split test",
        "train: train/red/red00.png has the same bytes as test/red/y.png of the later split test",
    ]


def test_a_name_that_is_no_text_is_a_problem(tmp_path: Path) -> None:
    classes(tmp_path)
    (Path(os.fsdecode(os.fsencode(tmp_path / "red") + b"/\xff.png"))).write_bytes(picture("red", 77))
    assert of(tmp_path).problems == (r"b'red/\xff.png': its name is no UTF-8; rename it",)


# -- a test split without labels -------------------------------------------------------------------------------------


def flat(root: Path) -> tuple[str, Path]:
    classes(root / "train")
    for i in range(5):
        put(root / "test" / f"{i}.png", picture("grey", i))
    return "imagefolder", root


def unknown(root: Path) -> tuple[str, Path]:
    classes(root / "train")
    classes(root / "test", ("unknown",), first=40)
    return "imagefolder", root


def negative(root: Path) -> tuple[str, Path]:
    table(root / "data" / "train-00000-of-00001.parquet", [0, 1, 2] * 4)
    table(root / "data" / "test-00000-of-00001.parquet", [-1] * 5)
    return "parquet", root


def listed(root: Path) -> tuple[str, Path]:
    classes(root / "images")
    train = {f"{name}/{name}{i:02}.png": n + 1 for n, name in enumerate(NAMES) for i in range(3)}
    (root / "train.json").write_text(json.dumps(train))
    (root / "test.json").write_text(json.dumps({f"{name}/{name}03.png": -1 for name in NAMES}))
    return "fgvc", root


@pytest.mark.parametrize("made", [flat, unknown, negative, listed])
def test_a_test_split_without_labels_is_left_out_and_finalize_is_told(tmp_path: Path, made: Any) -> None:
    kind, root = made(tmp_path)
    data = {"kind": kind, "path": str(root), "val_fraction": 0.3}
    found = listing(data)
    assert set(found.splits) == {"train", "validation"}
    assert found.problems == ()
    assert len(found.notes) == 1
    assert "have no label; the study has no test split" in found.notes[0]
    audit(data, GREY)
    with pytest.raises(ValueError, match=r"has no test split \(.*have no label; .*\); add one with labels"):
        load_final(data, GREY)


def test_a_test_split_with_some_labels_is_a_problem(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", [0, 1, 2] * 4)
    table(tmp_path / "test.parquet", [0, 1, -1])
    assert of(tmp_path, "parquet").problems == ("test.parquet#2: the label -1 is none of the file's 3 classes",)


# -- Parquet -----------------------------------------------------------------------------------------------------------


def test_folders_name_the_splits_of_parquet_files_too(tmp_path: Path) -> None:
    for split, n in (("train", 4), ("test", 2), ("validation", 3)):
        table(tmp_path / "default" / split / "0000.parquet", [0, 1, 2] * n)
    put(tmp_path / ".cache" / "huggingface" / "train.parquet", b"junk")
    found = of(tmp_path, "parquet")
    assert sizes(found) == {"train": 12, "validation": 9, "test": 6}
    assert found.notes == (".cache/ is left out: a folder that is hidden",)


def test_several_configurations_are_told_apart(tmp_path: Path) -> None:
    for configuration in ("plain", "augmented"):
        table(tmp_path / configuration / "train-00000-of-00001.parquet", [0, 1, 2] * 4)
    with pytest.raises(ValueError, match=rf"\(augmented, plain\); name one, for example data\.path: {tmp_path}/augmented"):
        of(tmp_path, "parquet")
    assert of(tmp_path / "plain", "parquet").classes == NAMES


def test_a_parquet_file_that_no_split_claims_is_a_problem(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", [0, 1, 2] * 4)
    table(tmp_path / "more.parquet", [0, 1, 2])
    table(tmp_path / "train_test.parquet", [0, 1, 2])
    found = of(tmp_path, "parquet")
    assert sum(sizes(found).values()) == 12
    assert [problem.split(":")[0] for problem in found.problems] == ["train_test.parquet", "more.parquet"]


def test_two_words_for_one_split_of_parquet_files_are_refused(tmp_path: Path) -> None:
    for name in ("train-0", "train-1", "val", "validation"):
        table(tmp_path / f"{name}.parquet", [0, 1, 2] * 4)
    with pytest.raises(ValueError, match=r"holds validation twice, as val\.parquet and validation\.parquet; keep one"):
        of(tmp_path, "parquet")
    (tmp_path / "val.parquet").unlink()
    assert sizes(of(tmp_path, "parquet")) == {"train": 24, "validation": 12}


@pytest.mark.parametrize(
    "kind",
    [
        pa.binary(), pa.large_binary(), pa.binary_view(), pa.struct([("bytes", pa.large_binary())]),
        pa.struct([("bytes", pa.binary_view()), ("path", pa.string_view())]),  # as Polars writes it
    ],
)  # fmt: skip
def test_encoded_images_of_every_width_are_read(tmp_path: Path, kind: pa.DataType) -> None:
    table(tmp_path / "all.parquet", [0, 1, 2] * 4, image=kind)
    assert sum(audit({"kind": "parquet", "path": str(tmp_path / "all.parquet")}, GREY).n_images.values()) == 12


WORDS = pa.array(["a", "b"] * 4)
WHOLE = pa.array([10, 9] * 4)  # numbers in their order, not that of their digits


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (WORDS.cast(pa.large_string()), ["a", "b"]),
        (WORDS.cast(pa.string_view()), ["a", "b"]),
        (WORDS.dictionary_encode(), ["a", "b"]),
        (WORDS.cast(pa.binary()), ["a", "b"]),
        (WHOLE.cast(pa.int8()), ["9", "10"]),
        (WHOLE.dictionary_encode(), ["9", "10"]),
        (WHOLE.cast(pa.float64()), ["9", "10"]),
        (WHOLE.cast(pa.decimal128(21, 2)), ["9", "10"]),
        (pa.array([True, False] * 4), ["False", "True"]),
    ],
)
def test_labels_of_every_type_are_names_of_classes(tmp_path: Path, labels: pa.Array, names: list[str]) -> None:
    table(tmp_path / "all.parquet", labels, names=None)
    data = {"kind": "parquet", "path": str(tmp_path / "all.parquet")}
    assert class_names(data) == names
    if pa.types.is_floating(labels.type):
        assert class_names(data | {"rules": 1}) == ["10.0", "9.0"]  # a study of before goes on with its classes


def test_whole_numbers_that_pandas_made_real_number_the_declared_classes(tmp_path: Path) -> None:
    table(tmp_path / "all.parquet", [0.0, 1.0, 2.0, None] * 4)
    found = of(tmp_path / "all.parquet", "parquet")
    assert (found.classes, sum(sizes(found).values()), len(found.problems)) == (NAMES, 12, 4)


@pytest.mark.parametrize("nothing", [None, "", float("nan")])
def test_a_row_without_a_label_is_a_problem(tmp_path: Path, nothing: object) -> None:
    labels = [1.0, 2.0] if isinstance(nothing, float) else ["a", "b"]
    table(tmp_path / "all.parquet", [*labels * 4, nothing], names=None)
    assert of(tmp_path / "all.parquet", "parquet").problems == ("all.parquet#8: the label is missing",)


def declared(names: object) -> str:
    """The metadata of Hugging Face's datasets with names of classes."""
    return json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})


@pytest.mark.parametrize(
    ("columns", "metadata", "law"),
    [
        ({"label": [0.5, 1.0]}, None, "holds 0.5, which is no whole number and no name of a class"),
        ({"label": [1.0, float("inf")]}, None, "holds inf, which is no whole number and no name of a class"),
        ({"label": [{"id": 1}, {"id": 2}]}, None, "a column with names or numbers, or lists of them, is needed"),
        ({"label": [0, 1], "more": [0, 1]}, None, "has 2 columns 'label'; rename all but one"),
        ({"label": [0, 1]}, "no JSON", "has metadata `huggingface` that are not those of the library datasets"),
        (
            {"label": [0, 1]},
            declared({"0": "a", "1": "b"}),
            "has metadata `huggingface` that are not those of the library datasets",
        ),
        ({"label": [0, 1]}, declared(["a", "a"]), "declares the class 'a' twice; give every class a name of its own"),
        ({"label": [0, 1]}, "[1]", "has metadata `huggingface` that are not those of the library datasets"),
    ],
)
def test_labels_that_are_none_are_refused_in_one_line(
    tmp_path: Path, columns: dict[str, list[Any]], metadata: str | None, law: str
) -> None:
    made = pa.table({"image": [picture("red"), picture("blue")], **columns}).rename_columns(["image", *["label"] * len(columns)])
    pq.write_table(made.replace_schema_metadata(metadata and {"huggingface": metadata}), tmp_path / "all.parquet")
    with pytest.raises(ValueError, match=re.escape(law)):
        of(tmp_path / "all.parquet", "parquet")


def test_names_of_classes_may_be_numbers(tmp_path: Path) -> None:
    table(tmp_path / "all.parquet", [0, 1] * 4, names=(8, 9))  # type: ignore[arg-type]
    assert of(tmp_path / "all.parquet", "parquet").classes == ("8", "9")


def test_files_of_which_only_some_name_their_classes_are_refused(tmp_path: Path) -> None:
    table(tmp_path / "train-0.parquet", [0, 1, 2] * 4)
    table(tmp_path / "train-1.parquet", ["red", "green"], names=None)
    assert of(tmp_path, "parquet").classes == NAMES  # its words are such names
    table(tmp_path / "train-1.parquet", [0, 1, 2], names=None)
    with pytest.raises(ValueError, match=r"train-1\.parquet declares no names of classes and has the label 0, train-0\.parquet"):
        of(tmp_path, "parquet")


def test_minus_one_next_to_zero_is_no_label_and_next_to_one_a_class(tmp_path: Path) -> None:
    table(tmp_path / "all.parquet", [-1, 0, 1] * 3, names=None)
    found = of(tmp_path / "all.parquet", "parquet")
    assert found.classes == ("0", "1")
    assert found.problems[0] == (
        "all.parquet#0: the label -1 means that there is none; if it is a class, write words instead of numbers"
    )
    table(tmp_path / "all.parquet", [-1, 1] * 4, names=None)
    assert of(tmp_path / "all.parquet", "parquet").classes == ("1", "-1")


def test_the_cache_of_the_hub_is_refused_with_the_folder_of_its_splits(tmp_path: Path) -> None:
    table(tmp_path / "blobs" / "0a1b", [0, 1, 2] * 4)
    (tmp_path / "snapshots" / "1" / "data").mkdir(parents=True)
    (tmp_path / "snapshots" / "1" / "data" / "train-0.parquet").symlink_to(tmp_path / "blobs" / "0a1b")
    with pytest.raises(ValueError, match=rf"name one, for example data\.path: {tmp_path}/snapshots/1/data"):
        of(tmp_path, "parquet")


def test_a_file_without_any_label_is_one_line(tmp_path: Path) -> None:
    table(tmp_path / "train.parquet", [0, 1, 2] * 4)
    table(tmp_path / "val.parquet", [None] * 9)
    with pytest.raises(ValueError, match=r"val\.parquet: none of its 9 images has a usable label; the first: .*#0: the label is"):
        of(tmp_path, "parquet")


def test_lists_of_labels_in_lists_of_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "train.json").write_text(json.dumps({"a.png": [1, 2]}))
    with pytest.raises(ValueError, match="holds lists of labels"):
        of(tmp_path, "fgvc")


def test_paths_without_bytes_are_said_in_one_line(tmp_path: Path) -> None:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = pa.array([{"bytes": None, "path": f"/data/{i}.png"} for i in range(30)], kind)
    pq.write_table(pa.table({"image": images, "label": pa.array([0, 1, 2] * 10)}), tmp_path / "train.parquet")
    with pytest.raises(ValueError, match=r"holds paths and no bytes \(the first is /data/0\.png\)") as refused:
        of(tmp_path, "parquet")
    assert "\n" not in str(refused.value)


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_orientation_and_transparency_are_counted_and_applied_on_request(tmp_path: Path) -> None:
    classes(tmp_path)
    lying = Image.new("RGB", (30, 20), (250, 250, 250))
    lying.paste((0, 0, 0), (0, 0, 15, 20))  # its left half is black
    exif = Image.Exif()
    exif[0x0112] = 99  # none: a camera's error
    lying.resize((20, 20)).save(tmp_path / "red" / "z0.jpg", exif=exif)
    exif[0x0112] = 3  # upside down
    lying.save(tmp_path / "red" / "z1.jpg", exif=exif)
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    clear.save(tmp_path / "red" / "z2.png")
    palette = Image.new("P", (16, 16))
    palette.putpalette([200, 0, 0] * 256)
    palette.save(tmp_path / "red" / "z3.png", transparency=bytes([0] * 256))
    data = {"kind": "imagefolder", "path": str(tmp_path), "resize": "squash"}
    found = audit(data, GREY)
    assert (found.n_turned, found.n_transparent) == (1, 2)
    stored = pixels_of(data, "z1.jpg")
    assert (stored[:, :8].mean() < 50, stored[:, 8:].mean() > 200) == (True, True)
    turned = pixels_of(data | {"exif": "apply"}, "z1.jpg")
    assert (turned[:, :8].mean() > 200, turned[:, 8:].mean() < 50) == (True, True)
    assert pixels_of(data | {"background": "white"}, "z2.png").min() == 255
    assert pixels_of(data | {"background": "black"}, "z3.png").max() == 0
    assert pixels_of(data, "z3.png").min() == 60  # the palette's colour, in grey


def pixels_of(data: dict[str, Any], name: str) -> Any:
    from trainables.data.decoded import decoded
    from trainables.data.files import transform_for

    found = listing(data)
    for split, images in found.splits.items():
        for i, image in enumerate(images):
            if image.path.endswith(name):
                return decoded(found, split, transform_for(data, GREY)).images[i, 0]
    raise AssertionError(name)


def test_more_than_eight_bits_are_refused_with_the_remedy(tmp_path: Path) -> None:
    classes(tmp_path)
    Image.new("I;16", (20, 20), 4000).save(tmp_path / "red" / "deep.png")
    with pytest.raises(ValueError, match=r"red/deep\.png: mode I;16: more than 8 bits per channel; convert it to 8 bits"):
        audit({"kind": "imagefolder", "path": str(tmp_path)}, GREY)
