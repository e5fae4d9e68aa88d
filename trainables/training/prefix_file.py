"""The file of a split's tokens at one cut, which all workers of a machine map into memory.

First the tokens, from the first byte, so that they are aligned in memory. Then a description in JSON: everything that the tokens
depend on, their shape and type, and sums of their bytes. Last its length in eight bytes. A file is written under a temporary name
and renamed, under a lock. One that is torn, describes something else, or belongs to another user is never read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from torch import Tensor

from trainables.data import shared_files

FORMAT: Final = 1  # version of the files
_LENGTH: Final = 8  # bytes of the length of the description
_SHARE_OF_FREE: Final = 0.5  # largest fraction of a disk's free space: checkpoints and ledger may need the rest
_TYPES: Final = {str(kind): kind for kind in (torch.float32, torch.float64, torch.bfloat16)}


def machine(device: torch.device) -> dict[str, Any]:
    """Return the properties of a machine that the bits of a result depend on; unlike machines may share a folder."""
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    if device.type == "cuda":
        return {**versions, "device": torch.cuda.get_device_name(device)}
    model = ""
    with contextlib.suppress(OSError):
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        model = "" if found is None else found.group(1)
    return {**versions, "device": f"{model} {torch.backends.cpu.get_cpu_capability()}", "threads": torch.get_num_threads()}


class File:
    """One file.

    Args:
        about: Everything that the tokens depend on, as JSON values.
        shape: Shape of the tokens, (rows, ...).
    """

    def __init__(self, about: Mapping[str, Any], shape: Sequence[int]) -> None:
        self.about, self.shape = json.loads(json.dumps({"format": FORMAT, **about})), list(shape)
        name = hashlib.sha256(json.dumps(self.about, sort_keys=True).encode()).hexdigest()[:32]
        self.path = shared_files.folder("tokens") / f"{name}.tokens"

    def read(self) -> Tensor | None:
        """Map the tokens. A file of ours that is not whole is deleted; None if there is no file, or not one to be read."""
        try:
            shared_files.refuse_others(self.path)
            with self.path.open("rb") as file:
                mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except (OSError, ValueError):  # there is none; it is another user's; it is empty
            with contextlib.suppress(OSError, ValueError):
                if self.path.stat().st_size == 0:
                    self._delete()
            return None
        try:
            found = self._checked(mapped)
        except (ValueError, KeyError, TypeError):
            self._delete()
            return None
        with contextlib.suppress(OSError):
            os.utime(self.path)  # files that were used long ago are deleted first
        return found

    def _delete(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            shared_files.refuse_others(self.path)
            self.path.unlink()

    def _checked(self, mapped: mmap.mmap) -> Tensor:
        """Return the tokens.

        Raises:
            ValueError, KeyError, TypeError: If they are not those that this file must hold.
        """
        end = len(mapped) - _LENGTH
        begin = end - int.from_bytes(mapped[max(0, end) :], "little")
        if not 0 < begin < end:
            raise ValueError("it is cut")
        told = json.loads(mapped[begin:end])
        if told["about"] != self.about or told["shape"] != self.shape:
            raise ValueError("it holds something else")
        kind = _TYPES[told["type"]]
        if begin != torch.Size(self.shape).numel() * kind.itemsize:
            raise ValueError("it is cut")
        if shared_files.sums_of(np.frombuffer(mapped, np.uint8, begin)) != told["sums"]:
            raise ValueError("its tokens are not those that were written")
        return torch.frombuffer(mapped, dtype=kind, count=begin // kind.itemsize).view(self.shape)

    def complete(self, draft: Path, kind: torch.dtype) -> None:
        """Append the description to a draft that holds the tokens."""
        with draft.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            sums = shared_files.sums_of(np.frombuffer(mapped, np.uint8))
        told = json.dumps({"about": self.about, "shape": self.shape, "type": str(kind), "sums": sums}).encode()
        with draft.open("ab") as output:
            output.write(told + len(told).to_bytes(_LENGTH, "little"))
            output.flush()
            os.fsync(output.fileno())


def make(
    files: Mapping[int, File],
    compute: Callable[[Sequence[int]], Iterator[list[Tensor]]],
    waiting: Callable[[], None],
    *,
    most_bytes: int,
) -> bool:
    """Make the missing files in one pass over the images; return False if they cannot be written.

    Args:
        files: Files by cut.
        compute: Function from cuts to the tokens at each, batch by batch.
        waiting: Called while another process makes a file; what it raises ends the wait.
        most_bytes: Most bytes of all files of this kind on this machine; those that were used longest ago are deleted.
    """
    try:
        with ExitStack() as locks:
            drafts: dict[int, Path] = {}
            for cut, file in sorted(files.items(), key=lambda item: item[1].path):  # in one order, or two processes could wait
                draft = locks.enter_context(shared_files.made(file.path, "tokens", waiting=waiting))
                if draft is not None:
                    drafts[cut] = draft
            if drafts:
                _write({cut: files[cut] for cut in drafts}, drafts, compute)
    except (OSError, ValueError):
        return False
    _delete_oldest(most_bytes, {file.path for file in files.values()})
    return True


def _write(
    files: Mapping[int, File], drafts: Mapping[int, Path], compute: Callable[[Sequence[int]], Iterator[list[Tensor]]]
) -> None:
    """Write the drafts.

    Raises:
        OSError: If the disk is full.
    """
    needed = sum(torch.Size(file.shape).numel() * torch.float32.itemsize for file in files.values())
    folder = next(iter(drafts.values())).parent
    if needed > _SHARE_OF_FREE * shutil.disk_usage(folder).free:
        raise OSError("the disk is full")
    kinds: dict[int, torch.dtype] = {}
    with ExitStack() as opened:
        outputs = {cut: opened.enter_context(draft.open("wb")) for cut, draft in drafts.items()}
        for batch in compute(list(drafts)):
            for (cut, output), tokens in zip(outputs.items(), batch, strict=True):
                kinds[cut] = tokens.dtype
                output.write(tokens.contiguous().cpu().view(torch.uint8).numpy().data)
    for cut, draft in drafts.items():
        files[cut].complete(draft, kinds[cut])


def _delete_oldest(most_bytes: int, needed: set[Path]) -> None:
    """Delete the files that were used longest ago, except `needed` ones, until all together have at most so many bytes."""
    with contextlib.suppress(OSError):
        found = [(path.stat().st_mtime, path.stat().st_size, path) for path in shared_files.folder("tokens").glob("*.tokens")]
        excess = sum(size for _, size, _ in found) - most_bytes
        for _, size, path in sorted(found):
            if excess > 0 and path not in needed:
                path.unlink(missing_ok=True)
                excess -= size
