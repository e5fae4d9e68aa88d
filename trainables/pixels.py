"""The pixels of an encoded image, as a backbone takes them. Needs Pillow and numpy, and no torch."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import ExifTags, ImageOps
from PIL import Image as Pillow

UNIT: Final = 224 / 256  # the papers' crop: resize to 256, crop 224
_RESAMPLING: Final = {
    "bilinear": Pillow.Resampling.BILINEAR,
    "bicubic": Pillow.Resampling.BICUBIC,
    "nearest": Pillow.Resampling.NEAREST,
}
_TURNED: Final = range(2, 9)  # EXIF orientations other than upright; other numbers are errors of a camera


@dataclass(frozen=True)
class Transform:
    """The conversion of an encoded image into pixels.

    Attributes:
        channels: Number of channels: 1 (grey) or 3 (RGB).
        size: Height and width in pixels.
        crop: None to squash the whole image to `size`, as the VTAB-1k papers do; otherwise the fraction of the largest central
            rectangle of the shape of `size` (0.875 is "resize to 256, crop 224").
        interpolation: Resize filter: "bilinear", "bicubic" or "nearest".
        upright: True to turn images as their EXIF orientation says; False to ignore it.
        background: Colour behind transparent pixels, "black" or "white"; None for the colour that the file stores below them.
    """

    channels: int
    size: tuple[int, int]
    crop: float | None
    interpolation: str
    upright: bool = False
    background: str | None = None

    def __call__(self, encoded: bytes) -> Pixels:
        """Decode an image.

        Raises:
            OSError, SyntaxError, ValueError: If it is not an image, is broken, or has more than 8 bits per channel.
        """
        with Pillow.open(io.BytesIO(encoded)) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(
                    f"mode {image.mode}: more than 8 bits per channel; convert it to 8 bits: which values are black and white "
                    "only its camera tells"
                )
            turned = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
            whole = ImageOps.exif_transpose(image) if turned and self.upright else image
            transparent = False
            if whole.has_transparency_data:
                layers = whole.convert("RGBA")  # in this order a palette needs no warning
                transparent = bool(np.asarray(layers)[..., 3].min() < 255)
                if transparent and self.background is not None:
                    whole = Pillow.alpha_composite(Pillow.new("RGBA", layers.size, self.background), layers)
                elif whole.mode == "P":
                    whole = layers
            pixels = whole.convert("RGB" if self.channels == 3 else "L")
        found = np.asarray(self.placed(pixels, _RESAMPLING[self.interpolation]))
        values = found[None] if self.channels == 1 else found.transpose(2, 0, 1)
        return Pixels(values, turned, transparent, pixels.size)

    def placed(self, pixels: Pillow.Image, resampling: Pillow.Resampling) -> Pillow.Image:
        """Cut an image out and resize it, as every image is."""
        height, width = self.size
        across, down = map(float, pixels.size)
        if self.crop is not None:
            side = self.crop * min(across / width, down / height)
            across, down = side * width, side * height
        left, top = (pixels.width - across) / 2, (pixels.height - down) / 2
        if (box := (left, top, left + across, top + down)) != (0, 0, width, height):
            return pixels.resize((width, height), resampling, box=box)
        return pixels


class Pixels(NamedTuple):
    """A decoded image.

    Attributes:
        values: Array (channels, height, width).
        turned: True if its EXIF data say that it is rotated or mirrored.
        transparent: True if some of its pixels are.
        source: Width and height before it was cut and resized.
    """

    values: np.ndarray[Any, np.dtype[np.uint8]]
    turned: bool
    transparent: bool
    source: tuple[int, int]


def transform_of(data: Mapping[str, Any], *, channels: int, size: tuple[int, int], interpolation: str) -> Transform:
    """Return the conversion that a data section asks for.

    Args:
        data: Data section of a study, see `trainables.data`.
        channels: Number of channels that the backbone takes.
        size: Height and width that it takes, in pixels.
        interpolation: Resize filter of the backbone, unless the section names another.
    """
    crop: float | None = data.get("crop_fraction", UNIT)
    if data.get("resize", "squash" if data["kind"] == "vtab" else "crop") == "squash":
        crop = None
    elif data.get("augment") == "crop":
        height, width = (round(side / data.get("crop_fraction", UNIT)) for side in size)
        size, crop = (height, width), 1.0
    chosen = data.get("interpolation") or interpolation
    return Transform(channels, size, crop, chosen, data.get("exif") == "apply", data.get("background"))
