"""A Ray cluster of its own, as `ray start --head` makes it, with a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from ..search.mlflow_database import with_mlflow_database


@dataclass(frozen=True)
class Head:
    """The cluster, and what a user's environment must hold to reach it."""

    address: str
    environment: dict[str, str]
    storage: Path
    port: int = 0  # where nodes and drivers join
    pid: int = 0  # of `ray start`

    def paretune_on_node(self, *words: str) -> subprocess.Popen[str]:
        """A command on the head itself, which goes on."""
        environment = self.environment | {"RAY_ADDRESS": f"127.0.0.1:{self.port}"}
        command = [sys.executable, "-m", "search.cli", *words]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    @contextlib.contextmanager
    def another_node(self, *within: str) -> Iterator[subprocess.Popen[bytes]]:
        """A node with one core that joins, and leaves at the end of the block; `within` is put before its command."""
        [agent] = free_ports(1)
        command = [
            *within,
            str(Path(sys.executable).parent / "ray"),
            "start",
            f"--address=127.0.0.1:{self.port}",
            "--block",
            "--num-cpus=1",
        ]
        command += ["--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0", f"--dashboard-agent-listen-port={agent}"]
        node = subprocess.Popen(
            command, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            yield node
        finally:
            _end(node)  # it says so to the cluster: one killed would count for some seconds more, in another test

    def beginning(self, *words: str) -> subprocess.Popen[str]:
        """A command from the laptop that continues while a test does something else."""
        command = [sys.executable, "-m", "search.cli", *words]
        return subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def paretune(self, *words: str, timeout: float = 240.0) -> subprocess.CompletedProcess[str]:
        """A command from the laptop."""
        command = [sys.executable, "-m", "search.cli", *words]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="session")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with started(tmp_path_factory.mktemp("cluster"), "--num-cpus=2") as made:
        yield made


@contextlib.contextmanager
def started(folder: Path, *words: str, port: int | None = None, **more: str) -> Iterator[Head]:
    """A head; `words` are of `ray start`, `more` of its own environment."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    ports = dict(
        zip(("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port"), free_ports(4), strict=True)
    )
    ports["port"] = port or ports["port"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "PARETUNE_"))} | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(_short_folder())  # a socket's path has at most 107 characters
        command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", *words, "--disable-usage-stats"]
        command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={temporary}"]
        command += ["--min-worker-port=0", "--max-worker-port=0", *(f"--{name}={port}" for name, port in ports.items())]
        with (folder / "ray.log").open("w") as log:
            process = subprocess.Popen(command, env=environment | more, stdout=log, stderr=log, start_new_session=True)
        stack.callback(_end, process)
        address = f"http://127.0.0.1:{ports['dashboard-port']}"
        _wait_for(address, process, folder / "ray.log")
        storage = with_mlflow_database(folder / "studies")
        yield Head(address, environment | {"PARETUNE_ADDRESS": address}, storage, ports["port"], process.pid)


@contextlib.contextmanager
def _short_folder() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(600):  # a bounded wait
        if process.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5)  # noqa: S310 - our own
        except urllib.error.HTTPError:
            return  # it answers: that it wants a token
        except OSError:
            time.sleep(0.1)
        else:
            raise AssertionError("the cluster answers someone without a token")
    raise AssertionError(f"the cluster did not come up:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    _kill(process, family)


def _kill(process: subprocess.Popen[bytes], family: Iterable[psutil.Process] = ()) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [*family, *psutil.Process(process.pid).children(recursive=True)]
    process.kill()
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait(30)


def free_ports(n: int) -> list[int]:
    """As many ports of this machine that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
