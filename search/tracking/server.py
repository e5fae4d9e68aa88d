"""The pages of the record: MLflow's own server on a storage folder, on this machine only, with a clean end (`paretune ui`)."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from search.secret import SecretAddress, hide_secrets
from search.storage.sqlite_address import sqlite_path
from search.tracking.locked_pages import APP, TOKEN
from search.tracking.mlflow_client import tracking_uri
from search.tracking.sync import RecordingError, receipt_of

Ask = Callable[..., tuple[int, bytes]]  # path, and body of a POST -> status and body of the answer
_TRAINING = "?workflowType=machine_learning"  # selects MLflow's pages for training; by default it opens those for language models


def serve(
    storage: Path,
    *,
    study: str | None = None,
    port: int | None = None,
    say: Callable[[str], None] = print,
    start_timeout: float = 60.0,
) -> None:
    """Show a storage folder's record in MLflow's pages, on this machine only, until interrupted (SIGINT, SIGTERM).

    The pages are shown to those who open the printed address, which holds a token of this call (`search.tracking.locked_pages`).

    If a server is already running (`MLFLOW_TRACKING_URI`), only print the address of the study's page there.

    Args:
        storage: Folder of the studies.
        study: Study whose page the printed address opens.
        port: Port to listen on; None for a free one.
        say: Callback for the lines for the user; the address is the last word of the first.
        start_timeout: Seconds that MLflow's server may take to answer.

    Raises:
        RecordingError: If there is no record, the port is taken, or the server does not start.
    """
    uri = tracking_uri(storage)
    if uri.startswith(("http://", "https://")):
        at = f"{uri.rstrip('/')}/{_recorded_page(storage, study, uri)}"
        say(f"MLFLOW_TRACKING_URI names a running server; it shows {study or 'the studies'} at {at}")
        return
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise RecordingError(f"{database} does not exist: nothing is recorded in {storage} yet; run a study first")
    port, token = free_port(port), secrets.token_urlsafe(24)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--app-name", APP, "--artifacts-destination", str(storage.resolve() / "mlflow-artifacts")]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_BACKEND_STORE_URI": uri.reveal(),  # others on the machine may read arguments, but not an environment
        TOKEN: token,
    }
    with _interruptible(), tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)  # noqa: S603
        try:
            ask = partial(_ask, port, token)
            _await_answer(process, ask, start_timeout, output)
            page = _study_page(ask, study)
            say(f"MLflow shows {study or 'the studies'} at http://127.0.0.1:{port}/?token={token}{page}")
            say("Other users of this machine need this address too. Ctrl-C ends it.")
            if (status := process.wait()) != 0:
                raise RecordingError(f"MLflow's server ended with status {status}: {_tail(output)}")
        except KeyboardInterrupt:
            pass
        finally:
            _end(process)


def free_port(port: int | None = None) -> int:
    """Return a port of 127.0.0.1 to listen on: the wanted one if it is free, any free one for None.

    Raises:
        RecordingError: If the wanted port is taken.
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
    """Let SIGTERM end the block as Ctrl-C does, so that no server is left running."""
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


def _await_answer(process: subprocess.Popen[bytes], ask: Ask, timeout: float, output: Any) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RecordingError(f"MLflow's server did not start: {_tail(output)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask("/health")[0] == http.client.OK:
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    raise RecordingError(f"MLflow's server did not answer within {timeout:g} s: {_tail(output)}")


def _recorded_page(storage: Path, study: str | None, uri: SecretAddress) -> str:
    """Return the page of a study on the server that records it, from the receipt next to its ledger."""
    if study is None:
        return "#/experiments"
    receipt = receipt_of(storage / study)
    if receipt.get("tracking_uri") != str(uri):
        raise RecordingError(f"{study} is not recorded at {uri} yet; record it: paretune sync {study}")
    return f"#/experiments/{receipt['experiment_id']}/runs/{receipt['run_id']}{_TRAINING}"


def _study_page(ask: Ask, study: str | None) -> str:
    if study is None:
        return "#/experiments"
    status, body = ask(f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(study)}")
    if status != http.client.OK:
        raise RecordingError(f"{study}: MLflow has no such experiment yet; run the study first")
    experiment = json.loads(body)["experiment"]["experiment_id"]
    wanted = {"experiment_ids": [experiment], "filter": "tags.`paretune.n_ended` != ''", "max_results": 1}
    _, body = ask("/api/2.0/mlflow/runs/search", json.dumps(wanted))
    runs = json.loads(body).get("runs", [])
    return f"#/experiments/{experiment}/runs" + (f"/{runs[0]['info']['run_id']}" if runs else "") + _TRAINING


def _ask(port: int, token: str, path: str, body: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(
            "GET" if body is None else "POST", path, body, {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        )
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _tail(output: Any) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return hide_secrets(" / ".join(lines[-3:])) or "it printed nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and its workers; it has its own session, so Ctrl-C reached only this process."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
