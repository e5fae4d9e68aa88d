"""The files that bring a cluster up: as far as a machine without a cloud can tell."""

import os
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


def test_a_lasting_kubernetes_cluster_wants_a_token_from_a_secret_on_every_node() -> None:
    spec = yaml.safe_load((FILES / "kuberay-cluster.yaml").read_text())["spec"]
    for pod in pods(spec):
        for container in pod["containers"]:
            told = {variable["name"]: variable for variable in container["env"]}
            assert told["RAY_AUTH_MODE"]["value"] == "token"
            assert "secretKeyRef" in told["RAY_AUTH_TOKEN"]["valueFrom"]


def test_the_image_is_pinned_holds_all_our_packages_and_does_not_run_as_root() -> None:
    lines = (FILES / "Dockerfile").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith(("#", " "))]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", next(line[1] for line in words if line[0] == "FROM"))
    copied = {source for line in words if line[0] == "COPY" for source in line[1:-1]}
    assert {"search", "trainables", "spaces", "cluster", "constraints.txt"} <= copied
    assert all((FILES.parent / source).exists() for source in copied)
    assert [line[1] for line in words if line[0] == "USER"] == ["paretune"]
    assert [line[0] for line in words].index("USER") < [line[0] for line in words].index("ENTRYPOINT")


SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
[[ $1 == hostname ]] && { echo 127.0.0.1; exit; }
args=()
for word in "$@"; do [[ $word == --node-ip-address=* || $word == --dashboard-host=* ]] || args+=("$word"); done
exec "${args[@]}" --node-ip-address=127.0.0.1 --include-dashboard=false --temp-dir="$RAY_SHORT_FOLDER" \
    --min-worker-port=0 --max-worker-port=0
"""


def test_the_slurm_script_starts_a_real_ray_searches_and_leaves_no_token(tmp_path: Path) -> None:
    """With stand-ins for Slurm's own two commands, which run on this machine what Slurm would run on a node."""
    import tempfile

    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho here\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text(f"export PATH={tools}:{Path(sys.executable).parent}:$PATH\n")
    study = tmp_path / "study.yaml"
    study.write_text(
        "study: slurm\ndata: {kind: synthetic}\nmethods: [lora]\nbudget: {n_trials: 4, epochs: 2, max_params: 20000}\n"
    )
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "2"}
    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp", ignore_cleanup_errors=True) as short:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PARETUNE_", "MLFLOW_"))}
        environment = clean | slurm | {"PARETUNE_VENV": str(tmp_path), "TOKEN_FOLDER": str(tmp_path), "RAY_SHORT_FOLDER": short}
        command = ["bash", str(FILES / "slurm.sh"), str(study), str(tmp_path / "studies")]
        with (tmp_path / "printed").open("w") as output:  # not a pipe: Ray, which goes on, would hold it open
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
        try:
            code = process.wait(timeout=240)
        finally:
            end_all(short)
    printed = (tmp_path / "printed").read_text()
    assert code == 0, printed
    assert "as here, sees" in " ".join(printed.split())
    assert "Hypervolume" in printed
    assert not list(tmp_path.glob(".paretune-token*"))


def end_all(folder: str) -> None:
    """Slurm ends what a job has started; here we do, knowing it by its folder."""
    import psutil

    for process in psutil.process_iter(["cmdline"]):
        if any(folder in word for word in process.info["cmdline"] or ()):
            process.kill()
