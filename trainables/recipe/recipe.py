"""How a trial is trained: optimiser, schedule, regularisation. The defaults are the recipe the VTAB-1K papers share.

AdamW; learning rate linear from zero over the warm-up, then cosine to `final_lr_fraction` of its peak, set at each
step; weight decay on matrices only (biases, norms and every other 1-D tensor are left out, as timm's optimiser
factory does it, and so is what a method says must not decay); batches of a fresh permutation each epoch, a last
incomplete batch left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from timm.layers import DropPath
from torch import nn

from trainables.adapters import near

PRECISIONS: Final = ("float32", "bfloat16")
_OPTIM: Final = ("lr", "weight_decay", "batch_size")


@dataclass(frozen=True)
class Recipe:
    """The training knobs that are not a method's.

    Attributes:
        lr: Peak learning rate, positive.
        weight_decay: AdamW's, at least 0.
        batch_size: Images per step, at least 1.
        drop_path: Stochastic depth of the last block, in [0, 1); it rises linearly from 0 at the first.
        warmup_fraction: Part of all steps that warm up, in [0, 1].
        final_lr_fraction: The last learning rate over the peak, in [0, 1].
        label_smoothing: In [0, 1).
        clip_norm: Largest norm of the gradient of all trainables together; None for no limit.
        accumulate: Into how many parts a batch is split, to be taken one after the other; the step is that of the whole batch.
            A method that looks at its whole batch (Lily's router) sees a part.
        precision: "float32", or "bfloat16" for what `trainables.recipe.step.logits` says.
        compile: Whether the training pass is compiled (torch.compile), anew for each trial.
        latency: Whether a trial measures its inference latency (see `trainables.costs.latency`), after its first epoch.
        n_threads: Torch threads of the worker, at least 1.
        device: Torch device; None for CUDA where there is one, else the CPU.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 32
    drop_path: float = 0.1
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.01
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False
    latency: bool = False
    n_threads: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        self._require(0 < self.lr < math.inf, "lr", "positive and finite")
        self._require(self.weight_decay >= 0, "weight_decay", "at least 0")
        self._require(self.batch_size >= 1, "batch_size", "at least 1")
        self._require(0 <= self.drop_path < 1, "drop_path", "in [0, 1)")
        self._require(0 <= self.warmup_fraction <= 1, "warmup_fraction", "in [0, 1]")
        self._require(0 <= self.final_lr_fraction <= 1, "final_lr_fraction", "in [0, 1]")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)")
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive, or null for none")
        self._require(self.accumulate >= 1, "accumulate", "at least 1")
        self._require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        self._require(self.n_threads >= 1, "n_threads", "at least 1")

    def _require(self, holds: bool, field: str, law: str) -> None:
        if not holds:
            family = "optim" if field in _OPTIM else "recipe"
            raise ValueError(f"{family}.{field} must be {law}; got {getattr(self, field)!r}")


def recipe_of(fixed: Mapping[str, Any], config: Mapping[str, Any]) -> Recipe:
    """The recipe of a configuration: its `optim.` and `recipe.` knobs over what the study fixes.

    Raises:
        ValueError: An unknown key, or a value that `Recipe` refuses.
    """
    names = [field.name for field in fields(Recipe)]
    values = dict(fixed)
    for key, value in config.items():
        family, _, knob = key.partition(".")
        if family in ("optim", "recipe"):
            if (knob in _OPTIM) != (family == "optim"):
                known = [f"optim.{n}" if n in _OPTIM else f"recipe.{n}" for n in names]
                raise ValueError(f"{key} is not a training knob, these are: {', '.join(known)}{near(key, known)}")
            values[knob] = value
    if unknown := values.keys() - set(names):
        first = min(unknown)
        raise ValueError(f"{first!r} is not part of a recipe, these are: {', '.join(names)}{near(first, names)}")
    return Recipe(**values)


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """Learning rate of step 0, ..., n_steps - 1: the peak at the end of the warm-up, the final value at the last step."""
    n_warmup = round(recipe.warmup_fraction * n_steps)
    if step < n_warmup:
        return recipe.lr * (step + 1) / n_warmup
    progress = (step + 1 - n_warmup) / (n_steps - n_warmup)
    return recipe.lr * (recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def optimiser(parameters: Iterable[nn.Parameter], recipe: Recipe, undecayed: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW over matrices, with weight decay, and vectors and what is `undecayed`, without; the fused form, one call a step."""
    spared = {id(p) for p in undecayed}
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": recipe.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for parameter in parameters:
        groups[parameter.ndim <= 1 or id(parameter) in spared]["params"].append(parameter)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, fused=True)


def set_drop_path(blocks: Iterable[nn.Module], rate: float) -> list[tuple[nn.Module, str, nn.Module]]:
    """Puts stochastic depth on the blocks, linear from 0 to `rate`; returns what was there for `restore`."""
    before: list[tuple[nn.Module, str, nn.Module]] = []
    all_blocks = list(blocks)
    for i, block in enumerate(all_blocks):
        p = rate * i / max(1, len(all_blocks) - 1)
        for name in ("drop_path1", "drop_path2"):
            before.append((block, name, getattr(block, name)))
            setattr(block, name, (DropPath(p) if p else nn.Identity()).train(block.training))
    return before


def restore(before: Iterable[tuple[nn.Module, str, nn.Module]]) -> None:
    """Takes `set_drop_path` back."""
    for block, name, module in before:
        setattr(block, name, module)
