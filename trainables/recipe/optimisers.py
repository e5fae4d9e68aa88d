"""torch's AdamW and SGD, without the wrappers that import torch's compiler and leave it again at each step.

The wrappers do nothing outside compiled code, and no optimiser of ours runs in it. The arithmetic and the saved state are torch's.
"""

from __future__ import annotations

from typing import Any

import torch

from trainables.torch_internals import undecorated


class _Eager(torch.optim.Optimizer):
    """The methods of an optimiser without their wrappers."""

    add_param_group = undecorated(torch.optim.Optimizer.add_param_group)
    zero_grad = undecorated(torch.optim.Optimizer.zero_grad)
    state_dict = undecorated(torch.optim.Optimizer.state_dict)
    load_state_dict = undecorated(torch.optim.Optimizer.load_state_dict)


class AdamW(_Eager, torch.optim.AdamW):
    """AdamW (Loshchilov & Hutter, 2019)."""

    def step(self, closure: Any = None) -> Any:
        """Update the parameters once."""
        with torch.no_grad():
            return undecorated(torch.optim.AdamW.step)(self, closure)


class SGD(_Eager, torch.optim.SGD):
    """Stochastic gradient descent with momentum."""

    def step(self, closure: Any = None) -> Any:
        """Update the parameters once."""
        with torch.no_grad():
            return undecorated(torch.optim.SGD.step)(self, closure)
