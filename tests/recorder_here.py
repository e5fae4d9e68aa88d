"""The recorder without its process, which takes four seconds to import MLflow and to make an empty database.

It makes the same last sync, into the same real store. What the process itself owes is tested in `tests/search/tracking`.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

from search.tracking.mlflow_client import describe_error
from search.tracking.recorder import RecorderProcess
from search.tracking.sync import MlflowSync

from .search.mlflow_database import with_mlflow_database


class RecorderHere(RecorderProcess):
    """Records once, when the search is over."""

    _started = False

    def start(self) -> None:
        """Record from now on."""
        self._started = True

    def close(self) -> None:
        """Nothing is waiting."""

    def leave(self, patience: float) -> None:
        """Make the last sync of an interrupted search."""
        self.stop(patience)

    def stop(self, timeout: float = 60.0) -> str | None:
        """Make the last sync."""
        if not self._started:
            return None
        uri = self._order["tracking_uri"]
        ledger = Path(self._order["ledger"])
        if not (database := ledger.parents[1] / "mlflow.db").exists() and str(database) in uri:
            with_mlflow_database(ledger.parents[1])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # MLflow prints
            try:
                MlflowSync(ledger, uri).sync(final=True)
            except Exception as error:
                return self._behind(describe_error(error, uri))
        return None
