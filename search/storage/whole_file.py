"""Atomic file writes: readers see the old file or the new one, and a crash leaves no partial file."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under a temporary name in its folder, then rename it.

    Args:
        path: Path of the file; its folder must exist.
        write: Function that writes the content to a given path. That path ends like `path`, for libraries that read the format from
            it.

    Raises:
        OSError: If the file cannot be written; `path` is unchanged.
    """
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
