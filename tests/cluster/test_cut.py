"""A worker node is cut off, in a network name space of its own: for a second, and for good. Longer cuts: `benchmarks/cut.py`."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from ..search.mlflow_database import with_mlflow_database
from .watching import n_at_work, sleeping, wait_until


@pytest.fixture(scope="module")
def cut() -> ModuleType:
    """The benchmark, which is no package."""
    spec = importlib.util.spec_from_file_location("cut", Path(__file__).parents[2] / "benchmarks" / "cut.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["cut"] = made = importlib.util.module_from_spec(spec)  # its dataclasses look themselves up there
    spec.loader.exec_module(made)
    return made


@pytest.fixture
def environment(cut: ModuleType) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PARETUNE_"))}
    return kept | cut.QUICK | {"RAY_AUTH_MODE": "disabled"}


@pytest.fixture
def cable(cut: ModuleType) -> Iterator[Any]:
    try:
        made = cut.Cable().__enter__()
    except cut.NotPermitted as error:
        pytest.skip(f"needs network name spaces: {error}")
    yield made
    made.__exit__()


def test_an_open_cluster_is_refused_when_a_machine_joins_and_a_cut_off_node_costs_nothing_acknowledged(
    cut: ModuleType, cable: Any, environment: dict[str, str], tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(cut.head(environment))
        (tmp_path / "open.yaml").write_text(yaml.safe_dump(sleeping("open", 2, 200, 0.5)))
        command = [sys.executable, "-m", "search.cli", "run", "open.yaml"]
        known = environment | {"RAY_ADDRESS": address}
        with subprocess.Popen(
            command, cwd=tmp_path, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as driver:
            try:
                folder = tmp_path / "paretune-studies" / "open"
                wait_until(lambda: driver.poll() is not None or n_at_work(folder) == 1)
                stack.enter_context(cut.node(cable, address, environment))  # until then the head was alone
                _, complaint = driver.communicate(timeout=240)
            finally:
                driver.kill()
        assert driver.returncode == 2, complaint
        assert "of 2 machines, accepts commands from anyone who can reach it" in complaint
        assert "RAY_AUTH_MODE=token" in complaint  # the remedy

        with_mlflow_database(tmp_path / "paretune-studies")
        private = environment | {"PARETUNE_UNPROTECTED": "1"}
        outcome = cut.search(tmp_path, address, cable, [1.0, None], private, n_trials=2, epochs=6)
    assert outcome.flaws == 0, outcome
    assert outcome.losses == 1, outcome  # by the cut for good; the short one cost no worker


def test_what_should_be_zero_is_counted(cut: ModuleType) -> None:
    def event(number: int, kind: str, trial: int) -> object:
        return cut.Event(number, 0.0, kind, trial, "me", {})

    history = [event(0, "started", 0), event(1, "reported", 0), event(2, "completed", 0)]
    assert cut._again(history) == 0
    assert cut._again([*history, event(3, "resumed", 0), event(4, "reported", 0)]) == 2
