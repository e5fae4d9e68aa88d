"""A trainable that replays recorded learning curves: real runs, kept in a Parquet table (benchmarks/table.py makes one).

One row is one run: `config` (JSON), `seed`, `adapter_params`, `head_params`, `problem` (why it ended early, or null), and a list of
the epochs' values for each curve. The recipe lies in the file's metadata under `paretune.recipe`.
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
        config: What was trained.
        params: (adapter, head) parameters.
        problem: Why it ended before its last epoch, or None.
        curves: Name of a metric to its value after each epoch.
    """

    config: dict[str, Value]
    params: tuple[int, int]
    problem: str | None
    curves: Mapping[str, list[float]]


class Table:
    """The recorded runs of one seed; see `trainables.protocol.Sizes` for `count`, `n_classes` and `backbone_params`.

    Args:
        path: The Parquet file.
        seed: Which runs.

    Raises:
        ValueError: if the file cannot be read, or is no such table.
    """

    def __init__(self, path: Path, *, seed: int = 0) -> None:
        try:
            table = pq.read_table(path)
            recipe = json.loads(table.schema.metadata[b"paretune.recipe"])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no recorded table ({error}); benchmarks/table.py makes one") from None
        self.epochs: int = recipe["epochs"]
        self.max_params: int = recipe["max_params"]
        self.n_classes: int = recipe["n_classes"]
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
        """The methods that it holds, in the order of the file."""
        return tuple(dict.fromkeys(str(row.config["method"]) for row in self._rows.values()))

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """(adapter_params, head_params) of a recorded configuration.

        Raises:
            ValueError: if there is no run of it.
        """
        return self.row(config).params

    def gflops(self, config: Mapping[str, Any]) -> float:
        """10^9 operations of an image, as the run reported them; KeyError where the table has no curve of them."""
        return self.row(config).curves["cost/gflops"][-1]

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """Nothing is computed."""
        return 0

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """A run without a merged latency could not be merged."""
        return None if "cost/latency_merged_ms" in self.row(config).curves else "the recorded run was not merged"

    def row(self, config: Mapping[str, Any]) -> Row:
        """The run of a configuration.

        Raises:
            ValueError: if there is none.
        """
        try:
            return self._rows[_key(config)]
        except KeyError:
            raise ValueError("the table holds no run of this configuration; choose one of its rows") from None


class RecordedTrainable:
    """See `trainables.protocol.Trainable`. It keeps no checkpoint: a trial begins anew.

    Args:
        table: The runs to replay.
    """

    def __init__(self, table: Table) -> None:
        self._table = table

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None) -> int:
        """Become a trial.

        Raises:
            ValueError: if the table holds no such run, or its curves are of other epochs.
        """
        if epochs != self._table.epochs:
            raise ValueError(f"budget.epochs is {epochs}, the recorded curves have {self._table.epochs} epochs; ask for as many")
        self._row, self._epoch = self._table.row(config), 0
        return 0

    def replay(self) -> dict[str, float] | None:
        """Nothing is ever restored."""
        return None

    def step(self) -> dict[str, float]:
        """One epoch as it was recorded.

        Raises:
            FloatingPointError: where the recorded run ended early, with its reason.
        """
        if self._epoch == len(self._row.curves["val/top1"]):
            raise FloatingPointError(self._row.problem or "the recorded run has no more epochs")
        self._epoch += 1
        return {name: values[self._epoch - 1] for name, values in self._row.curves.items()}

    def finish(self) -> None:
        """Nothing to leave behind."""


def _key(config: Mapping[str, Any]) -> str:
    return json.dumps(config, sort_keys=True)
