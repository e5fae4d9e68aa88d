"""What a trial takes: a share of a (logical) GPU, on nodes of one kind; and nodes that come, are drained and are killed."""

from __future__ import annotations

import json
import os
import re
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
from search.trial import State

from ..s3 import Bucket
from ..search.mlflow_database import with_mlflow_database
from .test_nodes import most_at_once, spans_of
from .watching import assert_every_epoch_once, n_at_work, sleeping, wait_until

STUDY = sleeping("shared", 5, 5, 0.8, gpus_per_trial=0.25, accelerator_type="H100")


@pytest.fixture(scope="module")
def cluster(store: Bucket, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A node without a GPU, and one with a logical GPU; a program tells of its memory what NVIDIA's would. Both reach the store."""
    from ray.cluster_utils import Cluster

    tool = tmp_path_factory.mktemp("bin") / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '1234 MiB, 81559 MiB'\n")
    tool.chmod(0o755)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "memory": 2 * 2**30, "include_dashboard": False})
        made.add_node(num_cpus=4, memory=2 * 2**30, num_gpus=1, labels={"ray.io/accelerator-type": "H100"})
    yield made
    made.shutdown()


def run(cluster: Any, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    with_mlflow_database(folder / "paretune-studies")
    (folder / "s.yaml").write_text(yaml.safe_dump(STUDY))
    return paretune(cluster, folder, "run", "s.yaml", *words)


def paretune(cluster: Any, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search.cli", *words]
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False)


def test_as_many_trials_share_a_gpu_of_the_kind_that_is_asked_for_as_their_node_has_memory_for(
    cluster: Any, tmp_path: Path
) -> None:
    """Four by their shares of the GPU, three by the 2 GiB for workers of its node; the four cores of the other node are no use."""
    done = run(cluster, tmp_path, "--set", "resources.memory_per_trial=0.6GiB")
    assert done.returncode == 0, done.stderr
    assert "3 trials at a time, 0.6 GiB of memory for each" in done.stdout
    saved = load(tmp_path / "paretune-studies" / "shared")
    assert [trial.state for trial in saved.history] == [State.COMPLETE] * 5
    assert most_at_once(spans_of(saved), after=0.0) == 3
    [gpu] = json.loads(paretune(cluster, tmp_path, "status", "shared", "--json").stdout)["gpu_memory"]
    assert re.fullmatch(r"127\.0\.0\.1/[0-9a-f]{6}: 1234 MiB, 81559 MiB", gpu)  # one node has one, wherever it is asked from


def test_a_trial_that_no_node_has_the_memory_for_is_refused_with_what_they_have(cluster: Any, tmp_path: Path) -> None:
    done = run(cluster, tmp_path, "--set", "resources={memory_per_trial: 3GiB}")
    assert done.returncode == 2
    said = (
        "a trial asks for 1 CPUs, 0 GPUs and 3.0 GiB of memory of one node, the nodes have 4, 0 and 2.0 GiB, 4, 1 and 2.0 GiB; ask"
    )
    assert said in " ".join(done.stderr.split())


def test_a_kind_that_no_node_has_is_refused_with_those_that_there_are(cluster: Any, tmp_path: Path) -> None:
    done = run(cluster, tmp_path, "--set", "resources.accelerator_type=T4")
    assert done.returncode == 2
    assert "no node has T4; they have H100" in done.stderr


def test_a_plan_is_measured_where_a_trial_would_run(cluster: Any, tmp_path: Path) -> None:
    [node] = cluster.worker_nodes
    resources = {"gpus_per_trial": 0.25, "accelerator_type": "H100", "memory_per_trial": "0.5GiB"}  # a quarter of the node's
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY | {"data": {"kind": "digits"}, "resources": resources}))
    done = paretune(cluster, tmp_path, "plan", "s.yaml", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["measured_on"].endswith(f"/{node.node_id[:6]}")  # and not on the head, where the command ran
    assert {one["config"]["method"] for one in told["predictions"]} == {"head_only", "lora"}
    assert told["n_slots"] == 4
    assert told["memory_bytes_per_slot"] == 81559 * 2**20 / 4  # of the card there
    refused = paretune(cluster, tmp_path, "plan", "s.yaml", "--set", "resources.cpus_per_trial=5")
    assert refused.returncode == 2
    assert "a trial asks for 5 CPUs" in refused.stderr


# -- nodes come, are drained and are killed, the checkpoints in an object store ----------------------------------------------

N_TRIALS, EPOCHS = 2, 14
DRAINED = sleeping("nodes", N_TRIALS, EPOCHS, 0.7, gpus_per_trial=1, accelerator_type="L4")


@pytest.fixture
def nodes(cluster: Any, store: Bucket) -> Iterator[list[Any]]:
    """Two nodes with a GPU each, which reach the store; a test may change the list."""
    made = [add_node(cluster) for _ in range(2)]
    yield made
    for node in made:
        cluster.remove_node(node, allow_graceful=False)


def add_node(cluster: Any) -> Any:
    return cluster.add_node(num_cpus=1, num_gpus=1, labels={"ray.io/accelerator-type": "L4"})


def drain(cluster: Any, node: Any, seconds: int) -> None:
    ray = str(Path(sys.executable).parent / "ray")
    words = ["drain-node", "--address", cluster.address, "--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    subprocess.run(
        [ray, *words, "--reason-message", "a spot machine", "--deadline-remaining-seconds", str(seconds)],
        check=True,
        capture_output=True,
        timeout=240,
    )


def test_a_drained_node_costs_nothing_a_killed_one_an_epoch_and_a_new_one_is_used(
    cluster: Any, nodes: list[Any], store: Bucket, tmp_path: Path
) -> None:
    first, second = nodes
    with_mlflow_database(tmp_path / "paretune-studies")
    (tmp_path / "s.yaml").write_text(
        yaml.safe_dump(DRAINED | {"storage": f"{store.address}/drained", "ledger": "paretune-studies"})
    )
    environment = os.environ | {"RAY_ADDRESS": cluster.address}
    command = [sys.executable, "-m", "search.cli", "run", "s.yaml"]
    folder = tmp_path / "paretune-studies" / "nodes"
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as driver:
        try:
            wait_until(lambda: driver.poll() is not None or n_at_work(folder) == 2)
            drain(cluster, first, 3600)
            wait_until(lambda: driver.poll() is not None or "moved" in kinds(folder))
            nodes.append(add_node(cluster))
            wait_until(lambda: driver.poll() is not None or n_at_work(folder) == 2)
            cluster.remove_node(second, allow_graceful=False)
            nodes.remove(second)
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
