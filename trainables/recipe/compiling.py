"""Compiled training passes (torch.compile), whose code a worker keeps for its next trials of the same structure.

torch keeps compiled code for the whole process, and checks before each call whether it fits. A trial whose adapter has the shapes
and constants of an earlier one uses that one's code; every other trial is compiled. All shapes are static, so a worker that has
compiled other trials before computes exactly what a fresh one does: with shapes that torch finds to vary it would not.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Final

import torch
from torch import Tensor

MOST_STRUCTURES: Final = 16  # then everything is forgotten
_MOST_PER_STRUCTURE: Final = 8  # compilations: a batch's parts may differ by one image, and Heart-LoRA drops heads on its way
_structures: set[Hashable] = set()  # as torch's code, of the whole process


def compiled(features: Callable[[Tensor], Tensor], structure: Hashable) -> Callable[[Tensor], Tensor]:
    """Return the compiled form of a pass; it is compiled when it is first called, unless the process has its code.

    Args:
        features: The `features` of a `Forward`.
        structure: Key of all that determines the code. Too fine a key costs time, too coarse a one may leave calls uncompiled.
    """
    if structure not in _structures:
        if len(_structures) >= MOST_STRUCTURES:
            forget()
        _structures.add(structure)
    torch._dynamo.config.recompile_limit = MOST_STRUCTURES * _MOST_PER_STRUCTURE  # beyond it torch runs calls uncompiled
    return torch.compile(features, dynamic=False)


def forget() -> None:
    """Forget all compiled code of the process."""
    torch.compiler.reset()
    _structures.clear()
