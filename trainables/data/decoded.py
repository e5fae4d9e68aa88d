"""Images decoded once per machine: uint8 pixels at the backbone's size, in Arrow files that every trial maps into memory.

Each split is one Arrow IPC file with one record batch: `image` (fixed-size binary, channels x height x width; a mask is one more
channel), `label` (int64) and `digest` (16 bytes, of the encoded image). The file name is a fingerprint of everything that the
content depends on: the listing with file sizes and times, the transform, and the versions of Pillow and of this format. The file is
written under a temporary name and renamed, under a lock: of several actors one decodes, and no reader sees a partial file. The
folder is `$PARETUNE_CACHE`, or `~/.cache/paretune`.

The mapping is private: all processes of the machine share its pages in the page cache, and writes do not reach the file.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL
import pyarrow as pa
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from trainables.data import shared_files
from trainables.data.listing import Image, Listing
from trainables.data.masks import MaskError
from trainables.data.naming import why_unreadable
from trainables.data.shared_files import made, sums_of
from trainables.pixels import Pixels, Transform

FORMAT: Final = 3  # version of the files, part of their names
_AT_ONCE: Final = 64  # images decoded at a time by all threads together
_NO_BYTES: Final = bytes(16)
Progress = Callable[[int, int], None]  # (decoded images, total)


@dataclass(frozen=True)
class Decoded:
    """A memory-mapped split: images (n, channels, height, width) uint8, labels (n,) int64, digests (n, 16) uint8.

    `broken` has the reason of every image that could not be decoded, by its index in the listing's split. `n_turned` and
    `n_transparent` count images with an EXIF orientation and with transparent pixels.
    """

    images: np.ndarray[Any, np.dtype[np.uint8]]
    labels: np.ndarray[Any, np.dtype[np.int64]]
    digests: np.ndarray[Any, np.dtype[np.uint8]]
    broken: dict[int, str]
    n_turned: int = 0
    n_transparent: int = 0

    def samples(self, listing: Listing) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], np.ndarray[Any, Any]]:
        """Return the images, and what training aims at: see `Listing.targets`; or their masks (n, height, width) uint8."""
        if listing.masks is None:
            return self.images, listing.targets(self.labels)
        return self.images[:, :-1], self.images[:, -1]


def decoded(listing: Listing, split: str, transform: Transform, *, progress: Progress | None = None) -> Decoded:
    """Return the pixels of a split from its file, which is created if missing.

    Raises:
        ValueError: If the cache cannot be written.
    """
    path = cache() / f"{split}-{_fingerprint(listing, split, asdict(transform))}.arrow"
    for again in (True, False):
        with made(path, "decoded images") as draft:
            if draft is not None:
                _decode(listing, split, transform, draft, progress)
        try:
            return _map(path, _shape(listing, transform))
        except (ValueError, KeyError) as error:  # empty or half: an earlier Paretune's, after a power cut, or a full disk
            if not again:
                raise ValueError(f"data: {path} is not a whole file of decoded images ({error}); delete it") from error
            path.unlink(missing_ok=True)
    raise AssertionError


def digests(listing: Listing, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return digests (n, 16) of a split's encoded images without decoding them, to find the same bytes in two splits."""
    path = cache() / f"{split}-{_fingerprint(listing, split, {})}.digests"
    with made(path, "decoded images") as draft:
        if draft is not None:
            draft.write_bytes(b"".join(_digest(encoded) for encoded in listing.read(split)))
    return np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 16)


def cache() -> Path:
    """Return this machine's folder of decoded files; it can be deleted at any time."""
    return shared_files.folder("decoded")


def decoding(transform: Transform) -> str:
    """Return what the pixels of an encoded image depend on, as text."""
    return json.dumps({"format": FORMAT, "pillow": PIL.__version__, "transform": asdict(transform)}, sort_keys=True)


# -- making a file -----------------------------------------------------------------------------------------------------------------


def _shape(listing: Listing, transform: Transform) -> tuple[int, int, int]:
    return (transform.channels + (listing.masks is not None), *transform.size)


def _fingerprint(listing: Listing, split: str, transform: dict[str, Any]) -> str:
    what = {"format": FORMAT, "pillow": PIL.__version__, "root": str(listing.root.absolute()), "transform": transform}
    what |= {} if listing.masks is None else {"masks": listing.masks.numbers}
    digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode())
    for image in listing.splits[split]:
        digest.update(f"\0{image.path}\0{image.label}\0{image.stamp}".encode())
    return digest.hexdigest()[:32]


