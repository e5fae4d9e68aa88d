"""The packaged question "who drew this emoji?": 32-pixel drawings of four sets, 1,200 train / 1,000 validation / 1,156 test.

`emoji.webp` holds all images in one picture without loss, the four drawings of an emoji next to each other; `emoji.json` names the
emoji of each split, the sets, their licences and the packages they come from. `python -m trainables.data.make_emoji` makes both.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from trainables.weights.emoji_sets import subject_of

SIDE: Final = 32  # of an image, in pixels
COLUMNS: Final = 64  # images in a row of the picture
EMOJI_SETS: Final = ("noto", "blob", "twemoji", "emojione")
EMOJI_SPLIT: Final = {"train": 1200, "validation": 1000, "test": 1156}


@cache
def emoji() -> tuple[Tensor, Tensor]:
    """Load all images, (n, 3, 32, 32) uint8, and their labels (n,) int64, the index into `EMOJI_SETS`."""
    with Image.open(Path(__file__).parent / "emoji.webp") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    n = sum(EMOJI_SPLIT.values())
    cells = pixels.reshape(-1, SIDE, COLUMNS, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)[:n]
    return torch.from_numpy(np.ascontiguousarray(cells)), torch.arange(n) % len(EMOJI_SETS)


@cache
def emoji_split() -> dict[str, Tensor]:
    """Return the indices of each split: the picture holds one after the other. No emoji, nor a variant of it, is in two of them."""
    parts = torch.split(torch.arange(sum(EMOJI_SPLIT.values())), list(EMOJI_SPLIT.values()))
    return dict(zip(EMOJI_SPLIT, parts, strict=True))


def emoji_groups() -> list[str]:
    """Return what each image shows: the drawings of an emoji and of its variants have the same group."""
    codes = [code for name in EMOJI_SPLIT for code in emoji_card()["splits"][name]]
    return [_subject(code) for code in codes for _ in EMOJI_SETS]


def _subject(code: str) -> str:
    children = {"1F466", "1F467"}
    return subject_of(code, "family" if children & set(code.split("-")[1:]) else "")


def emoji_card() -> dict[str, Any]:
    """Read what `emoji.json` says of the images."""
    card: dict[str, Any] = json.loads((Path(__file__).parent / "emoji.json").read_text(encoding="utf-8"))
    return card
