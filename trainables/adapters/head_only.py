"""Head only: the linear probe. Nothing is adapted, the new classification head alone is trained.

It is the small end of every front: zero adapter parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trainables.adapters.base import Blocks, Layer, Method


@dataclass(frozen=True)
class HeadOnly(Method):
    """The method without hyperparameters."""

    name: ClassVar[str] = "head_only"

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """No layers."""
        return {}
