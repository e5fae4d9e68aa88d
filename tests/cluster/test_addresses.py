"""Addresses and folders that no Ray can use are told in one line, and soon."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from cluster.connect import Unreachable, embedded
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


def test_a_folder_too_long_for_the_sockets_of_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/var/" + "long" * 20)
    with pytest.raises(Unreachable, match=r"TMPDIR=/var/long.* is too long for the sockets of Ray"), embedded(n_cpus=1):
        pass
