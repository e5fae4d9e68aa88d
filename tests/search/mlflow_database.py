"""MLflow's database, empty: MLflow takes two seconds to make one, a copy takes none."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from mlflow import MlflowClient

from search.tracking.mlflow_client import tracking_uri


def with_mlflow_database(storage: Path) -> Path:
    """The storage folder, with the database in it that its first study would make."""
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "mlflow.db").write_bytes(_empty())
    return storage


@functools.cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(tracking_uri=tracking_uri(Path(folder))).search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()
