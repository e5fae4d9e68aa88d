"""The private parts of MLflow that we use, all of them, as read in MLflow 3.17.

A database is made by opening it, and then has the version of the last of MLflow's migrations. `mlflow server` runs a FastAPI
application, which an application of our own may wrap (an entry point `mlflow.app`, which is documented).

Its client reads the history of one metric of one run per call. Its database store and its server read many runs at once; both ways
are those of MLflow's own pages.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

_BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
Point = tuple[str, int, float, int]  # run, step, value, Unix time in ms


@functools.cache
def newest_version() -> str:
    """Return the version of a database that this MLflow has made."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    return str(_get_latest_schema_revision())


def create_database(uri: str) -> None:
    """Make an empty SQLite database, with MLflow's first experiment, and let go of its file.

    MLflow writes the first experiment as SQL text with the path of the working directory in it, which a quote or " :" there breaks.
    So it is made with another location first.
    """
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(uri, "mlflow-artifacts:/").engine.dispose()
    client: Any = MlflowClient(tracking_uri=uri)
    store = client._tracking_client.store
    with store.engine.begin() as connection:
        query = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = 0"
        connection.exec_driver_sql(query, (store._get_artifact_location(0),))
    store.engine.dispose()


def pages_app() -> Any:
    """Return the ASGI application that `mlflow server` runs by default."""
    from mlflow.server.fastapi_app import app

    return app


def metric_history(client: Any, run_ids: Sequence[str], key: str, at_most: int) -> list[Point]:
    """Read every point of a metric of many runs with one call.

    Args:
        client: An `MlflowClient`.
        run_ids: Runs to read.
        key: The metric.
        at_most: Number of points after which the answer is cut off.
    """
    store = client._tracking_client.store
    if hasattr(store, "get_metric_history_bulk"):  # a database
        points = store.get_metric_history_bulk(run_ids, key, at_most)
        return [(point.run_id, point.step, point.value, point.timestamp) for point in points]
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    asked = {"run_id": run_ids, "metric_key": key, "max_results": at_most}
    answer = verify_rest_response(http_request(store.get_host_creds(), _BULK, "GET", params=asked), _BULK)
    return [(point["run_id"], point["step"], point["value"], point["timestamp"]) for point in answer.json()["metrics"]]
