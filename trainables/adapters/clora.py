"""CLoRA: Collaborative Low-Rank Adaptation (Liu et al., 2025, arXiv 2512.24603), with SADE.

    dW_j = sum_h D_h Q_hj U_h        D_h in R^{d x r}, U_h in R^{r x d}, Q_hj in R^{r x r}, h = 1, ..., p

for adapter module j. The p pairs (D_h, U_h), the base spaces, are shared by the modules of all blocks; a module owns its p small
matrices Q and a bias b in R^d. `insertion` chooses the positions of the modules and which of them share:

    insertion       modules                                     count, modules apart from their bias    biases
    serial          x (I + dW) + b before the attention and     2 p (2 d r + L r^2)                     2 L d
                    before the MLP; bases of each position's own
    serial_att      before the attention only                   p (2 d r + L r^2)                       L d
    parallel_qv     x dW + b parallel to q and v, shared bases  p (2 d r + 2 L r^2)                     2 L d
    parallel_qkv    parallel to q, k and v                      p (2 d r + 3 L r^2)                     3 L d
    parallel_qkvo   these and the output projection             p (2 d r + 4 L r^2)                     4 L d

(W as PyTorch stores it, out x in: the serial form is W' = W (I + dW)^T and bias' = bias + W b, the parallel form W' = W + dW^T and
bias' = bias + b.) With p = 1, U = D^T and Q diagonal, the serial form is ARC. The bias parallel to k counts, but cannot change a
softmax.

SADE, sample-agnostic diversity enhancement, keeps the spaces of a module apart: with E_hj = D_h Q_hj U_h it adds to the loss

    sade_weight * mean over modules j and pairs h < k of || E_hj^T E_kj ||_F^2

computed without a d x d matrix: with M = Q_hj^T D_h^T D_k Q_kj the square is tr(U_h U_h^T M U_k U_k^T M^T). With one space there
are no pairs and no SADE.

Initial values: D and U Xavier-uniform, Q and b zero, so the adapted model starts as the pretrained one.

Certainty: the paper's body could not be read and there is no code. Its abstract says that all modules share spaces of down- and
up-projection and that SADE penalises similarity. The decomposition, full matrices Q, a Frobenius norm on weights alone, r = 8 and a
search for p and the weight of SADE are second hand. The open points, each with the reading that seems most plausible:

    position of a module       before, as in ARC (`serial`): the notes merge an identity branch into the projection
                               that follows; parallel to projections is an option; parallel to fc1 and fc2, whose
                               widths differ, is not offered
    sharing of the spaces      modules of one position: attention and MLP apart if before them, all of a block's
                               projections if parallel to them; in a Swin within a stage
    U tied to D                no: the notes have two tensors
    bias of a module           one, as in ARC; the notes' count has a remainder that is not explained
    initial values             Q zero, D and U random, so that the spaces differ and Q has a gradient; U zero would do
                               as well
    scale of the update        none, which is 1
    dropout                    0.1 on the code x D Q, as in ARC
    p, by default              2, the least at which SADE acts
    objects that SADE compares the d x d updates of the spaces of one module, which has the cost that the notes give,
                               p^2 d^3; not updates of several modules
    reduction of SADE          a mean, so that its weight means the same at any depth and p; a sum is as likely
    norms in SADE              not divided out: at the start they are zero. So SADE also shrinks the updates
    weight of SADE             0.01 of a grid of ours: it depends on the reduction
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
    adapted_layers,
    check_layers,
    check_rank,
    into_slices,
    uniform,
    xavier_bound,
    zeros,
)
from trainables.adapters.families import Blocks

SERIAL: Final = {"serial": ("attn.qkv", "mlp.fc1"), "serial_att": ("attn.qkv",)}
# submodule -> (number of equal slices of its output rows, indices of the slices that have a module)
PARALLEL: Final[dict[str, dict[str, tuple[int, tuple[int, ...]]]]] = {
    "parallel_qv": {"attn.qkv": (3, (0, 2))},
    "parallel_qkv": {"attn.qkv": (3, (0, 1, 2))},
    "parallel_qkvo": {"attn.qkv": (3, (0, 1, 2)), "attn.proj": (1, (0,))},
}


@dataclass(frozen=True)
class CLoRA(Method):
    """The hyperparameters of CLoRA.

    Attributes:
        rank: Rank r, at least 1 and at most the width d.
        n_spaces: Number p of base spaces, at least 1.
        sade_weight: Factor of SADE in the loss, at least 0.
        insertion: Positions of the modules, see the table above.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code x D Q, in [0, 1).
    """

    name: ClassVar[str] = "clora"
    rank: int = 8
    n_spaces: int = 2
    sade_weight: float = 1e-2
    insertion: str = "serial"
    layers: str = "all"
    dropout: float = 0.1

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.n_spaces >= 1, "n_spaces", "at least 1")
        self.require(self.sade_weight >= 0, "sade_weight", "at least 0")
        self.require(self.insertion in (*SERIAL, *PARALLEL), "insertion", f"one of {', '.join((*SERIAL, *PARALLEL))}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each adapted linear; serial modules share bases per position, parallel ones share one pair."""
        layers: dict[str, Layer] = {}
        for target in SERIAL.get(self.insertion, ()):
            bases = self._bases(*next(iter(blocks.items())), target, rng)
            for path, block in blocks.items():
                layers[f"{path}.{target}"] = SerialLayer(cast(nn.Linear, block.get_submodule(target)), bases, self)
        if self.insertion in PARALLEL:
            bases = self._bases(*next(iter(blocks.items())), "attn.qkv", rng)
            for path, block in blocks.items():
                for target, (n_slices, which) in PARALLEL[self.insertion].items():
                    linear = cast(nn.Linear, block.get_submodule(target))
                    square = linear.in_features == linear.out_features // n_slices == bases[0].shape[1]
                    law = f"one of {', '.join(SERIAL)} where a projection is not d x d, as in {path}.{target} on this backbone"
                    self.require(square, "insertion", law)
                    layers[f"{path}.{target}"] = ParallelLayer(linear, n_slices, which, bases, self)
        return layers

    def _bases(self, path: str, block: nn.Module, target: str, rng: torch.Generator) -> tuple[nn.Parameter, nn.Parameter]:
        like = cast(nn.Linear, block.get_submodule(target)).weight
        p, d, r = self.n_spaces, like.shape[1], self.rank
        check_rank(self, f"the input of {path}.{target}", d)
        bound = xavier_bound(d, r)
        return uniform(p, d, r, bound=bound, rng=rng, like=like), uniform(p, r, d, bound=bound, rng=rng, like=like)

    def regulariser(self, model: nn.Module) -> Tensor | None:
        """Return SADE times its weight; None if the weight is zero or there is one space."""
        if self.sade_weight == 0 or self.n_spaces == 1:
            return None
        groups: dict[int, list[SerialLayer | ParallelLayer]] = {}  # by the bases that the modules share
        for _, layer in adapted_layers(model):
            module = cast("SerialLayer | ParallelLayer", layer)
            groups.setdefault(id(module.down), []).append(module)
        terms = [sade(group[0].down, group[0].up, torch.cat([layer.q for layer in group])) for group in groups.values()]
        return self.sade_weight * torch.cat(terms).mean()


