"""Convpass (Jie and Deng, 2022, arXiv 2207.07039; code JieShibo/PETL-ViT, `convpass`): convolutions parallel to attention and MLP.

    x  <-  x + Attention(LN1(x)) + s c(LN1(x))
    x  <-  x + MLP(LN2(x)) + s c(LN2(x))
    c(h) = Drop(q(K * q(h D^T + b_D) + b_K)) P^T + b_P        q(z) = z sigmoid(1.702 z)

    D in R^{r x d}, P in R^{d x r}; K in R^{r x r x 3 x 3}, a convolution over the grid of patches, with zeros around it

Each of the two has a c of its own. The class token is an image of one patch, to which K's centre alone applies; so is every
register token here. Neither LayerScale nor the stochastic depth of attention and MLP acts on c, which has a stochastic depth of its
own, at their rate. These places are inside the forward of timm's block, so the layer wraps the whole block and hooks into it.

position        branches                                           count on L blocks
attn_mlp        both (Convpass; the default)                       2 L (2 d r + 9 r^2 + 2 r + d)
attn            parallel to the attention only (Convpass-attn)     half of that

The count on ViT-B/16 with r = 8 is 327,552, printed as 0.33 M; with `attn` 163,776.

Initial values: D as Xavier-uniform, P and all biases zero, so the adapted model starts as the pretrained one. K is the identity of
r channels at its centre, or Xavier-uniform (`kernel_init`); the released configurations choose one for each data set.

On a Swin the convolution runs over the whole grid of its stage, and only the attention is in windows, as released.

*Deviation:* none in the function. Biases are not decayed; the released code decays them, too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar, Final, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import Layer, Method, check_layers, check_rank, uniform, xavier_bound, zeros
from trainables.adapters.families import Blocks, Layout, layouts

POSITIONS: Final = {"attn_mlp": ("attn", "mlp"), "attn": ("attn",)}
KERNEL_INITS: Final = ("identity", "xavier")
_AROUND: Final = {"attn": ("norm1", "drop_path1"), "mlp": ("norm2", "drop_path2")}  # what c reads, and where it is added


@dataclass(frozen=True)
class Convpass(Method):
    """The hyperparameters of Convpass.

    Attributes:
        rank: Channels r of the convolution, at least 1 and at most the width d.
        scale: Scale s, positive.
        position: Branches that have a convolution, "attn_mlp" or "attn".
        kernel_init: Initial value of K, "identity" or "xavier".
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code, in [0, 1).
    """

    name: ClassVar[str] = "convpass"
    rank: int = 8
    scale: float = 1.0
    position: str = "attn_mlp"
    kernel_init: str = "identity"
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(self.position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}")
        self.require(self.kernel_init in KERNEL_INITS, "kernel_init", f"one of {', '.join(KERNEL_INITS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build_in(self, model: nn.Module, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer around each block."""
        layers: dict[str, Layer] = {}
        for path, layout in layouts(model, blocks).items():
            check_rank(self, f"the width of {path}", blocks[path].attn.proj.out_features)
            layers[path] = ConvpassLayer(blocks[path], layout, self, rng)
        return layers


class Bypass(nn.Module):
    """The function s c(h)."""

    def __init__(self, like: Tensor, layout: Layout, method: Convpass, rng: torch.Generator) -> None:
        super().__init__()
        d, r = like.shape[0], method.rank
        self.layout, self.scale, self.dropout = layout, method.scale, method.dropout
        self.down = uniform(r, d, bound=xavier_bound(d, r), rng=rng, like=like)
        self.down_bias = zeros(r, like=like)
        if method.kernel_init == "xavier":
            self.kernel = uniform(r, r, 3, 3, bound=xavier_bound(9 * r, 9 * r), rng=rng, like=like)
        else:
            identity = torch.eye(r, device=like.device, dtype=like.dtype)
            self.kernel = nn.Parameter(F.pad(identity[:, :, None, None], (1, 1, 1, 1)))
        self.kernel_bias = zeros(r, like=like)
        self.up = zeros(d, r, like=like)
        self.up_bias = zeros(d, like=like)

    def forward(self, h: Tensor) -> Tensor:
        """Map (batch, ..., d), the tokens or a Swin's grid, to the same shape."""
        code = _quick_gelu(F.linear(h.flatten(1, -2), self.down, self.down_bias))
        prefix, patches = code[:, : self.layout.n_prefix], code[:, self.layout.n_prefix :]
        image = patches.transpose(1, 2).reshape(h.shape[0], -1, *self.layout.grid)
        patches = F.conv2d(image, self.kernel, self.kernel_bias, padding=1).flatten(2).transpose(1, 2)
        prefix = F.linear(prefix, self.kernel[:, :, 1, 1], self.kernel_bias)
        code = F.dropout(_quick_gelu(torch.cat((prefix, patches), 1)), self.dropout, self.training)
        return F.linear(code, self.scale * self.up, self.scale * self.up_bias).view_as(h)


class ConvpassLayer(Layer):
    """A transformer block with a convolution parallel to its attention, and one parallel to its MLP."""

    unmergeable = "its activations make the update non-linear, so that no weight computes it"

    def __init__(self, base: Block, layout: Layout, method: Convpass, rng: torch.Generator) -> None:
        super().__init__(base)
        like = base.attn.proj.weight  # (d, d)
        self.beside = nn.ModuleDict({branch: Bypass(like, layout, method, rng) for branch in POSITIONS[method.position]})

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """Map (batch, ..., d) to the same shape; `attention` is passed on to the block's attention (`attn_mask`, `rope`, ...)."""
        with ExitStack() as hooks:
            for branch, bypass in self.beside.items():
                norm, path = (cast(nn.Module, getattr(self.base, name)) for name in _AROUND[branch])
                added: list[Tensor] = []
                hooks.enter_context(norm.register_forward_hook(functools.partial(_read, bypass, added)))
                hooks.enter_context(path.register_forward_hook(functools.partial(_add, added)))
            return cast(Tensor, self.base(x, **attention))


def _read(bypass: Callable[[Tensor], Tensor], added: list[Tensor], norm: nn.Module, inputs: Any, h: Tensor) -> None:
    """Compute s c(h) from the output of the norm."""
    added.append(bypass(h))


def _add(added: list[Tensor], path: nn.Module, inputs: Any, y: Tensor) -> Tensor:
    """Add it to the output of the branch, behind a stochastic depth of its own."""
    return y + cast(Tensor, path.forward(added[0]))


def _quick_gelu(z: Tensor) -> Tensor:
    return z * torch.sigmoid(1.702 * z)
