"""HTA, Householder transformation-based adaptor. NeurIPS 2024, arXiv 2410.22952; ranges from the paper's appendix."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "householder",
    (
        Knob(
            "householder.extra_rank",
            CategoricalDistribution((0, 1, 2, 4, 8)),
            default=1,
            meaning="Rank D' of the low-rank map beside the diagonal between two Householder matrices.",
            unit="dimensions",
            source="paper: 1; 0, 1, 2 and 4 in its ablation",
            bounds="[0, inf)",
        ),
        Knob(
            "householder.normalisation",
            CategoricalDistribution(("householder", "literal")),
            default="householder",
            meaning="Divide by |v|^2, so that both outer factors are orthogonal, or take I - v v^T as printed.",
            unit="",
            source="the paper prints the literal form and calls it orthogonal; normalising is Paretune's",
            sizes=False,
        ),
        Knob(
            "householder.targets",
            CategoricalDistribution(("qv", "qkv", "qkvo", "qv_mlp", "qkvo_mlp", "mlp_output")),
            default="qkvo",
            meaning="Which linear maps of a block are adapted; or, as an adapter, the output of its MLP.",
            unit="",
            source="paper: counts fit q, k, v and output; q and v, with the MLP, and the MLP's output in its ablation",
        ),
        layers("householder"),
        Knob(
            "householder.dropout",
            CategoricalDistribution((0.0, 0.1, 0.2, 0.3, 0.5)),
            default=0.1,
            meaning="Dropout on the input of the branch.",
            unit="probability",
            source="paper's grid 0 to 0.5, its place not stated; 0.1 as released for ARC, of the same laboratory",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
    recipe={"optim.lr": 1e-2},
)
