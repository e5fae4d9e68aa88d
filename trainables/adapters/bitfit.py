"""BitFit (Ben Zaken et al., ACL 2022, arXiv 2106.10199): it trains the biases of the backbone and adds nothing.

It trains all biases: of the patch embedding, qkv (BEiT's and EVA's q_bias and v_bias), output projection, MLP and every layer norm.
It does not train the tables of relative position biases. An anchor outside the default search.

The count for L blocks of width d with an MLP of width m is L (7 d + m) + 2 d; on ViT-B/16 102,912. A backbone without biases on
q, k and v has fewer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.adapters.base import Method


@dataclass(frozen=True)
class BitFit(Method):
    """The method, which has no hyperparameters."""

    name: ClassVar[str] = "bitfit"

    def trains(self, name: str) -> bool:
        """Return whether the parameter is a bias."""
        return name.endswith((".bias", ".q_bias", ".v_bias"))
