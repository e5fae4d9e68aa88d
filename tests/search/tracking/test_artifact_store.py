"""A record whose artifacts lie in an object store: a real MLflow server, and a real S3-compatible one behind it or beside it."""

from __future__ import annotations

import contextlib
import json
import urllib.request
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from search.tracking.sync import ARTIFACTS
from search.tracking.verify import differences

from ...s3 import Bucket, bucket
from ..mlflow_server import server_in
from ..scripted_study import HISTORY, ScriptedStudy, assert_equal_to_the_ledger, recorded


def objects(store: Bucket, place: str) -> set[str]:
    """The names of everything in the bucket below a place."""
    client = boto3.client("s3", endpoint_url=store.endpoint)
    found = client.list_objects_v2(Bucket=store.address.removeprefix("s3://"), Prefix=place)
    client.close()
    return {one["Key"].rpartition("/")[2] for one in found.get("Contents", [])}


def test_artifacts_go_to_an_object_store_and_one_that_is_away_leaves_the_runs_equal_and_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By ourselves where the experiment says so; through the server (`--artifacts-destination`) without any right of ours."""
    with contextlib.ExitStack() as going:
        store = going.enter_context(bucket())
        environment = list({**store.environment, "AWS_MAX_ATTEMPTS": "1"}.items())
        with server_in(tmp_path, artifacts=f"{store.address}/through", environment=environment) as server:
            location = f"{store.address}/ourselves"
            MlflowClient(tracking_uri=server).create_experiment("ourselves", artifact_location=location)
            assert_kept(finished(tmp_path, "ourselves"), server, tmp_path)
            assert objects(store, "ourselves") == {*ARTIFACTS, "card.json"}
            assert objects(store, "through") == set()
            with monkeypatch.context() as without_rights:
                for name in store.environment:
                    without_rights.delenv(name)
                assert_kept(finished(tmp_path, "through"), server, tmp_path)
            assert objects(store, "through") == {*ARTIFACTS, "card.json"}

            going.close()
            away = finished(tmp_path, "away")
            with pytest.raises(MlflowException, match="500"):
                away.record(server).sync(final=True)
            there = f"sqlite:///{tmp_path}/mlflow.db"  # the server has cut the connection in the middle of the upload
            assert_equal_to_the_ledger(there, away)
            assert recorded(there, away)[None]["status"] == "FINISHED"


def finished(folder: Path, name: str) -> ScriptedStudy:
    """A study whose member 4 of the front has an adapter."""
    scripted = ScriptedStudy(folder / "studies", name)
    scripted.finish(*HISTORY)
    adapter = scripted.path.parent / "adapters" / "0004"
    adapter.mkdir(parents=True)
    (adapter / "card.json").write_text(json.dumps({"trial": 4}))
    scripted.ledger.close()
    return scripted


def assert_kept(scripted: ScriptedStudy, server: str, folder: Path) -> None:
    """A full sync leaves nothing to tell; the server shows the picture, and the adapter comes back."""
    scripted.record(server).sync(final=True)
    assert differences(scripted.path, server) == []
    parent, member = (recorded(server, scripted)[number]["id"] for number in (None, 4))
    picture = urllib.request.urlopen(f"{server}/get-artifact?path=front-small.png&run_uuid={parent}", timeout=30)  # noqa: S310 - ours
    with picture:
        assert picture.read() == (scripted.path.parent / "front-small.png").read_bytes()
    card = download_artifacts(run_id=member, artifact_path="adapter/card.json", tracking_uri=server, dst_path=str(folder))
    assert json.loads(Path(card).read_text()) == {"trial": 4}
