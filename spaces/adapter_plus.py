"""Adapter+. Steitz and Roth, CVPR 2024, arXiv 2406.06820; values from the released configurations.

They have a learning rate of 1e-3, a weight decay of 1e-4, batches of 64 and a drop path of 0.1 on all tasks, 100 epochs with 10 of
warm-up, and choose the rank.
"""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "adapter_plus",
    (
        Knob(
            "adapter_plus.rank",
            CategoricalDistribution((1, 2, 4, 8, 16, 32)),
            default=8,
            meaning="Width r of the bottleneck.",
            unit="dimensions",
            source="released configurations 1 to 32, one for all tasks or chosen per data set",
            bounds="[1, inf)",
        ),
        layers("adapter_plus"),
        Knob(
            "adapter_plus.drop_path",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Stochastic depth of the adapters, the same in each block.",
            unit="probability",
            source="released configurations 0.1; their ablation 0 and 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
    recipe={"optim.batch_size": 64},
)
