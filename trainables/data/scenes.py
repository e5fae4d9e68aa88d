"""The packaged question "where are people, animals and food?": 64-pixel scenes with exact masks, for `task: segmentation`.

A scene is a piece of one of two photographs (scikit-learn's: a temple and a flower), with three of the packaged emoji at random
places. Each pixel of a scene is either the photograph's or a drawing's, so its mask is exact: what the drawing shows, or the
photograph. White that reaches the border of a drawing is transparent. The drawings keep their split: no emoji, nor a variant of it,
is in two splits. The left halves of the photographs are behind training scenes, the right halves behind all others.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.emoji import EMOJI_SETS, EMOJI_SPLIT, SIDE, emoji, emoji_card, emoji_split

SCENE: Final = 64  # side of a scene, in pixels
IN_A_SCENE: Final = 3  # drawings
SCENES_SPLIT: Final = {"train": 300, "validation": 150, "test": 150}
_SHOWN: Final = {  # ranges of code points, as Unicode groups them
    "person": ((0x1F466, 0x1F487), (0x1F600, 0x1F64F), (0x1F910, 0x1F92F), (0x1F970, 0x1F97A), (0x1F9D0, 0x1F9E0)),
    "animal": ((0x1F400, 0x1F43F), (0x1F980, 0x1F9AF)),
    "food": ((0x1F32D, 0x1F37F), (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB)),
}
SCENE_CLASSES: Final = ("photograph", *_SHOWN)
_WHITE: Final = 250  # least value of a pixel that is taken for white


@cache
def scenes() -> tuple[Tensor, Tensor]:
    """Draw all scenes, (n, 3, 64, 64) uint8, and their masks (n, 64, 64) uint8: the same on every machine."""
    drawings, shown, photographs = emoji()[0].numpy(), _shown(), _photographs()
    found = [
        _scene(drawings, shown, own.numpy(), [_half(photo, split) for photo in photographs], np.random.default_rng([number, n]))
        for number, (split, own) in enumerate(emoji_split().items())
        for n in range(SCENES_SPLIT[split])
    ]
    images, masks = zip(*found, strict=True)
    return torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(masks))


@cache
def scenes_split() -> dict[str, Tensor]:
    """Return the indices of each split."""
    parts = torch.split(torch.arange(sum(SCENES_SPLIT.values())), list(SCENES_SPLIT.values()))
    return dict(zip(SCENES_SPLIT, parts, strict=True))


def _shown() -> NDArray[np.uint8]:
    """Return the class of what each drawing of the packaged emoji shows; 0 for something else."""
    codes = [int(code.partition("-")[0], 16) for name in EMOJI_SPLIT for code in emoji_card()["splits"][name] for _ in EMOJI_SETS]
    found = np.zeros(len(codes), np.uint8)
    for number, ranges in enumerate(_SHOWN.values(), start=1):
        found[[any(first <= code <= last for first, last in ranges) for code in codes]] = number
    return found


def _photographs() -> list[NDArray[np.uint8]]:
    """Read the photographs, at half of their size."""
    from sklearn.datasets import load_sample_images

    return [np.ascontiguousarray(photo[::2, ::2]) for photo in load_sample_images().images]


def _half(photo: NDArray[np.uint8], split: str) -> NDArray[np.uint8]:
    middle = photo.shape[1] // 2
    return photo[:, :middle] if split == "train" else photo[:, middle:]


def _scene(
    drawings: NDArray[np.uint8],
    shown: NDArray[np.uint8],
    own: NDArray[np.int64],
    photographs: list[NDArray[np.uint8]],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    photo = photographs[rng.integers(len(photographs))]
    top, left = (rng.integers(extent - SCENE + 1) for extent in photo.shape[:2])
    image = photo[top : top + SCENE, left : left + SCENE].transpose(2, 0, 1).copy()
    mask = np.zeros((SCENE, SCENE), np.uint8)
    for index in rng.choice(own[shown[own] > 0], IN_A_SCENE, replace=False):
        top, left = rng.integers(SCENE - SIDE + 1, size=2)
        inside = ~_transparent(drawings[index])
        image[:, top : top + SIDE, left : left + SIDE][:, inside] = drawings[index][:, inside]
        mask[top : top + SIDE, left : left + SIDE][inside] = shown[index]
    return image, mask


def _transparent(drawing: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the white pixels of a drawing that are connected with its border."""
    from scipy.ndimage import label

    white = np.pad((drawing >= _WHITE).all(0), 1, constant_values=True)
    regions, _ = label(white)
    found: NDArray[np.bool_] = (regions == regions[0, 0])[1:-1, 1:-1]
    return found
