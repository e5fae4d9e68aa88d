"""RepAdapter (Luo et al., arXiv 2302.08106; code luogen1996/RepAdapter, `repadapter.py`): a linear bottleneck that merges.

    x' = x + s (B Drop(A x + a) + b)          A in R^{r x d}, a in R^r, B in R^{d x r} of two diagonal blocks, b in R^d

B is a group-wise map: its first half reads the first r/2 entries of the code and writes the first d/2 channels, its second half the
others. No activation stands between A and B, so the layer folds into the linear that reads x':

    W' = W (I + s B A)        bias' = bias + s W (B a + b)        (W as PyTorch stores it, out x in)

    position    before, after the layer norm                              count on L blocks
    att_mlp     the attention and the MLP (`repblock`; the default)       2 L (d r + r + d r / 2 + d)
    att         the attention (`repattn`)                                 half of that

On ViT-B/16 with r = 8 the count is 239,808, which the released results of Mai et al. (arXiv 2409.16434) print, too. The 0.22 M of
the paper are the two matrices without the biases a and b: 221,184.

Initial values: A is Xavier-uniform, B and both biases are zero, so the adapted model starts as the pretrained one. s is a constant
that the authors search for each data set.

One adapter in front of the attention serves q, k and v. On a Swin the places are the same, as in the released code.

*Deviation:* the released code decays the biases too (1e-4); here, as in every method, no vector is decayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import Layer, Method, check_layers, check_rank, uniform, xavier_bound, zeros
from trainables.adapters.families import Blocks

POSITIONS: Final = {"att": ("attn.qkv",), "att_mlp": ("attn.qkv", "mlp.fc1")}
GROUPS: Final = 2


@dataclass(frozen=True)
class RepAdapter(Method):
    """The hyperparameters of RepAdapter.

    Attributes:
        rank: Rank r, a positive multiple of 2 and at most the width d, beyond which the rank of the update does not grow.
        scale: Scale s, positive.
        position: Position of the adapters, "att" or "att_mlp".
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code A x + a, in [0, 1).
    """

    name: ClassVar[str] = "rep_adapter"
    rank: int = 8
    scale: float = 1.0
    position: str = "att_mlp"
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= GROUPS and self.rank % GROUPS == 0, "rank", f"a positive multiple of {GROUPS}")
        self.require(self.scale > 0, "scale", "positive")
        self.require(self.position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            for target in POSITIONS[self.position]:
                linear = cast(nn.Linear, block.get_submodule(target))
                check_rank(self, f"the input of {path}.{target}", linear.in_features)
                layers[f"{path}.{target}"] = RepAdapterLayer(linear, self, rng)
        return layers


class RepAdapterLayer(Layer):
    """A linear whose input is transformed by x + s (B (A x + a) + b)."""

    def __init__(self, base: nn.Linear, method: RepAdapter, rng: torch.Generator) -> None:
        super().__init__(base)
        d, r, like = base.in_features, method.rank, base.weight
        self.scale, self.dropout = method.scale, method.dropout
        self.down = uniform(r, d, bound=xavier_bound(d, r), rng=rng, like=like)
        self.down_bias = zeros(r, like=like)
        self.up = zeros(GROUPS, d // GROUPS, r // GROUPS, like=like)  # the diagonal blocks of B
        self.up_bias = zeros(d, like=like)

    def scaled_up(self) -> Tensor:
        """Return s B, (d, r)."""
        return self.scale * cast(Tensor, torch.block_diag(*self.up))  # type: ignore[no-untyped-call]

    def adapted_weight(self) -> Tensor:
        """Return W (I + s B A), (out, in)."""
        weight = self.linear.weight
        return weight + (weight @ self.scaled_up()) @ self.down

    def adapted_bias(self) -> Tensor:
        """Return the bias plus s W (B a + b), (out,)."""
        moved = self.linear.weight @ (self.scaled_up() @ self.down_bias + self.scale * self.up_bias)
        return moved if self.linear.bias is None else self.linear.bias + moved

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses thin products on the input, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        code = F.dropout(F.linear(x, self.down, self.down_bias), self.dropout)
        y: Tensor = self.base(x + F.linear(code, self.scaled_up(), self.scale * self.up_bias))
        return y
