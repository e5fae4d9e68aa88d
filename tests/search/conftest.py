"""Studies that tests move forward by hand."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from .driven import Driven

_NAMES = itertools.count()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One storage folder: making MLflow's SQLite store takes longer than any test."""
    return tmp_path_factory.mktemp("storage")


@pytest.fixture
def driven(storage: Path) -> Iterator[Driven]:
    """A study of its own, without trials yet."""
    driven = Driven(storage, f"study-{next(_NAMES)}")
    yield driven
    driven.ledger.close()
