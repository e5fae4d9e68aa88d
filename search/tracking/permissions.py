"""The check that MLflow lets us write, made before a search starts because later failures would go unnoticed.

A server that is down, slow or strange is no reason to refuse a search, because the record catches up later. A server that denies
access is a reason, and so is a database that cannot be written.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
from urllib.parse import unquote, urlsplit

from search.errors import RequestError
from search.secret import SecretAddress
from search.storage.sqlite_address import sqlite_path

_PATIENCE = 3.0  # seconds


def refuse_without_rights(uri: str, study: str) -> None:
    """Refuse a search that could not be recorded.

    Args:
        uri: MLflow address, see `search.tracking.mlflow_client.tracking_uri`.
        study: Name of the experiment, created if missing.

    Raises:
        RequestError: If MLflow denies access; the message names the remedy.
    """
    if (database := sqlite_path(uri)) is not None:
        first = next(place for place in (database, *database.parents) if place.exists())
        if not os.access(first, os.W_OK) or (first == database and not os.access(database.parent, os.W_OK)):
            raise RequestError(f"MLflow: {database} cannot be written; get write access, or set MLFLOW_TRACKING_URI")
    elif uri.startswith(("http://", "https://")):
        status = _answer(SecretAddress(uri), study)
        if status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN):
            raise RequestError(
                f"MLflow: {urlsplit(SecretAddress(uri)).hostname} denies write access (HTTP {status}); set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or MLFLOW_TRACKING_TOKEN) of a user with access, or unset "
                "MLFLOW_TRACKING_URI"
            )


def _answer(uri: SecretAddress, study: str) -> int | None:
    """Return the HTTP status of the server's answer to creating the experiment; None if it does not answer."""
    at = urlsplit(uri.reveal())
    kind = http.client.HTTPSConnection if at.scheme == "https" else http.client.HTTPConnection
    connection = kind(at.hostname or "", at.port, timeout=_PATIENCE)
    headers = {"Content-Type": "application/json"}
    name = os.environ.get("MLFLOW_TRACKING_USERNAME") or unquote(at.username or "")
    if name:
        password = os.environ.get("MLFLOW_TRACKING_PASSWORD") or unquote(at.password or "")
        headers["Authorization"] = "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection.request("POST", f"{at.path.rstrip('/')}/api/2.0/mlflow/experiments/create", json.dumps({"name": study}), headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
