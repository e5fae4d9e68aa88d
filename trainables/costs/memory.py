"""The memory use of a worker."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch

PREFIX_BYTES = 2**27  # largest set of activations that a worker keeps, see `trainables.training.prefix`
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def private_bytes(*, peak: bool = False) -> int:
    """Return the private memory of this process, current or peak.

    Mapped files (libraries, images) are excluded: their pages are shared with other workers and can be reclaimed.
    """
    told = _told()
    if not {"VmHWM", "VmRSS", "RssFile"} <= told.keys():
        return peak_bytes(torch.device("cpu"))
    return told["VmHWM" if peak else "VmRSS"] - told["RssFile"]


def forget_peak(device: torch.device) -> None:
    """Reset the peak memory. On a system that does not allow this for a CPU, the peak is that of the process's lifetime."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # see proc(5): resets the peak resident set


def peak_bytes(device: torch.device) -> int:
    """Return torch's peak allocation on a GPU; on a CPU the peak resident set of the process: libraries, backbone, data."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _told().get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _told() -> dict[str, int]:
    """Read this process's memory sizes, in bytes, from Linux; return nothing on other systems."""
    try:
        return {name: 1024 * int(size) for name, size in re.findall(r"(\w+):\s+(\d+) kB", _STATUS.read_text())}
    except OSError:
        return {}
