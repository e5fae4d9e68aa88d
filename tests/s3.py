"""A real S3-compatible server for tests: moto's, a process of its own on the loopback address."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from search.storage.object_store import _connected

STARTS_SECONDS = 60.0
BUCKET = "studies"


@dataclass(frozen=True)
class Bucket:
    """An empty bucket, and how it is reached.

    Attributes:
        address: As it stands in a study file: `s3://studies`.
        endpoint: The server: `http://127.0.0.1:PORT`.
        environment: What programs that use it must find in their environment.
    """

    address: str
    endpoint: str
    environment: Mapping[str, str]


@contextlib.contextmanager
def bucket() -> Iterator[Bucket]:
    """A server with one bucket, which is gone with it. The environment of this process holds what reaches it meanwhile."""
    port = _free_port()
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "a-key-of-the-tests",
        "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # nobody asks a cloud for credentials
    }
    before = {name: os.environ.get(name) for name in environment}
    try:
        _make(f"{endpoint}/{BUCKET}", process)
        os.environ.update(environment)
        _connected.cache_clear()  # this process may know a server of before
        yield Bucket(f"s3://{BUCKET}", endpoint, environment)
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _make(url: str, process: subprocess.Popen[bytes]) -> None:
    """Make the bucket, as soon as the server answers."""
    deadline = time.monotonic() + STARTS_SECONDS
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10)  # noqa: S310 - our own server
            return
        except (urllib.error.URLError, OSError):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"moto's server did not start; it ended with {process.poll()}") from None
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
