"""LayerNorm tuning (Basu et al., AAAI 2024, arXiv 2304.01917): it trains the backbone's layer norms and adds nothing.

    LN(x) = gamma * (x - mean(x)) / sqrt(var(x) + eps) + beta          gamma and beta trained, all else frozen

Basu et al. call it LN-Tune; on language models it is LN-tuning (Qi et al., arXiv 2211.08682). The released code that is followed
here, and its recipe, are those of the study of Mai et al. (CVPR 2025, arXiv 2409.16434; OSU-MLB/ViT_PEFT_Vision). Every layer norm
is trained: the two of each block, the final one, and where a backbone has them those before the blocks (CLIP), of q and k, inside
attention and MLP (EVA-02), of the attention pool (SigLIP), of patch embedding and patch merging (Swin).

The count for L blocks of width d is 2 d (2 L + 1); on ViT-B/16 38,400, which the released results print, too. So the final norm is
in it: without it there would be 36,864. With CLIP's norm before the blocks it is 39,936, as printed. An anchor outside the default
search: it has one size.

*Deviation:* the released code trains each parameter with "norm" in its name. Here the type of the module decides, so that batch
norms and group norms of a hybrid's stem and RMS norms, which have no beta, stay frozen. On a plain Vision Transformer both are the
same. A backbone without any layer norm is refused.

*Deviation:* the released code decays gamma and beta (1e-4 or 1e-3, towards zero). Here, as in every method, no vector is decayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from trainables.adapters.base import Method


@dataclass(frozen=True)
class LayerNormTuning(Method):
    """The method, which has no hyperparameters."""

    name: ClassVar[str] = "layer_norm"

    def own_parameters(self, model: nn.Module) -> set[str]:
        """Return the names of all weights and biases of layer norms."""
        norms = {path: module for path, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
        found = {f"{path}.{name}" for path, norm in norms.items() for name, _ in norm.named_parameters(recurse=False)}
        if not found:
            kinds = {type(module).__name__ for module in model.modules()}
            others = ", ".join(sorted(kind for kind in kinds if kind.lower().endswith("norm"))) or "none"
            raise ValueError(
                f"{self.name} trains layer norms, and this {type(model).__name__} has none (its norms: {others}); "
                "choose another backbone or method"
            )
        return found
