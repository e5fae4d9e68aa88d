"""The comparison finds whatever MLflow holds differently from the ledger, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from mlflow import MlflowClient

from search.tracking.mlflow_client import tracking_uri
from search.tracking.verify import differences

from ..scripted_study import HISTORY, Driven, recorded


def compared(driven: Driven) -> list[str]:
    return differences(driven.path, tracking_uri(driven.storage))


def test_a_record_equals_its_ledger_at_every_step_of_a_study(driven: Driven) -> None:
    assert compared(driven) == [f"MLflow has no experiment {driven.ledger.study().name}"]
    record = driven.record()
    for number in HISTORY:
        driven.start(number)
        record.sync()
        assert compared(driven) == []
        driven.finish(number)
        assert compared(driven) != []
        record.sync()
        assert compared(driven) == []
    driven.ledger.close()
    record.sync(final=True)
    assert compared(driven) == []


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


@pytest.mark.parametrize(("spoil", "line"), [(spoil, line) for _, spoil, line in SPOILT], ids=[what for what, _, _ in SPOILT])
def test_every_kind_of_difference_is_found(driven: Driven, spoil: Callable[[MlflowClient, str], object], line: str) -> None:
    driven.finish(*HISTORY)
    driven.record().sync(final=True)
    uri = tracking_uri(driven.storage)
    spoil(MlflowClient(tracking_uri=uri), recorded(uri, driven)[4]["id"])
    found = compared(driven)
    assert any(line in one for one in found), found
    assert all(one.startswith(("trial 4:", "the study: tag mlflow.note.content")) for one in found)  # which links to the run


def test_a_second_run_of_a_trial_is_found(driven: Driven) -> None:
    driven.finish(0)
    driven.record().sync()
    uri = tracking_uri(driven.storage)
    client = MlflowClient(tracking_uri=uri)
    run = client.get_run(recorded(uri, driven)[0]["id"])
    client.create_run(run.info.experiment_id, tags=dict(run.data.tags))
    assert "trial 0: MLflow has 2 runs of it instead of one" in compared(driven)
    driven.record().sync()
    assert compared(driven) == []


def test_artifacts_that_are_missing_or_of_an_older_ledger_are_found(driven: Driven) -> None:
    driven.finish(0)
    place = driven.ledger.events()[-1].number
    driven.ledger.close()
    driven.record().sync()
    assert "the study: artifact front.html is missing" in compared(driven)
    driven.record().sync(final=True)
    assert compared(driven) == []
    uri = tracking_uri(driven.storage)
    MlflowClient(tracking_uri=uri).set_tag(recorded(uri, driven)[None]["id"], "paretune.drawn_at_event", "1")
    assert compared(driven) == [f"the study: its artifacts are those of event 1, the ledger is at {place} in full"]
    driven.record().sync(final=True)
    assert compared(driven) == []
