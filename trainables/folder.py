"""Where a trial keeps what must outlive its worker: a folder of this machine, or one in an object store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Folder(Protocol):
    """A folder that is no path; a file in it is replaced at once, so that it is always whole."""

    def read(self, name: str) -> bytes | None:
        """What a file holds, None if there is none."""

    def write(self, name: str, blob: bytes) -> None:
        """Make or replace a file, whole or not at all."""

    def exists(self, name: str) -> bool:
        """Whether a file is there; asked between two batches, so it may answer late, and must be fast."""


def read(folder: Path | Folder, name: str) -> bytes | None:
    """What a file holds, None if there is none."""
    if not isinstance(folder, Path):
        return folder.read(name)
    path = folder / name
    return path.read_bytes() if path.is_file() else None


def write(folder: Path | Folder, name: str, blob: bytes, *, synchronised: bool = True) -> None:
    """Make or replace a file, whole or not at all: on a disk under another name first, then renamed.

    Args:
        folder: Made if need be.
        name: Of the file.
        blob: What it is to hold.
        synchronised: Whether it must survive a power cut.
    """
    if not isinstance(folder, Path):
        folder.write(name, blob)
        return
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{name}.{os.getpid()}"
    with open(unfinished, "wb") as file:
        file.write(blob)
        if synchronised:
            file.flush()
            os.fsync(file.fileno())
    os.replace(unfinished, folder / name)


def exists(folder: Path | Folder, name: str) -> bool:
    """Whether a file is there, as far as that is known without waiting."""
    return (folder / name).exists() if isinstance(folder, Path) else folder.exists(name)
