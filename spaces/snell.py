"""SNELL, sparse tuning with kernelised LoRA. NeurIPS 2024, arXiv 2411.01800; ranges from the released configurations."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "snell",
    (
        Knob(
            "snell.rank",
            CategoricalDistribution((4, 8, 16, 32)),
            default=8,
            meaning="Length r of the vectors whose kernel is the update, one vector for each input and output.",
            unit="dimensions",
            source="paper: 8, 16 and 32; 4 is Paretune's",
            bounds="[1, inf)",
        ),
        Knob(
            "snell.sparsity",
            CategoricalDistribution((0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)),
            default=0.9,
            meaning="Part of each update that is zero; 0 is the plain kernelised form, not shrunk by |K|.",
            unit="fraction",
            source="released configurations 0 to 0.995, chosen per data set; 0 and 0.9 on large backbones",
            sizes=False,
            bounds="[0, 1)",
        ),
        Knob(
            "snell.kernel",
            CategoricalDistribution(("piecewise_linear", "linear")),
            default="piecewise_linear",
            meaning="Kernel between the vectors: difference of two distances, or inner product.",
            unit="",
            source="paper: piecewise linear; the inner product in its ablation",
            sizes=False,
        ),
        Knob(
            "snell.sparsify",
            CategoricalDistribution(("code_gate", "paper_soft", "mask")),
            default="code_gate",
            meaning="What is left of an entry of the kernel above the threshold: times its size, times its excess, or as it is.",
            unit="",
            source="released code: code_gate; the paper's Eq. 5: paper_soft; mask is its bare sparsity. No effect at sparsity 0",
            sizes=False,
        ),
        Knob(
            "snell.targets",
            CategoricalDistribution(("qv", "qkv", "qkvo", "qkvo_mlp")),
            default="qkvo_mlp",
            meaning="Which linear maps of a block are adapted.",
            unit="",
            source="released code: all six; the narrower sets are LoRA's",
        ),
        layers("snell"),
        Knob(
            "snell.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.1,
            meaning="Dropout on the input of the branch.",
            unit="probability",
            source="released code: 0.1, none on the output projection",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
