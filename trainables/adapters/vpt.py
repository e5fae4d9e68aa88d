"""VPT, visual prompt tuning (Jia et al., ECCV 2022, arXiv 2203.12119; code KMnP/vpt, `src/models/vit_prompt`): trained tokens.

    [x_i, _, E_i] = B_i([x_{i-1}, P_{i-1}, E_{i-1}])    i = 1, ..., L    deep: each block has prompts of its own
    [x_1, Z_1, E_1] = B_1([x_0, P_0, E_0])
    [x_i, Z_i, E_i] = B_i([x_{i-1}, Z_{i-1}, E_{i-1}])  i = 2, ..., L    shallow: one set, carried through all blocks

x is the class token, E the patches, B a block, and P in R^{p x d} the prompts. They stand behind the class token (and the
registers) and in front of the patches, have no position embedding, and are dropped out element by element in each image.

    depth        count on L blocks        ViT-B/16, p = 1, 5, 10, 50, 100, 200
    deep         L p d                    9,216, 46,080, 92,160, 460,800, 921,600, 1,843,200 (the default is p = 50)
    shallow      p d                      768, 3,840, 7,680, 38,400, 76,800, 153,600

The paper chooses p for each data set, so every printed count is a mean. Shallow, 0.08 M: p = 100 (76,800), which is the mean of the
configurations that Mai et al. (arXiv 2409.16434) chose for the 19 tasks of VTAB-1k. Deep, 0.56 M: p = 61 (562,176). The mean of Mai
et al. is 434,122 (p = 47.1), and that of the released configurations of Adapter+ 678,103 (p = 73.6).

Initial values: P from U(-u, u), u = sqrt(6 / (3 P_h P_w + d)) with patches of P_h x P_w pixels, so the adapted model does not start
as the pretrained one.

`layers` other than "all" (Paretune's) has the prompts in these blocks only: they enter in front of the first, and leave behind the
last. The released code can do so, too (`NUM_DEEP_LAYERS` with `FORWARD_DEEP_NOEXPAND`).

Decisions where the paper has no code: with rotary embeddings (EVA-02) prompts are not turned, and with relative position biases
(BEiT) their bias is 0, as in the paper's Swin. CLIP's norm in front of the blocks does not see them.

*Deviation:* no pooling sees the prompts: neither an average, as the released code for MAE's weights has it, nor SigLIP's attention
pool.
*Deviation:* a Swin is refused. The released code has prompts in each window, and averages over the windows what becomes of them.
*Deviation:* prompts of fewer channels with a projection (`PROJECT`) are not offered; no released configuration has them.
*Deviation:* the paper's recipe is SGD, momentum 0.9, a learning rate from 0.05 to 50 for each 256 images, chosen for each data set
with a weight decay from 0 to 0.01, batch 64 or 128, 100 epochs with 10 of warm-up, no stochastic depth. Here it is AdamW, as in
NOAH's VPT and that of Mai et al.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import Layer, Method, check_layers, uniform, xavier_bound
from trainables.adapters.families import Blocks, Layout, layouts
from trainables.adapters.tokens import TokenLayer, refuse_windows

DEPTHS: Final = ("shallow", "deep")


@dataclass(frozen=True)
class VPT(Method):
    """The hyperparameters of VPT.

    Attributes:
        depth: "shallow" for prompts of the first adapted block only, "deep" for prompts of each adapted block.
        length: Number p of prompts in the sequence, at least 1.
        layers: Blocks that have prompts: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of a prompt, in [0, 1).
    """

    name: ClassVar[str] = "vpt"
    starts_pretrained: ClassVar[bool] = False
    depth: str = "deep"
    length: int = 50
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.depth in DEPTHS, "depth", f"one of {', '.join(DEPTHS)}")
        self.require(self.length >= 1, "length", "at least 1")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build_in(self, model: nn.Module, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer around each block; with the depth "shallow" the first one owns the prompts."""
        refuse_windows(self, model)
        patch_values = 3 * math.prod(cast(Any, model).patch_embed.patch_size)
        first, *_, last = [*blocks, *blocks]
        layers: dict[str, Layer] = {}
        for path, layout in layouts(model, blocks).items():
            prompts, like = None, blocks[path].attn.proj.weight  # (d, d)
            if self.depth == "deep" or path == first:
                bound = xavier_bound(patch_values, len(like))
                prompts = uniform(self.length, len(like), bound=bound, rng=rng, like=like)
            leave = self.depth == "deep" or path == last
            layers[path] = PromptLayer(blocks[path], layout, prompts, self, leave=leave)
        return layers


class PromptLayer(TokenLayer):
    """A transformer block with prompts in its sequence: its own, or those of an earlier block."""

    def __init__(self, base: Block, layout: Layout, prompts: nn.Parameter | None, method: VPT, *, leave: bool) -> None:
        super().__init__(base, layout, method.length, leave=leave)
        self.prompts, self.dropout = prompts, method.dropout

    def entering(self, n_images: int) -> Tensor | None:
        """Return this block's own prompts for each image; None if it has none."""
        if self.prompts is None:
            return None
        return F.dropout(self.prompts.expand(n_images, -1, -1), self.dropout, self.training)
