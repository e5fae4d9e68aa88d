"""Heart-LoRA: head-level responsiveness tuning (arXiv 2404.08894 v2, 2024; v1 under the name HEAT). No public code.

It is LoRA on q and v, keeping only the heads of the update that respond to the task. Head i of h owns the rows from i d/h to
(i + 1) d/h - 1 of B in q and in v:

    W'_i = W_i + s B_i A   if head i is active, else W_i        A in R^{r x d}, B_i in R^{d/h x r}, for q and for v

All heads are trained for `warmup_epochs`. Then each head is scored once, by the first-order estimate of what switching it off would
add to the training loss L, and the heads with the lowest scores are dropped. The active ratio rho determines how many of h stay:

    r_i = sum over q, v of <B_i, dL/dB_i>      abs: |r_i|      signed: -r_i, the change of L itself

`global` adds the scores of a head's index over all blocks (in a Swin: over a stage) and drops the same heads in each block;
`layer` ranks within each block. The gradient dL/dB is accumulated over the whole training split in eval mode. The B_i of a
dropped head is no longer a parameter: it is not stored or counted, and has neither optimiser state nor weight decay. The names
in the state tell which heads exist.

The count for L blocks is 2 d r L (1 + rho), after the warm-up; on ViT-B/16 with r = 8 and n of 12 heads off 294,912 - 12,288 n.

Initial values: as LoRA's, all B_i zero, so the adapted model starts as the pretrained one.

*Deviation:* the method section was not available to us. That it is a first-order Taylor score, accumulated over layers or ranked
within each, is the paper's; the absolute value, one scoring at the end of a warm-up and zero for dropped heads are our reading.
*Deviation:* the default ratio 0.75 is the middle of our grid; the paper's number of heads per data set is not known to us.
*Deviation:* rho h is rounded to the nearest whole number, half up, and at least 1. A trial shorter than the warm-up scores after
its last epoch, so that it ends with the size that was counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import (
    Layer,
    Method,
    adapted_layers,
    check_layers,
    check_rank,
    linear_bound,
    uniform,
    zeros,
)
from trainables.adapters.families import Blocks


@dataclass(frozen=True)
class HeartLoRA(Method):
    """The hyperparameters of Heart-LoRA.

    Attributes:
        rank: Rank r, at least 1 and at most the width.
        scale: Scale s, positive.
        active_head_ratio: Ratio rho of active heads, in (0, 1]; 1 is LoRA on q and v.
        level: Level of the ranking, "global" or "layer".
        criterion: Score of a head, "abs" or "signed".
        warmup_epochs: Epochs with all heads, at least 1: before any training all B, and so all scores, are zero.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code, in [0, 1).
    """

    name: ClassVar[str] = "heart_lora"
    rank: int = 8
    scale: float = 1.0
    active_head_ratio: float = 0.75
    level: str = "global"
    criterion: str = "abs"
    warmup_epochs: int = 10
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(0 < self.active_head_ratio <= 1, "active_head_ratio", "in (0, 1]")
        self.require(self.level in ("global", "layer"), "level", "one of global, layer")
        self.require(self.criterion in ("abs", "signed"), "criterion", "one of abs, signed")
        self.require(self.warmup_epochs >= 1, "warmup_epochs", "at least 1")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each qkv."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            qkv = block.attn.qkv
            check_rank(self, f"a projection of {path}.attn.qkv", qkv.in_features, qkv.out_features // 3)
            layers[f"{path}.attn.qkv"] = HeartLoRALayer(qkv, block.attn.num_heads, self, rng, stage=next(iter(blocks)))
        return layers

    def after_epoch(self, model: nn.Module, epoch: int, n_epochs: int, gradients: Callable[[], None]) -> None:
        """Score the heads at the end of the warm-up and drop those with the lowest scores, once.

        Raises:
            ValueError: If the scores are useless: all of them are zero, or one is not finite.
        """
        layers = _heads(model)
        if epoch < min(self.warmup_epochs, n_epochs) or all(layer.is_settled for layer in layers):
            return
        gradients()
        for stage in dict.fromkeys(layer.stage for layer in layers):
            self._drop([layer for layer in layers if layer.stage == stage], epoch)

    def _drop(self, layers: list[HeartLoRALayer], epoch: int) -> None:
        responses = torch.stack([layer.responses() for layer in layers]).double().cpu()  # (adapted blocks, heads)
        scores = responses.abs() if self.criterion == "abs" else -responses
        if self.level == "global":
            scores = scores.sum(0).expand_as(scores)
        if not scores.isfinite().all() or (scores == 0).all(1).any():
            raise ValueError(
                f"heart_lora drops heads by scores that are finite and not all zero; got {scores.tolist()} after epoch {epoch}; "
                "train longer before it (heart_lora.warmup_epochs) or with another optim.lr"
            )
        for layer, row in zip(layers, scores, strict=True):
            layer.keep(row.argsort(stable=True).tolist()[-layer.n_active :])

    def shrink_to_final_size(self, model: nn.Module) -> None:
        """Drop the final number of heads: the first ones."""
        for layer in _heads(model):
            if not layer.is_settled:
                layer.keep(range(layer.n_heads - layer.n_active, layer.n_heads))


class HeartLoRALayer(Layer):
    """A fused qkv with a low-rank update in the rows of q and v that belong to active heads."""

    def __init__(self, base: nn.Linear, n_heads: int, method: HeartLoRA, rng: torch.Generator, *, stage: str) -> None:
        super().__init__(base)
        self.stage = stage  # all layers of a stage have the same number of heads
        d, r, head_dim = base.in_features, method.rank, base.out_features // (3 * n_heads)
        self.n_heads, self.n_active = n_heads, max(1, math.floor(method.active_head_ratio * n_heads + 0.5))
        self.scale, self.dropout = method.scale, method.dropout
        self.a = uniform(2, r, d, bound=linear_bound(d), rng=rng, like=base.weight)  # of q and of v
        self.b = nn.ParameterDict({str(i): zeros(2, head_dim, r, like=base.weight) for i in range(n_heads)})

    @property
    def is_settled(self) -> bool:
        """True once only active heads are left."""
        return len(self.b) == self.n_active

    def responses(self) -> Tensor:
        """Return <B_i, dL/dB_i> of each head, (heads,): minus the first-order increase of L from switching it off."""
        return torch.stack([(b.detach() * b.grad).sum() for b in self.b.values()])

    def keep(self, heads: Collection[int]) -> None:
        """Drop all other heads."""
        for name in [name for name in self.b if int(name) not in heads]:
            del self.b[name]

    def fit(self, names: Collection[str]) -> None:
        """Drop the heads that are missing in a state of the final size."""
        heads = [int(name.removeprefix("b.")) for name in names if name.startswith("b.")]
        if len(heads) == self.n_active:
            self.keep(heads)

    def adapted_weight(self) -> Tensor:
        """Return W + s B A with the rows of inactive heads zero, (out, in)."""
        weight = self.linear.weight
        return weight + self.scale * (self._stacked_b() @ self.a.flatten(0, 1)).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses two thin products, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        code = F.dropout(F.linear(x, self.a.flatten(0, 1)), self.dropout)  # (batch, tokens, 2 r)
        y: Tensor = self.base(x)
        return y + F.linear(code, self.scale * self._stacked_b())

    def _stacked_b(self) -> Tensor:
        """Return B of q and of v side by side, with zeros for k and for inactive heads, (3 d, 2 r)."""
        off = torch.zeros_like(next(iter(self.b.values())))
        heads = [self.b.get(str(i), off) for i in range(self.n_heads)]
        q, v = torch.stack(heads, 1).flatten(1, 2)  # each (d, r)
        stacked: Tensor = torch.block_diag(q, q.new_zeros(len(q), 0), v)  # type: ignore[no-untyped-call]
        return stacked


def _heads(model: nn.Module) -> list[HeartLoRALayer]:
    return [layer for _, layer in adapted_layers(model) if isinstance(layer, HeartLoRALayer)]
