"""Head only, the linear probe: it adapts nothing and trains only the new classification head.

It is the small end of every front, with zero adapter parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.adapters.base import Method


@dataclass(frozen=True)
class HeadOnly(Method):
    """The method, which has no hyperparameters."""

    name: ClassVar[str] = "head_only"
