"""The second kind of layer: tokens that a method adds to the sequence of some neighbouring blocks.

    class and register tokens, tokens of the method, patches        the sequence inside
    class and register tokens, patches                              the sequence outside, as in the plain model

Each of these blocks is the base of a `TokenLayer`. Tokens enter in front of a block, and leave behind the same block or a later
one. So norms, pooling and head see the sequence of the plain model, and a layer is inserted, counted, stored and removed like every
other one.

The tokens have no position. Where a block's attention knows positions, the layer extends them: a rotary embedding turns these
tokens by the angle 0, and a relative position bias is 0 to them and from them. A Swin's windows have no place for them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from timm.models import beit
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from trainables.adapters.base import Layer, Method, adapted_layers
from trainables.adapters.families import REMEDY, Layout


class TokenLayer(Layer):
    """A transformer block with tokens of a method in its sequence."""

    unmergeable = "it adds tokens to the sequence, which no weight computes"

    def __init__(self, base: Block, layout: Layout, n_tokens: int, *, leave: bool) -> None:
        """Wrap a block.

        Args:
            base: Block.
            layout: Layout of the block's tokens without those of the method.
            n_tokens: Number of tokens of the method inside this block.
            leave: True if they leave behind this block, False if the next block has them, too.
        """
        super().__init__(base)
        self.layout, self.n_tokens, self.leave = layout, n_tokens, leave

    def entering(self, n_images: int) -> Tensor | None:
        """Return the tokens that enter in front of this block, (n_images, n_tokens, d); None if they are in the sequence."""
        return None

    def forward(self, x: Tensor, **attention: Any) -> Tensor:
        """Map (batch, tokens, d); `attention` is passed on to the block's attention (`attn_mask`, `rope`, ...)."""
        begin, n = self.layout.n_prefix, self.n_tokens
        tokens = self.entering(x.shape[0])
        if tokens is not None:
            x = torch.cat((x[:, :begin], tokens.to(x.dtype), x[:, begin:]), 1)
        with _longer_bias(cast(nn.Module, self.base.attn), begin, n):
            y = cast(Tensor, self.base(x, **_longer(attention, begin, n)))
        return torch.cat((y[:, :begin], y[:, begin + n :]), 1) if self.leave else y


def refuse_windows(method: Method, model: nn.Module) -> None:
    """Raise a ValueError if the model's attention is in windows, whose number of tokens is fixed."""
    if isinstance(model, SwinTransformer):
        raise ValueError(
            f"{method.name} adds tokens to a sequence, and the attention of a {type(model).__name__} is in windows of a grid; "
            f"choose another method, or {REMEDY.removeprefix('choose ').replace(', EVA-02 or Swin', ' or EVA-02')}"
        )


def sequence_growth(model: nn.Module) -> float:
    """Return the length of a block's longest sequence over that of the plain model; 1 for a method that adds no tokens."""
    layers = (layer for _, layer in adapted_layers(model) if isinstance(layer, TokenLayer))
    return max((1 + layer.n_tokens / len(layer.layout) for layer in layers), default=1.0)


def _longer(attention: Mapping[str, Any], begin: int, n: int) -> dict[str, Any]:
    """Extend the positions that a model passes to its blocks."""
    longer = dict(attention)
    if (rope := longer.get("rope")) is not None:  # (..., patches, sines and cosines)
        sines, cosines = rope[..., :1, :].expand(*rope.shape[:-2], n, -1).chunk(2, -1)
        longer["rope"] = torch.cat((torch.cat((torch.zeros_like(sines), torch.ones_like(cosines)), -1), rope), -2)
    if (bias := longer.get("shared_rel_pos_bias")) is not None:
        longer["shared_rel_pos_bias"] = _with_zeros(bias, begin, n)
    return longer


@contextmanager
def _longer_bias(attention: nn.Module, begin: int, n: int) -> Iterator[None]:
    """Extend BEiT's relative position bias, which its attention computes itself, within the context."""
    if not isinstance(attention, beit.Attention):
        yield
        return
    bias = attention._get_rel_pos_bias
    vars(attention)["_get_rel_pos_bias"] = lambda: _with_zeros(bias(), begin, n)
    try:
        yield
    finally:
        del vars(attention)["_get_rel_pos_bias"]


def _with_zeros(bias: Tensor, begin: int, n: int) -> Tensor:
    """Insert n rows and n columns of zeros into the last two dimensions of a bias."""
    for dim in (-1, -2):
        parts = torch.tensor_split(bias, (begin,), dim)
        zeros = torch.zeros_like(bias.narrow(dim, 0, 1)).expand(*[n if d == bias.dim() + dim else -1 for d in range(bias.dim())])
        bias = torch.cat((parts[0], zeros, parts[1]), dim)
    return bias
