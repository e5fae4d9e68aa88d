"""LoRA: Low-Rank Adaptation (Hu et al., ICLR 2022, arXiv 2106.09685), as the baseline of the VTAB-1K papers.

    W' = W + s B A          A in R^{r x in}, B in R^{out x r}, s a plain multiplier

for each adapted projection. timm keeps q, k and v in one linear, `attn.qkv`: of its 3d output rows the first d are q, the
next d are k, the last d are v.

    targets     projections with a pair (A, B) of their own                 count
    qv          q, v (Bi-LoRA, Lily's repository; the default)              4 d L r
    qkv_fused   the fused linear: one A, B to 3d (NOAH)                     4 d L r
    qkv         q, k, v                                                     6 d L r
    qkvo        q, k, v and the output projection                           8 d L r
    qkvo_mlp    these and both linears of the MLP, width m                  (8 d + 2 (d + m)) L r

Initial values: A as PyTorch's linear (uniform within 1/sqrt(in)), B zero, so the adapted model starts as the pretrained one.
Dropout acts on the rank-r code A x, as in the code of the VTAB papers (`binary_adapter/lora.py` of JieShibo/PETL-ViT).

*Deviation:* s multiplies directly; there is no alpha / r.
*Deviation:* NOAH's dropout acts on x before A; here it acts on the code for every choice of targets.
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

# submodule -> (number of equal slices of its output rows, indices of the adapted slices)
_ATTENTION: Final = {"attn.qkv": (3, (0, 1, 2)), "attn.proj": (1, (0,))}
TARGETS: Final[dict[str, dict[str, tuple[int, tuple[int, ...]]]]] = {
    "qv": {"attn.qkv": (3, (0, 2))},
    "qkv": {"attn.qkv": (3, (0, 1, 2))},
    "qkv_fused": {"attn.qkv": (1, (0,))},
    "qkvo": _ATTENTION,
    "qkvo_mlp": {**_ATTENTION, "mlp.fc1": (1, (0,)), "mlp.fc2": (1, (0,))},
}


@dataclass(frozen=True)
class LoRA(Method):
    """The hyperparameters of LoRA.

    Attributes:
        rank: Rank r, at least 1 and at most the smaller side of a projection.
        scale: Scale s, positive.
        targets: Adapted projections, see the table above.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code, in [0, 1).
    """

    name: ClassVar[str] = "lora"
    rank: int = 8
    scale: float = 1.0
    targets: str = "qv"
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            for target, (n_slices, chosen) in TARGETS[self.targets].items():
                linear = cast(nn.Linear, block.get_submodule(target))
                n_rows = linear.out_features // n_slices
                check_rank(self, f"a projection of {path}.{target}", linear.in_features, n_rows)
                layers[f"{path}.{target}"] = LoRALayer(linear, n_slices, chosen, self, rng)
        return layers


class LoRALayer(Layer):
    """A linear with a pair (A, B) for each chosen slice of its output rows, stacked."""

    def __init__(self, base: nn.Linear, n_slices: int, chosen: tuple[int, ...], method: LoRA, rng: torch.Generator) -> None:
        super().__init__(base)
        n_in, n_rows = base.in_features, base.out_features // n_slices
        self.n_slices, self.chosen, self.scale, self.dropout = n_slices, chosen, method.scale, method.dropout
        self.a = uniform(len(chosen), method.rank, n_in, bound=linear_bound(n_in), rng=rng, like=base.weight)
        self.b = zeros(len(chosen), n_rows, method.rank, like=base.weight)

    def adapted_weight(self) -> Tensor:
        """Return W + s B A, (out, in)."""
        weight = self.linear.weight
        return weight + self.scale * (self._stacked_b() @ self.a.flatten(0, 1)).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses two thin products, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        code = F.dropout(F.linear(x, self.a.flatten(0, 1)), self.dropout)  # (batch, tokens, chosen * r)
        y: Tensor = self.base(x)
        return y + F.linear(code, self.scale * self._stacked_b())

    def _stacked_b(self) -> Tensor:
        """Return B for all slices at once, (out, chosen * r): block diagonal, with zero rows for slices that are not adapted."""
        blocks = [self.b.new_zeros(self.b.shape[1], 0)] * self.n_slices
        for i, b in zip(self.chosen, self.b, strict=True):
            blocks[i] = b
        stacked: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return stacked
