"""Lily: Low-Rank Interconnected Adaptation across Layers (Zhong et al., Findings of ACL 2025, arXiv 2407.09946; code yibozhong/lily).

    z = act(x A)                                        A in R^{d x r}: one of n_downs, shared by neighbouring blocks
    S = mean over tokens of softmax(z R^T / tau)        R in R^{n x r}: the block's own router
    y = base(x) + s z (sum_e S_e B_e)                   B_e in R^{r x out}: n experts, shared by all blocks

for k and v, rows of the fused `qkv` (rank r, no activation), and for the MLP as a whole, in parallel to it (rank 2r, act = ReLU), as in
`visual-adaptation-benchmark/vit/lily.py`. k, v and MLP have their own A, B and R. Block l of L uses down-projection floor(l n_downs / L).

Count with n = n_downs = n_experts on L blocks of width d, `kv_mlp`: 8 d r n + 4 L r n; on ViT-B/16 6,192 r n.

Initial values: A and R as PyTorch's linears, all B zero: the adapted model starts as the pretrained one. With one expert the gate is
constantly 1 and R, counted as in the paper's code, gets no gradient.

*Deviation:* `router` "sample" averages the gate over the tokens of each image; the released code averages over the whole batch ("batch"),
which makes a prediction depend on its batch-mates. "uniform" is the paper's ablation without routers: S_e = 1 / n.
*Deviation:* the temperature tau; tau = 1 is the released code.
*Deviation:* n_downs is a knob of its own; the code derives ceil(L / floor(L / n)) from the number of experts, which is n where n divides L.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import Blocks, Layer, Method, check_layers, linear_bound, select, uniform, zeros

# submodule -> (equal slices of its output, first adapted slice, rank in units of r)
TARGETS: Final = {"kv": {"attn.qkv": (3, 1, 1)}, "kv_mlp": {"attn.qkv": (3, 1, 1), "mlp": (1, 0, 2)}}
ROUTERS: Final = ("sample", "batch", "uniform")


@dataclass(frozen=True)
class Lily(Method):
    """Attributes:
    rank: r, at least 1; at most the width, twice r where the MLP is adapted.
    n_experts: n, number of B, at least 1.
    n_downs: Number of A; 0 for as many as experts, but not more than one for each adapted block.
    temperature: tau, positive; low values route sharply.
    scale: s, positive.
    router: "sample", "batch" or "uniform".
    targets: "kv" or "kv_mlp".
    layers: Which blocks: "all", "first-K" or "last-K".
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
        layers: dict[str, Layer] = {}
        chosen = select(self, self.layers, blocks)
        self.require(
            self.n_downs <= len(chosen), "n_downs", f"at most one for each of the {len(chosen)} adapted blocks"
        )
        n_downs = self.n_downs or min(self.n_experts, len(chosen))
        for target, (n_slices, first, ratio) in TARGETS[self.targets].items():
            downs: dict[int, nn.Parameter] = {}
            experts: nn.Parameter | None = None
            for i, (path, block) in enumerate(chosen.items()):
                qkv, r, k = block.attn.qkv, ratio * self.rank, n_slices - first
                d, out, like = qkv.in_features, qkv.out_features // 3 if n_slices == 3 else qkv.in_features, qkv.weight
                self.require(
                    r <= min(d, out),
                    "rank",
                    f"at most {min(d, out) // ratio} for {path}.{target} on this backbone; lower it",
                )
                if experts is None:
                    experts = zeros(k, self.n_experts, r, out, like=like)
                if (group := i * n_downs // len(chosen)) not in downs:
                    downs[group] = uniform(k, r, d, bound=linear_bound(d), rng=rng, like=like)
                router = None
                if self.router != "uniform":
                    router = uniform(k, self.n_experts, r, bound=linear_bound(r), rng=rng, like=like)
                layers[f"{path}.{target}"] = LilyLayer(block.get_submodule(target), downs[group], experts, router, self)
        return layers


class LilyLayer(Layer):
    """Adds a gated mixture of low-rank maps to the last slices of its base's output, all of them for the MLP, k and v for qkv."""

    def __init__(
        self, base: nn.Module, down: nn.Parameter, experts: nn.Parameter, router: nn.Parameter | None, method: Lily
    ) -> None:
        super().__init__(base)
        self.down = down  # (k, r, d), shared by the group's blocks
        self.experts = experts  # (k, n, r, out), shared by all blocks
        self.router = router  # (k, n, r)
        self.over_batch, self.temperature, self.scale = method.router == "batch", method.temperature, method.scale
        if router is not None:
            self.unmergeable = (
                'its router makes the weight depend on the input; Lily merges with router "uniform" and targets "kv"'
            )
        elif not isinstance(base, nn.Linear):
            self.unmergeable = (
                'it runs in parallel to the non-linear MLP; Lily merges with router "uniform" and targets "kv"'
            )

    def adapted_weight(self) -> Tensor:
        weight = self.linear.weight
        delta = self.scale * (self.experts.mean(1).mT @ self.down)  # (k, out, d)
        first = weight.shape[0] - delta.shape[0] * delta.shape[1]
        return torch.cat([weight[:first], weight[first:] + delta.flatten(0, 1)])

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        z = F.linear(x, self.down.flatten(0, 1)).unflatten(-1, self.down.shape[:2])  # (batch, tokens, k, r)
        if not isinstance(self.base, nn.Linear):
            z = z.relu()
        if self.router is None:
            delta = torch.einsum("btkr,kro->btko", z, self.experts.mean(1))
        else:
            gate = (torch.einsum("btkr,knr->btkn", z, self.router) / self.temperature).softmax(-1)
            gate = (
                gate.mean((0, 1), keepdim=True) if self.over_batch else gate.mean(1, keepdim=True)
            )  # (batch or 1, 1, k, n)
            mixed = torch.einsum("bkn,knro->bkro", gate.squeeze(1), self.experts)
            delta = torch.einsum("btkr,bkro->btko", z, mixed.expand(len(z), -1, -1, -1))
        delta = (self.scale * delta).flatten(-2).to(y.dtype)
        first = y.shape[-1] - delta.shape[-1]
        return y + delta if first == 0 else torch.cat([y[..., :first], y[..., first:] + delta], -1)
