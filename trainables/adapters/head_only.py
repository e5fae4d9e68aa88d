"""Head only: the linear probe. Nothing is adapted, the new classification head alone is trained.

It is the small end of every front: zero adapter parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.adapters.base import Method


@dataclass(frozen=True)
class HeadOnly(Method):
    """The method without hyperparameters."""

    name: ClassVar[str] = "head_only"
