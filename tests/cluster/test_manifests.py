"""The files that bring a cluster up: as far as a machine without a cloud can tell."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

FILES = Path(__file__).parents[2] / "cluster"
KUBERAY = ("kuberay-cluster.yaml", "kuberay-job.yaml")


def test_rays_own_schema_takes_the_autoscalers_file() -> None:
    program = (
        "import sys, yaml; from ray.autoscaler._private.util import prepare_config, validate_config\n"
        "config = prepare_config(yaml.safe_load(open(sys.argv[1])))\n"
        "validate_config(config | {'cluster_synced_files': []})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(FILES / "ray-cluster.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["head_start_ray_commands", "worker_start_ray_commands"])
def test_every_node_of_the_autoscaler_starts_with_a_token(command: str) -> None:
    config = yaml.safe_load((FILES / "ray-cluster.yaml").read_text())
    assert "RAY_AUTH_MODE=token" in config[command][-1]
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("name", KUBERAY)
def test_the_pods_are_of_our_ray_no_root_and_mount_what_they_have(name: str) -> None:
    manifest = yaml.safe_load((FILES / name).read_text())
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert manifest["apiVersion"] == "ray.io/v1"
    assert spec["rayVersion"] == version("ray")
    for pod in pods(spec):
        assert pod["securityContext"]["runAsNonRoot"] is True
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
            assert container["image"].endswith(f":{version('paretune')}")
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()


def pods(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]


@pytest.mark.parametrize("name", KUBERAY)
def test_a_kubernetes_cluster_wants_a_token_also_from_what_the_operator_starts_itself(name: str) -> None:
    """Told to a container, as variables of its own, the autoscaler beside it would not know the token."""
    manifest = yaml.safe_load((FILES / name).read_text())
    spec = manifest["spec"].get("rayClusterSpec", manifest["spec"])
    assert spec["authOptions"] == {"mode": "token"}
    assert not any("RAY_AUTH" in str(pod) for pod in pods(spec))


def test_the_image_is_pinned_holds_all_our_packages_and_does_not_run_as_root() -> None:
    lines = (FILES / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", next(line[1] for line in words if line[0] == "FROM"))
    copied = {source for line in words if line[0] == "COPY" for source in line[1:-1]}
    assert {"search", "trainables", "spaces", "cluster", "constraints.txt"} <= copied
    assert all((FILES.parent / source).exists() for source in copied)
    assert [int(line[1]) for line in words if line[0] == "USER"] == [1000]
    assert [line[0] for line in words].index("USER") < [line[0] for line in words].index("ENTRYPOINT")
