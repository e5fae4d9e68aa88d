"""VPT. Jia et al., ECCV 2022, arXiv 2203.12119; ranges from the paper and the released code.

The paper's learning rates are those of SGD. With AdamW NOAH's script has 1e-3, and the released results of Mai et al. (arXiv
2409.16434), which choose between 1e-3 and 1e-2 for each of the 19 tasks of VTAB-1k, have 1e-2 for 12 (deep) and 15 (shallow).
Both have batch 64. The released code trains in batches of 64 or 128, without stochastic depth.
"""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "vpt",
    (
        Knob(
            "vpt.depth",
            CategoricalDistribution(("shallow", "deep")),
            default="deep",
            meaning="Prompts of the first adapted block only (VPT-shallow), or of each (VPT-deep).",
            unit="",
            source="paper: both; VPT-deep is its better one",
        ),
        Knob(
            "vpt.length",
            CategoricalDistribution((1, 5, 10, 50, 100, 200)),
            default=50,
            meaning="Number p of prompts in the sequence.",
            unit="tokens",
            source="paper: 1, 5, 10, 50, 100, 200, chosen per data set; the released example commands have 50",
            bounds="[1, inf)",
        ),
        layers("vpt"),
        Knob(
            "vpt.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the elements of the prompts.",
            unit="probability",
            source="released example runs of VPT-deep on VTAB-1k 0.1; VPT-shallow, and the code's default, 0",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
    recipe={"optim.lr": 1e-2, "optim.batch_size": 64, "recipe.drop_path": 0.0},
)
