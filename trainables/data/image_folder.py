"""The layout `imagefolder`: PATH/SPLIT/CLASS/IMAGE, or PATH/CLASS/IMAGE. docs/data.md states its rules."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.folder_tree import Folder, scan
from trainables.data.labels_csv import labelled_files
from trainables.data.listing import Draft, Labelled, without_labels
from trainables.data.naming import is_image, says_only_images, split_of


def image_folder(root: Path, data: Mapping[str, Any]) -> Draft:
    """List images whose folder is their class, and the folder around it, if there is one, their split."""
    if not root.is_dir():
        raise ValueError(f"data.path: {root} is a file; the layout imagefolder is a folder (a Parquet file: data.kind: parquet)")
    if data.get("labels") is not None:
        return labelled_files(root, data)
    found = scan(root, is_image, "image")
    draft = Draft(root, problems=found.problems, notes=found.notes)
    top = _unwrapped(found.top, draft)
    by_split: dict[str, list[Folder]] = {}
    for folder in top.folders:
        if (split := split_of(folder.name)) is not None:
            by_split.setdefault(split, []).append(folder)
    if by_split:
        _declared_splits(top, by_split, draft)
    else:
        draft.declared = False
        images = _of_classes(top, draft, split=None)
        if images:
            draft.splits["train"] = images
    if not draft.splits.get("train") and not (data.get("any_split") and any(draft.splits.values())):
        raise ValueError(f"data.path: {root} has no CLASS/IMAGE, nor train/CLASS/IMAGE" + _instead(top, by_split, draft))
    return draft


def _instead(top: Folder, by_split: Mapping[str, list[Folder]], draft: Draft) -> str:
    """Say what there is in place of training images."""
    if by_split and "train" not in by_split and not draft.problems:
        return (
            f"; it holds {', '.join(f'{folders[0].name}/' for folders in by_split.values())} alone: the training images are missing"
        )
    if draft.problems:
        return ": " + "; ".join(draft.problems[:5])
    if top.files:
        return f"; its {len(top.files):,} images are in no folder of a class ({top.files[0][0]})"
    return "; " + "; ".join(draft.notes[:5]) if draft.notes else "; it holds no image"


def _unwrapped(folder: Folder, draft: Draft) -> Folder:
    """Return the folder inside of folders that hold nothing else: data sets are often packed with one level too many.

    Folders without an image (`labels` next to `images`) do not count there.
    """
    inner = folder
    while not inner.files and (only := _only_folder(inner)) is not None and split_of(only.name) is None and only.folders:
        inner = only
    if inner is not folder:
        others = " with images" if any(len(around.folders) > 1 for around in _between(folder, inner)) else ""
        draft.notes.append(f"{inner.path}/ is read as {folder.path or 'the data set'}: the only folder in it{others}")
    return inner


def _only_folder(folder: Folder) -> Folder | None:
    """Return the only folder in a folder; of several, the only one with images in folders, if none of the others has any."""
    if len(folder.folders) == 1:
        return folder.folders[0]
    filled = [below for below in folder.folders if below.holds_files()]
    return filled[0] if len(filled) == 1 and not filled[0].files and split_of(filled[0].name) is None else None


def _between(outer: Folder, inner: Folder) -> list[Folder]:
    """Return the folders from the outer one to the one around the inner one."""
    found = []
    while outer is not inner:
        found.append(outer)
        outer = next(below for below in outer.folders if inner.path == below.path or inner.path.startswith(f"{below.path}/"))
    return found


def _declared_splits(top: Folder, by_split: Mapping[str, list[Folder]], draft: Draft) -> None:
    for split, folders in by_split.items():
        if len(folders) > 1:
            names = " and ".join(folder.name for folder in folders)
            raise ValueError(f"data.path: {draft.root} holds {split} twice, as {names}; keep one, or rename what is no split")
    if top.files:
        draft.problems.append(f"{_images(top)} in no split and no class ({top.files[0][0]})")
    for other in top.folders:
        if split_of(other.name) is None and other.holds_files():
            splits = ", ".join(folders[0].name for folders in by_split.values())
            draft.problems.append(
                f"{other.path}: no split, but next to {splits}; name it train, val or test, move it away, or, if all of these are "
                "classes, put them into a folder train"
            )
    for split, [folder] in by_split.items():
        inner = _inside_of_split(folder, draft)
        flat = not any(below.holds_files() for below in inner.folders)
        if split == "test" and flat and inner.files:
            draft.notes.append(without_labels(f"{inner.path}/", len(inner.files)))
            continue
        images = _of_classes(inner, draft, split=split)
        if images or split == "train":
            draft.splits[split] = images


def _inside_of_split(folder: Folder, draft: Draft) -> Folder:
    """Return the folder of the classes: `train/train/CLASS` is one level too many, `train/CLASS` of one class is not."""
    inner = folder
    while not inner.files and len(inner.folders) == 1 and not inner.folders[0].files and inner.folders[0].holds_files():
        inner = inner.folders[0]
    if inner is not folder:
        draft.notes.append(f"{inner.path}/ is read as {folder.path}/: the only folder in it")
    return inner


def _of_classes(around: Folder, draft: Draft, *, split: str | None) -> list[Labelled]:
    """Return the images of the class folders in `around`; what is no class folder is a problem."""
    images: list[Labelled] = []
    if around.files:
        where = f"{around.path}: " if around.path else ""
        sort = "" if around.folders else "; sort them into folders, one for each class"
        draft.problems.append(f"{where}{_images(around)} in no folder of a class ({around.files[0][0]}){sort}")
    for folder in around.folders:
        below = [inner.name for inner in folder.folders if inner.holds_files()]
        if not folder.files and not below:
            if split in (None, "train"):
                draft.problems.append(f"{folder.path}: holds no image; delete the folder, or add the images of its class")
        elif not folder.files:
            draft.problems.append(
                f"{folder.path}: holds only folders ({_short(below)}), so it is no class; {_remedy(draft, folder, below)}"
            )
        elif any(split_of(name) is not None for name in below):
            draft.problems.append(
                f"{folder.path}: holds images and a folder of a split ({_short(below)}); {_remedy(draft, folder, below)}"
            )
        else:
            label = unicodedata.normalize("NFC", folder.name)
            own = folder.all_files()
            images += [(path, label, stamp) for path, stamp in own]
            if deeper := len(own) - len(folder.files):
                draft.notes.append(f"{folder.path}/: {deeper:,} images in folders below it belong to its class")
    return images


def _remedy(draft: Draft, folder: Folder, below: list[str]) -> str:
    splits = [inner for inner in folder.folders if split_of(inner.name) is not None and inner.holds_files()]
    if splits and not any(inner.files for inner in splits):
        return f"set data.path: {draft.root / folder.path}, if its folders are the splits"
    if splits:
        return "the order is SPLIT/CLASS/IMAGE: train/CLASS, val/CLASS, test/CLASS"
    if all(says_only_images(name) for name in below):
        return f"put the images of its folder {_short(below)} directly into it"
    return (
        "name it train, val or test if it is a split; if the classes are one level deeper, set "
        f"data.path: {draft.root / folder.path}; if they are its parts, put their images into it"
    )


def _images(folder: Folder) -> str:
    n = len(folder.files)
    return f"{n:,} image{'s are' if n > 1 else ' is'}"


def _short(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
