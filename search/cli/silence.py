"""A line that says that a command is at work, when it has printed nothing for a while."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, Final, TextIO

_FIRST, _NEXT, _MOST = 1.0, 5.0, 60.0  # seconds of silence before the first line, before the second, and at most between two
_waiting: Final = threading.Event()  # set when something else tells what happens, until the end of the process


class _Noted:
    """A stream that notes when something was last written to it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.last = stream, time.monotonic()

    def write(self, text: str) -> int:
        self.last = time.monotonic()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def tell_silence(command: str) -> None:
    """Print a line to standard error whenever a command has printed nothing: after a second, then ever more rarely.

    Args:
        command: Name of the command, the beginning of each line.
    """
    begun, streams = time.monotonic(), (_Noted(sys.stdout), _Noted(sys.stderr))
    sys.stdout, sys.stderr = streams

    def watch() -> None:
        patience = _FIRST
        while not _waiting.wait(0.1):
            now = time.monotonic()
            if now - max(stream.last for stream in streams) >= patience:
                streams[1].write(f"paretune {command}: at work, {now - begun:.0f} s\n")
                streams[1].flush()
                patience = _NEXT if patience == _FIRST else min(2 * patience, _MOST)

    threading.Thread(target=watch, name="silence", daemon=True).start()


def stop_telling() -> None:
    """End the lines about silence: something else shows the progress, or the command waits because the user wants it to."""
    _waiting.set()
