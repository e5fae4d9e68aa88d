"""Real raylets on one machine come, are drained and are killed while a study with its checkpoints in an object store searches."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.results.saved_study import load
from search.storage.sql_ledger import SqlLedger

from ..s3 import Bucket
from ..search.mlflow_database import with_mlflow_database
from .watching import assert_every_epoch_once, n_at_work, sleeping, wait_until

N_TRIALS, EPOCHS = 2, 14
STUDY = sleeping("nodes", N_TRIALS, EPOCHS, 0.7, gpus_per_trial=1)


@pytest.fixture
def cluster(store: Bucket) -> Iterator[Any]:
    """A head on which nothing runs, and two nodes with a GPU each that is none."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(2):
        made.add_node(num_cpus=1, num_gpus=1)
    yield made
    made.shutdown()


def drain(cluster: Any, node: Any, seconds: int) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    words = ["drain-node", "--address", cluster.address, "--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    subprocess.run(
        [ray, *words, "--reason-message", "a spot machine", "--deadline-remaining-seconds", str(seconds)],
        check=True,
        capture_output=True,
        timeout=60,
    )


def test_a_drained_node_costs_nothing_a_killed_one_an_epoch_and_a_new_one_is_used(
    cluster: Any, store: Bucket, tmp_path: Path
) -> None:
    first, second = cluster.worker_nodes
    with_mlflow_database(tmp_path / "paretune-studies")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY | {"storage": f"{store.address}/drained", "ledger": "paretune-studies"}))
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-m", "search.cli", "run", "s.yaml"]
    folder = tmp_path / "paretune-studies" / "nodes"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        try:
            wait_until(lambda: driver.poll() is not None or ((folder / "ledger.db").exists() and n_at_work(load(folder)) == 2))
            drain(cluster, first, 3600)
            wait_until(lambda: driver.poll() is not None or "moved" in kinds(folder))
            cluster.add_node(num_cpus=1, num_gpus=1)
            wait_until(lambda: driver.poll() is not None or n_at_work(load(folder)) == 2)
            cluster.remove_node(second, allow_graceful=False)
            printed, _ = driver.communicate(timeout=200)
        finally:
            driver.kill()
    assert driver.returncode == 0, printed
    saved = load(folder)
    assert_every_epoch_once(saved, N_TRIALS, EPOCHS)
    happened = kinds(folder)  # a trial that moves has reported all that it trained: what goes on is the epoch after
    assert happened.count("moved") == 1
    assert happened.count("lost") == 1
    assert not (folder / "trials").exists()  # what goes on was found in the store
    assert sum(trial.n_attempts for trial in saved.history) == N_TRIALS + 2


def kinds(folder: Path) -> list[str]:
    with closing(SqlLedger.open(folder / "ledger.db")) as ledger:
        return [event.kind for event in ledger.events()]
