"""Make the images of the packaged question `emoji` again: `python -m trainables.data.make_emoji FOLDER`.

FOLDER holds the four files that `npm pack` writes (`trainables.weights.emoji_sets.SOURCES`, which are checked by their digests).
Writes `emoji.webp` and `emoji.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
from PIL import Image

from trainables.data.emoji import COLUMNS, EMOJI_SETS, EMOJI_SPLIT, SIDE
from trainables.weights.emoji_sets import SOURCES, Emoji, halves, read, small


def make(splits: dict[str, list[Emoji]], folder: Path) -> None:
    """Write the picture and its card into a folder.

    Raises:
        ValueError: If the splits have other sizes than `EMOJI_SPLIT`.
    """
    sizes = {name: len(EMOJI_SETS) * len(found) for name, found in splits.items()}
    if sizes != EMOJI_SPLIT:
        raise ValueError(f"the splits must have {EMOJI_SPLIT} images, have {sizes}; change trainables.data.emoji.EMOJI_SPLIT")
    images = np.stack([small(one.drawings[name]) for found in splits.values() for one in found for name in EMOJI_SETS])
    n_rows = -(-len(images) // COLUMNS)
    cells = np.full((n_rows * COLUMNS, SIDE, SIDE, 3), 255, np.uint8)
    cells[: len(images)] = images
    picture = cells.reshape(n_rows, COLUMNS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(n_rows * SIDE, COLUMNS * SIDE, 3)
    Image.fromarray(picture).save(folder / "emoji.webp", lossless=True, quality=100, method=6)
    card = {
        "question": "who drew this emoji?",
        "sets": {
            name: {"drawings": source.drawings, "file": source.file, "sha256": source.digest} for name, source in SOURCES.items()
        },
        "pixels_sha256": hashlib.sha256(images.tobytes()).hexdigest(),
        "splits": {name: [one.code for one in found] for name, found in splits.items()},
    }
    (folder / "emoji.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Make the images of the packaged question `emoji`.")
    parser.add_argument("packages", type=Path, help="the folder with the files of npm pack")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the two files are written")
    arguments = parser.parse_args()
    make(halves(read(arguments.packages))[0], arguments.folder)
    print(f"{(arguments.folder / 'emoji.webp').stat().st_size:,} bytes of images, written to {arguments.folder}")


if __name__ == "__main__":
    main()
