"""An MLflow that is slow, down or dies in the middle holds no search up, and afterwards holds the study exactly once."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from search.cli.app import app
from search.config import loading
from search.tracking.server import free_port
from search.tracking.verify import differences
from search.workflows import run

from ..slow_proxy import SlowProxy

SECRET = "of-nobody-5e77"  # noqa: S105 - in the address of the server that is down
MOST_BLOCKED = 0.25  # seconds that starting and leaving the recorder may take of the search's; one slow answer takes 2


@contextlib.contextmanager
def bad(server: str, how: str) -> Iterator[str]:
    """An address at which the server is as bad as that."""
    if how == "down":
        yield f"http://somebody:{SECRET}@127.0.0.1:{free_port()}"
        return
    with SlowProxy(server, delay=2.0 if how == "slow" else 0.0, dies_after=9 if how == "dies" else None) as proxy:
        yield proxy.address
        assert proxy.n_calls  # how many depends on how long the recorder took to import MLflow


@pytest.mark.parametrize("how", ["slow", "down", "dies"])
def test_a_search_is_not_held_up_and_nothing_is_lost(
    mlflow_server: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = {
        "study": f"with-mlflow-{how}",
        "data": {"kind": "synthetic", "epoch_seconds": 0.1},
        "methods": ["lora", "arc"],
        "budget": {"n_trials": 12, "epochs": 3},
        "storage": str(tmp_path),
    }
    if how != "down":  # which is known at once
        monkeypatch.setattr(run, "PATIENCE", 0.5)
    said: list[str] = []
    arguments: list[str] = []

    @contextlib.contextmanager
    def watch(*_: object) -> Iterator[None]:
        """Note the arguments of the recorder."""
        arguments.extend(word for child in psutil.Process().children() for word in child.cmdline())
        yield

    with bad(mlflow_server, how) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        saved = run.run(loading.check(study), back_end="in-process", watch=watch, say=said.append)
    assert saved.state == "FINISHED"
    (line,) = said
    assert "is behind" in line
    assert f"`paretune sync {saved.name}` catches up" in line
    log = (saved.folder / "paretune.log").read_text()
    assert float(re.findall(r"blocked it for ([\d.]+) s of", log)[-1]) < MOST_BLOCKED
    if how == "down":  # it is warned about once, and its password is neither shown nor logged nor among the arguments
        assert [log.count(words) for words in ("cannot be written", "the record follows later")] == [1, 1]
        assert "127.0.0.1" in line
        assert "search.tracking.recorder" in arguments
        assert SECRET not in line + log + " ".join(arguments)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    check = ["sync", str(saved.folder), "--check"]
    before = CliRunner().invoke(app, check)
    assert (before.exit_code, before.output != "") == (1, True)
    assert CliRunner().invoke(app, ["sync", str(saved.folder)]).exit_code == 0
    assert differences(saved.folder / "ledger.db", mlflow_server) == []
    assert CliRunner().invoke(app, check).exit_code == 0
