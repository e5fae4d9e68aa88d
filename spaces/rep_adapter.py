"""RepAdapter. Luo et al., arXiv 2302.08106; values from the released scripts, and from the study of Mai et al., arXiv 2409.16434.

The scripts have a learning rate of 1e-3, a weight decay of 1e-4, batches of 64 and a drop path of 0.1 on all 19 tasks of VTAB-1k.
"""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "rep_adapter",
    (
        Knob(
            "rep_adapter.rank",
            CategoricalDistribution((4, 8, 16, 32)),
            default=8,
            meaning="Width r of the bottleneck, even.",
            unit="dimensions",
            source="released scripts 8; Mai et al. 8, 16, 32; 4 is Paretune's",
            bounds="[2, inf)",
        ),
        Knob(
            "rep_adapter.scale",
            CategoricalDistribution((0.1, 0.5, 1.0, 5.0, 10.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="released search script, chosen per data set; the code's default is 1",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "rep_adapter.position",
            CategoricalDistribution(("att_mlp", "att")),
            default="att_mlp",
            meaning="Before attention and MLP, or before the attention only.",
            unit="",
            source="paper; released as repblock and repattn",
        ),
        layers("rep_adapter"),
        Knob(
            "rep_adapter.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the code inside the bottleneck.",
            unit="probability",
            source="released code 0.1",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
    recipe={"optim.batch_size": 64},
)
