"""Folders of a process are gone after it: at its end, or, if it was killed, when the next one starts."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cluster.scratch import LOCK, kept_while_alive, remove_leftovers, temporary_folder

HOLDING = """
import sys, threading
from cluster.scratch import temporary_folder
with temporary_folder("paretune-test-") as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    (tmp_path / "paretune-test-other").mkdir()  # without a lock: not ours to judge
    with subprocess.Popen([sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holding:
        assert holding.stdout is not None
        held = Path(holding.stdout.readline().strip())
        assert held.parent == tmp_path
        remove_leftovers(tmp_path, "paretune-test-*")
        assert (held / LOCK).exists()
        holding.kill()
    with temporary_folder("paretune-test-") as mine:
        assert {path.name for path in tmp_path.iterdir()} == {mine.name, "paretune-test-other"}
    assert [path.name for path in tmp_path.iterdir()] == ["paretune-test-other"]


def test_after_an_error_it_stays_for_those_who_look_for_the_reason_until_the_next_start(tmp_path: Path) -> None:
    (folder := tmp_path / "session_1").mkdir()
    with pytest.raises(ZeroDivisionError), kept_while_alive(folder):
        raise ZeroDivisionError
    assert folder.exists()
    remove_leftovers(tmp_path, "session_*")
    assert not folder.exists()
