"""Who may not record is told before the search starts; an MLflow that is merely away is not waited for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.errors import RequestError
from search.tracking.mlflow_client import tracking_uri
from search.tracking.permissions import refuse_without_rights
from search.tracking.server import free_port
from search.tracking.sync import MlflowSync

from ..mlflow_server import server_in
from ..scripted_study import ScriptedStudy, assert_equal_to_the_ledger


def test_a_database_in_a_folder_that_nobody_may_write_is_refused(tmp_path: Path) -> None:
    refuse_without_rights(f"sqlite:///{tmp_path}/new/mlflow.db", "study")
    assert not (tmp_path / "new").exists()
    closed = "/proc/1/mlflow.db" if os.geteuid() == 0 else "/mlflow.db"
    with pytest.raises(RequestError, match="cannot be written"):
        refuse_without_rights(f"sqlite:///{closed}", "study")


def test_a_server_that_is_down_is_no_reason_to_refuse() -> None:
    refuse_without_rights(f"http://127.0.0.1:{free_port()}", "study")


def test_an_open_server_lets_a_search_begin_and_an_experiment_be_made_once(mlflow_server: str, scripted: ScriptedStudy) -> None:
    name = scripted.ledger.study().name
    for _ in range(2):
        refuse_without_rights(mlflow_server, name)
    scripted.finish(0)
    MlflowSync(scripted.path, mlflow_server).sync()
    assert_equal_to_the_ledger(mlflow_server, scripted)
    assert MlflowClient(tracking_uri=mlflow_server).get_experiment_by_name(name).tags["mlflow.experimentKind"]  # type: ignore[union-attr]


def test_a_server_with_passwords_refuses_strangers_and_records_who_may(
    tmp_path: Path, scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "auth.ini"
    settings.write_text(
        "[mlflow]\ndefault_permission = READ\n"
        f"database_uri = sqlite:///{tmp_path}/auth.db\nadmin_username = admin\nadmin_password = not the default 1\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    secret = [("MLFLOW_AUTH_CONFIG_PATH", str(settings)), ("MLFLOW_FLASK_SERVER_SECRET_KEY", "secret")]
    with server_in(tmp_path, "--app-name", "basic-auth", environment=secret) as server:
        with pytest.raises(RequestError, match=r"HTTP 401.*MLFLOW_TRACKING_USERNAME"):
            refuse_without_rights(server, "study")
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not the default 1")
        refuse_without_rights(server, scripted.ledger.study().name)
        scripted.finish(0)  # such a server takes its time for every request
        MlflowSync(scripted.path, server).sync(final=True)
        assert_equal_to_the_ledger(f"sqlite:///{tmp_path}/mlflow.db", scripted)


def test_the_storage_of_a_study_is_allowed(tmp_path: Path) -> None:
    refuse_without_rights(tracking_uri(tmp_path), "study")
