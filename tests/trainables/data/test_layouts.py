"""Images on a disk: every layout, what is wrong with them, and decoding once."""

from __future__ import annotations

import io
import multiprocessing
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from trainables.backbones import Preprocessing
from trainables.data import Split, audit, class_names, load, n_classes
from trainables.data.decoded import cache, decoded
from trainables.data.layouts import listing
from trainables.pixels import Transform

from . import pictures

GREY = Preprocessing(channels=1, size=(16, 16), mean=(0.5,), std=(0.25,), interpolation="bicubic")
COLOUR = Preprocessing(channels=3, size=(24, 16), mean=(0.5,) * 3, std=(0.25,) * 3, interpolation="bilinear")
LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "imagefolder": lambda root: pictures.image_folder(root, splits=("train", "val", "test")),
    "vtab": pictures.vtab,
    "fgvc": pictures.fgvc,
    "parquet": pictures.parquet,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def pixels(encoded: bytes, mode: str = "RGB") -> np.ndarray[Any, Any]:
    found = np.asarray(Image.open(io.BytesIO(encoded)).convert(mode))
    return found[None] if mode == "L" else found.transpose(2, 0, 1)


# -- layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LAYOUTS)
def test_every_layout_gives_the_images_of_each_split_with_their_labels(kind: str, tmp_path: Path) -> None:
    data = {"kind": kind, "path": str(LAYOUTS[kind](tmp_path / "set"))}
    found = listing(data)
    assert {name: len(images) for name, images in found.splits.items()}["train"] == 24
    assert len(found.classes) == n_classes(data) == 3
    for split, images in found.splits.items():
        assert Counter(image.label for image in images) == dict.fromkeys(range(3), len(images) // 3)
        for image, encoded in zip(images, found.read(split), strict=True):
            assert encoded is not None
            grey = pixels(encoded, "L")[0].astype(float)
            steps = [
                np.abs(np.diff(grey, axis=axis)).mean() for axis in (0, 1)
            ]  # stripes: steep in one direction, flat in the other
            seen = 0 if steps[0] > 2 * steps[1] else 1 if steps[1] > 2 * steps[0] else 2
            assert seen == image.label


def test_the_names_of_the_classes_are_those_of_the_folders_or_of_the_file(tmp_path: Path) -> None:
    folder = pictures.image_folder(tmp_path / "a")
    assert class_names({"kind": "imagefolder", "path": str(folder)}) == list(pictures.CLASSES)
    assert class_names({"kind": "parquet", "path": str(pictures.parquet(tmp_path / "b"))}) == list(pictures.CLASSES)


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
def test_splits_that_are_not_declared_are_stratified_disjoint_and_follow_the_seed(kind: str, tmp_path: Path) -> None:
    if kind == "imagefolder":
        path = pictures.image_folder(tmp_path / "set", 10)
    else:
        pictures.write_parquet(path := tmp_path / "all.parquet", range(30))
    data = {"kind": kind, "path": str(path), "val_fraction": 0.3, "test_fraction": 0.2}
    one, again, other = (listing(data | {"seed": seed}).splits for seed in (1, 1, 2))
    assert one == again
    assert one["validation"] != other["validation"]
    for splits in (one, other):
        assert len({image.path for images in splits.values() for image in images}) == 30
        sizes = {name: Counter(image.label for image in images) for name, images in splits.items()}
        assert sizes == {
            "train": dict.fromkeys(range(3), 5),
            "validation": dict.fromkeys(range(3), 3),
            "test": dict.fromkeys(range(3), 2),
        }


def test_the_split_of_an_image_does_not_depend_on_where_the_folder_lies(tmp_path: Path) -> None:
    places = []
    for name in ("here", "there"):
        data = {"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / name))}
        places.append([image.path for image in listing(data).splits["validation"]])
    assert places[0] == places[1]


# -- what is wrong ----------------------------------------------------------------------------------------------------


def broken(root: Path) -> str:
    path = root / "train" / "down" / "003.png"
    path.write_bytes(path.read_bytes()[:200])
    return "train/down/003.png: "


def unknown_label(root: Path) -> str:
    (root / "val" / "upwards").mkdir()
    (root / "val" / "upwards" / "x.png").write_bytes(pictures.picture(1, 99))
    return "val/upwards/x.png: the validation image's label 'upwards' is not among the classes"


def same_bytes(root: Path) -> str:
    (root / "train" / "slanted" / "twin.png").write_bytes((root / "test" / "slanted" / "001.png").read_bytes())
    return "train: train/slanted/twin.png has the same bytes as test/slanted/001.png of the later split test"


def small_class(root: Path) -> str:
    (root / "train" / "tiny").mkdir()
    (root / "train" / "tiny" / "x.png").write_bytes(pictures.picture(1, 98))
    return "class tiny: 1 training images, data.min_images is 2"


def sixteen_bits(root: Path) -> str:
    Image.fromarray(np.full((9, 9), 40_000, np.uint16)).save(root / "train" / "down" / "deep.png")
    return "train/down/deep.png: mode I;16: more than 8 bits per channel"


@pytest.mark.parametrize("spoil", [broken, unknown_label, same_bytes, small_class, sixteen_bits])
def test_what_is_wrong_is_listed_and_refused_or_skipped_on_request(spoil: Callable[[Path], str], tmp_path: Path) -> None:
    root = pictures.image_folder(tmp_path / "set", splits=("train", "val", "test"))
    problem = spoil(root)
    data = {"kind": "imagefolder", "path": str(root), "min_images": 2}
    with pytest.raises(ValueError, match=r"fix them, or set data\.on_problem: skip") as refused:
        audit(data, GREY)
    assert problem in str(refused.value)
    found = audit(data | {"on_problem": "skip"}, GREY)
    assert found.n_classes == 3
    assert found.n_images == {"train": 24 - (spoil is broken), "validation": 24, "test": 24}
    assert len(found.skipped) == 1
    assert problem in found.skipped[0]


def test_a_colon_in_a_path_confuses_nothing(tmp_path: Path) -> None:
    root = pictures.image_folder(tmp_path / "set", splits=("train", "val", "test"))
    odd = root / "train" / "down: 1"
    odd.mkdir()
    for number in range(3):
        (odd / f"{number}.png").write_bytes(pictures.picture(1, 90 + number))
    (odd / "0.png").write_bytes(b"no image")
    (odd / "2.png").write_bytes((root / "test" / "slanted" / "001.png").read_bytes())
    (root / "val" / "down: 1").mkdir()
    (root / "val" / "down: 1" / "x.png").write_bytes(pictures.picture(1, 97))
    found = audit({"kind": "imagefolder", "path": str(root), "on_problem": "skip"}, GREY)
    assert found.n_images["train"] == 24 + 1
    assert [problem.partition(".png")[0] for problem in found.skipped] == [
        "train: train/down: 1/0",
        "train: train/down: 1/2",
    ]


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    root = pictures.image_folder(tmp_path / "set", splits=("train", "val", "test"))
    told = [spoil(root) for spoil in (broken, unknown_label, same_bytes, small_class)]
    data = {"kind": "imagefolder", "path": str(root), "min_images": 2}
    assert n_classes(data) == 3
    with pytest.raises(ValueError, match="data: 4 problems in") as refused:
        audit(data, GREY)
    first, *lines = str(refused.value).splitlines()
    assert first == f"data: 4 problems in {root}; fix them, or set data.on_problem: skip"
    assert len(lines) == 4
    assert [problem for problem in told if not any(problem in line for line in lines)] == []


def test_a_class_too_small_to_be_split_is_found(tmp_path: Path) -> None:
    root = pictures.image_folder(tmp_path / "set")
    (root / "alone").mkdir()
    (root / "alone" / "x.png").write_bytes(pictures.picture(1, 98))
    with pytest.raises(ValueError, match="class alone: 1 image, too few for 2 splits"):
        audit({"kind": "imagefolder", "path": str(root)}, GREY)


def test_lists_with_wrong_lines_name_them(tmp_path: Path) -> None:
    root = pictures.vtab(tmp_path / "set")
    with (root / "train800.txt").open("a") as file:
        file.write("images/none.jpg 1\nimages/train/000.jpg cat\n")
    with pytest.raises(
        ValueError, match=r"train800.txt:25: image images/none.jpg does not exist\n  train800.txt:26: the label 'cat'"
    ):
        audit({"kind": "vtab", "path": str(root)}, GREY)
    with pytest.raises(ValueError, match=r"the train image's label '2' is not among the classes"):
        audit({"kind": "vtab", "path": str(pictures.vtab(tmp_path / "two")), "n_classes": 2}, GREY)


def test_a_parquet_label_without_a_name_is_found(tmp_path: Path) -> None:
    pictures.write_parquet(path := tmp_path / "all.parquet", range(12), [0, 1, 2] * 3 + [0, 1, 7])
    with pytest.raises(ValueError, match=r"all.parquet#11: the label 7 is none of the file's 3 classes"):
        audit({"kind": "parquet", "path": str(path)}, GREY)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("imagefolder", "has no CLASS/IMAGE, nor train/CLASS/IMAGE; it holds no image"),
        ("vtab", "has no train800.txt; the layout vtab is"),
        ("fgvc", "has no train.json; the layout fgvc is"),
        ("parquet", "has no .parquet file"),
    ],
)
def test_a_folder_of_another_layout_is_refused_with_what_was_looked_for(kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        n_classes({"kind": kind, "path": str(tmp_path)})
    with pytest.raises(ValueError, match=r"data\.path: .*nowhere does not exist"):
        n_classes({"kind": kind, "path": str(tmp_path / "nowhere")})


def test_a_parquet_file_of_another_layout_is_refused_with_what_it_has(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"picture": ["x"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"has no column 'image'; it has picture, label; set data.image_column"):
        n_classes({"kind": "parquet", "path": str(tmp_path)})
    with pytest.raises(ValueError, match=r"column 'picture' of .* is string; a column of encoded images"):
        n_classes({"kind": "parquet", "path": str(tmp_path), "image_column": "picture"})
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        n_classes({"kind": "parquet", "path": str(tmp_path)})


# -- pixels ----------------------------------------------------------------------------------------------------


def test_squashing_is_pillows_direct_resize() -> None:
    encoded = pictures.picture(2, 5)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).resize((16, 24), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    assert np.array_equal(Transform(3, (24, 16), None, "bilinear")(encoded).values, expected)


def test_cropping_is_resizing_and_cutting_out_the_middle_to_one_grey_level() -> None:
    encoded = pictures.picture(0, 5, size=(512, 512))
    image = Image.open(io.BytesIO(encoded))
    expected = np.asarray(CenterCrop(112)(Resize(128, InterpolationMode.BICUBIC)(image))).transpose(2, 0, 1)
    ours = Transform(3, (112, 112), 0.875, "bicubic")(encoded).values
    assert np.abs(ours.astype(int) - expected).max() <= 1


def test_an_image_of_the_right_size_keeps_its_pixels_and_grey_becomes_colour_and_back() -> None:
    encoded = pictures.picture(1, 3, size=(16, 24))
    assert np.array_equal(Transform(3, (24, 16), None, "bicubic")(encoded).values, pixels(encoded))
    assert np.array_equal(Transform(1, (24, 16), None, "bicubic")(encoded).values, pixels(encoded, "L"))


def test_loaded_images_are_the_transformed_files_in_the_order_of_the_listing(tmp_path: Path) -> None:
    data = {"kind": "vtab", "path": str(pictures.vtab(tmp_path / "set"))}
    splits = load(data, COLOUR, ["train", "validation", "test"])
    found, transform = listing(data), Transform(3, (24, 16), None, "bilinear")
    for name, split in splits.items():
        expected = np.stack([transform(encoded).values for encoded in found.read(name) if encoded is not None])
        assert torch.equal(split.images, torch.from_numpy(expected))
        assert split.labels.tolist() == [image.label for image in found.splits[name]]


def test_training_pieces_are_pieces_of_the_middle_square_and_every_corner_occurs() -> None:
    images = torch.arange(8 * 10, dtype=torch.uint8).view(1, 1, 8, 10)
    split = Split(images, torch.zeros(1, dtype=torch.int64), (6, 7), "crop")
    torch.manual_seed(0)
    taken = split.take(torch.zeros(2000, dtype=torch.int64))
    allowed = {
        (top, left, mirrored): piece.flip(-1) if mirrored else piece
        for top in range(3)
        for left in range(4)
        for mirrored in (False, True)
        for piece in [images[0, :, top : top + 6, left : left + 7]]
    }
    seen = Counter(next(key for key, piece in allowed.items() if torch.equal(piece, one)) for one in taken)
    assert seen.keys() == allowed.keys()
    assert all(abs(count - 2000 / 24) < 5 * (2000 / 24) ** 0.5 for count in seen.values())
    [middle] = split.batches(10)
    assert torch.equal(middle[0], images[0, :, 1:7, 1:8])


def test_without_augmentation_a_batch_is_the_images_themselves() -> None:
    images = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    split = Split(images, torch.arange(5), (4, 4))
    index = torch.tensor([3, 0, 3])
    assert torch.equal(split.take(index), images[index])
    flipped = Split(images, torch.arange(5), (4, 4), "flip").take(torch.tensor([2] * 50))
    assert {torch.equal(one, images[2]) for one in flipped} == {True, False}
    assert all(torch.equal(one, images[2]) or torch.equal(one, images[2].flip(-1)) for one in flipped)


# -- decoded once ----------------------------------------------------------------------------------------------------


def test_the_second_use_reads_no_image(tmp_path: Path) -> None:
    data = {"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))}
    first = load(data, GREY)
    done: list[tuple[int, int]] = []
    second = load(data, GREY, progress=lambda *state: done.append(state))
    assert done == []
    assert torch.equal(first["train"].images, second["train"].images)


def test_a_changed_file_another_transform_and_another_split_are_decoded_anew(tmp_path: Path) -> None:
    data = {"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))}
    known = listing(data)
    transform = Transform(1, (16, 16), None, "bicubic")
    before = decoded(known, "train", transform).images.copy()
    (tmp_path / "set" / known.splits["train"][0].path).write_bytes(pictures.picture(0, 12345))
    changed = decoded(listing(data), "train", transform).images
    assert not np.array_equal(changed[0], before[0])
    assert np.array_equal(changed[1:], before[1:])
    assert decoded(listing(data), "train", Transform(1, (16, 16), 1.0, "bicubic")).images.shape == changed.shape
    assert len(list(cache().glob("train-*.arrow"))) == 3


def test_a_decoded_file_whose_pages_never_reached_the_disk_is_made_again(tmp_path: Path) -> None:
    found = listing({"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))})
    transform = Transform(1, (15, 15), None, "bicubic")  # no multiple of eight bytes
    before = decoded(found, "train", transform).images.copy()
    path = max(cache().glob("train-*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    content = path.read_bytes()
    at = content.index(before[3].tobytes())
    path.write_bytes(content[:at] + bytes(before[3].nbytes) + content[at + before[3].nbytes :])
    assert np.array_equal(decoded(found, "train", transform).images, before)


@pytest.mark.parametrize("n_bytes", [0, 3, 2_000, -1_000])
def test_a_decoded_file_that_a_power_cut_has_halved_is_made_again(tmp_path: Path, n_bytes: int) -> None:
    found, transform = (
        listing({"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))}),
        Transform(1, (16, 16), None, "bicubic"),
    )
    before = decoded(found, "train", transform).images.copy()
    [path] = [
        path for path in cache().glob("train-*.arrow") if path.stat().st_mtime == max(p.stat().st_mtime for p in cache().iterdir())
    ]
    path.write_bytes(path.read_bytes()[:n_bytes])
    assert np.array_equal(decoded(found, "train", transform).images, before)


def test_what_a_killed_process_left_of_a_decoded_file_is_removed_when_it_is_made_again(tmp_path: Path) -> None:
    found = listing({"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))})
    transform = Transform(1, (17, 17), None, "bicubic")
    before = decoded(found, "train", transform).images.copy()
    path = max(cache().glob("train-*.arrow"), key=lambda path: path.stat().st_mtime_ns)
    (left := cache() / f".draft-{path.name}-killed").mkdir()
    (left / "pixels.raw").write_bytes(b"half")
    path.unlink()
    assert np.array_equal(decoded(found, "train", transform).images, before)
    assert not left.exists()


def test_decoded_images_that_another_user_has_made_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to make a file another user's")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    found = listing({"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))})
    transform = Transform(1, (16, 16), None, "bicubic")
    before = decoded(found, "train", transform).images.copy()
    assert cache().stat().st_mode & 0o777 == 0o700
    [path] = cache().glob("train-*.arrow")
    os.chown(path, 4711, -1)
    with pytest.raises(ValueError, match=r"belongs to another user \(number 4711\).*set PARETUNE_CACHE to a folder of your own"):
        decoded(found, "train", transform)
    os.chown(path, 0, -1)
    assert np.array_equal(decoded(found, "train", transform).images, before)


def test_writing_to_the_mapped_pixels_changes_no_file(tmp_path: Path) -> None:
    found = listing({"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))})
    transform = Transform(1, (16, 16), None, "bicubic")
    before = decoded(found, "train", transform).images
    before[:] = 7
    assert not (decoded(found, "train", transform).images == 7).all()


def _decode(path: str, out: Any) -> None:
    counts: list[tuple[int, int]] = []
    data = {"kind": "imagefolder", "path": path}
    found = decoded(listing(data), "train", Transform(1, (16, 16), None, "bicubic"), progress=lambda *s: counts.append(s))
    out.put((len(counts), int(found.images.sum())))


def test_processes_that_race_for_the_images_decode_them_once(tmp_path: Path) -> None:
    path = str(pictures.image_folder(tmp_path / "set", 30))
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    racers = [context.Process(target=_decode, args=(path, out)) for _ in range(3)]
    for racer in racers:
        racer.start()
    results = [out.get(timeout=240) for _ in racers]
    for racer in racers:
        racer.join(60)
    assert sorted(count for count, _ in results) == [0, 0, 72]
    assert len({total for _, total in results}) == 1
    assert sorted(path.suffix for path in cache().iterdir()) == [".arrow", ".lock"]


def test_a_decoder_that_is_killed_leaves_nothing_that_is_taken_for_the_whole(tmp_path: Path) -> None:
    path = str(pictures.image_folder(tmp_path / "set", 30))

    def die(done: int, of: int) -> None:
        if done == 40:
            os._exit(9)

    pid = os.fork()
    if pid == 0:
        decoded(listing({"kind": "imagefolder", "path": path}), "train", Transform(1, (16, 16), None, "bicubic"), progress=die)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert not list(cache().glob("*.arrow"))
    begun = time.monotonic()
    assert len(load({"kind": "imagefolder", "path": path}, GREY)["train"]) == 72
    assert time.monotonic() - begun < 30  # the lock went with its holder


def test_a_cache_that_cannot_be_written_is_told_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"decoded images cannot be written to .* set PARETUNE_CACHE to another folder"):
        load({"kind": "imagefolder", "path": str(pictures.image_folder(tmp_path / "set"))}, GREY)
