"""The training recipe of a trial: optimiser, schedule, regularisation. The defaults are near what the VTAB-1K papers share.

AdamW, or SGD with momentum. The learning rate is set at each step: linear from zero over the warm-up, then cosine to its last
value. With the other schedules it is set once per epoch, as released scripts do; see `learning_rate_of_epoch`. Weight decay acts on
matrices only: biases, norms and every other 1-D tensor are excluded, as in timm's optimiser factory, and so is every parameter that
a method exempts; with `decay: all` nothing is excluded. Each epoch draws batches from a fresh permutation and drops a last
incomplete batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from timm.layers import DropPath
from torch import nn

from trainables.adapters import near
from trainables.backbones import HEAD_INITS
from trainables.recipe.optimisers import SGD, AdamW

PRECISIONS: Final = ("float32", "bfloat16")
SCHEDULES: Final = ("step", "epoch", "epoch_lightning", "epoch_transformers")
OPTIMISERS: Final = ("adamw", "sgd")
DECAYS: Final = ("matrices", "all")
CLASS_WEIGHTS: Final = ("none", "balanced")
MOMENTUM: Final = 0.9  # of SGD
_OPTIM: Final = ("lr", "weight_decay", "batch_size")


@dataclass(frozen=True)
class Recipe:
    """The training hyperparameters that do not belong to a method.

    Attributes:
        lr: Peak learning rate, positive.
        weight_decay: Weight decay, at least 0: decoupled in AdamW, part of the gradient in SGD.
        batch_size: Images per step, at least 1.
        drop_path: Stochastic depth of the last block, in [0, 1); it rises linearly from 0 at the first.
        optimizer: "adamw", or "sgd" with momentum 0.9.
        decay: Parameters that are decayed: "matrices" or "all".
        head_init: Initial values of the classifier, see `trainables.backbones.set_head`.
        schedule: "step", or a schedule whose learning rate is constant within an epoch (see `learning_rate_of_epoch`).
        warmup_fraction: Fraction of all steps used for the warm-up, in [0, 1].
        final_lr_fraction: Last learning rate divided by the peak, in [0, 1].
        final_lr: Last learning rate; None for `final_lr_fraction` of the peak.
        label_smoothing: Label smoothing of the cross-entropy, in [0, 1).
        clip_norm: Largest norm of the joint gradient of all trainable parameters; None for no limit.
        accumulate: Number of parts into which a batch is split and processed one after the other; the step is that of the
            full batch. A method that mixes the images of a batch (Lily's router) sees one part at a time.
        precision: "float32", or "bfloat16" for the operations that `trainables.recipe.step.logits` lists.
        compile: True to compile the training pass, see `trainables.recipe.compiling`.
        prefix_cuts: Cuts (`trainables.recipe.cut`) at which the tokens of training and validation images are kept; stochastic
            depth and dropout then do not act in blocks that nothing trains. None, in a study that began before: no training
            images are kept, and they act in all blocks.
        prefix_bytes: Most bytes of files of tokens on a machine.
        class_weights: "none", or "balanced": the loss of each image is multiplied by n / (C n_c), for n training images of C
            classes, n_c of which are of the image's.
        metric: Metric of `trainables.tasks.quality` that is reported with every epoch, in addition to accuracy and loss.
        latency: True to measure a trial's inference latency after its first epoch (see `trainables.costs.latency`).
        n_threads: Torch threads of the worker, at least 1.
        device: Torch device; None for CUDA if available, else the CPU.
    """

    lr: float = 1e-3
    weight_decay: float = 1e-4
    batch_size: int = 32
    drop_path: float = 0.1
    optimizer: str = "adamw"
    decay: str = "matrices"
    head_init: str = "trunc_normal"
    schedule: str = "step"
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.01
    final_lr: float | None = None
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    accumulate: int = 1
    precision: str = "float32"
    compile: bool = False
    prefix_cuts: Sequence[int] | None = None
    prefix_bytes: int = 0
    class_weights: str = "none"
    metric: str = "top1"
    latency: bool = False
    n_threads: int = 1
    device: str | None = None

    def __post_init__(self) -> None:
        self._require(0 < self.lr < math.inf, "lr", "positive and finite")
        self._require(self.weight_decay >= 0, "weight_decay", "at least 0")
        self._require(self.batch_size >= 1, "batch_size", "at least 1")
        self._require(0 <= self.drop_path < 1, "drop_path", "in [0, 1)")
        self._require(self.optimizer in OPTIMISERS, "optimizer", f"one of {', '.join(OPTIMISERS)}")
        self._require(self.decay in DECAYS, "decay", f"one of {', '.join(DECAYS)}")
        self._require(self.head_init in HEAD_INITS, "head_init", f"one of {', '.join(HEAD_INITS)}")
        self._require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        self._require(0 <= self.warmup_fraction <= 1, "warmup_fraction", "in [0, 1]")
        self._require(0 <= self.final_lr_fraction <= 1, "final_lr_fraction", "in [0, 1]")
        self._require(self.final_lr is None or 0 <= self.final_lr < math.inf, "final_lr", "at least 0, or null")
        self._require(0 <= self.label_smoothing < 1, "label_smoothing", "in [0, 1)")
        self._require(self.clip_norm is None or self.clip_norm > 0, "clip_norm", "positive, or null for none")
        self._require(self.accumulate >= 1, "accumulate", "at least 1")
        self._require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        self._require(self.class_weights in CLASS_WEIGHTS, "class_weights", f"one of {', '.join(CLASS_WEIGHTS)}")
        self._require(self.n_threads >= 1, "n_threads", "at least 1")

    @property
    def last_lr(self) -> float:
        """The last learning rate."""
        return self.final_lr_fraction * self.lr if self.final_lr is None else self.final_lr

    def _require(self, holds: bool, field: str, law: str) -> None:
        if not holds:
            family = "optim" if field in _OPTIM else "recipe"
            raise ValueError(f"{family}.{field} must be {law}; got {getattr(self, field)!r}")


def recipe_of(fixed: Mapping[str, Any], config: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a configuration: its `optim.` and `recipe.` knobs override the study's fixed values.

    Args:
        fixed: Fixed values; `clip_norm` may be a mapping from methods to theirs, and the others have none.
        config: Configuration.

    Raises:
        ValueError: If a key is unknown or `Recipe` rejects a value.
    """
    names = [field.name for field in fields(Recipe)]
    values = dict(fixed)
    if isinstance(of_methods := values.get("clip_norm"), Mapping):
        values["clip_norm"] = of_methods.get(config.get("method"))
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
    last = recipe.final_lr_fraction if recipe.final_lr is None else recipe.final_lr / recipe.lr
    progress = (step + 1 - n_warmup) / (n_steps - n_warmup)
    return recipe.lr * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * progress)))


