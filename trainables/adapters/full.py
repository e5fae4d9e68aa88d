"""Full fine-tuning: it trains every parameter of the backbone. The large end of a front, an anchor outside the default search.

The count is all of the backbone's parameters, without the head; on ViT-B/16 85,798,656.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.adapters.base import Method


@dataclass(frozen=True)
class Full(Method):
    """The method, which has no hyperparameters."""

    name: ClassVar[str] = "full"

    def trains(self, name: str) -> bool:
        """Return True: every parameter is trained."""
        return True
