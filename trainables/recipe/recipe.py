"""The training recipe of a trial: optimiser, schedule, regularisation. The defaults are the recipe the VTAB-1K papers share.

AdamW. The learning rate is set at each step: linear from zero over the warm-up, then cosine to `final_lr_fraction` of its peak.
With `schedule: epoch` it is set once per epoch, as the released scripts of NOAH, FacT, Lily and SNELL step timm's scheduler.
Weight decay acts on matrices only: biases, norms and every other 1-D tensor are excluded, as in timm's optimiser factory, and so
is every parameter that a method exempts. Each epoch draws batches from a fresh permutation and drops a last incomplete batch.
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
SCHEDULES: Final = ("step", "epoch")
_WARMUP_FROM: Final = 1e-6  # learning rate of the first two epochs of a schedule by epochs, as the released scripts have it
_OPTIM: Final = ("lr", "weight_decay", "batch_size")


@dataclass(frozen=True)
class Recipe:
    """The training hyperparameters that do not belong to a method.

    Attributes:
        lr: Peak learning rate, positive.
        weight_decay: Weight decay of AdamW, at least 0.
        batch_size: Images per step, at least 1.
        drop_path: Stochastic depth of the last block, in [0, 1); it rises linearly from 0 at the first.
        schedule: "step", or "epoch" for a learning rate that is constant within an epoch (see `learning_rate_of_epoch`).
        warmup_fraction: Fraction of all steps used for the warm-up, in [0, 1].
        final_lr_fraction: Last learning rate divided by the peak, in [0, 1].
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1).
        clip_norm: Largest norm of the joint gradient of all trainable parameters; None for no limit.
        accumulate: Number of parts into which a batch is split and processed one after the other; the step is that of the
            full batch. A method that mixes the images of a batch (Lily's router) sees one part at a time.
        precision: "float32", or "bfloat16" for the operations that `trainables.recipe.step.logits` lists.
        compile: True to compile the training pass (torch.compile), separately for each trial.
        latency: True to measure a trial's inference latency after its first epoch (see `trainables.costs.latency`).
        n_threads: Torch threads of the worker, at least 1.
        device: Torch device; None for CUDA if available, else the CPU.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 32
    drop_path: float = 0.1
    schedule: str = "step"
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
        self._require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
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
    """Return the recipe of a configuration: its `optim.` and `recipe.` knobs override the study's fixed values.

    Raises:
        ValueError: If a key is unknown or `Recipe` rejects a value.
    """
    names = [field.name for field in fields(Recipe)]
    values = dict(fixed)
    for key, value in config.items():
        family, _, knob = key.partition(".")
        if family in ("optim", "recipe"):
            if (knob in _OPTIM) != (family == "optim"):
                known = [f"optim.{n}" if n in _OPTIM else f"recipe.{n}" for n in names]
                raise ValueError(f"{key} is not a training knob; the knobs are {', '.join(known)}{near(key, known)}")
            values[knob] = value
    if unknown := values.keys() - set(names):
        first = min(unknown)
        raise ValueError(f"{first!r} is not part of a recipe; its keys are {', '.join(names)}{near(first, names)}")
    return Recipe(**values)


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """Return the learning rate of step 0, ..., n_steps - 1: the peak ends the warm-up, the last step has the final value."""
    n_warmup = round(recipe.warmup_fraction * n_steps)
    if step < n_warmup:
        return recipe.lr * (step + 1) / n_warmup
    progress = (step + 1 - n_warmup) / (n_steps - n_warmup)
    return recipe.lr * (recipe.final_lr_fraction + (1 - recipe.final_lr_fraction) * 0.5 * (1 + math.cos(math.pi * progress)))


def learning_rate_of_epoch(epoch: int, n_epochs: int, recipe: Recipe) -> float:
    """Return the learning rate of epoch 0, ..., n_epochs - 1, as released scripts step timm's CosineLRScheduler.

    They call `scheduler.step(epoch)` after each epoch, so that an epoch has the rate of the one before, and the first two have
    1e-6. The cosine has begun at epoch 0, so that the peak is not reached: with 10 of 100 epochs for the warm-up it is 0.976 lr.
    """
    before, n_warmup, final = max(0, epoch - 1), round(recipe.warmup_fraction * n_epochs), recipe.final_lr_fraction * recipe.lr
    if before < n_warmup:
        return _WARMUP_FROM + before * (recipe.lr - _WARMUP_FROM) / n_warmup
    return final + 0.5 * (recipe.lr - final) * (1 + math.cos(math.pi * before / n_epochs))


def optimiser(parameters: Iterable[nn.Parameter], recipe: Recipe, undecayed: Iterable[nn.Parameter] = ()) -> torch.optim.AdamW:
    """Build a fused AdamW with weight decay on matrices; vectors and `undecayed` parameters get none."""
    spared = {id(p) for p in undecayed}
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": recipe.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for parameter in parameters:
        groups[parameter.ndim <= 1 or id(parameter) in spared]["params"].append(parameter)
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=recipe.lr, fused=True)


def set_drop_path(blocks: Iterable[nn.Module], rate: float) -> list[tuple[nn.Module, str, nn.Module]]:
    """Set stochastic depth on the blocks, linear from 0 to `rate`; return the replaced modules for `restore`."""
    before: list[tuple[nn.Module, str, nn.Module]] = []
    all_blocks = list(blocks)
    for i, block in enumerate(all_blocks):
        p = rate * i / max(1, len(all_blocks) - 1)
        for name in ("drop_path1", "drop_path2"):
            before.append((block, name, getattr(block, name)))
            setattr(block, name, (DropPath(p) if p else nn.Identity()).train(block.training))
    return before


def restore(before: Iterable[tuple[nn.Module, str, nn.Module]]) -> None:
    """Undo `set_drop_path`."""
    for block, name, module in before:
        setattr(block, name, module)
