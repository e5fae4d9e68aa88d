"""Adapter+ (Steitz and Roth, CVPR 2024, arXiv 2406.06820): the bottleneck adapter behind the block, with a scale for each channel.

    y = Block(x)        y' = y + s * Path(GELU(y D^T + b_D) P^T + b_P)        D in R^{r x d}, P in R^{d x r}, s in R^d

The position is the authors' "post": the adapter reads the residual stream after the block and adds to it (code visinf/adapter_plus,
`adapter_plus/vit_adapter.py`). The scale s is trained. Path is stochastic depth of its own: in training it drops the update of an
image with the probability `drop_path`, the same in each block and apart from the `recipe.drop_path` of the backbone.

The count for L blocks is L (2 d r + r + 2 d); on ViT-B/16 with r = 8 it is 165,984.

Initial values (Houlsby et al.): D and P are drawn from N(0, 0.01^2) within two standard deviations, both biases are zero, and s is
one. So the adapted model does not start exactly as the pretrained one.

*Deviation:* none in the function. The activation is GELU as in all of their experiments; their code takes the backbone's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from timm.layers import drop_path
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.adapter import Bottleneck
from trainables.adapters.base import Layer, Method, check_layers, check_rank, truncated_normal
from trainables.adapters.families import Blocks

STD = 0.01


@dataclass(frozen=True)
class AdapterPlus(Method):
    """The hyperparameters of Adapter+.

    Attributes:
        rank: Rank r, at least 1 and at most the width d.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        drop_path: Probability of dropping the update of an image, in [0, 1).
    """

    name: ClassVar[str] = "adapter_plus"
    starts_pretrained: ClassVar[bool] = False
    rank: int = 8
    layers: str = "all"
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(0 <= self.drop_path < 1, "drop_path", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer around each block."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            check_rank(self, f"the width of {path}", block.attn.proj.out_features)
            layers[path] = AdapterPlusLayer(block, self, rng)
        return layers


class AdapterPlusLayer(Bottleneck):
    """A transformer block with a bottleneck behind it, which is scaled channel by channel."""

    def __init__(self, base: Block, method: AdapterPlus, rng: torch.Generator) -> None:
        like = base.attn.proj.weight  # (d, d)
        d, r = like.shape[0], method.rank
        down, up = (truncated_normal(*shape, std=STD, rng=rng, like=like) for shape in ((r, d), (d, r)))
        super().__init__(base, down, up, F.gelu)
        self.drop_path = method.drop_path
        self.scale = nn.Parameter(torch.ones(d, device=like.device, dtype=like.dtype))

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """Map (batch, ..., d) to the same shape; `attention` is passed on to the block's attention (`attn_mask`, `rope`, ...)."""
        y: Tensor = self.base(x, **attention)
        update: Tensor = drop_path(self.update(y, self.scale), self.drop_path, self.training)
        return y + update
