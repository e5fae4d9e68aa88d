"""FacT: Factor-Tuning (Jie and Deng, AAAI 2023, arXiv 2212.03145; code JieShibo/PETL-ViT, `FacT/fact_tt.py`, `fact_tk.py`).

The weights of all linears of all blocks of width d are cut into d x d slices: q, k, v, the output projection, and the two linears
of the MLP along their hidden width. Every slice is moved by the same two factors and a small matrix of its own:

    y_slice = W_slice x + s V Drop(S_slice^T U x)        U in R^{r x d}, V in R^{d x r}: shared by the whole network
    tt:  S_slice in R^{r x r} free                       (tensor train)
    tk:  S_slice = sum_c C[:, :, c] P_slice,c            C in R^{r x r x r}: shared, P_slice in R^r   (Tucker)

The input slices of the MLP's second linear add up before the dropout. The count on L blocks with an MLP of width 4 d is

    tt   2 d r + 12 L r^2               tk   2 d r + 12 L r + r^3

Initial values: U and S as PyTorch's linears, C and P Xavier-uniform, V zero, so the adapted model starts as the pretrained one.

*Deviation:* if the width of the MLP is not a multiple of d, its last slice is narrower and takes the first rows of V and the first
columns of U; the code is written for 4 d.
*Deviation:* each slice of the MLP has its own row of P, as in the paper; the code of tk reshapes (r, r, 4) to (r, 4 r) and so
interleaves the four slices.
*Deviation:* the first index of C belongs to the input, the side of U, in every slice, as in the equation above; the code of tk
transposes the core for the four slices of the MLP's second linear, and for no other (`fc2_FacTc.t()`). C is shared by all
linears, so the two are different models, equal only if C is symmetric in its first two indices. The reason: a Tucker core has one
orientation, and a change would give existing studies another function.

A published number of FacT-TK is that of the code, with the interleaved slices and the transposed core. On q, k, v and the output
projection tk is the code's equation, and tt is so everywhere.
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
    xavier_bound,
    zeros,
)
from trainables.adapters.families import Blocks

Shared = tuple[nn.Parameter, nn.Parameter, nn.Parameter | None]  # U, V, C
TARGETS: Final = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")


@dataclass(frozen=True)
class FacT(Method):
    """The hyperparameters of FacT.

    Attributes:
        variant: Factorisation, "tt" (tensor train) or "tk" (Tucker).
        rank: Rank r, at least 1 and at most the width d.
        scale: Scale s, positive.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code, in [0, 1).
    """

    name: ClassVar[str] = "fact"
    variant: str = "tk"
    rank: int = 32
    scale: float = 1.0
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.variant in ("tt", "tk"), "variant", "one of tt, tk")
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each linear; all share U, V and C."""
        linears = {f"{path}.{t}": cast(nn.Linear, block.get_submodule(t)) for path, block in blocks.items() for t in TARGETS}
        first, like = next(iter(linears)), next(iter(linears.values())).weight
        d, r = like.shape[1], self.rank
        check_rank(self, f"a slice of {first}", d)
        u, v = uniform(r, d, bound=linear_bound(d), rng=rng, like=like), zeros(d, r, like=like)
        core = uniform(r, r, r, bound=xavier_bound(r * r, r * r), rng=rng, like=like) if self.variant == "tk" else None
        slices = {path: (-(-linear.out_features // d), -(-linear.in_features // d)) for path, linear in linears.items()}
        n_slices = sum(n_out * n_in for n_out, n_in in slices.values())
        layers: dict[str, Layer] = {}
        for path, linear in linears.items():
            n_out, n_in = slices[path]
            if core is None:
                own = uniform(n_out, n_in, r, r, bound=linear_bound(n_in * r), rng=rng, like=like)
            else:
                own = uniform(n_out, n_in, r, bound=xavier_bound(r, n_slices), rng=rng, like=like)
            layers[path] = FacTLayer(linear, (u, v, core), own, self)
        return layers


class FacTLayer(Layer):
    """A linear with s V S^T U added to each d x d slice of its weight."""

    def __init__(self, base: nn.Linear, shared: Shared, own: nn.Parameter, method: FacT) -> None:
        super().__init__(base)
        self.scale, self.dropout = method.scale, method.dropout
        self.u, self.v, self.core = shared  # (r, d), (d, r), (r, r, r) or None for tt
        self.own = own  # (output slices, input slices, r, r) for tt, (output slices, input slices, r) for tk

    def slices(self) -> Tensor:
        """Return S of each slice, (output slices, input slices, r, r)."""
        if self.core is None:
            return self.own
        return (self.own @ self.core.flatten(0, 1).T).view(*self.own.shape, -1)

    def adapted_weight(self) -> Tensor:
        """Return W + s V S^T U in every slice, (out, in)."""
        weight = self.linear.weight
        delta = torch.einsum("pb,oiab,aq->opiq", self.v, self.slices(), self.u).flatten(2).flatten(0, 1)
        return weight + self.scale * delta[: weight.shape[0], : weight.shape[1]].to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses thin products, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        (n_out, n_in), (r, d), tokens = self.own.shape[:2], self.u.shape, x.shape[:-1]
        y: Tensor = self.base(x)
        if missing := n_in * d - x.shape[-1]:
            x = F.pad(x, (0, missing))
        codes = (x.reshape(*tokens, n_in, d) @ self.u.T).flatten(-2)  # (batch, tokens, n_in r)
        codes = F.dropout(codes @ self.slices().permute(1, 2, 0, 3).reshape(n_in * r, n_out * r), self.dropout)
        delta = (codes.view(*tokens, n_out, r) @ (self.scale * self.v).T).flatten(-2)
        return y + delta[..., : y.shape[-1]]
