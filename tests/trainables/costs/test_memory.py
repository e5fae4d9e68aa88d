"""What a process holds of the machine's memory."""

import mmap
from pathlib import Path

import pytest
import torch

from trainables.costs import memory

MIB = 2**20


def new_pages(n: int) -> mmap.mmap:
    """Memory that the process did not have before: what `malloc` gives may have been used and given back."""
    made = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    made.write(b"\1" * n)
    return made


def test_what_a_process_makes_is_its_own_and_the_files_that_it_maps_are_not(tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(bytes(64 * MIB))
    before = memory.private_bytes()
    with (tmp_path / "images").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0  # every page is looked at
        assert memory.private_bytes() - before < 16 * MIB
    with new_pages(64 * MIB):
        assert memory.private_bytes() - before > 60 * MIB


def test_a_peak_is_kept_until_it_is_forgotten() -> None:
    memory.forget_peak(torch.device("cpu"))
    before = memory.private_bytes()
    with new_pages(64 * MIB):
        pass
    assert memory.private_bytes(peak=True) - before > 60 * MIB
    assert memory.peak_bytes(torch.device("cpu")) >= memory.private_bytes(peak=True)
    memory.forget_peak(torch.device("cpu"))
    assert memory.private_bytes(peak=True) - before < 32 * MIB


def test_where_the_system_does_not_tell_the_largest_resident_set_stands_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    truth = memory.peak_bytes(torch.device("cpu"))
    monkeypatch.setattr(memory, "_STATUS", tmp_path / "none")
    assert memory.private_bytes() == memory.peak_bytes(torch.device("cpu")) >= truth / 2