def sade(down: Tensor, up: Tensor, q: Tensor) -> Tensor:
    """Return the squares || E_h^T E_k ||_F^2 of m modules that share their bases, (m, pairs).

    Args:
        down: Tensor D, (p, d, r).
        up: Tensor U, (p, r, d).
        q: Tensor Q, (m, p, r, r).
    """
    h, k = torch.triu_indices(len(down), len(down), 1, device=down.device)
    within = up @ up.mT  # (p, r, r)
    between = q[:, h].mT @ (down[h].mT @ down[k]) @ q[:, k]  # M, (m, pairs, r, r)
    return (within[h] @ between @ within[k] * between).sum((-2, -1))


def _down(down: Tensor, q: Tensor) -> Tensor:
    """Return D Q of each module, with its p spaces side by side: (n, d, p r), from q (n, p, r, r)."""
    return (down @ q).transpose(1, 2).flatten(2)


class SerialLayer(Layer):
    """A linear whose input is transformed by x (I + dW) + b."""

    def __init__(self, base: nn.Linear, bases: tuple[nn.Parameter, nn.Parameter], method: CLoRA) -> None:
        super().__init__(base)
        self.dropout = method.dropout
        self.down, self.up = bases  # (p, d, r) and (p, r, d), shared
        self.q = zeros(1, method.n_spaces, method.rank, method.rank, like=base.weight)
        self.b = zeros(base.in_features, like=base.weight)

    def adapted_weight(self) -> Tensor:
        """Return W (I + dW)^T, (out, d)."""
        weight = self.linear.weight
        return weight + (weight @ self.up.flatten(0, 1).T) @ _down(self.down, self.q)[0].T

    def adapted_bias(self) -> Tensor:
        """Return the bias plus W b, (out,)."""
        moved = self.linear.weight @ self.b
        return moved if self.linear.bias is None else self.linear.bias + moved

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses thin products on the input, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        code = F.dropout(x @ _down(self.down, self.q)[0], self.dropout)  # (batch, tokens, p r)
        y: Tensor = self.base(x + code @ self.up.flatten(0, 1) + self.b)
        return y


class ParallelLayer(Layer):
    """A linear with x dW + b added to chosen slices of its output, one module for each."""

    def __init__(
        self, base: nn.Linear, n_slices: int, chosen: tuple[int, ...], bases: tuple[nn.Parameter, nn.Parameter], method: CLoRA
    ) -> None:
        super().__init__(base)
        self.n_slices, self.chosen, self.dropout = n_slices, chosen, method.dropout
        self.down, self.up = bases  # (p, d, r) and (p, r, d), shared
        self.q = zeros(len(chosen), method.n_spaces, method.rank, method.rank, like=base.weight)
        self.b = zeros(len(chosen) * base.in_features, like=base.weight)

    def adapted_weight(self) -> Tensor:
        """Return the weight, W + dW^T in the chosen rows, (out, d)."""
        delta = (_down(self.down, self.q) @ self.up.flatten(0, 1)).mT  # (chosen, d, d)
        return self.linear.weight + into_slices(delta, self.chosen, self.n_slices, 0).to(self.linear.weight.dtype)

    def adapted_bias(self) -> Tensor:
        """Return the bias, plus b in the chosen rows, (out,)."""
        b = into_slices(self.b.view(len(self.chosen), -1), self.chosen, self.n_slices, 0)
        return b if self.linear.bias is None else self.linear.bias + b

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; training uses thin products, cheaper at ViT-B/16's width than the dense gradient of W'."""
        if not self.training:
            return super().forward(x)
        down = _down(self.down, self.q)  # (chosen, d, p r)
        code = F.dropout(x @ down.transpose(0, 1).flatten(1), self.dropout)  # (batch, tokens, chosen p r)
        delta = code.view(*code.shape[:-1], len(down), -1) @ self.up.flatten(0, 1)  # (batch, tokens, chosen, d)
        delta = delta + self.b.view(len(self.chosen), -1)
        y: Tensor = self.base(x)
        return y + into_slices(delta.unbind(-2), self.chosen, self.n_slices, -1)
