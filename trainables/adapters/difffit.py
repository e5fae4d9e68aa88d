"""DiffFit (Xie et al., ICCV 2023, arXiv 2304.06648): it trains biases and layer norms, and scales what each branch adds.

    x  <-  x + gamma_1 * Attention(LN1(x))
    x  <-  x + gamma_2 * MLP(LN2(x))          gamma_1, gamma_2 in R^d, channel by channel, one at first

All biases of the backbone and the weights of its layer norms are trained with gamma_1 and gamma_2. The paper is about diffusion
transformers. The form for image classification that is followed here, with its recipe, is the study of Mai et al. (CVPR 2025,
arXiv 2409.16434; code OSU-MLB/ViT_PEFT_Vision, `model/block.py`, `experiment/build_model.py`).

gamma stands behind stochastic depth and LayerScale in that code. Both multiply, so a gamma on the output projection and one on fc2
are the same function, and it merges: W' = diag(gamma) W, b' = gamma * b.

The count for L blocks of width d with an MLP of width m is L (11 d + m) + 3 d: in each block 7 d + m biases, 2 d weights of norms
and 2 d of gamma, then patch embedding and final norm. On ViT-B/16 it is 140,544, which the released results print, too.

`layers` other than "all" (Paretune's) leaves the biases and norms outside of those blocks as they are.

*Deviation:* the released code trains each parameter with "bias" or "norm" in its name, on a plain Vision Transformer. Elsewhere the
biases are those of BitFit (no tables of relative position biases), and the weights those of layer norms, as in LayerNorm tuning (no
RMS norms, batch norms or group norms).

*Deviation:* the released code decays all of these vectors (1e-4 or 1e-3, towards zero). Here, as in every method, no vector is
decayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from trainables.adapters.base import Layer, Method, check_layers, chosen_blocks
from trainables.adapters.bitfit import BitFit
from trainables.adapters.families import Blocks, supported_blocks

BRANCHES = ("attn.proj", "mlp.fc2")  # the last linear of each


@dataclass(frozen=True)
class DiffFit(Method):
    """The hyperparameters of the method.

    Attributes:
        layers: Blocks that are adapted: "all", "first-K" or "last-K".
    """

    name: ClassVar[str] = "difffit"
    joins: ClassVar[bool] = False
    layers: str = "all"

    def __post_init__(self) -> None:
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Scale the outputs of attention and MLP of each block."""
        return {f"{path}.{name}": Scale(block.get_submodule(name)) for path, block in blocks.items() for name in BRANCHES}

    def own_parameters(self, model: nn.Module) -> set[str]:
        """Return the names of all biases and of the weights of layer norms, in the chosen blocks if these are not all."""
        norms = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
        found = {name for name, _ in model.named_parameters() if name in norms or BitFit().trains(name)}
        if self.layers == "all":
            return found
        inside = tuple(f"{path}." for path in chosen_blocks(self, supported_blocks(model)))
        return {name for name in found if name.startswith(inside)}


class Scale(Layer):
    """A linear whose output is scaled channel by channel; its own bias may be trained."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        weight = self.linear.weight
        self.gamma = nn.Parameter(torch.ones(len(weight), device=weight.device, dtype=weight.dtype))

    def adapted_weight(self) -> Tensor:
        """Return diag(gamma) W."""
        return self.gamma[:, None] * self.linear.weight

    def adapted_bias(self) -> Tensor | None:
        """Return gamma * b."""
        return None if self.linear.bias is None else self.gamma * self.linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Scale the output of the linear, which spares the dense gradient of its weight."""
        y = cast(Tensor, self.base(x))
        return y * self.gamma.to(y.dtype)
