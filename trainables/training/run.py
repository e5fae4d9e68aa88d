"""The one trial that a worker is running: its plan, and the state that lives between two epochs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from trainables.adapters import (
    Adaptation,
    adaptation,
    load_trainable_state,
    trainable_parameters,
    trainable_state,
    transformer_blocks,
    undecayed_parameters,
)
from trainables.costs.latency import latency
from trainables.folder import Folder
from trainables.recipe.compiling import compiled
from trainables.recipe.cut import after
from trainables.recipe.precision import explicit_attention, fused_attention
from trainables.recipe.recipe import Recipe, optimiser, restore, set_drop_path
from trainables.recipe.step import Forward
from trainables.training import checkpoint
from trainables.training.random_state import RandomState

LATENCY_SECONDS = 0.1  # time for which a trial repeats its forward pass, for both forms of the model
OF_A_FORWARD_PASS = ("cost/gflops", "cost/latency_ms", "cost/latency_merged_ms")


@dataclass(frozen=True)
class Plan:
    """The specification of a trial."""

    config: Mapping[str, Any]
    seed: int
    epochs: int
    recipe: Recipe
    folder: Path | Folder | None

    def check(self, facts: Mapping[str, Any]) -> None:
        """Raise a ValueError unless the facts of a checkpoint belong to this trial."""
        saved, own = (facts["config"], facts["seed"]), (dict(self.config), self.seed)
        if saved != own:
            raise ValueError(
                f"a trial resumes from its own checkpoint; {self.folder} holds one of {saved[0]}, seed {saved[1]}, and this is "
                f"{own[0]}, seed {own[1]}; use another folder"
            )
        if facts["epoch"] > self.epochs:
            raise ValueError(
                f"a trial has at least the epochs of its checkpoint; the one in {self.folder} has {facts['epoch']}, got "
                f"{self.epochs}; give it as many or more"
            )


class Run:
    """The state of one trial: its plan, its progress, and the optimiser of its trainable parameters."""

    def __init__(self, model: nn.Module, plan: Plan, generator: torch.Generator, device: torch.device) -> None:
        self.model, self.plan, self.method = model, plan, cast(Adaptation, adaptation(model)).method
        self.random = RandomState(generator, device)
        self.trained = dict(trainable_parameters(model))
        self.optimiser = optimiser(self.trained.values(), plan.recipe, undecayed_parameters(model))
        self._drop_path_before = set_drop_path(transformer_blocks(model), plan.recipe.drop_path)
        explicit = plan.recipe.precision == "bfloat16" and device.type == "cpu"
        self._attention_before = explicit_attention(model) if explicit else []
        self._forwards: dict[int, Forward] = {}
        self.costs: dict[str, float] = {}  # of a forward pass, filled once they are known
        self.epoch = 0
        self.metrics: dict[str, float] | None = None

    def forward(self, cut: int) -> Forward:
        """Return the training pass from a cut on, compiled if the recipe says so."""
        if cut not in self._forwards:
            found = after(self.model, cut)
            if self.plan.recipe.compile:
                found = found._replace(features=compiled(found.features, (cut, *self._compiled_for())))
            self._forwards[cut] = found
        return self._forwards[cut]

    def _compiled_for(self) -> tuple[Hashable, ...]:
        """Return what determines the code of a compiled pass, but for the cut."""
        recipe = self.plan.recipe
        return repr(self.method), recipe.batch_size, recipe.accumulate, recipe.precision, recipe.drop_path

    def leave(self) -> None:
        """Restore the model's own modules, which the trial has changed."""
        restore(self._drop_path_before)
        fused_attention(self._attention_before)

    def keep_what_is_left(self) -> bool:
        """Drop gradients, and the optimiser state of parameters that the method has removed; return whether it removed any."""
        self.optimiser.zero_grad()
        left, before = dict(trainable_parameters(self.model)), self.optimiser.state
        if left.keys() == self.trained.keys():
            return False
        self.trained, self.optimiser = left, optimiser(left.values(), self.plan.recipe, undecayed_parameters(self.model))
        for parameter in left.values():
            self.optimiser.state[parameter] = before[parameter]
        return True

    def latency(self) -> dict[str, float]:
        """Measure the inference latency of the current model, with the fused attention kernel that users run."""
        fused_attention(self._attention_before)
        found = latency(self.model, precision=self.plan.recipe.precision, seconds=LATENCY_SECONDS).metrics
        if self._attention_before:
            explicit_attention(self.model)
        return found

    def saved(self) -> checkpoint.Checkpoint:
        """Return the checkpoint: trainable parameters, optimiser and random state, and the trial's progress."""
        tensors = {f"trainable/{name}": tensor.cpu() for name, tensor in trainable_state(self.model).items()}
        for name, parameter in self.trained.items():
            for key, tensor in self.optimiser.state[parameter].items():
                tensors[f"optimiser/{name}/{key}"] = tensor.cpu()
        tensors |= {f"random/{name}": tensor for name, tensor in self.random.state.items()}
        plan = {"config": dict(self.plan.config), "seed": self.plan.seed, "epochs": self.plan.epochs}
        return checkpoint.Checkpoint(tensors, {**plan, "epoch": self.epoch, "metrics": self.metrics})

    def load(self, saved: checkpoint.Checkpoint) -> None:
        """Restore the state of `saved`, so that the trial resumes from there."""
        load_trainable_state(self.model, saved.group("trainable"))
        self.keep_what_is_left()
        for name, parameter in self.trained.items():
            state = saved.group(f"optimiser/{name}")
            self.optimiser.state[parameter] = {key: tensor.to(parameter.device) for key, tensor in state.items()}
        self.random.state = saved.group("random")
        self.epoch, self.metrics = saved.facts["epoch"], saved.facts["metrics"]
        self.costs = {key: value for key, value in self.metrics.items() if key in OF_A_FORWARD_PASS}