def learning_rate_of_epoch(epoch: int, n_epochs: int, recipe: Recipe) -> float:
    """Return the learning rate of epoch 0, ..., n_epochs - 1 in the way of a released scheduler.

    `epoch`: timm's CosineLRScheduler as NOAH, FacT, Lily and SNELL step it, with `scheduler.step(epoch)` after each epoch: an
    epoch has the rate of the one before, and the first two have 1e-6. The cosine has begun at epoch 0, so that the peak is not
    reached: with 10 of 100 epochs for the warm-up it is 0.976 lr.

    `epoch_lightning`: LinearWarmupCosineAnnealingLR of Lightning Bolts as Adapter+ steps it, late in the same way. It begins at
    lr / 100, and its cosine at the end of the warm-up.

    `epoch_transformers`: WarmupCosineSchedule of pytorch-transformers as VPT steps it. The first epoch has 0, and the cosine
    begins at the end of the warm-up.
    """
    n_warmup = round(recipe.warmup_fraction * n_epochs)
    at = epoch if recipe.schedule == "epoch_transformers" else max(0, epoch - 1)
    if at < n_warmup:
        lowest, n_rising = {
            "epoch": (1e-6, n_warmup),
            "epoch_lightning": (recipe.lr / 100, max(1, n_warmup - 1)),
            "epoch_transformers": (0.0, n_warmup),
        }[recipe.schedule]
        return lowest + at * (recipe.lr - lowest) / n_rising
    begins = 0 if recipe.schedule == "epoch" else n_warmup
    return recipe.last_lr + 0.5 * (recipe.lr - recipe.last_lr) * (1 + math.cos(math.pi * (at - begins) / (n_epochs - begins)))


def optimiser(parameters: Iterable[nn.Parameter], recipe: Recipe, undecayed: Iterable[nn.Parameter] = ()) -> torch.optim.Optimizer:
    """Build the recipe's optimiser, fused; with `decay: matrices`, vectors and `undecayed` parameters get no weight decay."""
    spared = {id(p) for p in undecayed}
    groups: list[dict[str, Any]] = [{"params": [], "weight_decay": recipe.weight_decay}, {"params": [], "weight_decay": 0.0}]
    for parameter in parameters:
        groups[recipe.decay == "matrices" and (parameter.ndim <= 1 or id(parameter) in spared)]["params"].append(parameter)
    filled = [group for group in groups if group["params"]]
    if recipe.optimizer == "sgd":
        return SGD(filled, lr=recipe.lr, momentum=MOMENTUM, fused=True)
    return AdamW(filled, lr=recipe.lr, fused=True)


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
