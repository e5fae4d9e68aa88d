"""SNELL: sparse tuning with kernelised LoRA (NeurIPS 2024, arXiv 2411.01800; code ssfgunner/SNELL).

    K_ij = kappa(b_i, a_j)            a_j, b_i in R^r, for input j and output i of a projection
    t = the ceil(s m n)-th smallest |K_ij| of the m x n entries
    y = x (W + dW)^T + bias           dW = K thinned out by t (W as PyTorch stores it, out x in)

for each projection, with q, k and v separate: each has its own K and threshold. `kernel` chooses kappa:

    piecewise_linear    0.1 (|a' - b'| - |a'' - b''|) over the two halves of a and b; r must be even (the default)
    linear              the inner product, which is LoRA without a zero start

and `sparsify` chooses how dW follows from K if s > 0; with s = 0, plain kernelised LoRA, dW = K:

    code_gate     K |K| where |K| > t, else 0; |K| held constant in the gradient (the released code; the default)
    paper_soft    K max(|K| - t, 0), t held constant in the gradient (Eq. 5)
    mask          K where |K| > t, else 0

`targets` are those of LoRA. The paper adapts q, k, v, the output projection and both linears of the MLP: 18 d r L parameters if the
MLP is 4 d wide, as LoRA on all of them.

No m x n tensor outlives the forward: a training step computes dW again in the backward pass (activation checkpointing).

Initial values: a uniform within 1/sqrt(in r/2) and b within 1/sqrt(out r/2), as in the code. Nothing is zero, but dW is so
small that the adapted model nearly starts as the pretrained one (on ViT-B/16 with r = 32 an entry of K is about 6e-4, and a
remaining entry of dW at s = 0.9 about 2e-6).

Dropout acts on the input of the branch, except for the output projection, as in the code.

*Deviation:* the code also trains the class token and has a drop-path on each branch; neither is here.
*Deviation:* 0.1 and -0.1 are constants, as in the code; the paper calls them learnable. Its sigmoid and RBF kernels, which it
finds hard to train, are not here.
*Deviation:* t is the paper's order statistic; the code interpolates a quantile, which keeps at most one entry more or less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from trainables.adapters.base import Layer, Method, check_layers, check_rank, into_slices, uniform
from trainables.adapters.families import Blocks

KERNELS: Final = {"piecewise_linear": 2, "linear": 1}  # -> number of groups into which it splits the coordinates
SPARSIFY: Final = ("code_gate", "paper_soft", "mask")
# submodule -> (number of equal slices of its output rows, indices of the adapted slices)
_ATTENTION: Final = {"attn.qkv": (3, (0, 1, 2)), "attn.proj": (1, (0,))}
TARGETS: Final[dict[str, dict[str, tuple[int, tuple[int, ...]]]]] = {
    "qv": {"attn.qkv": (3, (0, 2))},
    "qkv": {"attn.qkv": (3, (0, 1, 2))},
    "qkvo": _ATTENTION,
    "qkvo_mlp": {**_ATTENTION, "mlp.fc1": (1, (0,)), "mlp.fc2": (1, (0,))},
}


@dataclass(frozen=True)
class SNELL(Method):
    """The hyperparameters of SNELL.

    Attributes:
        rank: Rank r, at least 1, even for the piecewise linear kernel, and at most the smaller side of a projection.
        sparsity: Fraction s of every dW that is zero, in [0, 1); 0 for the plain kernelised form.
        kernel: Kernel, "piecewise_linear" or "linear".
        sparsify: Sparsification, "code_gate", "paper_soft" or "mask"; without effect if s = 0.
        targets: Adapted projections, "qv", "qkv", "qkvo" or "qkvo_mlp".
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the branch's input, in [0, 1).
    """

    name: ClassVar[str] = "snell"
    starts_pretrained: ClassVar[bool] = False
    rank: int = 8
    sparsity: float = 0.9
    kernel: str = "piecewise_linear"
    sparsify: str = "code_gate"
    targets: str = "qkvo_mlp"
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.kernel in KERNELS, "kernel", f"one of {', '.join(KERNELS)}")
        groups = KERNELS[self.kernel]
        self.require(self.rank >= 1 and self.rank % groups == 0, "rank", f"a multiple of {groups} for the kernel {self.kernel}")
        self.require(0 <= self.sparsity < 1, "sparsity", "in [0, 1)")
        self.require(self.sparsify in SPARSIFY, "sparsify", f"one of {', '.join(SPARSIFY)}")
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            for target, (n_slices, chosen) in TARGETS[self.targets].items():
                linear = cast(nn.Linear, block.get_submodule(target))
                n_in, n_out = linear.in_features, linear.out_features // n_slices
                check_rank(self, f"a projection of {path}.{target}", n_in, n_out)
                law = f"low enough to leave one of the {n_in * n_out} entries of a projection of {path}.{target}"
                self.require(self.n_zeros(n_in * n_out) < n_in * n_out, "sparsity", law)
                layers[f"{path}.{target}"] = SNELLLayer(linear, n_slices, chosen, self, rng, dropped=target != "attn.proj")
        return layers

    def n_zeros(self, n: int) -> int:
        """Return how many of n entries are zero: ceil(s n)."""
        return math.ceil(round(self.sparsity * n, 6))  # 0.1 * 30 is a little above 3


def _kth_smallest(x: Tensor, k: int) -> Tensor:
    """Return the k-th smallest number of each row of x, (rows,)."""
    if x.is_cpu:  # a tenth of the time of PyTorch's kthvalue
        return torch.from_numpy(np.partition(x.numpy(), k - 1, axis=1)[:, k - 1])
    return x.sort().values[:, k - 1]  # on CUDA kthvalue counts as not deterministic, for its indices


class SNELLLayer(Layer):
    """A linear with a sparsified kernel matrix added to each chosen slice of its weight."""

    def __init__(
        self, base: nn.Linear, n_slices: int, chosen: tuple[int, ...], method: SNELL, rng: torch.Generator, *, dropped: bool
    ) -> None:
        super().__init__(base)
        self.n_slices, self.chosen, self.method = n_slices, chosen, method
        self.dropout = method.dropout if dropped else 0.0
        n, n_in, n_out, groups = len(chosen), base.in_features, base.out_features // n_slices, KERNELS[method.kernel]
        width = method.rank // groups
        self.n_zeros = method.n_zeros(n_in * n_out)
        bounds = (1 / math.sqrt(side * method.rank / 2) for side in (n_in, n_out))
        self.a = uniform(n, groups, n_in, width, bound=next(bounds), rng=rng, like=base.weight)
        self.b = uniform(n, groups, n_out, width, bound=next(bounds), rng=rng, like=base.weight)

    def _kernel(self) -> Tensor:
        """Return K of each chosen slice, (chosen, out, in), in at least single precision, which distances of near points need."""
        wide = torch.promote_types(self.a.dtype, torch.float32)
        with torch.autocast("cpu" if self.a.is_meta else self.a.device.type, enabled=False):
            a, b = self.a.to(wide), self.b.to(wide)
            if self.method.kernel == "linear":
                return (b @ a.mT).squeeze(1)
            distances = torch.cdist(0.1 * b, 0.1 * a)  # (chosen, 2, out, in)
            return distances[:, 0] - distances[:, 1]

    def _update(self) -> Tensor:
        """Return dW, (out, in), with zeros in the rows that are not adapted."""
        k = self._kernel()
        if self.n_zeros:
            size = k.detach().abs()
            t = _kth_smallest(size.flatten(1), self.n_zeros)[:, None, None]
            if self.method.sparsify == "paper_soft":
                k = k * (k.abs() - t).clamp(min=0)
            else:
                k = k * (size.masked_fill_(size <= t, 0) if self.method.sparsify == "code_gate" else size > t)
        return into_slices(k, self.chosen, self.n_slices, 0).to(self.linear.weight.dtype)

    def adapted_weight(self) -> Tensor:
        """Return W + dW, (out, in)."""
        return self.linear.weight + self._update()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training recomputes dW in the backward pass, or W + dW without dropout, which saves one product."""
        if not self.training:
            return super().forward(x)
        if self.dropout == 0:
            return checkpoint(super().forward, x, use_reentrant=False, preserve_rng_state=False)
        branch = checkpoint(self._branch, F.dropout(x, self.dropout), use_reentrant=False, preserve_rng_state=False)
        y: Tensor = self.base(x)
        return y + branch

    def _branch(self, x: Tensor) -> Tensor:
        return F.linear(x, self._update())
