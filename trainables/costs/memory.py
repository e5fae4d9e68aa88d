"""How much memory a worker takes."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

import torch

EVAL_BATCH = 200  # images; nothing but speed and memory depend on it, except with Lily's router "batch"
PREFIX_BYTES = 2**27  # largest set of activations that a worker keeps, see `AdapterTrial._prefix`
_MAXRSS_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def private_bytes(*, peak: bool = False) -> int:
    """What this process holds of the machine's memory for itself, now or at most.

    The files that it maps (libraries, images) are not counted: their pages are shared with other workers, and can be given back.
    """
    told = _told()
    if not {"VmHWM", "VmRSS", "RssFile"} <= told.keys():
        return peak_bytes(torch.device("cpu"))
    return told["VmHWM" if peak else "VmRSS"] - told["RssFile"]


def forget_peak(device: torch.device) -> None:
    """Begins a new measurement. Where the system does not allow that for a CPU, the peak is that of the process's whole life."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # see proc(5): resets the peak resident set


def peak_bytes(device: torch.device) -> int:
    """On a GPU what torch had allocated at most; on a CPU the process's largest resident set: libraries, backbone, data."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _told().get("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_UNIT


def _told() -> dict[str, int]:
    """What Linux tells of this process, in bytes; nothing elsewhere."""
    try:
        return {name: 1024 * int(size) for name, size in re.findall(r"(\w+):\s+(\d+) kB", _STATUS.read_text())}
    except OSError:
        return {}
