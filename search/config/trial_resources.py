"""The share of a GPU and of a node's memory for a trial, from the measured memory of a few training steps of its method.

If nothing is measured (`gpus_per_trial` is a number), the node's memory is computed: the memory that this process holds with its
libraries, plus the largest step of any method, with a margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.storage.facts import TrialMemory

MARGIN = 1.25  # factor over the measurement: longer runs fragment the allocator's memory
CONTEXT_BYTES = 600 * 2**20  # memory of CUDA itself in each process, which torch does not count
MOST = 16  # maximum number of trials on one GPU


def gpu_share(peak_bytes: float, card_bytes: float) -> float:
    """Return the smallest share 1/n of a GPU that fits a trial; 1 if a half does not."""
    n = int(card_bytes // (MARGIN * peak_bytes + CONTEXT_BYTES))
    return 1.0 / max(1, min(n, MOST))


def gpu_shares(peaks: Mapping[str, float], card_bytes: float) -> dict[str, float]:
    """Return the share of each method, with at most two different values: only workers of equal shares can reuse each other.

    The larger share fits every method; the smaller one is chosen to leave the least unused.

    Args:
        peaks: Peak memory of each method, in bytes.
        card_bytes: Memory of the GPU, in bytes.
    """
    own = {method: gpu_share(peak, card_bytes) for method, peak in peaks.items()}
    heavy = max(own.values(), default=1.0)

    def at_most(light: float) -> dict[str, float]:
        return {method: light if size <= light else heavy for method, size in own.items()}

    return min((at_most(light) for light in sorted(set(own.values()))), key=lambda chosen: sum(chosen.values()), default={})


def memory_fact(measured: Mapping[str, Any]) -> TrialMemory:
    """Return the fact that follows from a measurement (`trainables.training.probe`): it and the shares; no shares without a GPU."""
    card = measured["card_bytes"]
    return TrialMemory(**measured, shares=gpu_shares(measured["peak_bytes"], card) if card else {})


def method_gpu_share(asked: float | str, measured: Mapping[str, float], method: str) -> float:
    """Return the share of a GPU that a trial gets.

    Args:
        asked: The study file's `resources.gpus_per_trial`.
        measured: The measured shares by method (`Facts.gpu_shares`), for `auto`.
        method: The trial's method; one that was not measured gets the largest share.
    """
    if not isinstance(asked, str):
        return asked
    return float(measured.get(method, max(measured.values(), default=0.0)))


def smallest_gpu_share(asked: float | str, measured: Mapping[str, float]) -> float:
    """Return the share by which slots are counted: a trial with a larger one waits until enough is free."""
    if not isinstance(asked, str):
        return asked
    return float(min(measured.values(), default=0.0))


def reserved_memory(needed: int, *, most: int | None) -> TrialMemory:
    """Return the fact where nothing is measured.

    Args:
        needed: The computed memory of a trial, in bytes.
        most: The memory of the largest node, in bytes; None where no node has joined yet. A trial that was computed to need more
            gets that node for itself.
    """
    return TrialMemory(host_bytes=needed if most is None else min(needed, most), shares={})