def _decode(listing: Listing, split: str, transform: Transform, draft: Path, progress: Progress | None) -> None:
    _silence_libtiff()
    images, shape = listing.splits[split], _shape(listing, transform)
    width = int(np.prod(shape))
    labels, found, broken, turned, transparent = [], [], [], 0, 0
    raw = draft.with_suffix(".raw")
    with raw.open("wb") as pixels:
        for i, (image, digest, problem) in enumerate(_in_threads(listing, split, transform)):
            if image is None:
                broken.append((i, problem))
            else:
                pixels.write(image.values.tobytes())
                labels.append(images[i].label)
                found.append(digest)
                turned += image.turned
                transparent += image.transparent
            if progress is not None:
                progress(i + 1, len(images))
    schema = pa.schema(
        {"image": pa.binary(width), "label": pa.int64(), "digest": pa.binary(16)},
        metadata={
            "paretune.shape": json.dumps(shape),
            "paretune.broken": json.dumps(broken),
            "paretune.seen": json.dumps({"n_turned": turned, "n_transparent": transparent}),
        },
    )
    with pa.memory_map(str(raw)) if labels else contextlib.nullcontext() as source:
        buffer = source.read_buffer() if source is not None else pa.py_buffer(b"")
        sums = json.dumps(sums_of(np.frombuffer(buffer, np.uint8)))
        schema = schema.with_metadata({**schema.metadata, "paretune.sums": sums})
        columns = [
            pa.FixedSizeBinaryArray.from_buffers(pa.binary(width), len(labels), [None, buffer]),
            pa.array(labels, pa.int64()),
            pa.array(found, pa.binary(16)),
        ]
        with pa.OSFile(str(draft), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))
    raw.unlink()


@functools.cache
def _silence_libtiff() -> None:
    """Keep libtiff, with which Pillow decodes, from printing to the terminal about broken files: Pillow raises errors for them."""
    with contextlib.suppress(OSError, AttributeError):
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libtiff" in line}
        for path in loaded:
            ctypes.CDLL(path).TIFFSetErrorHandler(None)


_Outcome = tuple[Pixels | None, bytes, str]


def _in_threads(listing: Listing, split: str, transform: Transform) -> Iterator[_Outcome]:
    """Yield the pixels or the problem of each image, in order. Pillow releases the GIL while it decodes and resizes."""

    def one(image: Image, content: bytes | None) -> _Outcome:
        if content is None:
            return None, _NO_BYTES, "cannot be read, or has no bytes"
        if not content:
            return None, _NO_BYTES, "the file is empty"
        try:
            pixels = transform(content)
            if listing.masks is not None:
                pixels = listing.masks.beside(pixels, listing.root, image.path, transform)
            return pixels, _digest(content), ""
        except MaskError as error:
            return None, _NO_BYTES, str(error)
        except UnidentifiedImageError:
            other = "not an image that Pillow can read; if other programs can, convert it to PNG or JPEG"
            return None, _NO_BYTES, why_unreadable(content) or other
        except Pillow.DecompressionBombError:
            return (
                None,
                _NO_BYTES,
                f"more than {2 * (Pillow.MAX_IMAGE_PIXELS or 0):,} pixels, the most that Pillow reads; shrink it",
            )
        except (OSError, SyntaxError, ValueError) as error:
            why = str(error).replace("\n", " ")[:120] or type(error).__name__
            return None, _NO_BYTES, why if ";" in why else f"it cannot be decoded ({why})"

    source = zip(listing.splits[split], listing.read(split), strict=True)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)), "paretune-decode") as pool:
        while part := list(islice(source, _AT_ONCE)):
            yield from pool.map(one, *zip(*part, strict=True))


def _digest(content: bytes | None) -> bytes:
    return _NO_BYTES if content is None else hashlib.blake2b(content, digest_size=16).digest()


# -- mapping it --------------------------------------------------------------------------------------------------------------------


_VERIFIED: Final[set[tuple[Path, int, int]]] = set()  # files that this process has compared with their sums, which it does once


def _map(path: Path, shape: tuple[int, int, int]) -> Decoded:
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    whole = pa.py_buffer(mapped)
    batch = pa.ipc.open_file(whole).get_batch(0)

    def column(name: str, kind: type[np.generic]) -> np.ndarray[Any, Any]:
        array = batch.column(name)
        buffer = array.buffers()[1]
        if len(array) == 0 or buffer is None:
            return np.empty(0, kind)
        return np.frombuffer(mapped, kind, buffer.size // np.dtype(kind).itemsize, buffer.address - whole.address)

    n = batch.num_rows
    width = int(np.prod(shape))
    pixels = column("image", np.uint8)[: n * width]
    if (sums := batch.schema.metadata.get(b"paretune.sums")) is not None:  # a file of an earlier Paretune has none
        found = path.stat()
        if (known := (path, found.st_ino, found.st_mtime_ns)) not in _VERIFIED:
            if sums_of(pixels) != json.loads(sums):
                raise ValueError("its pixels are not those that were written")
            _VERIFIED.add(known)
    return Decoded(
        pixels.reshape(n, *shape),
        column("label", np.int64)[:n],
        column("digest", np.uint8)[: 16 * n].reshape(n, 16),
        {int(i): str(reason) for i, reason in json.loads(batch.schema.metadata[b"paretune.broken"])},
        **json.loads(batch.schema.metadata[b"paretune.seen"]),
    )
