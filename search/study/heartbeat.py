"""The thread that keeps a driver's heartbeat and polls requests, while the driver's own thread trains or waits for Ray."""

from __future__ import annotations

import contextlib
import logging
import threading
import time

from search.errors import OutOfReach
from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.storage.ledger import Ledger
from search.storage.owner import HEARTBEAT_SECONDS
from search.trial import State

LOOK_SECONDS = 0.5
_log = logging.getLogger(__name__)


class Heartbeat:
    """A thread that runs next to a driver inside a `with` block.

    It makes no decisions: the driver's thread carries out requests, and may be in the middle of an epoch. The stop flag ends
    that epoch at its next batch. The driver's thread does not poll for requests itself, since each poll is a query:
    `requests_waiting` tells it.

    Args:
        ledger: Ledger that the driver has claimed.
        folder: Folder of the study's checkpoints.
    """

    def __init__(self, ledger: Ledger, folder: Folder) -> None:
        self._ledger, self._folder = ledger, folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paretune-attendant", daemon=True)
        self._asked = threading.Event()
        self._asked.set()  # before the first poll the answer is unknown
        self._known = -1  # number of the last polled request

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def requests_waiting(self) -> bool:
        """Return whether requests may have arrived since the last call; for the driver's thread."""
        if not self._asked.is_set() and self._thread.is_alive():
            return False
        self._asked.clear()
        return True

    def _run(self) -> None:
        beat = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            with contextlib.suppress(OutOfReach):  # a long-held lock, a full disk, an unreachable server: the next poll is soon
                self._poll()
                if time.monotonic() - beat >= HEARTBEAT_SECONDS:
                    beat = time.monotonic()
                    if not self._ledger.beat():
                        _log.warning("another driver has taken the study over; this one stops at its next decision")
                        return

    def _poll(self) -> None:
        for request in self._ledger.requests(waiting=True):
            self._asked.set()
            if request.number <= self._known:
                continue
            self._known = request.number
            if request.verb in ("prune", "pause") and request.trial is not None:
                self._set_stop_flags([request.trial])
            elif request.verb == "stop" and request.detail.get("now"):
                running = [number for number, state in self._ledger.states().items() if state is State.RUNNING]
                self._set_stop_flags(running)

    def _set_stop_flags(self, numbers: list[int]) -> None:
        with contextlib.suppress(OSError):  # the driver's own thread repeats it, and can wait
            checkpoints.set_stop_flag(self._folder, numbers, patient=False)
