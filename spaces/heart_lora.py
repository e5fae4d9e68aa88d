"""Heart-LoRA, head-level responsiveness tuning. arXiv 2404.08894 v2; no public code.

Ranges from the paper's appendix and from its LoRA baseline.
"""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "heart_lora",
    (
        Knob(
            "heart_lora.rank",
            CategoricalDistribution((2, 4, 8, 16)),
            default=8,
            meaning="Rank r of the updates of q and v.",
            unit="dimensions",
            source="LoRA baseline of the same tables: 8; grid inferred",
            bounds="[1, inf)",
        ),
        Knob(
            "heart_lora.scale",
            CategoricalDistribution((0.1, 1.0, 10.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="released configurations of its LoRA baseline: 0.01 to 10, chosen per data set",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "heart_lora.active_head_ratio",
            CategoricalDistribution((0.25, 0.5, 0.75)),
            default=0.75,
            meaning="Part of the update's heads that stays after the warm-up; the rest is dropped.",
            unit="fraction of heads",
            source="paper: number of heads off, swept per data set; as a ratio, range and default are Paretune's",
            bounds="(0, 1]",
        ),
        Knob(
            "heart_lora.level",
            CategoricalDistribution(("global", "layer")),
            default="global",
            meaning="Drop the same heads in all blocks, by their accumulated score, or rank in each block.",
            unit="",
            source="paper, appendix A: accumulated over layers; the variant ranks in each layer",
            sizes=False,
        ),
        Knob(
            "heart_lora.criterion",
            CategoricalDistribution(("abs", "signed")),
            default="abs",
            meaning="Score a head by the size of the loss's change when it is switched off, or by the change with its sign.",
            unit="",
            source="Paretune; the paper's text leaves it open",
            sizes=False,
        ),
        Knob(
            "heart_lora.warmup_epochs",
            CategoricalDistribution((5, 10, 20)),
            default=10,
            meaning="Epochs with all heads before they are scored; a shorter trial scores after its last epoch.",
            unit="epochs",
            source="Paretune; 10 is the warm-up of the shared recipe of 100 epochs",
            sizes=False,
            bounds="[1, inf)",
        ),
        layers("heart_lora"),
        Knob(
            "heart_lora.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code between A and B.",
            unit="probability",
            source="its LoRA baseline, PETL-ViT lora.py: 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
