"""Convpass. Jie and Deng, 2022, arXiv 2207.07039; ranges from the released configurations of VTAB-1k.

The 19 configurations of Convpass have s = 0.01 (1), 0.1 (5), 1 (5), 10 (5) and 100 (3), and K from the identity (9) or from
Xavier (10); all 19 of Convpass-attn have Xavier. Recipe: AdamW at 1e-3, decay 1e-4, batch 64, drop path 0.1, 100 epochs.
"""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "convpass",
    (
        Knob(
            "convpass.rank",
            CategoricalDistribution((4, 8, 16)),
            default=8,
            meaning="Channels r of the convolution.",
            unit="channels",
            source="released code 8; 4 and 16 are Paretune's",
            bounds="[1, inf)",
        ),
        Knob(
            "convpass.scale",
            CategoricalDistribution((0.01, 0.1, 1.0, 10.0, 100.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="released configurations: 0.01 to 100, chosen per data set; the code's default 1",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "convpass.position",
            CategoricalDistribution(("attn_mlp", "attn")),
            default="attn_mlp",
            meaning="Which branches of a block have a convolution.",
            unit="",
            source="released code: attn_mlp (Convpass), attn (Convpass-attn)",
        ),
        Knob(
            "convpass.kernel_init",
            CategoricalDistribution(("identity", "xavier")),
            default="identity",
            meaning="Initial value of the 3 x 3 kernel K.",
            unit="",
            source="released configurations: chosen per data set; the code's default is the identity",
            sizes=False,
        ),
        layers("convpass"),
        Knob(
            "convpass.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code behind the convolution.",
            unit="probability",
            source="released code 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
    recipe={"optim.batch_size": 64},
)
