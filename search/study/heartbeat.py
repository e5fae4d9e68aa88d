"""What must not wait while the driver's own thread trains or talks to Ray: the heartbeat, and what people ask for."""

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
    """A thread beside a driver, for as long as the `with` block lasts.

    It decides nothing: requests are carried out by the driver's thread, which may be in the middle of an epoch. The flag ends that
    epoch at its next batch. That thread need not look for requests itself, which is a query each time: `asked` tells it.

    Args:
        ledger: The driver's ledger, claimed.
        folder: Where the study's checkpoints lie.
    """

    def __init__(self, ledger: Ledger, folder: Folder) -> None:
        self._ledger, self._folder = ledger, folder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="paretune-attendant", daemon=True)
        self._asked = threading.Event()
        self._asked.set()  # before the first look nobody knows
        self._known = -1  # number of the last request that was looked at

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def requests_waiting(self) -> bool:
        """Whether requests may wait that were not waiting at the last call; for the driver's thread."""
        if not self._asked.is_set() and self._thread.is_alive():
            return False
        self._asked.clear()
        return True

    def _run(self) -> None:
        beat = time.monotonic()
        while not self._ended.wait(LOOK_SECONDS):
            with contextlib.suppress(OutOfReach):  # a lock held for long, a full disk, a server that is away: the next look is soon
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
                running = [trial.number for trial in self._ledger.trials() if trial.state is State.RUNNING]
                self._set_stop_flags(running)

    def _set_stop_flags(self, numbers: list[int]) -> None:
        with contextlib.suppress(OSError):  # the driver's own thread does it again, and can wait
            checkpoints.set_stop_flag(self._folder, numbers, patient=False)
