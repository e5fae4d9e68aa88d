"""AdaptFormer (Chen et al., NeurIPS 2022, arXiv 2205.13535; code ShoufaChen/AdaptFormer, `models/adapter.py`, `custom_modules.py`).

    x  <-  x + Attention(LN1(x))
    x  <-  x + MLP(LN2(x)) + s (Drop(relu(x D^T + b_D)) P^T + b_P)        D in R^{r x d}, P in R^{d x r}

The branch parallel to the MLP reads the residual stream itself, not the output of LN2. That stream exists only inside the forward
of timm's block, so the layer wraps the whole block, records the input of LN2 and adds the branch to the block's output. Stochastic
depth and LayerScale act on the MLP alone.

The count for L blocks is L (2 d r + r + d); on ViT-B/16 with r = 64 1,189,632, with the r = 8 of the VTAB-1K tables 156,768.

Initial values: D as PyTorch's linear, P and both biases zero, so the adapted model starts as the pretrained one.

*Deviation:* the adapter is the released code's, its recipe is not: that is SGD with momentum 0.9, learning rate 0.1 for each 256
images of a batch, no weight decay, no stochastic depth, and a head behind a batch norm without scale and shift, in float16.
AdaptFormer-8 of the VTAB-1K tables was trained with AdamW and a plain head, as here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.nn import functional as F

from trainables.adapters.adapter import Bottleneck
from trainables.adapters.base import Layer, Method, check_layers, check_rank, linear_bound, uniform, zeros
from trainables.adapters.families import Blocks


@dataclass(frozen=True)
class AdaptFormer(Method):
    """The hyperparameters of AdaptFormer.

    Attributes:
        rank: Rank r, at least 1 and at most the width d.
        scale: Scale s, positive.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code, in [0, 1).
    """

    name: ClassVar[str] = "adaptformer"
    rank: int = 64
    scale: float = 0.1
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer around each block."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            check_rank(self, f"the width of {path}", block.attn.proj.out_features)
            layers[path] = AdaptFormerLayer(block, self, rng)
        return layers


class AdaptFormerLayer(Bottleneck):
    """A transformer block with a bottleneck parallel to its MLP."""

    def __init__(self, base: Block, method: AdaptFormer, rng: torch.Generator) -> None:
        like = base.attn.proj.weight  # (d, d)
        d, r = like.shape[0], method.rank
        down, up = uniform(r, d, bound=linear_bound(d), rng=rng, like=like), zeros(d, r, like=like)
        super().__init__(base, down, up, F.relu, method.dropout)
        self.scale = method.scale

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """Map (batch, ..., d) to the same shape; `attention` is passed on to the block's attention (`attn_mask`, `rope`, ...)."""
        stream: list[Tensor] = []
        noting = cast(Block, self.base).norm2.register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0]))
        try:
            y: Tensor = self.base(x, **attention)
        finally:
            noting.remove()
        return y + self.update(stream[0], self.scale).view_as(y)
