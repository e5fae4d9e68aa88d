"""The recorder: a process of its own that keeps a study's record up to date while the search runs.

The driver holds one end of a pipe and never waits for MLflow: importing it, a server that is slow or hangs, drawing the front cost
the driver nothing, and training little, because the process runs at the lowest priority. When the pipe closes, the study has been
left, by a driver that ended or by one that was killed: one last full sync shows it as it stands, and the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Any

from search.tracking.mlflow_client import describe_error, without_secret
from search.tracking.sync import MlflowSync

_log = logging.getLogger(__name__)
_SHARE = 0.05  # of one core: the largest part that the process takes for itself
_LONGEST_WAIT = 10.0  # seconds between two syncs of a recorder that is expensive or fails
_LAST_SYNC = 60  # seconds that a recorder may live after its driver has gone
MODULE = "search.tracking.recorder"  # this file, which a recorder process runs


class RecorderProcess:
    """The driver's end of it.

    Args:
        ledger_path: The study's ledger (`search.storage.location.ledger_in`); it is opened to read only.
        tracking_uri: An MLflow server or database (see `search.tracking.mlflow_client.tracking_uri`).
        period: Seconds between two syncs.
        head_start: Seconds in which a search that starts has the cores to itself.
    """

    def __init__(self, ledger_path: Path, tracking_uri: str, *, period: float = 2.0, head_start: float = 0.0) -> None:
        when = {"period": period, "head_start": head_start}
        self._order = {"ledger": str(ledger_path.absolute()), "tracking_uri": tracking_uri, **when}
        self._log_file = ledger_path.parent / "paretune.log"
        self._where = without_secret(tracking_uri)
        self._study = ledger_path.parent.name
        self._process: subprocess.Popen[str] | None = None
        self._answer = ""
        self.blocked_seconds = 0.0  # that `start` and `close` took of the driver's time while its search ran

    def start(self) -> None:
        """Record in the background from now on. Returns at once; whatever fails is warned about in the log and tried again."""
        began = time.monotonic()
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # what the driver imports, the process imports
        with self._log_file.open("a") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,  # Ctrl-C is the driver's; in another session it would not be nice to ours (Linux's autogroups)
            )
        self._write(json.dumps(self._order) + "\n")  # through the pipe: an address may hold a password
        self.blocked_seconds += time.monotonic() - began

    def close(self) -> None:
        """Nothing more follows: the last full sync begins. Call it when the driver has given the ledger back."""
        began = time.monotonic()
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self.blocked_seconds += time.monotonic() - began

    def stop(self, timeout: float = 60.0) -> str | None:
        """Wait for the last full sync and for the end of the process.

        A recorder that somebody killed (a machine short of memory does) is followed by another one, which makes the last sync.

        Args:
            timeout: Seconds to wait for a process; a recorder that has not arrived by then is ended.

        Returns:
            None when MLflow holds the whole study, otherwise a sentence that says why not.
        """
        if self._process is None:
            return None
        status = self._ended(timeout)
        if status is not None and status < 0 and status != -signal.SIGALRM:  # which is its own patience
            self.start()
            status = self._ended(timeout)
        if status is None:
            return self._behind(f"no answer within {timeout:g} s")
        if status != 0:
            return self._behind(f"the recorder ended with status {status}, see {self._log_file}")
        problem: str | None = json.loads(self._answer)["problem"]
        return None if problem is None else self._behind(problem)

    def _ended(self, timeout: float) -> int | None:
        """The status of the process, and its answer noted; None if it had to be ended."""
        self.close()
        if self._process is None:
            return None
        with self._process as process:
            try:
                status = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.kill()
                return None
            self._answer = process.stdout.read() if process.stdout is not None else ""
        return status

    def _behind(self, problem: str) -> str:
        return f"MLflow at {self._where} is behind ({problem}); `paretune sync {self._study}` catches up"

    def _write(self, text: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):  # it died: `stop` tells
                self._process.stdin.write(text)
                self._process.stdin.flush()


# -- the process -------------------------------------------------------------------------------------------------------


def follow(record: MlflowSync, driver: IO[Any], *, period: float) -> str | None:
    """Sync until the driver's pipe closes, then once more in full.

    Args:
        record: What is brought up to date.
        driver: The pipe; readable means closed, because the driver writes nothing more.
        period: Seconds between two syncs.

    Returns:
        What the last sync failed with, None when it succeeded.
    """
    problem: str | None = None
    where = without_secret(record.tracking_uri)

    def sync(*, final: bool) -> None:
        nonlocal problem
        try:
            record.sync(final=final)
        except Exception as error:
            known, problem = problem, describe_error(error, record.tracking_uri)
            if known is None:
                _log.warning("MLflow at %s cannot be written (%s); the search goes on, the record follows later", where, problem)
        else:
            if problem is not None:
                _log.info("MLflow at %s is up to date again", where)
            problem = None

    pause = 0.0
    while not select.select([driver], [], [], pause)[0]:
        spent = time.process_time()
        sync(final=False)
        spent = time.process_time() - spent
        wanted = max(period, spent / _SHARE, 2 * pause if problem is not None else 0.0)
        pause = max(period, min(wanted, _LONGEST_WAIT))
    signal.alarm(_LAST_SYNC)  # an MLflow that hangs does not keep us for ever, and there may be nobody left to end us
    for again in (1.0, 2.0, None):  # seconds: a database may be locked by another writer just now
        sync(final=True)
        if problem is None or again is None:
            break
        time.sleep(again)
    return problem


def main() -> None:
    """What `Recorder.start` starts."""
    os.nice(19)  # within the driver's session; lower still, and a busy machine would starve the last sync
    gc.set_threshold(100_000, 20, 100)  # MLflow imports a million objects that stay: looking through them doubles the time
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger(__name__).setLevel(logging.INFO)
    logging.captureWarnings(True)
    if not (line := sys.stdin.readline()):
        return  # the driver died at once
    order = json.loads(line)
    ledger = Path(order["ledger"])
    with ledger.with_name(".recorder.lock").open("w") as lock, contextlib.redirect_stdout(sys.stderr):  # MLflow prints into the log
        fcntl.flock(lock, fcntl.LOCK_EX)  # the recorder of a driver that was killed may still be at its last sync
        select.select(
            [sys.stdin], [], [], order["head_start"]
        )  # workers import torch now, we MLflow then, or if the driver has gone
        problem = follow(MlflowSync(ledger, order["tracking_uri"]), sys.stdin, period=order["period"])
    with contextlib.suppress(BrokenPipeError):  # nobody is there to be told
        print(json.dumps({"problem": problem}), flush=True)
    os._exit(0)  # taking down an interpreter with MLflow in it takes as long as the last sync


if __name__ == "__main__":
    main()
