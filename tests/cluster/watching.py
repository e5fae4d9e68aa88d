"""A study whose epochs only take time, watching it while others run it, and what must be true of it at its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.results.overview import overview
from search.results.saved_study import SavedStudy
from search.trial import State


def sleeping(study: str, n_trials: int, epochs: int, epoch_seconds: float, **resources: Any) -> dict[str, Any]:
    """A study file whose trials sleep."""
    return {
        "study": study,
        "data": {"kind": "synthetic", "epoch_seconds": epoch_seconds},
        "methods": ["lora"],
        "budget": {"n_trials": n_trials, "epochs": epochs, "max_params": 50_000},
        "search": {"sampler": "random"},
        "resources": resources,
    }


def wait_until(met: Callable[[], bool], seconds: float = 180.0) -> None:
    """A bounded wait for something real."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it has not come to that in time"
        time.sleep(0.2)


def n_at_work(folder: Path) -> int:
    """Trials of a study that run and have reported; 0 before it is made."""
    return sum(trial.epochs > 0 for trial in overview(folder).running) if (folder / "ledger.db").exists() else 0


def assert_every_epoch_once(saved: SavedStudy, n_trials: int, epochs: int) -> None:
    """All trials are complete, and none has an epoch twice or not at all."""
    assert [trial.state for trial in saved.history] == [State.COMPLETE] * n_trials
    for number in range(n_trials):
        assert [report.epoch for report in saved.epochs if report.trial == number] == list(range(1, epochs + 1))
