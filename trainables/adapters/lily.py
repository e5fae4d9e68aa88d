"""Lily: Low-Rank Interconnected Adaptation across Layers (Zhong et al., Findings of ACL 2025, arXiv 2407.09946).

    z = act(x A)                             A in R^{d x r}: one of n_downs, shared by neighbouring blocks
    S = mean over tokens of softmax(z R^T / tau)        R in R^{n x r}: the block's own router
    y = base(x) + s z (sum_e S_e B_e)        B_e in R^{r x out}: n experts, shared by all blocks

for k and v, rows of the fused `qkv` (rank r, no activation), and for the MLP as a whole, in parallel to it (rank 2r, act =
ReLU), as in `visual-adaptation-benchmark/vit/lily.py` of yibozhong/lily. k, v and the MLP have their own A, B and R. Block l
of L uses down-projection floor(l n_downs / L).

The count on L blocks of width d with `kv_mlp` is 4 d r (n_downs + n) + 4 L r n; on ViT-B/16 with n_downs = n 6,192 r n.

Initial values: A and R as PyTorch's linears, all B zero, so the adapted model starts as the pretrained one. With one expert the
gate is constantly 1, and R, counted as in the paper's code, gets no gradient.

*Deviation:* `router` "sample" averages the gate over the tokens of each image; the released code averages over the whole batch
("batch"), which makes a prediction depend on its batch-mates. "uniform" is the paper's ablation without routers: S_e = 1 / n.
*Deviation:* inside a Swin's attention the tokens of an image are grouped in windows, and k and v have one gate per window.
*Deviation:* the temperature tau; tau = 1 is the released code.
*Deviation:* n_downs is a separate knob; the code derives ceil(L / floor(L / n)) from n, which is n if n divides L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import Layer, Method, check_layers, linear_bound, uniform, zeros
from trainables.adapters.families import Blocks

# submodule -> (number of adapted maps: 2 for keys and values, 1 for the MLP; their rank in units of r)
TARGETS: Final = {"kv": {"attn.qkv": (2, 1)}, "kv_mlp": {"attn.qkv": (2, 1), "mlp": (1, 2)}}
ROUTERS: Final = ("sample", "batch", "uniform")


@dataclass(frozen=True)
class Lily(Method):
    """The hyperparameters of Lily.

    Attributes:
        rank: Rank r, at least 1; r, and 2r if the MLP is adapted, at most the width.
        n_experts: Number n of B, at least 1.
        n_downs: Number of A, at most one for each adapted block; 0 for as many as experts, limited in the same way.
        temperature: Temperature tau, positive; low values route sharply.
        scale: Scale s, positive.
        router: Routing, "sample", "batch" or "uniform".
        targets: Adapted maps, "kv" or "kv_mlp".
        layers: Adapted blocks: "all", "first-K" or "last-K".
    """

    name: ClassVar[str] = "lily"
    rank: int = 32
    n_experts: int = 4
    n_downs: int = 0
    temperature: float = 1.0
    scale: float = 1.0
    router: str = "sample"
    targets: str = "kv_mlp"
    layers: str = "all"

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.n_experts >= 1, "n_experts", "at least 1")
        self.require(self.n_downs >= 0, "n_downs", "at least 1, or 0 for as many as experts")
        self.require(self.temperature > 0, "temperature", "positive")
        self.require(self.scale > 0, "scale", "positive")
        self.require(self.router in ROUTERS, "router", f"one of {', '.join(ROUTERS)}")
        self.require(self.targets in TARGETS, "targets", f"one of {', '.join(TARGETS)}")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each qkv and each MLP; neighbouring blocks share A, all share B."""
        layers: dict[str, Layer] = {}
        first = next(iter(blocks))
        stage = first.rpartition(".")[0]  # "blocks", or in a Swin "layers.2.blocks"
        law = f"at most {len(blocks)}, one for each adapted block of {stage}, which share the down-projections; lower it"
        self.require(self.n_downs <= len(blocks), "n_downs", law)
        n_downs = self.n_downs or min(self.n_experts, len(blocks))
        qkv = blocks[first].attn.qkv
        d, like = qkv.in_features, qkv.weight
        for target, (k, ratio) in TARGETS[self.targets].items():
            r, out = ratio * self.rank, d if target == "mlp" else qkv.out_features // 3
            law = f"at most {min(d, out) // ratio} for {first}.{target} on this backbone; lower it"
            self.require(r <= min(d, out), "rank", law)
            downs = [uniform(k, r, d, bound=linear_bound(d), rng=rng, like=like) for _ in range(n_downs)]
            experts = zeros(k, self.n_experts, r, out, like=like)
            for i, (path, block) in enumerate(blocks.items()):
                router = None
                if self.router != "uniform":
                    router = uniform(k, self.n_experts, r, bound=linear_bound(r), rng=rng, like=like)
                base, down = block.get_submodule(target), downs[i * n_downs // len(blocks)]
                layers[f"{path}.{target}"] = LilyLayer(base, down, experts, router, self)
        return layers


class LilyLayer(Layer):
    """A gated mixture of low-rank maps, added to the output of an MLP or to k and v of a qkv."""

    def __init__(
        self, base: nn.Module, down: nn.Parameter, experts: nn.Parameter, router: nn.Parameter | None, method: Lily
    ) -> None:
        super().__init__(base)
        self.down = down  # (k, r, d): k = 2 for keys and values, 1 for the MLP
        self.experts = experts  # (k, n, r, out)
        self.router = router  # (k, n, r)
        self.per_batch, self.temperature, self.scale = method.router == "batch", method.temperature, method.scale
        remedy = 'Lily merges with router "uniform" and targets "kv"'
        if router is not None:
            self.unmergeable = f"its router makes the weight a function of the input; {remedy}"
        elif not isinstance(base, nn.Linear):
            self.unmergeable = f"it runs in parallel to the MLP, which is not linear; {remedy}"

    def adapted_weight(self) -> Tensor:
        """Return the weight, W + s (A mean_e B_e)^T in the rows of k and v, (out, in)."""
        weight = self.linear.weight
        delta = self.scale * (self.experts.mean(1).mT @ self.down).flatten(0, 1)  # (2 d, d)
        return weight + F.pad(delta, (0, 0, len(weight) - len(delta), 0)).to(weight.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, d) to (batch, tokens, out)."""
        y: Tensor = self.base(x)
        codes = F.linear(x, self.down.flatten(0, 1))
        if not isinstance(self.base, nn.Linear):
            codes = codes.relu()
        zs = codes.view(*x.shape[:2], -1, self.down.shape[1]).unbind(-2)  # k times (batch, tokens, r)
        delta = self.scale * torch.cat([z @ self._mixture(i, z) for i, z in enumerate(zs)], -1)
        return y + F.pad(delta, (y.shape[-1] - delta.shape[-1], 0))

    def _mixture(self, i: int, z: Tensor) -> Tensor:
        """Return the sum over e of S_e B_e for map i: (batch, r, out), or (r, out) if the gate does not depend on the batch."""
        if self.router is None:
            return self.experts[i].mean(0)
        gate = (F.linear(z, self.router[i]) / self.temperature).softmax(-1).mean(1)  # (batch, n)
        gate = gate.mean(0) if self.per_batch else gate
        return (gate @ self.experts[i].flatten(1)).view(*gate.shape[:-1], *self.experts.shape[2:])
