"""Full fine-tuning: every parameter of the backbone is trained. The large end of a front, an anchor outside the default search.

Count: all of the backbone's parameters, the head apart; on ViT-B/16 85,798,656.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from trainables.adapters.base import Blocks, Layer, Method


@dataclass(frozen=True)
class Full(Method):
    """The method without hyperparameters."""

    name: ClassVar[str] = "full"

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """No layers."""
        return {}

    def trains(self, name: str) -> bool:
        """All."""
        return True
