"""AdaptFormer. Chen et al., NeurIPS 2022, arXiv 2205.13535; ranges from the paper's ablation and the VTAB-1k tables."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "adaptformer",
    (
        Knob(
            "adaptformer.rank",
            CategoricalDistribution((4, 8, 16, 32, 64)),
            default=64,
            meaning="Width r of the bottleneck beside the MLP.",
            unit="dimensions",
            source="released code 64; VTAB-1k tables 8 (0.16 M parameters on ViT-B/16)",
            bounds="[1, inf)",
        ),
        Knob(
            "adaptformer.scale",
            CategoricalDistribution((0.01, 0.1, 1.0, 10.0)),
            default=0.1,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="released code 0.1; PETL-ViT's form with 1-bit weights: 0.01 to 100, chosen per data set",
            sizes=False,
            bounds="(0, inf)",
        ),
        layers("adaptformer"),
        Knob(
            "adaptformer.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code inside the bottleneck.",
            unit="probability",
            source="released code 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
