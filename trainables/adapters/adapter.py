"""The bottleneck adapter (Houlsby et al., ICML 2019, arXiv 1902.00751; code google-research/adapter-bert, `modeling.py`).

    y = base(x)        y' = y + s Drop(act(h D^T + b_D)) P^T + s b_P        D in R^{r x d}, P in R^{d x r}

    position        base and h                                                                       count on L blocks
    ffn             after the MLP, h = y (place of Adapter-8 in the VTAB-1K tables; the default)     L (2 d r + r + d)
    attn_ffn        after the attention's projection and after the MLP, h = y (Houlsby et al.)       twice that
    ffn_parallel    parallel to the MLP, h = x, the output of the layer norm                         L (2 d r + r + d)

always before the residual is added. The count on ViT-B/16 with r = 8 is 156,768.

Initial values: D as PyTorch's linear, P and both biases zero, so the adapted model starts as the pretrained one.

The default is no published row exactly. It has the place and the count of Adapter-8 of the VTAB-1K tables, a row that the code of
NOAH computed (`model/module/adapter_super.py`), and differs from that code in four points:

                       here, by default                         NOAH
    act                GELU                                     QuickGELU, x sigmoid(1.702 x)
    dropout            0                                        0.1
    initial values     D as PyTorch's linear, P = 0             D and P truncated normal, standard deviation 0.02
    stochastic depth   after the adapter: Path(y')              before it: Path(base(x)) is y and h

NOAH's adapter therefore does not start at the pretrained model, and adds P act(b_D) + b_P where an image's path is dropped. Its own
initialiser (Xavier, biases of standard deviation 1e-6) has no effect: the model's initialiser runs after it, on every linear. With
`dropout: 0.1` the default is nearest to that row, and still another adapter. `attn_ffn` has the places of Houlsby et al., not the
layer norms that their code trains, too. AdaptFormer and Adapter+ are other rows.

*Deviation:* the code of Houlsby et al. draws D and P from a normal distribution of standard deviation 0.001; here P = 0.
*Deviation:* s and the dropout are knobs; s = 1 and no dropout is the code of Houlsby et al.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.base import Layer, Method, check_layers, check_rank, linear_bound, uniform, zeros
from trainables.adapters.families import Blocks

POSITIONS: Final = {"ffn": ("mlp",), "attn_ffn": ("attn.proj", "mlp"), "ffn_parallel": ("mlp",)}
ACTIVATIONS: Final[dict[str, Callable[[Tensor], Tensor]]] = {"gelu": F.gelu, "relu": F.relu}


@dataclass(frozen=True)
class Adapter(Method):
    """The hyperparameters of the bottleneck adapter.

    Attributes:
        rank: Rank r, at least 1 and at most the width d.
        scale: Scale s, positive.
        activation: Activation, "gelu" or "relu".
        position: Position of the adapters, "ffn", "attn_ffn" or "ffn_parallel", see the table above.
        layers: Adapted blocks: "all", "first-K" or "last-K".
        dropout: Probability of dropping an element of the code, in [0, 1).
    """

    name: ClassVar[str] = "adapter"
    rank: int = 8
    scale: float = 1.0
    activation: str = "gelu"
    position: str = "ffn"
    layers: str = "all"
    dropout: float = 0.0

    def __post_init__(self) -> None:
        self.require(self.rank >= 1, "rank", "at least 1")
        self.require(self.scale > 0, "scale", "positive")
        self.require(self.activation in ACTIVATIONS, "activation", f"one of {', '.join(ACTIVATIONS)}")
        self.require(self.position in POSITIONS, "position", f"one of {', '.join(POSITIONS)}")
        self.require(0 <= self.dropout < 1, "dropout", "in [0, 1)")
        check_layers(self, self.layers)

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build one layer for each MLP, and for each output projection if the position includes it."""
        layers: dict[str, Layer] = {}
        for path, block in blocks.items():
            like = block.attn.proj.weight  # (d, d)
            check_rank(self, f"the width of {path}", like.shape[0])
            for target in POSITIONS[self.position]:
                layers[f"{path}.{target}"] = AdapterLayer(block.get_submodule(target), like, self, rng)
        return layers


class Bottleneck(Layer):
    """A base and a bottleneck of two linears; a subclass decides what it reads and where its update is added."""

    unmergeable = "its activation makes the update non-linear, so that no weight computes it"

    def __init__(
        self, base: nn.Module, down: nn.Parameter, up: nn.Parameter, activation: Callable[[Tensor], Tensor], dropout: float = 0.0
    ) -> None:
        super().__init__(base)
        self.activation, self.dropout = activation, dropout
        self.down = down  # (r, d)
        self.down_bias = zeros(len(down), like=down)
        self.up = up  # (d, r)
        self.up_bias = zeros(len(up), like=up)

    def update(self, h: Tensor, scale: float | Tensor) -> Tensor:
        """Return the update for an input (..., d), times one scale or a scale for each channel, (d,)."""
        code = F.dropout(self.activation(F.linear(h, self.down, self.down_bias)), self.dropout, self.training)
        return F.linear(code, (scale * self.up.T).T, scale * self.up_bias)


class AdapterLayer(Bottleneck):
    """A bottleneck that is added to the output of its base."""

    def __init__(self, base: nn.Module, like: Tensor, method: Adapter, rng: torch.Generator) -> None:
        d, r = like.shape[0], method.rank
        down, up = uniform(r, d, bound=linear_bound(d), rng=rng, like=like), zeros(d, r, like=like)
        super().__init__(base, down, up, ACTIVATIONS[method.activation], method.dropout)
        self.scale, self.parallel = method.scale, method.position == "ffn_parallel"

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, in) to (batch, tokens, d)."""
        y: Tensor = self.base(x)
        return y + self.update(x if self.parallel else y, self.scale)
