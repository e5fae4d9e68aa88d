"""Folders that one process uses while it lives, and that the next one removes if it could not: with a lock that ends with it."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".paretune-lock"  # file in such a folder; locked as long as its process lives, also in another container


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder in the temporary directory for the block, after removing those of killed processes with this prefix."""
    remove_leftovers(Path(tempfile.gettempdir()), f"{prefix}*")
    with kept_while_alive(Path(tempfile.mkdtemp(prefix=prefix))) as folder:
        yield folder


@contextmanager
def kept_while_alive(folder: Path) -> Iterator[Path]:
    """Lock an existing folder for the block, and remove it at the end.

    It stays, unlocked, if the process is killed, and after an error, for those who look for its reason.
    """
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        failed = False
        try:
            yield folder
        except Exception:
            failed = True
            raise
        finally:
            if not failed:
                shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers(base: Path, pattern: str) -> None:
    """Remove what earlier processes of this user left: folders with a lock that no process holds.

    Args:
        base: Folder in which they are.
        pattern: Pattern of their names.
    """
    for folder in base.glob(pattern):
        with suppress(OSError):  # locked by a living process, another user's, without a lock, or just removed by another driver
            if folder.is_symlink() or folder.stat().st_uid != os.geteuid():
                continue
            with (folder / LOCK).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
