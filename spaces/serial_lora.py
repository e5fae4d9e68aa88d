"""Serial LoRA. ICME 2025, arXiv 2503.17750; the authors print no ranges: these are inferred from LoRA's."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "serial_lora",
    (
        Knob(
            "serial_lora.rank",
            CategoricalDistribution((2, 4, 8, 16, 32, 64)),
            default=16,
            meaning="Rank r of the map in front of queries, keys and values.",
            unit="dimensions",
            source="inferred: r=16 has LoRA's 0.29 M parameters on ViT-B/16; the paper's budgets fit r = 32 to 256",
            bounds="[1, inf)",
        ),
        Knob(
            "serial_lora.scale",
            CategoricalDistribution((0.1, 1.0, 10.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="the paper's figures show none, which is 1; the grid is LoRA's",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "serial_lora.targets",
            CategoricalDistribution(("qkv", "qkv_mlp")),
            default="qkv",
            meaning="Adapt the input of attention only, or of attention and MLP.",
            unit="",
            source="paper: attention only; with the MLP is Paretune's",
        ),
        layers("serial_lora"),
        Knob(
            "serial_lora.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.0,
            meaning="Dropout on the code between A and B.",
            unit="probability",
            source="the paper's figures show none; PETL-ViT's LoRA 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
