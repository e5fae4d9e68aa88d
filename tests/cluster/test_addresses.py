"""Addresses and folders that no Ray can use are told in one line, and soon."""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from cluster import connect
from cluster.connect import embedded
from cluster.ray_address import Unreachable
from search.cli.app import exit_code


@pytest.mark.parametrize(
    ("address", "law"),
    [
        ("http://127.0.0.1:8265", "is the address of a dashboard, which `paretune submit` takes"),
        ("127.0.0.1:1", "cannot be reached (Connection refused); start the cluster, or unset RAY_ADDRESS"),
        ("nowhere", "must be HOST:PORT of a cluster's head, or auto"),
        ("127.0.0.1:99999", "must be HOST:PORT of a cluster's head, or auto"),
    ],
)
def test_an_address_left_over_is_one_line_and_soon(
    address: str, law: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.chdir(tmp_path)
    for command in (["run"], ["doctor"]):
        monkeypatch.setattr(sys, "argv", ["paretune", *command])
        begun = time.monotonic()
        assert exit_code() == 2
        assert time.monotonic() - begun < 10
        [line] = capsys.readouterr().err.strip().splitlines()[-1:]
        assert law in line


@pytest.mark.parametrize("says", [b"", b"HTTP/1.0 400 Bad Request\r\n\r\n"])
def test_what_listens_and_is_no_ray_is_one_line_and_soon(says: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            connection, _ = server.accept()
            with connection, suppress(ConnectionError):
                connection.recv(100)
                connection.sendall(says)
                connection.recv(100)  # until the other side closes

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        monkeypatch.setattr("cluster.ray_address._ANSWERS_WITHIN_SECONDS", 0.3)
        with pytest.raises(Unreachable, match=rf"RAY_ADDRESS=127.0.0.1:{port}: what listens there is no Ray; "):
            connect.joined(f"127.0.0.1:{port}").__enter__()
        thread.join(5)


@pytest.mark.parametrize(("folder", "why"), [("/dev/null", "Not a directory"), ("here", "it is no absolute path")])
def test_a_folder_that_cannot_hold_the_files_of_ray_is_one_line(folder: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", folder)
    with pytest.raises(Unreachable, match=rf"RAY_TMPDIR={folder} cannot hold the files of Ray \({why}\)"), embedded(n_cpus=1):
        pass


def test_a_folder_too_long_for_the_sockets_of_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/" + "long" * 20)
    with pytest.raises(Unreachable, match=r"TMPDIR=/var/long.* is too long for the sockets of Ray"), embedded(n_cpus=1):
        pass
