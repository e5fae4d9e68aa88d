"""Atomic file writes: readers see the old file or the new one, and a crash leaves no partial file."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: Path, write: Callable[[Path], object], *, durable: bool = False) -> None:
    """Write a file under a temporary name in its folder, then rename it.

    Args:
        path: Path of the file; its folder must exist.
        write: Function that writes the content to a given path. That path ends like `path`, for libraries that read the format from
            it.
        durable: True if the file must survive a power cut; False for one that can be made again.

    Raises:
        OSError: If the file cannot be written; `path` is unchanged.
    """
    draft = path.with_name(f".{uuid.uuid4().hex[:8]}.{path.name}")
    try:
        write(draft)
        if durable:
            synchronise(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    if durable:
        synchronise(path.parent)


def synchronise(path: Path) -> None:
    """Write a file's content, or a folder's list of names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call for folders
            raise
    finally:
        os.close(handle)
