"""Files that the processes of a machine share: one process makes a file, the others wait for it and map it.

The folder is `$PARETUNE_CACHE`, or `~/.cache/paretune`. It can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from trainables.folder import synchronise

_BLOCK: Final = 16 * 2**20  # bytes that have one sum
_POLL_SECONDS: Final = 0.05  # between two attempts to get a lock that another process holds
_NOBODY: Final = 65534  # the owner of everything where user numbers are not those of the file server; no one logs in with it


def folder(kind: str) -> Path:
    """Return this machine's folder of files of one kind."""
    base = os.environ.get("PARETUNE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "paretune"
    return Path(base).expanduser() / kind


@contextlib.contextmanager
def made(path: Path, what: str, *, waiting: Callable[[], None] | None = None) -> Iterator[Path | None]:
    """Yield the path to write the content of `path` to, or None if it exists. One process at a time writes, others wait.

    Args:
        path: The file.
        what: Name of the content, for messages.
        waiting: Called now and then while another process makes the file; what it raises ends the wait.

    Raises:
        ValueError: If the file cannot be written, or exists and belongs to another user.
    """
    if path.exists():
        refuse_others(path)
        yield None
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "w") as lock:
            _acquire(lock, waiting)
            if path.exists():
                refuse_others(path)
                yield None
                return
            drafts = f".draft-{path.name}-"
            for left in path.parent.glob(f"{drafts}*"):  # by a process that was killed: we hold the lock
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(prefix=drafts, dir=path.parent) as drafted:
                yield (draft := Path(drafted) / path.name)
                synchronise(draft)
                draft.replace(path)
    except OSError as error:
        raise ValueError(
            f"data: {what} cannot be written to {path.parent} ({error.strerror}); free space or grant access, or set "
            "PARETUNE_CACHE to another folder"
        ) from error


def _acquire(lock: IO[str], waiting: Callable[[], None] | None) -> None:
    """Lock an open file; it is unlocked when it is closed, even if the process is killed."""
    if waiting is None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            time.sleep(_POLL_SECONDS)
        else:
            return


def refuse_others(path: Path) -> None:
    """Refuse a file that another user has put into the cache: nothing tells whether its content is right.

    Raises:
        ValueError: If it is neither ours nor the administrator's.
    """
    if (owner := path.stat().st_uid) not in (os.geteuid(), 0, _NOBODY):
        raise ValueError(
            f"data: {path} belongs to another user (number {owner}), who may have put any pixels into it; set PARETUNE_CACHE to a "
            "folder of your own"
        )


def sums_of(content: np.ndarray[Any, np.dtype[np.uint8]]) -> list[int]:
    """Return a sum of each block of the bytes, to find pages that never reached the disk; 13 GB a second."""
    sums = []
    for start in range(0, content.size, _BLOCK):
        block = content[start : start + _BLOCK]
        words = block.size // 8 * 8
        sums.append(int(block[:words].view(np.uint64).sum(dtype=np.uint64)) + int(block[words:].sum(dtype=np.uint64)))
    return sums
