"""Lily, low-rank interconnected adaptation across layers. Zhong et al., Findings of ACL 2025, arXiv 2407.09946."""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "lily",
    (
        Knob(
            "lily.rank",
            CategoricalDistribution((2, 4, 8, 16, 32)),
            default=32,
            meaning="Width r of the down-projections on keys and values; the MLP branch has 2r.",
            unit="dimensions",
            source="released ViT code: 32",
            bounds="[1, inf)",
        ),
        Knob(
            "lily.n_experts",
            CategoricalDistribution((1, 2, 3, 4)),
            default=4,
            meaning="How many up-projections all layers share, mixed by each layer's router.",
            unit="experts",
            source="released ViT code: 4",
            bounds="[1, inf)",
        ),
        Knob(
            "lily.temperature",
            FloatDistribution(0.1, 10.0, log=True),
            default=1.0,
            meaning="Router temperature: gate = softmax(logits / temperature).",
            unit="logits",
            source="Paretune; 1 is the released code",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "lily.scale",
            CategoricalDistribution((0.1, 1.0, 10.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="the author's guidance: a logarithmic grid from 0.01 to 10",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "lily.targets",
            CategoricalDistribution(("kv", "kv_mlp")),
            default="kv_mlp",
            meaning="Adapt keys and values, or also the MLP by a parallel branch.",
            unit="",
            source="released ViT code: keys, values and MLP",
        ),
        layers("lily"),
    ),
)
