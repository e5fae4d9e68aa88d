"""ARC, Adapter Re-Composing. Dong et al., NeurIPS 2023, arXiv 2310.06234; ranges inferred from the same laboratory's grids."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "arc",
    (
        Knob(
            "arc.rank",
            CategoricalDistribution((5, 10, 25, 50)),
            default=50,
            meaning="Width r of the bottleneck, whose basis U all layers share.",
            unit="dimensions",
            source="released code: 50 on every backbone",
            bounds="[1, inf)",
        ),
        Knob(
            "arc.position",
            CategoricalDistribution(("att", "att_mlp")),
            default="att_mlp",
            meaning="Adapt the input of attention only, or of attention and MLP.",
            unit="",
            source="released code: both (ARC) or attention only (ARC_att)",
        ),
        layers("arc"),
        Knob(
            "arc.dropout",
            CategoricalDistribution((0.0, 0.1, 0.3)),
            default=0.1,
            meaning="Dropout on the bottleneck, after the re-scaling.",
            unit="probability",
            source="released scripts 0.1 on ViT, 0.5 on Swin; grid 0 to 0.5 in the same laboratory's HTA",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
    recipe={"optim.lr": 1e-2, "optim.weight_decay": 0.0, "recipe.drop_path": 0.0},
)
