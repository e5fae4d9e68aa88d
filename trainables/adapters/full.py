"""Full fine-tuning: every parameter of the backbone is trained. The large end of a front, an anchor outside the default search.

Count: all of the backbone's parameters, the head apart; on ViT-B/16 85,798,656.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.adapters.base import Method


@dataclass(frozen=True)
class Full(Method):
    """The method without hyperparameters."""

    name: ClassVar[str] = "full"

    def trains(self, name: str) -> bool:
        """All."""
        return True
