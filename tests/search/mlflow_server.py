"""A real MLflow server for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from search.tracking.server import free_port

from .mlflow_database import with_mlflow_database


class MLflowServer:
    """A server on a free port that keeps everything in a folder; it can be killed, and started again at the same address.

    Without options it is the process that `mlflow server` starts: the command itself imports MLflow once more, in vain.

    Args:
        folder: Where its database is.
        options: Of `mlflow server`, which is run if there are any.
        artifacts: Address of its artifacts; None for a folder next to the database.
        environment: What it finds in its environment.
    """

    def __init__(
        self, folder: Path, *options: str, artifacts: str | None = None, environment: Sequence[tuple[str, str]] = ()
    ) -> None:
        self._port, self._folder = free_port(None), folder
        if not (folder / "mlflow.db").exists():
            with_mlflow_database(folder)
        self.address = f"http://127.0.0.1:{self._port}"
        database, artifacts = f"sqlite:///{folder}/mlflow.db", artifacts or str(folder / "files")
        if options:
            self._command = [sys.executable, "-m", "mlflow", "server", "--port", str(self._port), "--workers", "1", *options]
            self._command += ["--backend-store-uri", database, "--artifacts-destination", artifacts]
        else:
            self._command = [sys.executable, "-m", "uvicorn", "--port", str(self._port), "mlflow.server.fastapi_app:app"]
        told = {  # by the command to the process
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": artifacts,
        }
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        self._environment = os.environ | ({} if options else told) | quiet | dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the server ended with status {self._process.wait(0.1)}")
        pytest.fail("the server did not listen within 60 s")

    def kill(self) -> None:
        """End it and its workers in the middle of whatever they do (SIGKILL)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(10)


@contextlib.contextmanager
def server_in(
    folder: Path, *options: str, artifacts: str | None = None, environment: Sequence[tuple[str, str]] = ()
) -> Iterator[str]:
    """The address of a server that is there as long as the block."""
    server = MLflowServer(folder, *options, artifacts=artifacts, environment=environment)
    try:
        server.start()
        yield server.address
    finally:
        server.kill()
