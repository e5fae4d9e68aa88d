"""The process that drives a study, and whether it is still alive."""

from __future__ import annotations

import getpass
import os
import socket
from functools import cache
from pathlib import Path
from typing import Any

LEASE_SECONDS = 10.0  # an owner on another machine without a heartbeat for this time is considered dead
HEARTBEAT_SECONDS = 2.0
claims: set[str] = set()  # tokens of the ledgers that this process owns; one that it could not give back is not among them


def this_process() -> dict[str, Any]:
    """Describe this process as a row of the ledger's `owner` table."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "pid": pid, "process_start": process_start(pid), "machine": machine()}


def signature() -> str:
    """Return the name of this actor in events: `user@host:process`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a user database
        user = "unknown"
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def is_here(row: Any) -> bool:
    """Return whether an owner's process would be visible from this one, so that its liveness is known exactly."""
    known = getattr(row, "machine", None)  # None: written by schema 1
    same = bool(row.process_start) and row.host == socket.gethostname() and known in (None, machine())
    return same and not is_hidden(row.pid)


def is_alive(row: Any, now: float) -> bool:
    """Return whether an owner is alive: exactly on this machine, by the heartbeat's age elsewhere (up to clock differences)."""
    if is_here(row):
        if row.pid == os.getpid():
            return row.token in claims
        return bool(process_start(row.pid) == row.process_start)
    return bool(now - row.heartbeat < LEASE_SECONDS)


def is_hidden(pid: int) -> bool:
    """Return whether a process of another user exists, but is not shown to this one (`hidepid`, usual on shared clusters)."""
    try:
        os.kill(pid, 0)  # asks only whether it exists
    except PermissionError:
        return process_start(pid) == ""
    except OSError:
        return False
    return False


@cache
def machine() -> str:
    """Identify this machine since its boot, with its name space of process numbers, which differs between containers."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def process_start(pid: int) -> str:
    """Return the start time of a process in the kernel's ticks, because a process number alone can be reused.

    The result is empty if the process has ended (a zombie counts as ended) or the system cannot tell.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "" if fields[0] in "ZX" else fields[19]
