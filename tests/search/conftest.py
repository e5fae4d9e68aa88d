"""Studies that tests move forward by hand."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from search.storage.address import Address
from search.storage.location import LedgerLocation

from .mlflow_database import with_mlflow_database
from .mlflow_server import server_in
from .scripted_study import ScriptedStudy

if TYPE_CHECKING:
    from .postgresql_server import Server

_NAMES = itertools.count()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage folder for all."""
    return with_mlflow_database(tmp_path_factory.mktemp("storage"))


@pytest.fixture
def scripted(storage: Path) -> Iterator[ScriptedStudy]:
    """A study of its own, without trials yet."""
    scripted = ScriptedStudy(storage, f"study-{next(_NAMES)}")
    yield scripted
    scripted.ledger.close()


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an MLflow server that stays up; every study has an experiment of its own there."""
    with server_in(tmp_path_factory.mktemp("mlflow")) as address:
        yield address


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """A server that stays up; the password is in the environment, for this process and those that it starts."""
    from .postgresql_server import PASSWORD, Server  # its driver is optional

    before = os.environ.get("PGPASSWORD")
    server = Server()
    os.environ["PGPASSWORD"] = PASSWORD
    yield server
    os.environ.pop("PGPASSWORD") if before is None else os.environ.update(PGPASSWORD=before)
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> LedgerLocation:
    """Where a new ledger may be made: on both databases, one after the other."""
    if request.param == "sqlite":
        return LedgerLocation(tmp_path / "s")
    return LedgerLocation(tmp_path / "s", Address(request.getfixturevalue("postgresql").address(), f"s-{next(_NAMES)}"))
