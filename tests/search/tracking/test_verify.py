"""The comparison finds whatever MLflow holds differently from the ledger, and nothing else."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from search.tracking.mlflow_client import tracking_uri
from search.tracking.verify import differences

from ..mlflow_database import with_mlflow_database
from ..scripted_study import HISTORY, ScriptedStudy, recorded

pytestmark = pytest.mark.slow


def compared(scripted: ScriptedStudy) -> list[str]:
    return differences(scripted.path, tracking_uri(scripted.storage))


def test_a_record_equals_its_ledger_at_every_step_of_a_study(scripted: ScriptedStudy) -> None:
    assert compared(scripted) == [f"MLflow has no experiment {scripted.ledger.study().name}"]
    record = scripted.record()
    for number in HISTORY:
        scripted.start(number)
        record.sync()
        assert compared(scripted) == []
        scripted.finish(number)
        assert compared(scripted) != []
        record.sync()
        assert compared(scripted) == []
    scripted.ledger.close()
    record.sync(final=True)
    assert compared(scripted) == []


SPOILT: list[tuple[str, Callable[[MlflowClient, str], object], str]] = [
    ("a run is deleted", lambda client, run: client.delete_run(run), "trial 4: MLflow has 0 runs of it"),
    ("a tag is changed", lambda client, run: client.set_tag(run, "paretune.front", "false"), "tag paretune.front is 'false'"),
    ("a tag is taken away", lambda client, run: client.delete_tag(run, "paretune.rank"), "tag paretune.rank is missing"),
    (
        "a tag is added",
        lambda client, run: client.set_tag(run, "paretune.rung", "2"),
        "tag paretune.rung is '2', the ledger says missing",
    ),
    ("a parameter is added", lambda client, run: client.log_param(run, "arc.x", 1), "parameter arc.x is '1'"),
    ("a point is added", lambda client, run: client.log_metric(run, "val/top1", 0.1, step=9), "metric val/top1 at step 9 is '(0.1"),
    (
        "a point is doubled",
        lambda client, run: client.log_metric(run, "val/top1", 0.1, step=3),
        "val/top1 at step 3 is duplicated",
    ),
    ("the status is another", lambda client, run: client.set_terminated(run, "FAILED"), "its status is FAILED"),
    ("it is renamed", lambda client, run: client.update_run(run, name="x"), "its name is x"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> ScriptedStudy:
    """A finished study that is recorded in full, and a copy of its record."""
    scripted = ScriptedStudy(with_mlflow_database(tmp_path_factory.mktemp("whole")), "whole")
    scripted.finish(*HISTORY)
    scripted.record().sync(final=True)
    assert compared(scripted) == []
    copied(scripted.storage / "mlflow.db", scripted.storage / "copy.db")
    return scripted


@pytest.fixture
def recorded_in_full(whole: ScriptedStudy) -> Iterator[ScriptedStudy]:
    """The same one, whose record is given back afterwards."""
    yield whole
    copied(whole.storage / "copy.db", whole.storage / "mlflow.db")


def copied(one: Path, other: Path) -> None:
    """Copy a database into another one, which may be open elsewhere."""
    with closing(sqlite3.connect(one)) as source, closing(sqlite3.connect(other)) as target:
        source.backup(target)


@pytest.mark.parametrize(("spoil", "line"), [(spoil, line) for _, spoil, line in SPOILT], ids=[what for what, _, _ in SPOILT])
def test_every_kind_of_difference_is_found(
    recorded_in_full: ScriptedStudy, spoil: Callable[[MlflowClient, str], object], line: str
) -> None:
    uri = tracking_uri(recorded_in_full.storage)
    spoil(MlflowClient(tracking_uri=uri), recorded(uri, recorded_in_full)[4]["id"])
    found = compared(recorded_in_full)
    assert any(line in one for one in found), found
    assert all(one.startswith(("trial 4:", "the study: tag mlflow.note.content")) for one in found)  # which links to the run


def test_a_second_run_of_a_trial_is_found(scripted: ScriptedStudy) -> None:
    scripted.finish(0)
    scripted.record().sync()
    uri = tracking_uri(scripted.storage)
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(recorded(uri, scripted)[0]["id"])
    client.create_run(run.info.experiment_id, tags=dict(run.data.tags))
    assert "trial 0: MLflow has 2 runs of it instead of one" in compared(scripted)
    scripted.record().sync()
    assert compared(scripted) == []


def test_artifacts_that_are_missing_or_of_an_older_ledger_are_found(scripted: ScriptedStudy) -> None:
    scripted.finish(0)
    place = scripted.ledger.events()[-1].number
    scripted.ledger.close()
    scripted.record().sync()
    assert "the study: artifact front.html is missing" in compared(scripted)
    scripted.record().sync(final=True)
    assert compared(scripted) == []
    uri = tracking_uri(scripted.storage)
    MlflowClient(tracking_uri=uri).set_tag(recorded(uri, scripted)[None]["id"], "paretune.drawn_at_event", "1")
    assert compared(scripted) == [f"the study: its artifacts are those of event 1, the ledger is at {place} in full"]
    scripted.record().sync(final=True)
    assert compared(scripted) == []
