"""SSF (Lian et al., NeurIPS 2022, arXiv 2210.08823; code dongzelian/SSF): it scales and shifts the output of each operation.

    y = gamma * x + beta          x the output of an operation, channel by channel

Operations are the patch embedding, and in each block both norms, qkv, output projection, fc1 and fc2, and the final norm. Each has
its own gamma, which begins as N(1, 0.02^2), and beta, which begins as N(0, 0.02^2). So it does not start exactly as the pretrained
model. It merges: W' = diag(gamma) W, b' = gamma * b + beta, and in the same way into the weight and bias of a norm.

The count for L blocks of width d with an MLP of width m is 2 L (7 d + m) + 4 d; on ViT-B/16 205,824: the printed 0.24 M on VTAB-1k
are these with the average head of 38,045. In the released Swin the norms of patch embedding and patch merging are operations, too,
and the linear of a patch merging is none; so it is here.

Decisions where the paper has no code: layer norms inside attention and MLP (EVA, norms of q and k) and before the blocks (CLIP) are
operations, and norms that have no bias by their nature (RMS norms), the attention pool and batch norms of a stem are none. The
fused q, k and v of BEiT and EVA-02 have one gamma and beta of length 3 d, as timm's qkv.

CLIP's patch embedding has no bias: the merged model has one there, and cannot be exported to a plain timm state.

`layers` other than "all" (Paretune's) leaves what is outside of the blocks as it is.

*Deviation:* none in the function. Gamma and beta are not decayed, as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from trainables.adapters.base import Layer, Method, check_layers, normal
from trainables.adapters.families import Blocks

LINEARS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
STD = 0.02


@dataclass(frozen=True)
class SSF(Method):
    """The hyperparameters of the method.

    Attributes:
        layers: Blocks that are adapted: "all", "first-K" or "last-K".
    """

    name: ClassVar[str] = "ssf"
    starts_pretrained: ClassVar[bool] = False
    layers: str = "all"

    def __post_init__(self) -> None:
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Scale and shift the outputs of the linears and layer norms of each block."""
        operations: dict[str, nn.Module] = {}
        for path, block in blocks.items():
            operations |= {f"{path}.{name}": block.get_submodule(name) for name in LINEARS}
            operations |= {f"{path}.{name}": norm for name, norm in _layer_norms(block).items()}
        return {path: ScaleShift(module, rng) for path, module in operations.items()}

    def build_outside(self, model: nn.Module, rng: torch.Generator) -> dict[str, Layer]:
        """Scale and shift the outputs of the patch embedding and of the layer norms outside of the blocks."""
        if self.layers != "all":
            return {}
        embedding = cast(Any, model).patch_embed.proj
        operations: dict[str, nn.Module] = {}
        if isinstance(embedding, nn.Conv2d | nn.Linear):
            operations["patch_embed.proj"] = embedding
        norms = _layer_norms(model).items()
        operations |= {path: norm for path, norm in norms if ".blocks." not in f".{path}" and not path.startswith("attn_pool.")}
        return {path: ScaleShift(module, rng) for path, module in operations.items()}


def _layer_norms(module: nn.Module) -> Mapping[str, nn.Module]:
    """Return the layer norms with weights inside a module that no layer adapts yet, by path."""
    return {path: m for path, m in module.named_modules() if isinstance(m, nn.LayerNorm) and m.weight is not None}


class ScaleShift(Layer):
    """y = gamma * base(x) + beta; the base is a linear, a convolution or a layer norm."""

    def __init__(self, base: nn.Module, rng: torch.Generator) -> None:
        super().__init__(base)
        weight = self.linear.weight
        self.gamma = normal(len(weight), 1.0, STD, rng=rng, like=weight)
        self.beta = normal(len(weight), 0.0, STD, rng=rng, like=weight)

    def adapted_weight(self) -> Tensor:
        """Return the scaled weight of the base."""
        weight = self.linear.weight
        return self.gamma.view(-1, *(1,) * (weight.ndim - 1)) * weight

    def adapted_bias(self) -> Tensor:
        """Return the scaled and shifted bias of the base."""
        bias = self.linear.bias
        return self.beta if bias is None else self.gamma * bias + self.beta

    def forward(self, x: Tensor) -> Tensor:
        """Map the input of the base to its scaled and shifted output; a convolution has its channels in the second axis."""
        y = cast(Tensor, self.base(x))
        gamma, beta = self.gamma.to(y.dtype), self.beta.to(y.dtype)
        if isinstance(self.base, nn.Conv2d):
            gamma, beta = gamma[:, None, None], beta[:, None, None]
        return torch.addcmul(beta, y, gamma)
