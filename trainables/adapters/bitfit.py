"""BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): the biases of the backbone are trained, nothing is added.

All of them: of the patch embedding, of qkv (BEiT's and EVA's q_bias and v_bias), output projection and MLP, and of every layer
norm; not the tables of relative position biases. An anchor outside the default search.

Count, L blocks of width d with an MLP of width m: L (7 d + m) + 2 d; on ViT-B/16 102,912. A backbone without biases on q, k and v
has fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.adapters.base import Method


@dataclass(frozen=True)
class BitFit(Method):
    """The method without hyperparameters."""

    name: ClassVar[str] = "bitfit"

    def trains(self, name: str) -> bool:
        """The biases."""
        return name.endswith((".bias", ".q_bias", ".v_bias"))
