"""Small real image files in every layout that a user may bring: stripes whose direction is the class, and noise."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

CLASSES = ("across", "down", "slanted")
Listed = list[tuple[str, int]]  # (place, label) of each image


def picture(label: int, seed: int, *, size: tuple[int, int] = (40, 32), ending: str = "png") -> bytes:
    """One encoded image, (width, height) = `size`, in colour."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    wave = np.sin((y, x, x + y)[label] * 0.9 + seed)
    noise = np.random.default_rng(seed).normal(0, 0.2, (height, width, 3))
    pixels = np.clip(128 + 90 * (wave[..., None] + noise), 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, {"png": "PNG", "jpg": "JPEG"}[ending])
    return encoded.getvalue()


def _files(root: Path, split: str, n: int, first: int, ending: str) -> Listed:
    """N images of each class below root/images/split."""
    listed = []
    (root / "images" / split).mkdir(parents=True)
    for i in range(n * len(CLASSES)):
        place, label = f"images/{split}/{i:03d}.{ending}", i % len(CLASSES)
        (root / place).write_bytes(picture(label, first + i, ending=ending))
        listed.append((place, label))
    return listed


def image_folder(root: Path, n: int = 8, *, splits: tuple[str, ...] = ()) -> Path:
    """root/CLASS/*.png with n images each; or root/SPLIT/CLASS/*.png for each of `splits`."""
    seed = 0
    for split in splits or ("",):
        for label, name in enumerate(CLASSES):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                seed += 1
                (folder / f"{i:03d}.png").write_bytes(picture(label, seed))
    return root


def vtab(root: Path, n: int = 8) -> Path:
    """train800.txt, val200.txt, train800val200.txt, test.txt, with n, n // 2 and n // 2 images of each class."""
    train, val = _files(root, "train", n, 0, "jpg"), _files(root, "val", n // 2, 1000, "jpg")
    test = _files(root, "test", n // 2, 2000, "jpg")
    for file, listed in {"train800": train, "val200": val, "train800val200": train + val, "test": test}.items():
        (root / f"{file}.txt").write_text("".join(f"{place} {label}\n" for place, label in listed))
    return root


def fgvc(root: Path, n: int = 8) -> Path:
    """train.json, val.json, test.json; labels count from 1, and the places are relative to root/images."""
    for first, (split, count) in enumerate({"train": n, "val": n // 2, "test": n // 2}.items()):
        listed = _files(root, split, count, 1000 * first, "jpg")
        labels = {place.removeprefix("images/"): label + 1 for place, label in listed}
        (root / f"{split}.json").write_text(json.dumps(labels))
    return root


def parquet(root: Path, n: int = 8) -> Path:
    """train-00000-of-00002.parquet and so on, in Hugging Face's layout with names of the classes in the metadata."""
    root.mkdir(parents=True, exist_ok=True)
    write_parquet(root / "train-00000-of-00002.parquet", range(n * len(CLASSES) // 2))
    write_parquet(root / "train-00001-of-00002.parquet", range(n * len(CLASSES) // 2, n * len(CLASSES)))
    write_parquet(root / "validation-00000-of-00001.parquet", range(1000, 1000 + n // 2 * len(CLASSES)))
    write_parquet(root / "test-00000-of-00001.parquet", range(2000, 2000 + n // 2 * len(CLASSES)))
    return root


def write_parquet(path: Path, seeds: range, labels: list[int] | None = None) -> None:
    """One file, in row groups of five."""
    known = [seed % len(CLASSES) for seed in seeds] if labels is None else labels
    images = [{"bytes": picture(seed % len(CLASSES), seed), "path": f"{seed}.png"} for seed in seeds]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    schema = pa.schema({"image": kind, "label": pa.int64()}, metadata={"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": known}, schema=schema), path, row_group_size=5)
