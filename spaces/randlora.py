"""RandLoRA. Albert et al., ICLR 2025, arXiv 2502.00987; ranges from its PEFT branch and CLIP scripts."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "randlora",
    (
        Knob(
            "randlora.rank",
            CategoricalDistribution((6, 16, 32, 64)),
            default=32,
            meaning="Rank r of each random map; a higher rank needs fewer maps and so fewer parameters.",
            unit="dimensions",
            source="PEFT 32; the paper's CLIP scripts 6",
            bounds="[1, inf)",
        ),
        Knob(
            "randlora.alpha",
            CategoricalDistribution((16.0, 32.0, 64.0, 128.0)),
            default=64.0,
            meaning="Numerator of the scale alpha / (r sqrt(n)) of the update.",
            unit="factor",
            source="authors' branch of PEFT: 64, rule of thumb 2 r; the paper's CLIP scripts: scale 1 / r, so alpha = sqrt(n)",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "randlora.targets",
            CategoricalDistribution(("qv", "fused_mlp", "qkvo_mlp")),
            default="fused_mlp",
            meaning="Which weights of a block are adapted.",
            unit="",
            source="the paper's CLIP scripts: fused qkv and MLP; PEFT: the linears that a user names",
        ),
        layers("randlora"),
    ),
)
