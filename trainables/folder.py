"""The folder of a trial for files that must outlive its worker: a local path, or a prefix in an object store."""

from __future__ import annotations

import errno
import os
import uuid
from pathlib import Path
from typing import Protocol


class Folder(Protocol):
    """A folder that is not a local path; writes are atomic, so a reader never sees a partial file."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a file, None if it does not exist."""

    def write(self, name: str, blob: bytes) -> None:
        """Create or replace a file atomically."""

    def exists(self, name: str) -> bool:
        """Return whether a file exists. The call must be fast, since workers make it between batches; it may lag behind."""


class Unwritable(OSError):
    """The error that a trial's folder cannot be written: a full disk, a store out of reach. The trial is not at fault."""


class Superseded(Exception):
    """The signal that another worker has been given the trial; this one was thought lost, and may write nothing more."""


class FencedFolder:
    """A trial's folder in the hands of one worker, which may write in it until another worker fences it off.

    A worker whose node was cut off may return after its trial was given to another one. The newest worker's token is in the folder,
    and each write is preceded by a look at it.

    Args:
        folder: Folder of the trial, local or in an object store; the token of this worker is written into it.
    """

    def __init__(self, folder: Path | Folder) -> None:
        self.folder = folder
        self._token = uuid.uuid4().hex.encode()
        write(folder, FENCE, self._token, synchronised=False)

    def __str__(self) -> str:
        return str(self.folder)

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; see `Folder.read`."""
        return read(self.folder, name)

    def write(self, name: str, blob: bytes) -> None:
        """Create or replace a file; see `Folder.write`.

        Raises:
            Superseded: If another worker has the trial, or the folder was removed.
        """
        write(self, name, blob)

    def exists(self, name: str) -> bool:
        """Return whether a file exists; see `Folder.exists`."""
        return exists(self.folder, name)

    def check(self) -> None:
        """Raise Superseded if the folder is no longer this worker's."""
        if read(self.folder, FENCE) != self._token:
            raise Superseded


class RunFolder:
    """A trial's folder in a further run: its files are next to those of the first run; the stop flag and the fence are the trial's.

    Args:
        folder: Folder of the trial, local or in an object store.
        run: Number of the run, counted from 1.
    """

    def __init__(self, folder: Path | Folder, run: int) -> None:
        self.folder, self.run = folder, run

    def __str__(self) -> str:
        return f"{self.folder}, run {self.run}"

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; see `Folder.read`."""
        return read(self.folder, self._own(name))

    def write(self, name: str, blob: bytes) -> None:
        """Create or replace a file; see `Folder.write`."""
        _write(self.folder, self._own(name), blob, synchronised=name != FENCE)

    def exists(self, name: str) -> bool:
        """Return whether a file exists; see `Folder.exists`."""
        return exists(self.folder, self._own(name))

    def _own(self, name: str) -> str:
        return name if name in _OF_THE_TRIAL else f"run-{self.run}-{name}"


FENCE = ".worker"  # file in a trial's folder: the token of its newest worker
_OF_THE_TRIAL = (FENCE, "stop")  # files of all runs; the second is `trainables.protocol.STOP_FLAG`


def read(folder: Path | Folder, name: str) -> bytes | None:
    """Return the content of a file, None if it does not exist."""
    if not isinstance(folder, Path):
        return folder.read(name)
    path = folder / name
    return path.read_bytes() if path.is_file() else None


def write(folder: Path | Folder, name: str, blob: bytes, *, synchronised: bool = True) -> None:
    """Create or replace a file atomically; on a disk, by writing to a temporary name and renaming it.

    Args:
        folder: Target folder, created if missing.
        name: Name of the file.
        blob: New content of the file.
        synchronised: True if the file must survive a power cut.

    Raises:
        Superseded: If the folder is a `FencedFolder`, and another worker has the trial.
        Unwritable: If the file cannot be written.
    """
    try:
        if isinstance(folder, FencedFolder):
            folder.check()
            folder = folder.folder
        _write(folder, name, blob, synchronised=synchronised)
    except OSError as error:
        raise Unwritable(f"checkpoints: {folder}/{name} cannot be written ({error.strerror or error})") from error


def _write(folder: Path | Folder, name: str, blob: bytes, *, synchronised: bool) -> None:
    if not isinstance(folder, Path):
        folder.write(name, blob)
        return
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{name}.{uuid.uuid4().hex}"  # process numbers repeat in containers, and a worker that was lost may live
    try:
        with open(draft, "wb") as file:
            file.write(blob)
            if synchronised:
                file.flush()
                os.fsync(file.fileno())
        os.replace(draft, folder / name)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    if synchronised:
        for place in [folder, *([folder.parent] if is_new else [])]:
            synchronise(place)


def synchronise(folder: Path) -> None:
    """Write a folder's list of names to the disk, so that a renamed file keeps its new name in a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no such call
            raise
    finally:
        os.close(handle)


def exists(folder: Path | Folder, name: str) -> bool:
    """Return whether a file exists, as far as that is known without waiting."""
    return (folder / name).exists() if isinstance(folder, Path) else folder.exists(name)
