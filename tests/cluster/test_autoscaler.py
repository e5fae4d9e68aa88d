"""A cluster of a head that runs no trial: Ray's real autoscaler starts nodes, which are raylets of this machine here."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from search.results.overview import overview
from search.results.saved_study import load
from search.results.study_state import StudyState

from .conftest import Head, free_ports, started
from .watching import assert_every_epoch_once, n_at_work, sleeping, wait_until

N_TRIALS, EPOCHS = 3, 12  # of a second: a node that starts slowly still works beside the other one
STUDY = sleeping("grows", N_TRIALS, EPOCHS, 1.0, gpus_per_trial=1, accelerator_type="H100")
HEAD = "f" * 51 + "00000"  # the fake provider counts its nodes from there


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    folder = tmp_path_factory.mktemp("autoscaled")
    [port] = free_ports(1)
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "gcs_address": f"127.0.0.1:{port}",
        "head_node_id": HEAD,
        "use_node_id_as_ip": True,
        "launch_multiple": True,
    }
    gpu = {"resources": {"CPU": 1, "GPU": 1}, "labels": {"ray.io/accelerator-type": "H100"}, "node_config": {}, "max_workers": 2}
    config: dict[str, Any] = {
        "cluster_name": "grows",
        "max_workers": 2,
        "idle_timeout_minutes": 0.02,
        "provider": provider,
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "gpu": gpu | {"min_workers": 0},
        },
        "head_node_type": "ray.head.default",
    }
    commands = [f"{where}setup_commands" for where in ("", "head_", "worker_")]
    commands += ["initialization_commands", "head_start_ray_commands", "worker_start_ray_commands", "cluster_synced_files"]
    empty = {"auth": {}, "file_mounts": {}, **{name: [] for name in commands}}
    (folder / "autoscaler.json").write_text(json.dumps(config | empty))
    asked = (f"--autoscaling-config={folder / 'autoscaler.json'}", "--num-cpus=0")
    own = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    ids = {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD, "RAY_CLOUD_INSTANCE_ID": HEAD}
    with started(folder, *asked, port=port, **own, **ids) as head:
        yield head


def n_nodes(head: Head) -> int:
    """That live, beside the head."""
    n = -1
    for process in psutil.Process(head.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            n += process.name() == "raylet" and process.status() != psutil.STATUS_ZOMBIE
    return n


def test_a_study_that_no_node_has_room_for_is_given_nodes_and_gives_them_back(cluster: Head, tmp_path: Path) -> None:
    wait_until(lambda: n_nodes(cluster) == 0)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    with ThreadPoolExecutor() as beside:
        looking = beside.submit(cluster.paretune, "doctor", "--storage", str(cluster.storage))
        submitted = cluster.paretune("submit", str(tmp_path / "s.yaml"), "--storage", str(cluster.storage))
    assert submitted.returncode == 0, submitted.stderr
    assert looking.result().returncode == 0, looking.result().stdout
    assert "starts nodes when trials wait for room" in looking.result().stdout
    folder = cluster.storage / "grows"
    wait_until(lambda: n_nodes(cluster) == 2)
    wait_until(lambda: n_at_work(folder) > 0)

    wait_until(lambda: n_nodes(cluster) < 2)  # the third trial trains alone
    assert overview(folder).state is StudyState.RUNNING
    wait_until(lambda: overview(folder).state is StudyState.FINISHED)
    assert_every_epoch_once(load(folder), N_TRIALS, EPOCHS)
    printed = cluster.paretune("logs", "grows").stdout
    assert "up to 8 trials at a time (room for 0 now, more is requested from the cluster)" in printed
    assert "no node for a trial, for 0:0" in printed
    wait_until(lambda: n_nodes(cluster) == 0)


def test_shares_that_are_to_be_measured_want_to_know_which_node_is_to_be_started_for_it(cluster: Head, tmp_path: Path) -> None:
    study = {"study": "measured", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study | {"resources": {"gpus_per_trial": "auto"}}))
    asked = cluster.paretune_on_node("run", str(tmp_path / "s.yaml"), "--storage", str(cluster.storage))
    printed, _ = asked.communicate(timeout=240)
    assert asked.returncode == 2
    assert "set resources.accelerator_type, so that the autoscaler starts one" in " ".join(printed.split())
    assert not (cluster.storage / "measured").exists()
