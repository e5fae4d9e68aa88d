"""Who runs a study, and whether that process still lives."""

from __future__ import annotations

import getpass
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

LEASE_SECONDS = 10.0  # an owner on another machine whose heart has not beaten for so long counts as dead
HEARTBEAT_SECONDS = 2.0


def this_process() -> dict[str, Any]:
    """This process, as a row of the ledger's `owner` table."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "process_start": process_start(pid), "machine": machine()}


def signature() -> str:
    """Who acts, as events show it: `user@host:process`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        user = "unknown"
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def is_here(row: Any) -> bool:
    """Whether an owner's process would be seen from here: then it is known exactly whether it lives."""
    known = getattr(row, "machine", None)  # None: written by schema 1
    return bool(row.process_start) and row.host == socket.gethostname() and known in (None, machine())


def is_alive(row: Any, now: float) -> bool:
    """Whether an owner lives: exactly known on this machine, by the heartbeat's age elsewhere (as good as the two clocks)."""
    if is_here(row):
        return bool(process_start(row.pid) == row.process_start)
    return bool(now - row.heartbeat < LEASE_SECONDS)


@cache
def machine() -> str:
    """This machine since it was booted, and the process numbers' name space on it; two containers differ."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def process_start(pid: int) -> str:
    """When a process began, in the kernel's ticks: a process number alone can be reused.

    Empty if the process has ended (a zombie, whose parent has not taken notice, has ended too) or the system cannot tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
