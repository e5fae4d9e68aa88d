"""A disk whose power can be cut: a file system in a file. It needs root, and a kernel with ext4 and loop devices."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from search.storage.rows import Event


class Disk:
    """A file system in a file, which is mounted in a folder; as a context manager, it is gone at the end of the block.

    Args:
        folder: Folder of the file.
        name: Name of the folder in it where the disk is mounted.
        megabytes: Size of the disk.

    Raises:
        NotPermitted: If this process may not mount it.
    """

    def __init__(self, folder: Path, name: str, *, megabytes: int = 64) -> None:
        self._image, self._place = folder / f"{name}.ext4", folder / name
        with self._image.open("wb") as file:
            file.truncate(megabytes * 2**20)
        self._place.mkdir()
        self._do("mkfs.ext4", "-q", str(self._image))
        self._mount()

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def cut(self, process: subprocess.Popen[bytes], read: Callable[[], list[Event]]) -> list[Event]:
        """Stop the driver and all its processes, keep what the disk holds, kill them, and start with that disk.

        Returns:
            The events that another process could read just before.
        """
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        readable = read()
        held = self._image.read_bytes()
        while (now := self._image.read_bytes()) != held:  # the kernel has written in the meantime
            held = now
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._unmount()
        self._image.unlink()  # the kernel still writes what it has to the old one
        self._image.write_bytes(held)
        self._mount()
        return readable

    def _mount(self) -> None:
        self._do("mount", "-o", "loop", str(self._image), str(self._place))

    def _unmount(self) -> None:
        self._do("umount", "--lazy", str(self._place))

    @staticmethod
    def _do(*command: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise NotPermitted(str(error)) from error
        if done.returncode:
            raise NotPermitted(f"{' '.join(command)}: {done.stderr.strip()}")


class NotPermitted(Exception):
    """This machine lets us mount no file system."""
