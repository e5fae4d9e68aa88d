"""CLoRA, collaborative low-rank adaptation with SADE. Liu et al., 2025, arXiv 2512.24603; ranges inferred, no code is public."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "clora",
    (
        Knob(
            "clora.rank",
            CategoricalDistribution((4, 8, 16)),
            default=8,
            meaning="Rank r of every base space, and width of each module's own small matrices.",
            unit="dimensions",
            source="paper, second hand: 8 throughout",
            bounds="[1, inf)",
        ),
        Knob(
            "clora.n_spaces",
            CategoricalDistribution((1, 2, 3, 4, 6, 8)),
            default=2,
            meaning="Number p of pairs of base spaces that all modules share.",
            unit="spaces",
            source="paper, second hand: searched per task; 2 is the least at which SADE acts",
            bounds="[1, inf)",
        ),
        Knob(
            "clora.sade_weight",
            CategoricalDistribution((0.0, 1e-3, 1e-2, 1e-1, 1.0)),
            default=1e-2,
            meaning="Factor of SADE, which keeps a module's spaces apart, in the loss (a mean over modules and pairs).",
            unit="nats per unit of SADE",
            source="paper, second hand: searched per task; grid and default are Paretune's",
            sizes=False,
            bounds="[0, inf)",
        ),
        Knob(
            "clora.insertion",
            CategoricalDistribution(("serial", "serial_att", "parallel_qv", "parallel_qkv", "parallel_qkvo")),
            default="serial",
            meaning="Modules in front of attention and MLP, of attention only, or beside projections of the attention.",
            unit="",
            source="inferred from second-hand notes: serial; the others are Paretune's",
        ),
        layers("clora"),
        Knob(
            "clora.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code of every space.",
            unit="probability",
            source="inferred: as released for ARC, which CLoRA contains",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
