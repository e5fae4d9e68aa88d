"""Watching a study that others run, and what must be true of it at its end."""

from __future__ import annotations

import time
from collections.abc import Callable

from search.saved import SavedStudy
from search.trial import State


def wait_until(met: Callable[[], bool], seconds: float = 180.0) -> None:
    """A bounded wait for something real."""
    end = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < end, "it has not come to that in time"
        time.sleep(0.1)


def n_at_work(saved: SavedStudy) -> int:
    """Trials that run and have reported."""
    return sum(trial.state is State.RUNNING and trial.epochs > 0 for trial in saved.history)


def assert_every_epoch_once(saved: SavedStudy, n_trials: int, epochs: int) -> None:
    """All trials are complete, and none has an epoch twice or not at all."""
    assert [trial.state for trial in saved.history] == [State.COMPLETE] * n_trials
    for number in range(n_trials):
        assert [report.epoch for report in saved.epochs if report.trial == number] == list(range(1, epochs + 1))
