"""Small real images with masks: red and blue squares on grey ground, with noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("ground", "red", "blue")


def scene(seed: int, *, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """The image (side, side, 3) and its mask (side, side), whose first rows are ignored."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((side, side), np.uint8)
    for number in (1, 2):
        y, x = rng.integers(0, side - 12, 2)
        mask[y : y + 12, x : x + 12] = number
    colours = np.array([[60, 60, 60], [150, 60, 60], [60, 60, 170]])
    image = np.clip(colours[mask] + rng.normal(0, 15, (side, side, 3)), 0, 255).astype(np.uint8)
    mask[:2] = 255
    return image, mask


def scenes(root: Path, sizes: dict[str, int], *, side: int = 32) -> Path:
    """root/images/SPLIT/N.png, root/masks/SPLIT/N.png and root/classes.txt."""
    for first, (split, n) in enumerate(sizes.items()):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            image, mask = scene(1000 * first + i, side=side)
            Image.fromarray(image).save(root / "images" / split / f"{i}.png")
            Image.fromarray(mask).save(root / "masks" / split / f"{i}.png")
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root
