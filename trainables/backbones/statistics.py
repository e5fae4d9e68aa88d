"""The running statistics of a frozen backbone's batch norms."""

from __future__ import annotations

from typing import Any, cast

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def hold_statistics(model: nn.Module) -> None:
    """Keep batch norms of a backbone (in the stems of some timm models) at their statistics; call it after `model.train()`.

    In train mode they would normalise by the batch and move their running statistics, which are no parameters and so not frozen:
    the accuracy would come from a drifting backbone. The test over all timm models shows that nothing else has a state.
    """
    head = set(cast(Any, model).get_classifier().modules())  # which is trained
    for module in model.modules():
        if module not in head and isinstance(module, _NormBase) and module.track_running_stats:
            module.eval()
