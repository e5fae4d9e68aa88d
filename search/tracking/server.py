"""The record's pages: MLflow's own server on a storage folder, on this machine only, ended cleanly. `paretune ui` is this."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from search.tracking.mlflow_client import tracking_uri, without_secret
from search.tracking.sync import RecordingError, receipt_of

_TRAINING = "?workflowType=machine_learning"  # MLflow's pages for who trains models; it opens those for language models otherwise


def serve(
    storage: Path,
    *,
    study: str | None = None,
    port: int | None = None,
    say: Callable[[str], None] = print,
    start_timeout: float = 60.0,
) -> None:
    """Show a storage folder's record in MLflow's pages, on this machine only, until interrupted (SIGINT, SIGTERM).

    Where a server runs already (`MLFLOW_TRACKING_URI`), only tell the address of the study's page there.

    Args:
        storage: The folder of the studies.
        study: The study whose page the printed address opens.
        port: Where to listen; a free port when None.
        say: Takes the lines for the user; the address is the last word of the first.
        start_timeout: Seconds that MLflow's server may take to answer.

    Raises:
        RecordingError: if there is no record, the port is taken, or the server does not start.
    """
    uri = tracking_uri(storage)
    if uri.startswith(("http://", "https://")):
        at = f"{without_secret(uri).rstrip('/')}/{_recorded_page(storage, study, uri)}"
        say(f"MLFLOW_TRACKING_URI names a server that runs already; it shows {study or 'the studies'} at {at}")
        return
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        raise RecordingError(f"{database} does not exist: nothing is recorded in {storage} yet; run a study first")
    port = free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(storage.resolve() / "mlflow-artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _interruptible(), tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)  # noqa: S603
        try:
            _await_answer(process, port, start_timeout, output)
            page = _study_page(port, study)
            say(f"MLflow shows {study or 'the studies'} at http://127.0.0.1:{port}/{page}")
            say("Ctrl-C ends it.")
            if (status := process.wait()) != 0:
                raise RecordingError(f"MLflow's server ended with status {status}: {_tail(output)}")
        except KeyboardInterrupt:
            pass
        finally:
            _end(process)


def free_port(port: int | None = None) -> int:
    """A port of 127.0.0.1 to listen on: the wanted one if nobody listens there, any free one when None.

    Raises:
        RecordingError: if the wanted port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise RecordingError(
                f"port {port} of 127.0.0.1 is taken ({error.strerror}); choose another, or none for a free one"
            ) from None
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that no server is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _await_answer(process: subprocess.Popen[bytes], port: int, timeout: float, output: Any) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RecordingError(f"MLflow's server did not start: {_tail(output)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _get(port, "/health")[0] == http.client.OK:
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    raise RecordingError(f"MLflow's server did not answer within {timeout:g} s: {_tail(output)}")


def _recorded_page(storage: Path, study: str | None, uri: str) -> str:
    """The page of a study on the server that it is recorded by, from the receipt beside its ledger."""
    if study is None:
        return "#/experiments"
    receipt = receipt_of(storage / study)
    if receipt.get("tracking_uri") != without_secret(uri):
        raise RecordingError(f"{study} is not recorded at {without_secret(uri)} yet; `paretune sync {study}` does it")
    return f"#/experiments/{receipt['experiment_id']}/runs/{receipt['run_id']}{_TRAINING}"


def _study_page(port: int, study: str | None) -> str:
    if study is None:
        return "#/experiments"
    status, body = _get(port, f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(study)}")
    if status != http.client.OK:
        raise RecordingError(f"{study}: MLflow has no such experiment yet; run the study first")
    experiment = json.loads(body)["experiment"]["experiment_id"]
    wanted = {"experiment_ids": [experiment], "filter": "tags.`paretune.n_ended` != ''", "max_results": 1}
    _, body = _get(port, "/api/2.0/mlflow/runs/search", json.dumps(wanted))
    runs = json.loads(body).get("runs", [])
    return f"#/experiments/{experiment}/runs" + (f"/{runs[0]['info']['run_id']}" if runs else "") + _TRAINING


def _get(port: int, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET" if body is None else "POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _tail(output: Any) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started; it has a session of its own, so that Ctrl-C reached only us."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
