"""The masks of images: one image of one channel for each, of the same size, whose values are numbers of classes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from trainables.pixels import Pixels, Transform
from trainables.tasks.segmentation import IGNORED

_UNKNOWN: Final = -1
_MODES: Final = ("L", "P", "1", "I;16")  # of Pillow: one channel, numbers as they are stored
_SAID: Final = 5  # unknown values of a mask that are listed


class MaskError(ValueError):
    """The error that a mask cannot be used; its message is complete."""


@dataclass(frozen=True)
class Masks:
    """The masks of a data set.

    Attributes:
        paths: Path of each image's mask, by the image's path.
        numbers: Number of the class of each value 0, ..., 255, or `IGNORED`, or -1 for a value that no pixel may have.
    """

    paths: Mapping[str, str]
    numbers: tuple[int, ...]

    def beside(self, pixels: Pixels, root: Path, path: str, transform: Transform) -> Pixels:
        """Return an image with its mask, resized by nearest neighbour, as one more channel.

        Args:
            pixels: Image.
            root: Folder of the data set.
            path: Path of the image.
            transform: Conversion that made `pixels`.

        Raises:
            MaskError: If the mask cannot be read, has another size, or has unknown values.
        """
        mask = self._read(root, self.paths[path], pixels.source)
        placed = np.asarray(transform.placed(Pillow.fromarray(mask), Pillow.Resampling.NEAREST))
        return pixels._replace(values=np.concatenate([pixels.values, placed[None]]))

    def _read(self, root: Path, path: str, size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return a mask (height, width), with numbers of classes."""
        try:
            with Pillow.open(io.BytesIO((root / path).read_bytes())) as image:
                if image.mode not in _MODES:
                    raise MaskError(f"its mask {path} has the mode {image.mode}; a mask has one channel, with numbers of classes")
                if image.size != size:
                    raise MaskError(f"its mask {path} has {_in_words(image.size)} pixels, and the image {_in_words(size)}")
                values = np.asarray(image).astype(np.int64)
        except (OSError, SyntaxError, UnidentifiedImageError) as error:
            raise MaskError(f"its mask {path} cannot be read ({str(error)[:80]})") from error
        present = np.unique(values)
        unknown = [int(value) for value in present if value > 255 or self.numbers[value] == _UNKNOWN]
        if unknown:
            listed = ", ".join(map(str, unknown[:_SAID])) + (", ..." if len(unknown) > _SAID else "")
            raise MaskError(f"its mask {path} has values of no class: {listed}; {self._known()}")
        return np.array(self.numbers)[values].astype(np.uint8)

    def _known(self) -> str:
        ignored = [value for value, number in enumerate(self.numbers) if number == IGNORED]
        classes = [value for value, number in enumerate(self.numbers) if number not in (_UNKNOWN, IGNORED)]
        known = f"classes have {classes[0]} to {classes[-1]}"
        return known + (f", and {ignored[0]} is ignored" if ignored else ", and none is ignored")


def numbered(names: Sequence[str], ignored: int | None, *, first: int = 0) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the names of the classes, and the `numbers` of masks whose values count them.

    Args:
        names: Name of each value from `first` on.
        ignored: Value that is ignored, also if it has a name: it is no class then; None for no such value.
        first: Value of the first name.
    """
    values = [value for value in range(first, first + len(names)) if value != ignored]
    numbers = [_UNKNOWN] * 256
    for number, value in enumerate(values):
        numbers[value] = number
    if ignored is not None:
        numbers[ignored] = IGNORED
    return tuple(names[value - first] for value in values), tuple(numbers)


def _in_words(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
