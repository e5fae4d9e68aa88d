"""LoRA as the VTAB-1k baseline. Hu et al., ICLR 2022, arXiv 2106.09685; ranges from released configurations."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "lora",
    (
        Knob(
            "lora.rank",
            CategoricalDistribution((1, 2, 4, 8, 16, 32)),
            default=8,
            meaning="Rank r of every update B·A.",
            unit="dimensions",
            source="NOAH r=8 (0.29 M parameters on ViT-B/16)",
            bounds="[1, inf)",
        ),
        Knob(
            "lora.scale",
            CategoricalDistribution((0.1, 1.0, 10.0)),
            default=1.0,
            meaning="Plain factor s of the update (not alpha/r).",
            unit="factor",
            source="PETL-ViT's LoRA with 1-bit weights: 0.01 to 100, chosen per data set",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "lora.targets",
            CategoricalDistribution(("qv", "qkv", "qkvo", "qkvo_mlp")),
            default="qv",
            meaning="Which linear maps of a block are adapted.",
            unit="",
            source="PETL-ViT q and v; the wider sets are usual for language models",
        ),
        layers("lora"),
        Knob(
            "lora.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code between A and B.",
            unit="probability",
            source="PETL-ViT lora.py 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
