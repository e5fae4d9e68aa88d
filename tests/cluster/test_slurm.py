"""The batch script on a real Slurm."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from search.results.saved_study import load

from ..search.mlflow_database import with_mlflow_database
from .slurm import Slurm, slurm
from .watching import assert_every_epoch_once, n_at_work, sleeping, wait_until

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm.sh"
N_TRIALS, EPOCHS = 2, 12
STUDY = sleeping("slurm", N_TRIALS, EPOCHS, 0.5, cpus_per_trial=2)  # a node's cores: one trial on each


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with slurm() as made:
        yield made


def test_a_job_searches_on_all_its_nodes_is_requeued_when_its_time_is_over_and_goes_on(cluster: Slurm, tmp_path: Path) -> None:
    study, storage, printed = tmp_path / "study.yaml", tmp_path / "studies", tmp_path / "printed"
    with_mlflow_database(storage)
    study.write_text(yaml.safe_dump(STUDY))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "activate").write_text(f"export PATH={Path(sys.executable).parent}:$PATH\n")
    cluster.environment.update(PARETUNE_VENV=str(tmp_path), TOKEN_FOLDER=str(tmp_path))
    asked = [f"--nodes={len(cluster.nodes)}", "--cpus-per-task=2", "--gpus-per-node=1", f"--output={printed}"]
    job = cluster("sbatch", "--parsable", *asked, str(SCRIPT), str(study), str(storage))

    def goes() -> bool:
        assert cluster.state(job) in ("PENDING", "CONFIGURING", "RUNNING"), printed.read_text()
        return n_at_work(storage / "slurm") == len(cluster.nodes)

    wait_until(goes)
    [token] = tmp_path.glob(".paretune-token*")
    assert token.stat().st_mode & 0o777 == 0o600
    cluster("scancel", "--batch", "--signal=USR1", job)  # as Slurm does two minutes before the time is over
    wait_until(lambda: cluster.state(job) == "PENDING")
    assert "nothing is lost" in printed.read_text()
    assert not token.exists()

    cluster("scontrol", "update", f"JobId={job}", "StartTime=now")  # Slurm would let two minutes pass
    wait_until(lambda: cluster.state(job) not in ("PENDING", "CONFIGURING", "RUNNING"))
    words = " ".join(printed.read_text().split())
    assert cluster.state(job) in ("COMPLETING", "COMPLETED"), words
    assert "as here, sees" in words  # the doctor
    assert "already known" in words  # to the second attempt
    assert "Hypervolume" in words
    assert_every_epoch_once(load(storage / "slurm"), N_TRIALS, EPOCHS)
    assert not list(tmp_path.glob(".paretune-token*"))
