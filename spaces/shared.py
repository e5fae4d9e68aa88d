"""The training knobs that every method shares, and the `layers` knob of all methods that adapt blocks.

Source: the common VTAB-1k recipe of this family of papers (AdamW, linear warm-up, cosine; learning rate 1e-3, weight decay 1e-4,
batch 64 or 32, drop path 0.1), and the grids printed by the authors of ARC and HTA.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution

from spaces.knob import Knob

SHARED = (
    Knob(
        "optim.lr",
        FloatDistribution(1e-4, 2e-2, log=True),
        default=1e-3,
        meaning="Peak learning rate of AdamW, reached after the warm-up.",
        unit="per step",
        source="NOAH and PETL-ViT scripts 1e-3; ARC 1e-2; HTA's printed grid 1e-4 to 2e-1",
        sizes=False,
        bounds="(0, inf)",
    ),
    Knob(
        "optim.weight_decay",
        CategoricalDistribution((0.0, 1e-4, 1e-3, 1e-2)),
        default=1e-4,
        meaning="Decoupled weight decay of AdamW on matrices; biases and other vectors are not decayed.",
        unit="per step, times the learning rate",
        source="NOAH and PETL-ViT scripts 1e-4; ARC and HTA grids and SNELL's scripts 0 to 5e-2; RandLoRA's CLIP scripts 0.1",
        sizes=False,
        bounds="[0, inf)",
    ),
    Knob(
        "optim.batch_size",
        CategoricalDistribution((16, 32, 64)),
        default=32,
        meaning="Training images per step.",
        unit="images",
        source="NOAH, PETL-ViT and Lily 64; ARC and CLoRA 32; SNELL 8 to 64, chosen per data set; HTA grid 16, 32, 64",
        sizes=False,
        bounds="[1, inf)",
    ),
    Knob(
        "recipe.drop_path",
        CategoricalDistribution((0.0, 0.1)),
        default=0.1,
        meaning="Stochastic depth of the last block; earlier blocks follow a linear ramp from 0.",
        unit="probability",
        source="PETL-ViT scripts 0.1; ARC 0",
        sizes=False,
        bounds="[0, 1)",
    ),
)


def layers(method: str) -> Knob:
    """Return the knob that chooses the adapted blocks, which every method that adapts blocks has."""
    return Knob(
        f"{method}.layers",
        CategoricalDistribution(("all", "first-2", "first-4", "last-2", "last-4")),
        default="all",
        meaning="Which blocks are adapted: all, the first k or the last k.",
        unit="blocks",
        source="paper: all; first and last k are Paretune's",
        pattern="(first|last)-[1-9][0-9]*",
    )
