"""The interruption of a search by signals: SIGINT (Ctrl-C), SIGTERM, SIGHUP.

The ledger is durable at every moment, so there is nothing to save: the first signal unwinds the driver, which releases the
study and ends its processes. A second signal, or a timeout, ends everything at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PATIENCE_SECONDS = 8.0
RECORDER = "search.tracking.recorder"  # equal to `search.tracking.recorder.MODULE`, whose import would take half a second
_AGAIN = signal.SIGURG  # our own signal, because a second one of the others would mean "now"


@contextmanager
def interruptible(patience: float = PATIENCE_SECONDS) -> Iterator[None]:
    """Let the first signal raise KeyboardInterrupt in the main thread, which must run the block.

    A thread receives signals through a pipe at once, because the main thread may be deep in a library that does not return to
    Python.

    Args:
        patience: Seconds for the driver to unwind.
    """
    signals = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # `nohup` sets it to be ignored
        signals.append(signal.SIGHUP)
    interrupted = threading.Event()

    def interrupt(*_: object) -> None:
        if not interrupted.is_set():
            interrupted.set()
            raise KeyboardInterrupt

    def lost(unraisable: sys.UnraisableHookArgs) -> None:
        """Raise an interrupt again after a moment: Python drops exceptions in finalisers and callbacks of the import system."""
        if unraisable.exc_type is not KeyboardInterrupt:
            hook(unraisable)
            return
        threading.Timer(0.05, os.kill, [os.getpid(), _AGAIN]).start()

    def again(*_: object) -> None:
        raise KeyboardInterrupt

    hook, sys.unraisablehook = sys.unraisablehook, lost

    told, teller = os.pipe()
    os.set_blocking(teller, False)
    threading.Thread(target=_watch, args=(told, frozenset(signals), patience), name="paretune-interrupts", daemon=True).start()
    handlers = {number: signal.signal(number, interrupt) for number in signals}
    handlers[_AGAIN] = signal.signal(_AGAIN, again)
    fd = signal.set_wakeup_fd(teller, warn_on_full_buffer=False)
    try:
        yield
    except SystemExit:  # raised by Ray's own SIGTERM handler, which is active while Ray starts
        interrupted.set()
        raise KeyboardInterrupt from None
    finally:
        sys.unraisablehook = hook
        if interrupted.is_set():  # the process is ending, and a second signal still means "now"
            _kill_descendants()  # Ray may have started partially
        else:
            signal.set_wakeup_fd(fd)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            os.close(teller)


def _watch(told: int, signals: frozenset[int], patience: float) -> None:
    """Read the numbers of arriving signals; end everything at the second of ours or after the timeout."""
    interrupted = False
    while select.select([told], [], [], patience if interrupted else None)[0]:
        numbers = os.read(told, 64)
        if not numbers:  # the block has ended
            os.close(told)
            return
        n_ours = sum(number in signals for number in numbers)
        if n_ours > 1 or (n_ours and interrupted):
            break
        interrupted = interrupted or n_ours == 1
    end_at_once()


def end_at_once() -> None:
    """Kill this process and its descendants at once. Exit code 1.

    Only the recorder stays: it shows in MLflow that the study is interrupted, and ends within a minute by itself.
    """
    _kill_descendants()
    os._exit(1)


def _kill_descendants() -> None:
    for _ in range(2):  # the second pass finds processes started during the first
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                if not is_recorder(pid):
                    os.kill(pid, signal.SIGKILL)


def is_recorder(pid: int) -> bool:
    """Return whether a process is a recorder."""
    try:
        return RECORDER.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """Return the descendants of a process; none on a system without `/proc`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):  # the process has just ended
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for one in found:
        found += children.get(one, [])
    return found
