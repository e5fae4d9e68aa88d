"""The columnar form of a study: its trials and their epochs as Arrow tables, for Parquet files that other programs read.

The functions that build and write tables import pyarrow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.front import front
from search.metrics import METRICS, TOP1
from search.results.noise import standard_error
from search.storage.whole_file import write_whole
from search.trial import Trial

if TYPE_CHECKING:
    import pyarrow as pa

    from search.storage.rows import Report, StudyRow

SCHEMA_VERSION = 1  # version of the Parquet files
UNITS = {
    "adapter_params": "parameters",
    "head_params": "parameters",
    "epochs": "epochs",
    "epoch": "epochs",
    "rung": "epochs",
    "started": "seconds since 1970-01-01 UTC",
    "finished": "seconds since 1970-01-01 UTC",
    "time": "seconds since 1970-01-01 UTC",
    "val/loss": "nats",
    "train/loss": "nats",
    "cost/train_seconds": "seconds",
    "cost/eval_seconds": "seconds",
    "cost/images_per_second": "images per second",
    "cost/step_seconds": "seconds",
    "cost/peak_memory_bytes": "bytes",
    "cost/gflops": "GFLOPs per image",
    "cost/latency_ms": "milliseconds per image",
    "cost/latency_merged_ms": "milliseconds per image",
} | {metric.key: "nats" if metric.key == "val/log_loss" else "fraction" for metric in METRICS.values()}


def trials_arrow(trials: Sequence[Trial], *, study: StudyRow | None = None) -> pa.Table:
    """Return one row per trial: its state and sizes, one column per knob, one per metric of the last epoch.

    If trials were trained again, `runs` lists the study's metric of each complete run, and the metrics are means over them.

    A knob that the trial's method does not have is null. Each column's unit is in its metadata (`unit`). The table's metadata
    contain `paretune.schema_version`, and name and id of the study.
    """
    import pyarrow as pa

    members = {trial.number for trial in front(trials)}
    columns: dict[str, pa.Array] = {
        "trial": pa.array([t.number for t in trials], pa.int64()),
        "label": pa.array([t.label for t in trials], pa.string()),
        "state": pa.array([t.state.value for t in trials], pa.string()),
        "front": pa.array([t.number in members for t in trials], pa.bool_()),
        "adapter_params": pa.array([t.adapter_params for t in trials], pa.int64()),
        "head_params": pa.array([t.head_params for t in trials], pa.int64()),
        "epochs": pa.array([t.epochs for t in trials], pa.int64()),
        "rung": pa.array([t.rung for t in trials], pa.int64()),
        "reason": pa.array([t.reason for t in trials], pa.string()),
        "n_attempts": pa.array([t.n_attempts for t in trials], pa.int64()),
        "seed": pa.array([t.seed for t in trials], pa.int64()),
        "started": pa.array([t.started for t in trials], pa.float64()),
        "finished": pa.array([t.finished for t in trials], pa.float64()),
    }
    if any(t.runs for t in trials):
        columns["runs"] = pa.array([list(t.values) if t.is_complete else [] for t in trials], pa.list_(pa.float64()))
        n_validation = None if study is None else study.facts.n_validation
        columns["standard_error"] = pa.array([standard_error(t, n_validation) for t in trials], pa.float64())
    for key in _keys([t.config for t in trials], first="method"):
        columns[key] = _column([t.config.get(key) for t in trials])
    for key in _keys([t.metrics for t in trials], first=TOP1):
        columns[key] = pa.array([t.metrics.get(key) for t in trials], pa.float64())
    return _arrow(columns, study)


def reports_arrow(reports: Sequence[Report], *, study: StudyRow | None = None) -> pa.Table:
    """Return one row per epoch of every trial, in the order of arrival; the metadata are those of `trials_arrow`."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {
        "trial": pa.array([r.trial for r in reports], pa.int64()),
        "epoch": pa.array([r.epoch for r in reports], pa.int64()),
        "time": pa.array([r.time for r in reports], pa.float64()),
    }
    for key in _keys([r.metrics for r in reports], first=TOP1):
        columns[key] = pa.array([r.metrics.get(key) for r in reports], pa.float64())
    return _arrow(columns, study)


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table as a Parquet file, atomically."""
    import pyarrow.parquet as pq

    write_whole(path, lambda draft: pq.write_table(table, draft))


def _arrow(columns: Mapping[str, pa.Array], study: StudyRow | None) -> pa.Table:
    import pyarrow as pa

    from search.config.own_methods import stored_spaces
    from spaces import SHARED, space_of, unknown_method  # units are defined with the knobs

    methods = {key.rpartition(".")[0] for key in columns}
    own = {} if study is None else stored_spaces(study.file)
    named = [space_of(method, own) for method in methods if unknown_method(method, own) is None]
    units = {knob.key: knob.unit for space in named for knob in space.knobs} | {k.key: k.unit for k in SHARED} | UNITS
    units |= {key: "nats" if key.endswith("loss") else "fraction" for key in columns if key.startswith("watch/")}
    fields = [
        pa.field(key, column.type, metadata={"unit": units[key]} if units.get(key) else None) for key, column in columns.items()
    ]
    metadata = {"paretune.schema_version": str(SCHEMA_VERSION)}
    if study is not None:
        metadata |= {"paretune.study": study.name, "paretune.study_uid": study.uid}
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata=metadata))


def _keys(rows: Iterable[Mapping[str, Any]], *, first: str) -> list[str]:
    """Return all keys of the rows: `first`, then the others by name."""
    return sorted({key for row in rows for key in row}, key=lambda key: (key != first, key))


def _column(values: Sequence[Any]) -> pa.Array:
    """Return one knob's values. Arrow columns have one type, so a knob with numbers and names is written as JSON text."""
    import pyarrow as pa

    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return pa.array(values, pa.float64())
    if len(kinds) > 1:
        return pa.array([None if value is None else json.dumps(value) for value in values], pa.string())
    return pa.array(values)
