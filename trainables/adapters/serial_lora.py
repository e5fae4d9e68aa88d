"""Serial LoRA (ICME 2025, arXiv 2503.17750): one low-rank map before q, k and v.

    x' = x + s B A x          A in R^{r x d}, B in R^{d x r}, s a plain multiplier

q, k and v are then computed as usual, each from x': one pair serves all three in a block. The residual path keeps x, and so does
everything that does not read the adapted input. The input of q, k and v is the input of the fused `qkv`:

    W' = W (I + s B A)        with an unchanged bias

so the update of each projection is W B A, seen through the pretrained W: a direction that W cannot see stays unreachable.

    targets    positions of a pair                                count
    qkv        before q, k and v (the paper; the default)         2 d L r
    qkv_mlp    there and before the MLP (Paretune's)              4 d L r

On ViT-B/16 r = 16 gives 294,912, the budget of LoRA with r = 8 on q and v, and is the default.

Initial values: A as PyTorch's linear (uniform within 1/sqrt(d)), B zero, so the adapted model starts as the pretrained one.

Certainty: the equation, its position and the count (a quarter of LoRA's on q, k, v and the output) are drawn in the authors'
figures. Initial values, scale, rank, dropout and recipe are not in the parts that could be read: the initial values are LoRA's,
s = 1 and no dropout are what the figures show, and there is no code by the authors.

*Deviation:* the factor s and the dropout, on the rank-r code A x as in LoRA, are not the paper's; their defaults do nothing.
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
    linear_bound,
    uniform,
    zeros,
)
from trainables.adapters.families import Blocks

TARGETS: Final = {"qkv": ("attn.qkv",), "qkv_mlp": ("attn.qkv", "mlp.fc1")}


@dataclass(frozen=True)
class SerialLoRA(Method):
    """The hyperparameters of Serial LoRA.

    Attributes:
        rank: Rank r, at least 1 and at most the width d, beyond which the rank of the update does not grow.
        scale: Scale s, positive.
        targets: Positions of the pairs, "qkv" or "qkv_mlp".
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code A x, in [0, 1).
    """

    name: ClassVar[str] = "serial_lora"
    rank: int = 16
    scale: float = 1.0
    targets: str = "qkv"
    layers: str = "all"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer, with its own pair, for each adapted linear."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            for target in TARGETS[self.targets]:
                linear = cast(nn.Linear, block.get_submodule(target))
                check_rank(self, f"the input of {path}.{target}", linear.in_features)
                layers[f"{path}.{target}"] = SerialLoRALayer(linear, self, rng)
        return layers


class SerialLoRALayer(Layer):
    """A linear whose input is transformed by x + s B A x."""

    def __init__(self, base: nn.Linear, method: SerialLoRA, rng: torch.Generator) -> None:
        super().__init__(base)
        d = base.in_features
        self.scale, self.dropout = method.scale, method.dropout
        self.a = uniform(method.rank, d, bound=linear_bound(d), rng=rng, like=base.weight)
        self.b = zeros(d, method.rank, like=base.weight)

    def adapted_weight(self) -> Tensor:
        """Return W (I + s B A), (out, d)."""
        weight = self.linear.weight
        return weight + (weight @ (self.scale * self.b)) @ self.a

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses thin products on the input, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        code = F.dropout(F.linear(x, self.a), self.dropout)  # (batch, tokens, r)
        y: Tensor = self.base(x + F.linear(code, self.scale * self.b))
        return y
