"""ARC: Adapter Re-Composing (Dong et al., NeurIPS 2023, arXiv 2310.06234; code DavidYanAnDe/ARC, `Model/ARC_ViT.py`).

    x' = x + Drop(x (U diag(c))) U^T + b         U in R^{d x r}, c in R^r, b in R^d

before the attention (`att`), or before both the attention and the MLP (`att_mlp`), after the layer norm. U is shared by all
blocks, one for the attentions and one for the MLPs; c and b belong to each block. Down- and up-projection are the same tensor,
so the update is symmetric. The input of the attention is the input of the fused `qkv`, the input of the MLP that of `fc1`:

    W' = W (I + U diag(c) U^T)      bias' = bias + W b        (W as PyTorch stores it, out x in)

The count for L blocks is d r + L (r + d) for each position; on ViT-B/16 with r = 50 and both positions 96,432.

Initial values: U is Xavier-uniform and b is zero. `c_init` chooses c. With `released`, as in the code, c is zero in the
attention and Xavier-uniform on a (1, r) tensor in the MLP, so the MLP does not start as pretrained (at r = 50 and d = 768 its
input moves by about 9 %). With `zeros`, c is zero in both, an exact start.

*Deviation:* the classification head is initialised as for every method here; the released code starts it at zero on a ViT.
*Deviation:* on a Swin the released code (`Model/ARC_swin_b.py`) has another place for the MLP's adapter: the residual stream in
front of the second norm, x <- x (I + U diag(c) U^T) + b, so that the stream itself is replaced and the update cannot be merged
into `fc1`. Here a Swin is adapted as a ViT is, after the norm, and merges. The attention's adapters, the initial values, one U
for each stage and position, and the count are the code's. Its dropout is 0.5 on every task (`a_drop` of the script reaches no
layer) and its stochastic depth 0.1. A published number of ARC on a Swin is the code's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import (
    Layer,
    Method,
    check_layers,
    check_rank,
    uniform,
    xavier_bound,
    zeros,
)
from trainables.adapters.families import Blocks

POSITIONS: Final = {"att": ("attn.qkv",), "att_mlp": ("attn.qkv", "mlp.fc1")}


@dataclass(frozen=True)
class ARC(Method):
    """The hyperparameters of ARC.

    Attributes:
        rank: Rank r, at least 1 and at most the width d, beyond which the rank of the update does not grow.
        position: Position of the adapters, "att" or "att_mlp".
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code x U diag(c), in [0, 1).
        c_init: Initial values of c, "released" or "zeros".
    """

    name: ClassVar[str] = "arc"
    starts_pretrained: ClassVar[bool] = False
    rank: int = 50
    position: str = "att_mlp"
    layers: str = "all"
    dropout: float = 0.1
    c_init: str = "released"

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        self.require(self.c_init in ("released", "zeros"), "c_init", "one of released, zeros")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear, with one U for each position."""
        layers: dict[str, Layer] = {}
        for target in POSITIONS[self.position]:
            linears = {f"{path}.{target}": cast(nn.Linear, block.get_submodule(target)) for path, block in blocks.items()}
            first, like = next(iter(linears)), next(iter(linears.values())).weight
            d, r = like.shape[1], self.rank
            check_rank(self, f"the input of {first}", d)
            u = uniform(d, r, bound=xavier_bound(d, r), rng=rng, like=like)
            for path, linear in linears.items():
                if target == "mlp.fc1" and self.c_init == "released":
                    c = uniform(r, bound=xavier_bound(1, r), rng=rng, like=like)
                else:
                    c = zeros(r, like=like)
                layers[path] = ARCLayer(linear, u, c, self.dropout)
        return layers


class ARCLayer(Layer):
    """A linear whose input is transformed by x (I + U diag(c) U^T) + b."""

    def __init__(self, base: nn.Linear, u: nn.Parameter, c: nn.Parameter, dropout: float) -> None:
        super().__init__(base)
        self.dropout = dropout
        self.u = u  # (d, r), shared
        self.c = c  # (r,)
        self.b = zeros(base.in_features, like=base.weight)

    def adapted_weight(self) -> Tensor:
        """Return W (I + U diag(c) U^T), (out, in)."""
        weight = self.linear.weight
        return weight + weight @ (self.u * self.c) @ self.u.T

    def adapted_bias(self) -> Tensor:
        """Return the bias plus W b, (out,)."""
        moved = self.linear.weight @ self.b
        return moved if self.linear.bias is None else self.linear.bias + moved

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses thin products on the input, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        code = F.dropout(x @ (self.u * self.c), self.dropout)
        y: Tensor = self.base(x + code @ self.u.T + self.b)
        return y
