"""The layouts of images with masks: `masks`, `voc` and `ade20k`. docs/segmentation.md states their rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Final

from trainables.data.folder_tree import scan
from trainables.data.listing import Draft, in_short, stamp_of
from trainables.data.masks import Masks, numbered
from trainables.data.naming import is_image, split_of

MOST_CLASSES: Final = 255
VOC_CLASSES: Final = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog"),
    *("horse", "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor"),
)
ADE20K_CLASSES: Final = 150
_Pairs = dict[str, list[tuple[str, str]]]  # (image, mask) by split


def masks(root: Path, data: Mapping[str, Any]) -> Draft:
    """List images/SPLIT/X.jpg with masks/SPLIT/X.png; or images/X.jpg with masks/X.png, whose splits are drawn."""
    if missing := [name for name in ("images", "masks") if not (root / name).is_dir()]:
        raise ValueError(
            f"data.path: {root} has no folder {missing[0]}; the layout masks is images, masks and a file of class names"
        )
    file = str(data.get("classes", "classes.txt"))
    names = _names(root / file, key="data.classes")
    classes, numbers = numbered(names, data.get("ignore_index", 255))
    draft = Draft(root, classes=list(classes))
    found = {name: scan(root / name, is_image, what) for name, what in (("images", "image"), ("masks", "mask"))}
    for name, one in found.items():
        draft.problems += [f"{name}/{problem}" for problem in one.problems]
        draft.notes += [f"{name}: {note}" for note in one.notes]
    masks_of: dict[str, list[str]] = {}
    for path, _ in found["masks"].top.all_files():
        masks_of.setdefault(str(PurePosixPath(path).with_suffix("")), []).append(f"masks/{path}")
    pairs: _Pairs = {}
    for path, _ in found["images"].top.all_files():
        stem = str(PurePosixPath(path).with_suffix(""))
        own = masks_of.pop(stem, [])
        if len(own) != 1:
            what = f"has no mask masks/{stem}.png" if not own else f"has {len(own)} masks ({', '.join(own)})"
            draft.problems.append(f"images/{path} {what}")
            continue
        folder = path.split("/")[0] if "/" in path else ""
        pairs.setdefault(split_of(folder) or "", []).append((f"images/{path}", own[0]))
    if others := [path for paths in masks_of.values() for path in paths]:
        draft.problems.append(f"{len(others):,} masks have no image or share one: {in_short(others, 3)}")
    if pairs.keys() == {""}:
        draft.declared, pairs = False, {"train": pairs[""]}
    elif lost := pairs.pop("", None):
        draft.problems.append(
            f"{len(lost):,} images are in no folder of a split, and others are: {in_short((i for i, _ in lost), 3)}"
        )
    return _listed(draft, pairs, numbers)


def voc(root: Path, data: Mapping[str, Any]) -> Draft:
    """List PASCAL VOC 2012: ImageSets/Segmentation/train.txt to train and validate, val.txt to test."""
    below = next((root / name for name in ("", "VOC2012", "VOCdevkit/VOC2012") if (root / name / "JPEGImages").is_dir()), None)
    if below is None or not (below / "SegmentationClass").is_dir():
        raise ValueError(f"data.path: {root} has no JPEGImages and SegmentationClass; the layout voc is the folder VOC2012")
    inside = "" if below == root else f"{below.relative_to(root)}/"
    pairs: _Pairs = {}
    for split, file in {"train": "train.txt", "test": "val.txt"}.items():
        listed = below / "ImageSets" / "Segmentation" / file
        if listed.is_file():
            names = listed.read_text(encoding="utf-8").split()
            pairs[split] = [(f"{inside}JPEGImages/{name}.jpg", f"{inside}SegmentationClass/{name}.png") for name in names]
    if "train" not in pairs:
        raise ValueError(f"data.path: {below} has no ImageSets/Segmentation/train.txt")
    classes, numbers = numbered(VOC_CLASSES, 255)
    return _listed(Draft(root, classes=list(classes), notes=[_OWN_SPLIT.format("val.txt")]), pairs, numbers)


def ade20k(root: Path, data: Mapping[str, Any]) -> Draft:
    """List ADEChallengeData2016: images/training to train and validate, images/validation to test; annotations are the masks."""
    below = root if (root / "annotations").is_dir() else root / "ADEChallengeData2016"
    if not (below / "annotations" / "training").is_dir() or not (below / "images" / "training").is_dir():
        raise ValueError(
            f"data.path: {root} has no images/training and annotations/training; the layout ade20k is ADEChallengeData2016"
        )
    inside = "" if below == root else "ADEChallengeData2016/"
    pairs: _Pairs = {}
    for split, folder in {"train": "training", "test": "validation"}.items():
        found = sorted((below / "images" / folder).glob("*.jpg")) if (below / "images" / folder).is_dir() else []
        if found:
            own = f"{inside}annotations/{folder}"
            pairs[split] = [(f"{inside}images/{folder}/{path.name}", f"{own}/{path.stem}.png") for path in found]
    table = below / "objectInfo150.txt"
    names = [str(number) for number in range(1, ADE20K_CLASSES + 1)]
    if table.is_file():
        rows = table.read_text(encoding="utf-8").splitlines()[1:]
        names = [row.rpartition("\t")[2].split(",")[0].strip() for row in rows if row.strip()]
    classes, numbers = numbered(names, 0, first=1)
    return _listed(Draft(root, classes=list(classes), notes=[_OWN_SPLIT.format("images/validation")]), pairs, numbers)


_OWN_SPLIT: Final = "{} is the test split, on which papers report; the validation split is drawn from the training images"


def _listed(draft: Draft, pairs: Mapping[str, Iterable[tuple[str, str]]], numbers: tuple[int, ...]) -> Draft:
    """Return the draft with images that have their files, and their masks."""
    paths: dict[str, str] = {}
    for split, own in pairs.items():
        images = []
        for image, mask in own:
            missing = [path for path in (image, mask) if not (draft.root / path).is_file()]
            if missing:
                draft.problems.append(f"{image} has no mask {mask}" if missing == [mask] else f"the image {image} does not exist")
                continue
            (size, then), (size_of_mask, mask_then) = (stamp_of(draft.root / path) for path in (image, mask))
            paths[image] = mask
            images.append((image, "", (size + size_of_mask, max(then, mask_then))))
        draft.splits[split] = images
    draft.masks = Masks(paths, numbers)
    return draft


def _names(file: Path, *, key: str) -> list[str]:
    """Read the names of classes, one in each line: the first is the class of the value 0."""
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8"
        raise ValueError(f"{key}: {file} cannot be read ({why}); it holds a name in each line, the first of the value 0") from None
    if empty := [number for number, name in enumerate(names, start=1) if not name]:
        raise ValueError(f"{key}: {file}:{empty[0]} is empty; give each value of the masks a name")
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{key}: {file} has {twice[0]!r} twice; give each value of the masks a name of its own")
    if len(names) < 2:
        raise ValueError(f"{key}: {file} has {len(names)} name; a study needs at least two classes to tell apart")
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{key}: {file} has {len(names)} names; masks of 8 bits have at most {MOST_CLASSES} classes")
    return names
