"""The meaning of names: which folder or file is a split, which is left out, and which file is an image."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Final

from PIL import Image as Pillow
from PIL import UnidentifiedImageError

SYNONYMS: Final = {  # in any case; those of Hugging Face's `datasets`, and what people write
    "train": ("train", "training", "trn"),
    "validation": ("validation", "valid", "val", "validate", "dev", "development"),
    "test": ("test", "testing", "tst", "eval", "evaluation"),
}
_SPLIT: Final = {word: split for split, words in SYNONYMS.items() for word in words}
_AROUND: Final = frozenset(  # words next to a split's, which do not change its meaning: `train_images`, `TestSet`, `seg_train`
    {"set", "data", "dataset", "split", "image", "images", "img", "imgs", "picture", "pictures", "photo", "photos", "folder", "seg"}
)
_SYSTEM: Final = frozenset(
    {"__macosx", "__pycache__", "@eadir", "$recycle.bin", "#recycle", "system volume information", "lost+found"}
    | {"thumbs.db", "desktop.ini", "ehthumbs.db", "icon\r"}
)
_NO_PIXELS: Final = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})  # Pillow cannot decode these by itself
_FOREIGN: Final = frozenset(  # of photographs that Pillow cannot decode, at least not everywhere: to be converted, not left out
    {".heic", ".heif", ".hif", ".jxl", ".avif", ".webp", ".jp2", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raf", ".orf", ".rw2"}
)
_POINTER: Final = b"version https://git-lfs.github.com/spec/"
_BY_CONTENT: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF")  # told apart by their first bytes


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for (`Train`, `val_set`, `seg_test`, `train2017`); None for other names."""
    words = _words(folder)
    found = {_SPLIT[word] for word in words if word in _SPLIT}
    return found.pop() if len(found) == 1 and all(word in _SPLIT or word in _AROUND for word in words) else None


def says_only_images(folder: str) -> bool:
    """Return whether a folder's name names neither a class nor a split: `images`, `img_folder`."""
    words = _words(folder)
    return bool(words) and all(word in _AROUND for word in words)


def splits_in(name: str) -> dict[str, str]:
    """Return the splits whose words are anywhere in a name, with these: `flowers_train-00000` (as in Hugging Face's `datasets`)."""
    return {_SPLIT[word]: word for word in _words(name) if word in _SPLIT}


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()
    words = re.findall(r"[^\W\d_]+", apart)
    return [part for word in words for part in ((word[:-3], "set") if word[:-3] in _SPLIT and word.endswith("set") else (word,))]


def why_left_out(name: str) -> str | None:
    """Return why a folder or file is never part of a data set: "hidden", or "of the system"; None if it may be part of one."""
    if name.casefold() in _SYSTEM:
        return "of the system"
    return "hidden" if name.startswith(".") else None


@functools.cache
def endings() -> frozenset[str]:
    """Return the endings, in lower case, of images: those that this machine's Pillow can decode, and of other photographs."""
    known = Pillow.registered_extensions()
    return _FOREIGN | {ending for ending, kind in known.items() if kind in Pillow.OPEN and kind not in _NO_PIXELS}


def is_image(path: Path) -> bool:
    """Return whether a file is an image: by its ending, and without a known ending by its content (`photo`, `photo.jpg_large`)."""
    if path.suffix.lower() in endings():
        return True
    try:
        with Pillow.open(path, formats=_readable()):
            return True
    except Pillow.DecompressionBombError:
        return True  # decoding it will say so
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError):
        return False


@functools.cache
def _readable() -> tuple[str, ...]:
    Pillow.init()
    return tuple(kind for kind in _BY_CONTENT if kind in Pillow.OPEN)


def why_unreadable(content: Path | bytes) -> str | None:
    """Return what a file holds in place of the data that its name promises, if that is known: a pointer of Git LFS."""
    if isinstance(content, Path):
        try:
            with content.open("rb") as file:
                content = file.read(len(_POINTER))
        except OSError:
            return None
    return "a pointer of Git LFS instead of the file; fetch it: git lfs pull" if content.startswith(_POINTER) else None


def is_parquet(path: Path) -> bool:
    """Return whether a file is Parquet: by its ending, and with another ending by its first bytes."""
    if path.suffix.lower() in (".parquet", ".pq", ".parq"):
        return True
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError:
        return False
