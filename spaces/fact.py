"""FacT, factor-tuning. Jie and Deng, AAAI 2023, arXiv 2212.03145; ranges from the released configurations."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "fact",
    (
        Knob(
            "fact.variant",
            CategoricalDistribution(("tt", "tk")),
            default="tk",
            meaning="How the small matrix of each weight slice is made: free (tensor train) or from a shared core (Tucker).",
            unit="",
            source="paper: TT and TK; TK is the stronger row of its VTAB-1k table",
        ),
        Knob(
            "fact.rank",
            CategoricalDistribution((4, 8, 16, 32)),
            default=32,
            meaning="Rank r of the two factors that the whole network shares.",
            unit="dimensions",
            source="released configurations: TK 32 (13 tasks) or 16 (6), TT 16, 8 or 4",
            bounds="[1, inf)",
        ),
        Knob(
            "fact.scale",
            CategoricalDistribution((0.01, 0.1, 1.0, 10.0, 100.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="released configurations: 0.01 to 100, chosen per data set; 1 is the code's default",
            sizes=False,
            bounds="(0, inf)",
        ),
        layers("fact"),
        Knob(
            "fact.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code in front of the shared up-projection.",
            unit="probability",
            source="released code 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
