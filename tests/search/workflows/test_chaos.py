"""Accidents of real searches. The same ones happen for long in `benchmarks/chaos.py`; docs/reliability.md has the counts."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from search.storage.rows import Event

from ..mlflow_database import with_mlflow_database


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    """The benchmark, which is no package."""
    sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))  # behind the package `search`: there is a benchmark of that name
    return importlib.import_module("chaos")


@pytest.mark.slow
def test_worker_driver_and_raylet_of_a_search_on_ray_are_killed_and_nothing_is_lost(chaos: ModuleType, tmp_path: Path) -> None:
    victims = ["worker", "driver", "raylet"]
    with_mlflow_database(tmp_path / "paretune-studies")
    outcome = chaos.search(tmp_path, 0, back_end="ray", victims=victims, n_trials=10, epoch_seconds=0.25, seed=0)
    assert outcome.kills == {"worker": 1, "driver": 1, "raylet": 1}
    assert outcome.n_trials == 10
    assert outcome.flaws == 0, outcome


@pytest.mark.slow
def test_a_power_cut_a_restored_ledger_and_a_signal_leave_a_study_that_ends_as_if_nothing_had_happened(
    chaos: ModuleType, tmp_path: Path
) -> None:
    accidents = ["restore", "interrupt", "power"]
    try:
        outcome = chaos.search(tmp_path, 0, back_end="in-process", victims=accidents, n_trials=8, epoch_seconds=0.05, seed=0)
    except chaos.NotPermitted as error:  # no root, or a container without loop devices: nothing that we could install
        pytest.skip(f"needs a disk whose power can be cut: {error}")
    assert outcome.kills == {"power": 1, "restore": 1, "interrupt": 1}
    assert outcome.n_trials == 8
    assert outcome.flaws == 0, outcome


def test_what_should_be_zero_is_counted(chaos: ModuleType) -> None:
    """The laws can fail: a history that breaks each of them."""

    def event(number: int, kind: str, trial: int | None) -> object:
        return Event(number, 0.0, kind, trial, "me", {})

    history = [event(0, "started", 0), event(1, "reported", 0), event(2, "completed", 0)]
    assert chaos.rerun(history) == 0
    assert chaos.rerun([*history, event(3, "resumed", 0), event(4, "reported", 0)]) == 1
    assert chaos.lost(history, history) == 0
    assert chaos.lost(history, history[:1]) == 2
    assert chaos.lost(history, [*history[:2], event(2, "pruned", 0)]) == 1
