"""RandLoRA (Albert et al., ICLR 2025, arXiv 2502.00987; code PaulAlbert31/RandLoRA, and `tuners/randlora` of Hugging Face PEFT).

    W' = W + alpha / (r sqrt(n)) sum_{i=1..n} B_i diag(l_i) A diag(g_i)        n = ceil(min(out, in) / r)

an update of full rank, of which only the diagonals l_i in R^r and g_i in R^min(out, in) are trained. A in R^{r x min(out, in)} and
B_i in R^{max(out, in) x r} are random and frozen; the whole network shares them, and each weight takes the first rows and columns.
If in > out, the transposed sum is added. A higher rank means fewer parameters: n (r + min(out, in)) for each weight.

    targets      weights with diagonals of their own (timm keeps q, k and v in one linear)     count on ViT-B/16, r = 32
    qv           q, v                                                                            460,800
    fused_mlp    the fused qkv, the output projection, both linears of the MLP (default)         921,600
    qkvo_mlp     q, k, v, the output projection, both linears of the MLP                       1,382,400

Initial values: l zero, g = 1 / max(n, min(out, in)), so the adapted model starts as the pretrained one. A and B are uniform,
divided by their standard deviation. They are neither trained nor part of the state: they are regenerated from `seed`, a
hyperparameter of the method, so that method, state and frozen backbone restore the function for any training seed.

Certainty: read in the authors' code, which has two forms. Ours is that of their branch of PEFT, where r = 32 and alpha = 2 r; q, k
and v with diagonals of their own, which a model with separate linears has, are `qkvo_mlp`. A dropout of the input, 0 by default, is
not offered. Their CLIP scripts (`vision_language/src/rand_lora.py`) differ:

    maps               n = floor(min(out, in) / r) + 1, one more than here where r divides the side; r = 6
    scale              1 / r: alpha is 1 and nothing sets it. Here this is alpha = sqrt(n), 11.3 at r = 6 and d = 768
    initial values     g zero and l = 1 / max(n, r); the other side than here
    adapted            the fused qkv and both linears of the MLP, not the output projection, which `fused_mlp` adds
    trained            of a CLIP model, the diagonals of the MLP alone: the attention assigns its adapted weight
                       to `.data`, so that those of qkv get no gradient and the update stays zero; of a timm
                       model, both
    recipe             AdamW, weight decay 0.1, gradient clipped at 1, bfloat16

*Deviation:* the sparse bases, with entries in {-1, 0, 1}, are not offered; nor is the code's own backward, which recomputes the
scaled basis instead of keeping it: the gradients are the same.
*Deviation:* the bases depend on the seed through PyTorch's CPU generator, and a future PyTorch may draw others; merge an
adapter that must last.
*Deviation:* alpha / (r sqrt(n)) is the scale of the authors' branch; PEFT's release has alpha / r, their CLIP scripts 1 / r.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final, cast

import torch
from torch import Tensor, nn

from trainables.adapters.base import Layer, Method, check_layers, check_rank, zeros
from trainables.adapters.families import Blocks

# submodule -> (number of equal slices of its output rows, indices of the adapted slices)
_REST: Final = {"attn.proj": (1, (0,)), "mlp.fc1": (1, (0,)), "mlp.fc2": (1, (0,))}
TARGETS: Final[dict[str, dict[str, tuple[int, tuple[int, ...]]]]] = {
    "qv": {"attn.qkv": (3, (0, 2))},
    "fused_mlp": {"attn.qkv": (1, (0,)), **_REST},
    "qkvo_mlp": {"attn.qkv": (3, (0, 1, 2)), **_REST},
}


@dataclass(frozen=True)
class RandLoRA(Method):
    """The hyperparameters of RandLoRA.

    Attributes:
        rank: Rank r, at least 1 and at most the smaller side of a weight.
        alpha: Numerator of the scale, positive; 2 r is the authors' rule of thumb.
        targets: Adapted weights, see the table above.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        seed: Seed of the frozen random bases, at least 0.
    """

    name: ClassVar[str] = "randlora"
    rank: int = 32
    alpha: float = 64.0
    targets: str = "fused_mlp"
    layers: str = "all"
    seed: int = 0

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.alpha > 0, "alpha", "positive")
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        self.require(self.seed >= 0, "seed", "at least 0")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear; all share the bases, which have the size of the largest weight."""
        adapted: dict[str, tuple[nn.Linear, int, tuple[int, ...]]] = {}
        for path, block in blocks.items():
            for target, (n_slices, chosen) in TARGETS[self.targets].items():
                linear = cast(nn.Linear, block.get_submodule(target))
                check_rank(self, f"a weight of {path}.{target}", linear.in_features, linear.out_features // n_slices)
                adapted[f"{path}.{target}"] = linear, n_slices, chosen
        shapes = [(linear.out_features // n_slices, linear.in_features) for linear, n_slices, _ in adapted.values()]
        like = next(iter(adapted.values()))[0].weight
        bases = Bases(self, max(map(max, shapes)), max(map(min, shapes)), like)
        return {path: RandLoRALayer(*slices, bases, self) for path, slices in adapted.items()}


class Bases(nn.Module):
    """The frozen random A (r, shorter) and B (longer, n, r) that all layers share, excluded from the state."""

    a: Tensor
    b: Tensor

    def __init__(self, method: RandLoRA, longer: int, shorter: int, like: Tensor) -> None:
        super().__init__()
        r = method.rank
        for name, shape in {"b": (longer, math.ceil(shorter / r), r), "a": (r, shorter)}.items():
            if like.is_meta:
                basis = torch.empty(shape, device="meta", dtype=like.dtype)
            else:
                rng = torch.Generator().manual_seed(2 * method.seed + (name == "a"))
                basis = torch.empty(shape).uniform_(-1, 1, generator=rng)
                basis = (basis / basis.std()).to(like)
            self.register_buffer(name, basis, persistent=False)


class RandLoRALayer(Layer):
    """A linear with a sum of scaled random maps in each chosen slice of its output rows."""

    def __init__(self, base: nn.Linear, n_slices: int, chosen: tuple[int, ...], bases: Bases, method: RandLoRA) -> None:
        super().__init__(base)
        shape = (base.out_features // n_slices, base.in_features)
        self.longer, self.shorter, self.transposed = max(shape), min(shape), shape[0] < shape[1]
        n = math.ceil(self.shorter / method.rank)
        self.n_slices, self.chosen, self.scale = n_slices, chosen, method.alpha / (method.rank * math.sqrt(n))
        self.bases = bases
        self.diag_b = zeros(len(chosen), n, method.rank, like=base.weight)  # l
        self.diag_a = zeros(len(chosen), n, self.shorter, like=base.weight)  # g
        with torch.no_grad():
            self.diag_a.fill_(1 / max(n, self.shorter))

    def adapted_weight(self) -> Tensor:
        """Return W + alpha / (r sqrt(n)) sum_i B_i diag(l_i) A diag(g_i) in the chosen slices, (out, in)."""
        weight, n = self.linear.weight, self.diag_b.shape[1]
        scaled = self.diag_b[..., None] * self.bases.a[:, : self.shorter] * self.diag_a[:, :, None]  # (chosen, n, r, shorter)
        deltas = self.bases.b[: self.longer, :n].flatten(1) @ (self.scale * scaled).flatten(1, 2)  # (chosen, longer, shorter)
        deltas = deltas.mT if self.transposed else deltas
        slices = [weight.new_zeros(weight.shape[0] // self.n_slices, weight.shape[1])] * self.n_slices
        for i, delta in zip(self.chosen, deltas, strict=True):
            slices[i] = delta.to(weight.dtype)
        return weight + torch.cat(slices)
