"""The export of a study for other programs: tables as Parquet or CSV, or an Optuna study for optuna-dashboard."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.config.loading import check_stored
from search.results import arrow_tables
from search.results.saved_study import SavedStudy
from search.storage.sqlite_address import sqlite_address
from search.storage.whole_file import write_whole
from search.trial import State

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

FORMATS = ("parquet", "csv", "optuna")


def export_study(study: SavedStudy, to: Path, form: str) -> list[Path]:
    """Write a study into a folder, created if missing; files of an earlier export are replaced atomically, one by one.

    Args:
        study: Study to export.
        to: Target folder.
        form: Format, one of `FORMATS`.

    Returns:
        The written files.
    """
    to.mkdir(parents=True, exist_ok=True)
    if form == "optuna":
        return [_optuna(study, to / "optuna.db")]
    paths = []
    for name, table in (("front", study.front()), ("trials", study.trials()), ("reports", study.reports())):
        paths.append(to / f"{name}.{form}")
        if form == "parquet":
            arrow_tables.write_parquet(table, paths[-1])
        else:
            from pyarrow import csv

            write_whole(paths[-1], partial(csv.write_csv, table))
    return paths


def _holds(distribution: BaseDistribution, values: Iterable[Any]) -> bool:
    """Return whether all values are of a distribution, as Optuna checks the trials that are added to a study."""
    from optuna.trial import TrialState, create_trial

    try:
        for value in dict.fromkeys(values):
            create_trial(state=TrialState.RUNNING, params={"x": value}, distributions={"x": distribution})
    except ValueError:
        return False
    return True


def _optuna(study: SavedStudy, path: Path) -> Path:
    """Write an Optuna SQLite storage with one study: both objectives, every trial with its epochs and its reason."""
    import optuna
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import FrozenTrial, TrialState

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = check_stored(study.row.file).joint_space()
    known: dict[str, BaseDistribution] = {}
    for method in space.methods:
        known |= space.distributions(method)
    distributions: dict[str, BaseDistribution] = {}
    for key in {key for trial in study.history for key in trial.config}:  # a fixed or since changed knob lists its values
        values = dict.fromkeys(trial.config[key] for trial in study.history if key in trial.config)
        fits = key in known and _holds(known[key], values)
        distributions[key] = known[key] if fits else CategoricalDistribution(tuple(values))
    states = {State.COMPLETE: TrialState.COMPLETE, State.PRUNED: TrialState.PRUNED, State.FAILED: TrialState.FAIL}
    of_trial: dict[int, dict[int, float]] = {}
    for epoch in study.epochs:
        of_trial.setdefault(epoch.trial, {})[epoch.epoch] = epoch.metrics.get(study.metric.key, float("nan"))
    trials = []
    for trial in study.history:
        counts = trial.state is State.COMPLETE and trial.planned_epochs is None  # an extended trial is not comparable
        facts: dict[str, Any] = {"head_params": trial.head_params, "seed": trial.seed, "epochs": trial.epochs}
        facts |= {"adapter_params": trial.adapter_params, "state": trial.state.value}
        facts |= {key: value for key, value in (("reason", trial.reason), ("rung", trial.rung)) if value is not None}
        ended = TrialState.PRUNED if trial.state is State.COMPLETE and not counts else states.get(trial.state, TrialState.RUNNING)
        trials.append(
            FrozenTrial(
                number=trial.number,
                trial_id=trial.number,
                state=ended,
                value=None,
                values=[trial.quality, trial.size] if counts else None,
                datetime_start=datetime.fromtimestamp(trial.started),
                datetime_complete=None if trial.finished is None else datetime.fromtimestamp(trial.finished),
                params=dict(trial.config),
                distributions={key: distributions[key] for key in trial.config},
                user_attrs=facts,
                system_attrs={},
                intermediate_values=of_trial.get(trial.number, {}),
            )
        )

    def write(draft: Path) -> None:
        storage = optuna.storages.RDBStorage(sqlite_address(draft))
        made = optuna.create_study(
            storage=storage,
            study_name=study.name,
            directions=["maximize" if study.metric.larger_is_better else "minimize", "minimize"],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            made.set_metric_names([study.metric.key, study.against])
        made.add_trials(trials)
        storage.engine.dispose()

    write_whole(path, write)
    return path
