"""A real PostgreSQL server that tests start, restart and stop."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

PASSWORD = "open-sesame-1001"  # noqa: S105 - of a server that lives as long as the test
STARTS_SECONDS = 60.0


class Server:
    """A cluster of its own in a temporary folder, on a free port of the loopback address. Roles log in with a password.

    Its first role, and first database, is `team`; the password of every role is PASSWORD, which is not part of any address.
    """

    def __init__(self) -> None:
        self._programs = _programs()
        self._folder = Path(tempfile.mkdtemp(prefix="paretune-postgresql-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # the server refuses to run as root
            user = next(user for user in pwd.getpwall() if user.pw_name in ("postgres", "nobody"))
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(self._folder, user.pw_uid, user.pw_gid)
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            "initdb",
            "-D",
            self._folder / "data",
            "-U",
            "team",
            "-A",
            "scram-sha-256",
            "--pwfile",
            secret,
            "-E",
            "UTF8",
            "--no-locale",
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()
        self.execute("CREATE DATABASE team", database="postgres")

    def address(self, role: str = "team", database: str = "team") -> str:
        """As it stands in a study file."""
        return f"postgresql://{role}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self._folder / "log").open("a") as log:
            command = [self._programs / "postgres", "-D", self._folder / "data", "-p", str(self.port)]
            settings = ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
            self._process = subprocess.Popen([*command, *settings], cwd=self._folder, stdout=log, stderr=log, **self._as)
        deadline = time.monotonic() + STARTS_SECONDS
        while True:
            try:
                self.execute("SELECT 1", database="postgres")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise RuntimeError((self._folder / "log").read_text()) from None
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server at once, as if its machine had died; it repairs itself when it starts again."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(STARTS_SECONDS)
            self._process = None

    def execute(self, *statements: str, database: str = "team") -> list[tuple[Any, ...]]:
        """As the first role; returns the rows of the last statement."""
        with psycopg.connect(self.address(database=database), password=PASSWORD, autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def remove(self) -> None:
        """End it and forget it."""
        self.stop()
        shutil.rmtree(self._folder)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        done = subprocess.run(command, cwd=self._folder, capture_output=True, text=True, check=False, **self._as)
        if done.returncode:
            with suppress(OSError):
                shutil.rmtree(self._folder)
            raise RuntimeError(done.stderr)


def _programs() -> Path:
    """The folder of the server's programs. Debian keeps them off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    if (other := shutil.which("initdb")) is not None:
        found.append(Path(other).resolve())
    if not found:
        if os.environ.get("CI"):
            pytest.fail("a runner that says it is CI has a PostgreSQL server (initdb); .ci/run installs it")
        pytest.skip("needs a PostgreSQL server: initdb was not found")
    return found[-1].parent
