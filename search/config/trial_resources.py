"""What share of a GPU, and how much of a node's memory, a trial gets: from what a few training steps of its method took.

Where nothing is measured (`gpus_per_trial` is a number), the node's memory is reserved by arithmetic: what the libraries hold of
this process, and what the largest step of any method will take, with room.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search.storage.facts import TrialMemory

MARGIN = 1.25  # more than was measured: longer runs fragment the allocator's memory
CONTEXT_BYTES = 600 * 2**20  # of CUDA itself, in each process; torch does not count it
MOST = 16  # trials on one card


def gpu_share(peak_bytes: float, card_bytes: float) -> float:
    """The smallest 1/n of a card that holds a trial; all of it if half does not."""
    n = int(card_bytes // (MARGIN * peak_bytes + CONTEXT_BYTES))
    return 1.0 / max(1, min(n, MOST))


def gpu_shares(peaks: Mapping[str, float], card_bytes: float) -> dict[str, float]:
    """The share of each method, of at most two different ones, because only workers of equal shares take each other's trials.

    The larger holds everything; the smaller is the one that leaves the least unused.

    Args:
        peaks: Of each method, in bytes.
        card_bytes: Memory of the card.
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
