"""The running statistics of a frozen backbone's batch norms."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _NormBase


def hold_statistics(model: nn.Module) -> None:
    """Keep batch norms (in the stems of some timm models) at the statistics of their pretraining; call it after `model.train()`.

    In train mode they would normalise by the batch and move their running statistics, which are no parameters and so not frozen:
    the accuracy would come from a drifting backbone. The test over all timm models shows that nothing else has a state.
    """
    for module in model.modules():
        if isinstance(module, _NormBase) and module.track_running_stats:
            module.eval()
