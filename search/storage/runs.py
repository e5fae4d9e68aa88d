"""The runs of a trial that was trained again, read from its epochs: run k reports the epochs after those of run k - 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from search.trial import Metrics, State, Trial


def n_folds_of(file: Mapping[str, Any]) -> int | None:
    """Return the number of folds of a stored study file, None if it has none."""
    folds: int | None = file.get("data", {}).get("folds")
    return folds


def is_repeated(file: Mapping[str, Any]) -> bool:
    """Return whether trials of a stored study file may be trained again."""
    return n_folds_of(file) is not None or file.get("budget", {}).get("confirm") is not None


def with_runs(trial: Trial, reports: Mapping[int, Metrics], file: Mapping[str, Any]) -> Trial:
    """Return a trial with its complete runs.

    A RUNNING trial that has the epochs of a complete one is trained again, because the last epoch completes a trial in the same
    transaction. A COMPLETE trial has a reason only if a further run ended early.

    Args:
        trial: Trial with its last epoch.
        reports: Metrics by epoch; at least those of the last epoch of each run.
        file: Stored study file.
    """
    length, trial = int(file["budget"]["epochs"]), replace(trial, n_folds=n_folds_of(file))
    unusual = trial.planned_epochs is not None or trial.state in (State.PRUNED, State.FAILED)
    if unusual or trial.epochs < length or (trial.state is State.COMPLETE and trial.epochs == length and trial.reason is None):
        return trial
    ends = [reports[epoch] for epoch in range(length, trial.epochs + 1, length)]
    return trial.with_runs([one for one in ends if all(map(math.isfinite, one.values()))])
