"""The recorder: a separate process that keeps a study's record in MLflow up to date while the search runs.

The driver holds one end of a pipe and never waits for MLflow. Importing MLflow, a slow or hanging server, and plotting the
front cost the driver nothing, and training little, because the process runs at the lowest priority. The pipe closes when the
driver ends or is killed. Then one last full sync shows the final state of the study, and the process ends.
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
from typing import IO, Any, TextIO, cast

from search.secret import HidingStream, SecretAddress
from search.tracking.mlflow_client import describe_error
from search.tracking.sync import MlflowSync, prepare_last_sync

_log = logging.getLogger(__name__)
_SHARE = 0.05  # largest fraction of one core that the process uses
_LAST_SYNC = 60  # seconds that a recorder may outlive its driver
MODULE = "search.tracking.recorder"  # this file, which a recorder process runs


class RecorderProcess:
    """The driver's handle of the recorder.

    Args:
        ledger_path: Path of the study's ledger (`search.storage.location.ledger_in`), which is opened read-only.
        tracking_uri: MLflow server or database (see `search.tracking.mlflow_client.tracking_uri`).
        period: Seconds between two syncs.
        longest_period: Seconds between two syncs of a recorder that is expensive or failing.
        head_start: Seconds for which a starting search has the cores to itself.
    """

    def __init__(
        self, ledger_path: Path, tracking_uri: str, *, period: float = 2.0, longest_period: float = 10.0, head_start: float = 0.0
    ) -> None:
        when = {"period": period, "longest_period": longest_period, "head_start": head_start}
        self._where = SecretAddress(tracking_uri)
        self._order = {"ledger": str(ledger_path.absolute()), "tracking_uri": self._where.reveal(), **when}
        self._log_file = ledger_path.parent / "paretune.log"
        self._study = ledger_path.parent.name
        self._process: subprocess.Popen[str] | None = None
        self._answer = ""
        self.blocked_seconds = 0.0  # time that `start` and `close` took from the driver while its search ran

    def start(self) -> None:
        """Start recording in the background. Returns at once; failures are logged as warnings and retried."""
        began = time.monotonic()
        path = os.pathsep.join(place or os.getcwd() for place in sys.path)  # the process must import the driver's modules
        with self._log_file.open("a") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-P", "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=os.environ | {"PYTHONPATH": path},
                process_group=0,  # Ctrl-C is the driver's; same session, because Linux autogrouping undoes nice across sessions
            )
        self._write(json.dumps(self._order) + "\n")  # through the pipe, because an address may contain a password
        self.blocked_seconds += time.monotonic() - began

    def close(self) -> None:
        """Start the last full sync. Call it after the driver has released the ledger."""
        began = time.monotonic()
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self.blocked_seconds += time.monotonic() - began

    def leave(self, patience: float) -> None:
        """Start the last full sync, and wait some seconds for the end of the process, which may take longer: it ends by itself."""
        self.close()
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)

    def stop(self, timeout: float = 60.0) -> str | None:
        """Wait for the last full sync and for the end of the process.

        If the recorder was killed (for example by a machine short of memory), a second one makes the last sync.

        Args:
            timeout: Seconds to wait for a process; a recorder that takes longer is killed.

        Returns:
            None if MLflow holds the whole study, otherwise a sentence with the reason.
        """
        if self._process is None:
            return None
        status = self._ended(timeout)
        if status is not None and status < 0 and status != -signal.SIGALRM:  # SIGALRM is the recorder's own timeout
            self.start()
            status = self._ended(timeout)
        if status is None:
            return self._behind(f"no answer within {timeout:g} s")
        if status != 0:
            return self._behind(f"the recorder ended with status {status}, see {self._log_file}")
        problem: str | None = json.loads(self._answer)["problem"]
        return None if problem is None else self._behind(problem)

    def _ended(self, timeout: float) -> int | None:
        """Wait for the process, store its answer and return its status; None if it had to be killed."""
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
            with contextlib.suppress(BrokenPipeError):  # the process has died: `stop` reports it
                self._process.stdin.write(text)
                self._process.stdin.flush()


# -- the process -------------------------------------------------------------------------------------------------------


def follow(record: MlflowSync, driver: IO[Any], *, period: float, longest_period: float) -> str | None:
    """Sync until the driver's pipe closes, then once more in full.

    Args:
        record: Record to update.
        driver: Pipe from the driver; readable means closed, because the driver writes nothing more.
        period: Seconds between two syncs.
        longest_period: Seconds between two syncs where they are expensive or fail.

    Returns:
        The error of the last sync, None if it succeeded.
    """
    problem: str | None = None
    where = record.tracking_uri

    def sync(*, final: bool) -> None:
        nonlocal problem
        try:
            record.sync(final=final)
        except Exception as error:
            known, problem = problem, describe_error(error, record.tracking_uri)
            if known is None:
                _log.warning("MLflow at %s cannot be written (%s); the search continues, the record follows later", where, problem)
        else:
            if problem is not None:
                _log.info("MLflow at %s is up to date again", where)
            problem = None

    pause, prepared = 0.0, False
    while not select.select([driver], [], [], pause)[0]:
        spent = time.process_time()
        sync(final=False)
        if not prepared:
            prepare_last_sync()
            prepared = True
        spent = time.process_time() - spent
        wanted = max(period, spent / _SHARE, 2 * pause if problem is not None else 0.0)
        pause = max(period, min(wanted, longest_period))
    signal.alarm(_LAST_SYNC)  # ends a process with a hanging MLflow, even if its driver is gone
    for again in (1.0, 2.0, None):  # seconds; another writer may have locked the database
        sync(final=True)
        if problem is None or again is None:
            break
        time.sleep(again)
    return problem


def main() -> None:
    """Run the process that `RecorderProcess.start` starts."""
    os.nice(19)  # relative to the driver's session; any lower, and a busy machine would starve the last sync
    gc.set_threshold(100_000, 20, 100)  # MLflow's import makes a million permanent objects: scanning them would double the time
    if not (line := sys.stdin.readline()):
        return  # the driver died at once
    order = json.loads(line)
    ledger, uri = Path(order["ledger"]), SecretAddress(order["tracking_uri"])
    sys.stderr = cast(TextIO, HidingStream(sys.stderr, uri))  # the study's log, also for what MLflow prints
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    logging.getLogger(__name__).setLevel(logging.INFO)
    logging.captureWarnings(True)
    with ledger.with_name(".recorder.lock").open("w") as lock, contextlib.redirect_stdout(sys.stderr):  # MLflow prints into the log
        fcntl.flock(lock, fcntl.LOCK_EX)  # the recorder of a killed driver may still be in its last sync
        select.select(
            [sys.stdin], [], [], order["head_start"]
        )  # workers import torch first, then we import MLflow; earlier if the driver is gone
        record, periods = MlflowSync(ledger, uri), {key: order[key] for key in ("period", "longest_period")}
        problem = follow(record, sys.stdin, **periods)
    with contextlib.suppress(BrokenPipeError):  # the driver may be gone
        print(json.dumps({"problem": problem}), flush=True)
    os._exit(0)  # a clean interpreter shutdown with MLflow loaded takes as long as the last sync


if __name__ == "__main__":
    main()
