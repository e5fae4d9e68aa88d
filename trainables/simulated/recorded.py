"""A trainable that replays recorded learning curves of real runs from a Parquet table (made by benchmarks/table.py).

Each row is one run: `config` (JSON), `seed`, `adapter_params`, `head_params`, `problem` (why it ended early, or null), and a
list of epoch values for each curve. The recipe is in the file's metadata under `paretune.recipe`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.folder import Folder

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Row:
    """One recorded run.

    Attributes:
        config: Trained configuration.
        params: Numbers of parameters, (adapter, head).
        problem: Reason why it ended before its last epoch, or None.
        curves: Values of each metric after each epoch, by name.
    """

    config: dict[str, Value]
    params: tuple[int, int]
    problem: str | None
    curves: Mapping[str, list[float]]


class Table:
    """The recorded runs of one seed; see `trainables.protocol.Sizes` for `count`, `n_classes` and `backbone_params`.

    Args:
        path: Parquet file of the runs.
        seed: Seed of the runs to load.

    Raises:
        ValueError: If the file cannot be read, or is not such a table.
    """

    def __init__(self, path: Path, *, seed: int = 0) -> None:
        try:
            table = pq.read_table(path)
            recipe = json.loads(table.schema.metadata[b"paretune.recipe"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} must be a recorded table ({error}); create one with benchmarks/table.py") from None
        self.epochs: int = recipe["epochs"]
        self.max_params: int = recipe["max_params"]
        self.n_classes: int = recipe["n_classes"]
        self.task = "classification"
        self.n_validation: int | None = recipe.get("n_validation")
        self.backbone_params: int = recipe["backbone_params"]
        self._rows: dict[str, Row] = {}
        for row in table.to_pylist():
            if row["seed"] == seed:
                curves = {name: values for name, values in row.items() if isinstance(values, list)}
                config, params = json.loads(row["config"]), (row["adapter_params"], row["head_params"])
                self._rows[_key(config)] = Row(config, params, row["problem"], curves)

    @property
    def rows(self) -> list[Row]:
        """The runs, in the order of the file."""
        return list(self._rows.values())

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods of the runs, in the order of the file."""
        return tuple(dict.fromkeys(str(row.config["method"]) for row in self._rows.values()))

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return (adapter_params, head_params) of a recorded configuration.

        Raises:
            ValueError: If it has no run.
        """
        return self.row(config).params

    def gflops(self, config: Mapping[str, Any]) -> float:
        """Return 10^9 operations of one image, as the run reported them; raise KeyError if the table has no such curve."""
        return self.row(config).curves["cost/gflops"][-1]

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """Return 0, since nothing is computed."""
        return 0

    def frozen(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return (0, 0), since nothing is computed."""
        return 0, 0

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """Return a reason for a run without a merged latency, which could not be merged; else None."""
        return None if "cost/latency_merged_ms" in self.row(config).curves else "the recorded run was not merged"

    def row(self, config: Mapping[str, Any]) -> Row:
        """Return the run of a configuration.

        Raises:
            ValueError: If it has none.
        """
        try:
            return self._rows[_key(config)]
        except KeyError:
            raise ValueError("the table has no run of this configuration; choose one of its rows") from None


class RecordedTrainable:
    """A trainable that replays recorded runs; see `trainables.protocol.Trainable`. It keeps no checkpoint, so trials restart.

    Args:
        table: Table of the runs to replay.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None, fold: int = 0) -> int:
        """Set up a trial.

        Raises:
            ValueError: If the table has no such run, or its curves have another number of epochs.
        """
        if epochs != self._table.epochs:
            raise ValueError(f"budget.epochs is {epochs}, the recorded curves have {self._table.epochs} epochs; use as many")
        self._row, self._epoch = self._table.row(config), 0
        return 0

    def replay(self) -> dict[str, float] | None:
        """Return None: nothing is ever restored."""
        return None

    def step(self) -> dict[str, float]:
        """Return the metrics of the next recorded epoch.

        Raises:
            FloatingPointError: If the recorded run ended early, with its reason.
        """
        if self._epoch == len(self._row.curves["val/top1"]):
            raise FloatingPointError(self._row.problem or "the recorded run has no more epochs")
        self._epoch += 1
        return {name: values[self._epoch - 1] for name, values in self._row.curves.items()}

    def finish(self) -> None:
        """Do nothing: there is no state to restore."""


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
