"""An exported study in the real optuna-dashboard, in a real browser."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.results.export import export_study
from search.results.saved_study import load
from search.tracking.server import free_port

from ..browser import Browser, needs_chromium
from ..scripted_study import HISTORY, ScriptedStudy

pytestmark = [needs_chromium, pytest.mark.slow]


@contextlib.contextmanager
def dashboard(database: Path) -> Iterator[str]:
    """The address of optuna-dashboard on a database of Optuna's."""
    port = free_port()
    command = [sys.executable, "-W", "ignore", "-c", "from optuna_dashboard._cli import main; main()", f"sqlite:///{database}"]
    with subprocess.Popen([*command, "--port", str(port), "--server", "wsgiref", "--quiet"], stderr=subprocess.DEVNULL) as process:
        try:
            _await(port, process)
            yield f"http://127.0.0.1:{port}/dashboard"
        finally:
            process.kill()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            pytest.fail(f"optuna-dashboard ended with status {process.wait(0.1)}")
    pytest.fail("optuna-dashboard did not listen within 60 s")


def test_optuna_dashboard_shows_the_study_and_its_trials(scripted: ScriptedStudy, tmp_path: Path) -> None:
    scripted.finish(*HISTORY)
    scripted.ledger.close()
    saved = load(scripted.path.parent)
    (path,) = export_study(saved, tmp_path, "optuna")
    with dashboard(path) as address, Browser(1600, 1300) as browser:
        browser.open(f"{address}/studies/1")
        browser.wait("document.querySelectorAll('#graph-pareto-front .point').length === 3")  # the COMPLETE ones
        text = browser.wait("(t => t.includes('Trial 4') && t)(document.body.innerText)")
        assert all(words in text for words in (saved.name, "val/top1", "adapter_params", "Objective Values = [0.9, 300]"))
        browser.open(f"{address}/studies/1/trials?numbers=4")
        text = browser.wait("(t => t.includes('trial_id') && t)(document.body.innerText)").replace("\n", " ")
        states = "Trial 0 Complete Best Trial Trial 1 Complete Trial 2 Pruned Trial 3 Fail Trial 4 Complete Best Trial"
        assert states in " ".join(text.split())
        assert "method arc optim.lr 0.001 arc.rank 2" in " ".join(text.split())
