"""The bottleneck adapter. Houlsby et al., ICML 2019, arXiv 1902.00751; one per block, as in the VTAB-1k tables."""

from optuna.distributions import CategoricalDistribution

from spaces.knob import Knob
from spaces.shared import layers
from spaces.space import Space

SPACE = Space(
    "adapter",
    (
        Knob(
            "adapter.rank",
            CategoricalDistribution((4, 8, 16, 32, 64)),
            default=8,
            meaning="Width r of the bottleneck.",
            unit="dimensions",
            source="VTAB-1k tables: Adapter-8 (0.16 M parameters on ViT-B/16) and Adapter-32; Houlsby et al. 8 to 256",
            bounds="[1, inf)",
        ),
        Knob(
            "adapter.scale",
            CategoricalDistribution((0.1, 1.0)),
            default=1.0,
            meaning="Plain factor s of the update.",
            unit="factor",
            source="Houlsby et al. have none (1); 0.1 is AdaptFormer's",
            sizes=False,
            bounds="(0, inf)",
        ),
        Knob(
            "adapter.activation",
            CategoricalDistribution(("gelu", "relu")),
            default="gelu",
            meaning="Activation inside the bottleneck.",
            unit="",
            source="Houlsby et al. GELU; NOAH QuickGELU, which is not offered; ReLU in later vision papers",
            sizes=False,
        ),
        Knob(
            "adapter.position",
            CategoricalDistribution(("ffn", "attn_ffn", "ffn_parallel")),
            default="ffn",
            meaning="After the MLP, after attention and MLP, or beside the MLP.",
            unit="",
            source="VTAB-1k tables: after the MLP; Houlsby et al.: after both",
        ),
        layers("adapter"),
        Knob(
            "adapter.dropout",
            CategoricalDistribution((0.0, 0.1)),
            default=0.0,
            meaning="Dropout on the code inside the bottleneck.",
            unit="probability",
            source="Houlsby et al. none; 0.1 in NOAH's Adapter-8 and in AdaptFormer's",
            sizes=False,
            bounds="[0, 1)",
        ),
    ),
)
