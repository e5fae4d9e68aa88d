"""HTA: Householder Transformation-based Adaptor (NeurIPS 2024, arXiv 2410.22952).

    y = x (W + dW) + bias      dW = (I - c_l v_l v_l^T) diag(delta) (I - c_r v_r v_r^T) + A B

(W here in x out) for each adapted projection, each with its own v_l, v_r and delta in R^d, A in R^{d x D'} and B in R^{D' x d}.
For a projection that is not square, v_l has the length of its input and v_r that of its output, and diag(delta) is a rectangular
diagonal. `normalisation` chooses the scale c of the two outer factors:

    householder    c = 2 / (|v|^2 + 1e-12): reflections, orthogonal for any v (the default)
    literal        c = 1, as the paper prints it: orthogonal only where |v|^2 = 2

    targets        projections                                                count
    qv             q, v                                                       2 a d L
    qkv            q, k, v (what the paper's count on Swin-B fits)            3 a d L
    qkvo           q, k, v and the output projection o (the default)          4 a d L
    qv_mlp         q, v and both linears of the MLP, of width m               (2 a d + 2 b) L
    qkvo_mlp       q, k, v, o and both linears of the MLP                     (4 a d + 2 b) L
    mlp_output     the adapter form: the MLP's output y becomes y (I + dW)    a d L

with a = 3 + 2 D' and b = 2 d + m + D' (d + m).

dW is a diagonal plus a map of rank at most 2 + D'; a step computes it in this form, without a d x d matrix:

    dW = diag(delta) - c_l v_l (delta v_l - c_r s v_r)^T - c_r (delta v_r) v_r^T + A B      s = v_l^T (delta v_r)

Initial values: delta and B are zero, so the adapted model starts as the pretrained one; v_l and v_r are directions uniform on the
sphere, A as PyTorch's linear. v_l, v_r and delta have no weight decay: for v_l and v_r only the direction counts, and delta is a
vector. Dropout acts on the input of the branch.

Certainty: equation and counts are the paper's, and the counts fix the default targets. The paper states neither the initial values
nor the position of its dropout; there is no code.

*Deviation:* `householder` normalises, the paper's print does not; the print is `literal` here.
*Deviation:* the adapter form has an identity that the printed Eq. 7 lacks (without it nothing of the MLP's output would be left).
*Deviation:* the paper prints 0.28 M for q, v and the MLP; this counts 0.295 M there (0.276 M if the MLP had no diagonals).
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
    directions,
    into_slices,
    linear_bound,
    uniform,
    zeros,
)
from trainables.adapters.families import Blocks

# submodule -> (number of equal slices of its output rows, indices of the adapted slices)
_MLP: Final = {"mlp.fc1": (1, (0,)), "mlp.fc2": (1, (0,))}
_ATTENTION: Final = {"attn.qkv": (3, (0, 1, 2)), "attn.proj": (1, (0,))}
TARGETS: Final[dict[str, dict[str, tuple[int, tuple[int, ...]]]]] = {
    "qv": {"attn.qkv": (3, (0, 2))},
    "qkv": {"attn.qkv": (3, (0, 1, 2))},
    "qkvo": _ATTENTION,
    "qv_mlp": {"attn.qkv": (3, (0, 2)), **_MLP},
    "qkvo_mlp": {**_ATTENTION, **_MLP},
    "mlp_output": {"mlp.fc2": (1, (0,))},
}


@dataclass(frozen=True)
class Householder(Method):
    """The hyperparameters of HTA.

    Attributes:
        extra_rank: Rank D' of A B, at least 0 and at most the smaller side of a projection.
        normalisation: Scale of the outer factors, "householder" or "literal".
        targets: Adapted projections, see the table above.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the branch's input, in [0, 1).
    """

    name: ClassVar[str] = "householder"
    extra_rank: int = 1
    normalisation: str = "householder"
    targets: str = "qkvo"
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.extra_rank >= 0, "extra_rank", "at least 0")
        self.require(self.normalisation in ("householder", "literal"), "normalisation", "one of householder, literal")
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            for target, (n_slices, chosen) in TARGETS[self.targets].items():
                linear = cast(nn.Linear, block.get_submodule(target))
                side = min(linear.in_features, linear.out_features // n_slices)
                law = f"at most {side}, the smaller side of a projection of {path}.{target} on this backbone; lower it"
                self.require(self.extra_rank <= side, "extra_rank", law)
                layers[f"{path}.{target}"] = HouseholderLayer(linear, n_slices, chosen, self, rng)
        return layers


class HouseholderLayer(Layer):
    """A linear with dW added to each chosen slice of its output rows, or with its output multiplied by I + dW (`after`)."""

    undecayed = ("v_left", "v_right", "delta")

    def __init__(self, base: nn.Linear, n_slices: int, chosen: tuple[int, ...], method: Householder, rng: torch.Generator) -> None:
        super().__init__(base)
        self.n_slices, self.chosen, self.after = n_slices, chosen, method.targets == "mlp_output"
        self.literal, self.dropout = method.normalisation == "literal", method.dropout
        n, n_out, like = len(chosen), base.out_features // n_slices, base.weight
        n_in = n_out if self.after else base.in_features
        self.v_left = directions(n, n_in, rng=rng, like=like)
        self.v_right = directions(n, n_out, rng=rng, like=like)
        self.delta = zeros(n, min(n_in, n_out), like=like)
        self.a = self.b = None
        if method.extra_rank:
            self.a = uniform(n, n_in, method.extra_rank, bound=linear_bound(n_in), rng=rng, like=like)
            self.b = zeros(n, method.extra_rank, n_out, like=like)

    def _thin(self) -> tuple[Tensor, Tensor]:
        """Return the factors of dW - diag(delta) for each chosen slice: (chosen, in, 2 + D') and (chosen, 2 + D', out)."""
        left, right, k = self.v_left, self.v_right, self.delta.shape[1]
        c_left, c_right = (1.0 if self.literal else 2 / (v.square().sum(1, keepdim=True) + 1e-12) for v in (left, right))
        inner = (left[:, :k] * self.delta * right[:, :k]).sum(1, keepdim=True)  # s, (chosen, 1)
        through = F.pad(self.delta * left[:, :k], (0, right.shape[1] - k)) - c_right * inner * right
        down = torch.stack([left, F.pad(self.delta * right[:, :k], (0, left.shape[1] - k))], 2)
        up = torch.stack([-c_left * through, -c_right * right], 1)
        if self.a is None or self.b is None:
            return down, up
        return torch.cat([down, self.a], 2), torch.cat([up, self.b], 1)

    def _dense(self) -> Tensor:
        """Return dW of each chosen slice, transposed as PyTorch stores weights: (chosen, out, in)."""
        down, up = self._thin()
        n_in, n_out, k = down.shape[1], up.shape[2], self.delta.shape[1]
        return (F.pad(torch.diag_embed(self.delta), (0, n_out - k, 0, n_in - k)) + down @ up).mT

    def adapted_weight(self) -> Tensor:
        """Return W + dW^T in the chosen rows, or (I + dW^T) W: (out, in)."""
        weight, dense = self.linear.weight, self._dense()
        if self.after:
            return weight + dense[0].to(weight.dtype) @ weight
        return weight + into_slices(dense, self.chosen, self.n_slices, 0).to(weight.dtype)

    def adapted_bias(self) -> Tensor | None:
        """Return the bias, or (I + dW^T) bias: (out,)."""
        bias = self.linear.bias
        return bias + self._dense()[0].to(bias.dtype) @ bias if self.after and bias is not None else bias

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses the diagonal and thin products, without a d x d matrix or its gradient."""
        if not self.training:
            return super().forward(x)
        y: Tensor = self.base(x)
        x = F.dropout(y if self.after else x, self.dropout)
        down, up = self._thin()
        blocks = [up.new_zeros(0, up.shape[2])] * self.n_slices
        for i, block in zip(self.chosen, up, strict=True):
            blocks[i] = block
        code = (x @ down.transpose(0, 1).flatten(1)).flatten(0, 1)  # (batch * tokens, chosen (2 + D'))
        stacked = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        thin = torch.addmm(y.flatten(0, 1), code, stacked).view(*y.shape[:-1], self.n_slices, -1)
        k, n_out = self.delta.shape[1], self.v_right.shape[1]
        delta = F.pad(into_slices(self.delta, self.chosen, self.n_slices, 0).view(self.n_slices, k), (0, n_out - k)).to(y.dtype)
        x = F.pad(x, (0, n_out - k)) if n_out > x.shape[-1] else x[..., :n_out]
        return torch.addcmul(thin, x[..., None, :].to(y.dtype), delta).flatten(-2)
