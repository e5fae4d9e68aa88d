"""A record whose artifacts lie in an object store: a real MLflow server, and a real S3-compatible one behind it or beside it."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import boto3
import pytest
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


@pytest.mark.parametrize("way", ["through the server", "by ourselves"])
def test_artifacts_go_to_an_object_store(
    store: Bucket, way: str, tmp_path: Path, scripted: ScriptedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the server (`--artifacts-destination`) without any right of ours; by ourselves where it says so."""
    place = way.replace(" ", "-")
    proxied = ["--artifacts-destination", f"{store.address}/{place}"]
    direct = ["--no-serve-artifacts", "--default-artifact-root", f"{store.address}/{place}"]
    with server_in(
        tmp_path, *(proxied if way == "through the server" else direct), environment=list(store.environment.items())
    ) as server:
        if way == "through the server":
            for name in store.environment:
                monkeypatch.delenv(name)
        scripted.finish(*HISTORY)
        adapter = scripted.path.parent / "adapters" / "0004"  # a member of the front
        adapter.mkdir(parents=True)
        (adapter / "card.json").write_text(json.dumps({"trial": 4}))
        scripted.ledger.close()
        scripted.record(server).sync(final=True)
        assert differences(scripted.path, server) == []
        parent, member = (recorded(server, scripted)[number]["id"] for number in (None, 4))
        picture = urllib.request.urlopen(f"{server}/get-artifact?path=front-small.png&run_uuid={parent}", timeout=30)  # noqa: S310 - ours
        with picture:
            assert picture.read() == (scripted.path.parent / "front-small.png").read_bytes()
        card = download_artifacts(run_id=member, artifact_path="adapter/card.json", tracking_uri=server, dst_path=str(tmp_path))
        assert json.loads(Path(card).read_text()) == {"trial": 4}
    monkeypatch.undo()
    assert objects(store, place) == {*ARTIFACTS, "card.json"}


def test_an_object_store_that_is_away_leaves_the_runs_equal_and_is_told(tmp_path: Path, scripted: ScriptedStudy) -> None:
    with bucket() as store:
        pass  # it is gone
    environment = list({**store.environment, "AWS_MAX_ATTEMPTS": "1"}.items())
    with server_in(tmp_path, "--artifacts-destination", f"{store.address}/away", environment=environment) as server:
        scripted.finish(*HISTORY)
        scripted.ledger.close()
        with pytest.raises(MlflowException, match="500"):
            scripted.record(server).sync(final=True)
        there = f"sqlite:///{tmp_path}/mlflow.db"  # the server has cut the connection in the middle of the upload
        assert_equal_to_the_ledger(there, scripted)
        assert recorded(there, scripted)[None]["status"] == "FINISHED"
