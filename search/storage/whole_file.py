"""Writing a file whole or not at all: readers see the old file or the new one, and a crash leaves no half."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name in its folder, then rename it to its own.

    Args:
        path: The file; its folder must exist.
        write: Writes the content to the path that it gets. The path ends like `path`, for libraries that read the format from it.

    Raises:
        OSError: The file cannot be written; `path` is as it was.
    """
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        write(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
