"""Checkpoints: whole or not at all, and nothing that runs code when it is read."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from trainables.training.checkpoint import NAME, Checkpoint, read, write


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    tensors = {"trainable/a": torch.randn(2, 3), "random/cpu": torch.get_rng_state(), "optimiser/a/step": torch.tensor(3.0)}
    facts = {"config": {"method": "lora", "optim.lr": 0.1 + 0.2}, "seed": 2**62, "metrics": {"val/top1": 1 / 3}}
    write(tmp_path / "new" / "folder", Checkpoint(tensors, facts))
    saved = read(tmp_path / "new" / "folder")
    assert saved is not None
    assert saved.facts == facts
    assert saved.tensors.keys() == tensors.keys()
    assert all(torch.equal(saved.tensors[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(saved.group("trainable")["a"], tensors["trainable/a"])


def test_a_folder_without_a_checkpoint_reads_as_none(tmp_path: Path) -> None:
    assert read(tmp_path) is None


def test_only_the_checkpoint_is_left_in_the_folder(tmp_path: Path) -> None:
    for epoch in range(3):
        write(tmp_path, Checkpoint({"a": torch.zeros(1)}, {"epoch": epoch}))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    saved = read(tmp_path)
    assert saved is not None
    assert saved.facts == {"epoch": 2}


def test_two_workers_of_one_trial_with_one_process_number_do_not_share_a_draft(tmp_path: Path) -> None:
    def worker(epoch: int) -> None:
        for _ in range(100):
            write(tmp_path, Checkpoint({"a": torch.full((500,), epoch)}, {"epoch": epoch}))
            saved = read(tmp_path)
            assert saved is not None
            assert (saved.tensors["a"] == saved.facts["epoch"]).all()

    with ThreadPoolExecutor(2) as both:  # two threads have one process number, as two containers may
        list(both.map(worker, [1, 2]))
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_checkpoint_is_on_the_disk_with_its_name_before_it_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synchronised: list[str] = []
    fsync = os.fsync

    def watched(handle: int) -> None:
        synchronised.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    trial = tmp_path / "trials" / "0001"
    trial.parent.mkdir()
    write(trial, Checkpoint({"a": torch.zeros(1)}, {"epoch": 1}))
    assert [Path(synchronised[0]).parent, *map(Path, synchronised[1:])] == [trial, trial, trial.parent]
    assert NAME in synchronised[0]


@pytest.mark.parametrize("n_bytes", [0, 7, 100, -1])
def test_a_torn_file_is_named_and_not_read(tmp_path: Path, n_bytes: int) -> None:
    write(tmp_path, Checkpoint({"a": torch.zeros(100)}, {"epoch": 1}))
    path = tmp_path / NAME
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(
        ValueError, match=r"checkpoint\.safetensors is not a complete checkpoint .*; delete it to restart the trial"
    ):
        read(tmp_path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / NAME)
    with pytest.raises(ValueError, match="must be a checkpoint of version 1; got None"):
        read(tmp_path)
