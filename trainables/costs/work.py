"""The work of an epoch of a configuration: operations, bytes and kernel calls, counted on torch's meta device before any training.

The count runs the real training step on the real model: the forward pass, and of the backward pass exactly what autograd computes
for the trained parameters. Nothing is computed behind the first of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables import backbones, data
from trainables.adapters import Full, Method, adapt, adaptation, method_of, remove, trainable_parameters, transformer_blocks
from trainables.adapters.own import own_methods
from trainables.costs.counting import KernelCounter, structure
from trainables.costs.memory import PREFIX_BYTES
from trainables.recipe.cut import after, kept_at, shape_at
from trainables.recipe.recipe import Recipe, recipe_of, restore, set_drop_path
from trainables.recipe.step import backward, logits
from trainables.tasks.base import Task
from trainables.tasks.classification import ONE_LABEL
from trainables.torch_internals import meta_kernels

_FLOAT_BYTES = 4
_ADAM_PASSES = 7  # of an optimiser step over the trained parameters: reads parameter, gradient, two moments; writes all but one


@dataclasses.dataclass(frozen=True)
class Work:
    """An amount of work; its time is a sum of these three, each multiplied by a constant of the machine.

    Attributes:
        operations: Floating-point operations of matrix products, convolutions and attention.
        bytes: Bytes that kernels read and write.
        calls: Number of kernels.
    """

    operations: float = 0.0
    bytes: float = 0.0
    calls: float = 0.0

    def __add__(self, other: Work) -> Work:
        """Return both amounts together."""
        return Work(self.operations + other.operations, self.bytes + other.bytes, self.calls + other.calls)

    def __mul__(self, times: float) -> Work:
        """Return the amount several times."""
        return Work(self.operations * times, self.bytes * times, self.calls * times)


def count(function: Callable[[], object]) -> Work:
    """Count the work of a function's kernels."""
    with KernelCounter() as counter, meta_kernels():
        function()
    return Work(counter.operations, counter.bytes, counter.calls)


def step_work(model: nn.Module, n_images: int, recipe: Recipe, cut: int = 0, task: Task = ONE_LABEL) -> Work:
    """Count the work of one optimiser step of an adapted model on the meta device; its mode is restored.

    Args:
        model: Adapted model.
        n_images: Number of images of the step.
        recipe: Recipe.
        cut: Cut at which the tokens of the images are kept (`trainables.recipe.cut`).
        task: The task.
    """
    was_training = model.training
    n_part = math.ceil(n_images / min(recipe.accumulate, n_images))
    inputs = _inputs(model, n_part, cut)
    labels = task.no_labels(n_part, backbones.preprocessing(model).size, torch.device("meta"))
    plain = dataclasses.replace(recipe, precision="float32")  # autocast does not know the meta device
    trained = [parameter for _, parameter in trainable_parameters(model)]
    before = set_drop_path(transformer_blocks(model), recipe.drop_path)
    model.train()
    try:
        of_a_part = count(lambda: backward(model, [(inputs, labels)], n_part, plain, after(model, cut), task=task))
    finally:
        restore(before)
        model.train(was_training)
        for parameter in trained:
            parameter.grad = None
    n_bytes = _ADAM_PASSES * _FLOAT_BYTES * sum(parameter.numel() for parameter in trained)
    return of_a_part * math.ceil(n_images / n_part) + Work(bytes=n_bytes, calls=1)


def evaluation_work(model: nn.Module, n_images: int, cut: int = 0, task: Task = ONE_LABEL) -> Work:
    """Count the work of evaluating a split whose tokens are kept at a cut."""
    batch, was_training = min(n_images, task.eval_batch), model.training
    model.eval()
    try:
        with torch.no_grad():
            inputs = _inputs(model, batch, cut)
            return count(lambda: logits(model, inputs, "float32", after(model, cut))) * (n_images / batch)
    finally:
        model.train(was_training)


def _inputs(model: nn.Module, n_images: int, cut: int) -> Tensor:
    """Return what passes through a cut, on the meta device: images at cut 0."""
    if cut:
        return torch.zeros(n_images, *shape_at(model, cut), device="meta")
    wanted = backbones.preprocessing(model)
    return torch.zeros(n_images, wanted.channels, *wanted.size, device="meta")


class EpochWork:
    """The work of an epoch of every configuration of a study, counted once for each different structure.

    Args:
        backbone: The `backbone` argument of `trainables.make`; its weights are not needed.
        data_set: The `data` argument of `trainables.make`; no image is read.
        recipe: The `recipe` argument of `trainables.make`.
        methods: The `methods` argument of `trainables.make`.

    Attributes:
        n_training: Number of training images.

    Raises:
        ValueError: If the backbone or data set is unknown, or the data set has no images.
    """

    def __init__(
        self,
        backbone: Mapping[str, Any],
        data_set: Mapping[str, Any],
        recipe: Mapping[str, Any],
        methods: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._own = own_methods(methods)
        self._fixed = dict(recipe)
        self._n_classes, self._task = data.n_classes(data_set), data.task_of(data_set)
        self._augment = str(data_set.get("augment", "none"))
        sizes = data.n_images(data_set, "train"), data.n_images(data_set, "validation")
        if None in sizes:
            raise ValueError(f"data.kind {data_set['kind']!r} has no images: there is no epoch to predict")
        self.n_training, self._n_validation = cast(tuple[int, int], sizes)
        self._model = backbones.create(backbone["name"], img_size=backbone.get("img_size"), device="meta")
        self._known: dict[tuple[Any, ...], tuple[Work, Work]] = {}

    def step(self, config: Mapping[str, Any]) -> Work:
        """Count the work of one training step.

        A tuner of PEFT that reads values, which do not exist on the meta device, counts as full fine-tuning.

        Raises:
            ValueError: If the configuration is invalid or does not fit the backbone.
        """
        return self._passes(config)[0]

    def epoch(self, config: Mapping[str, Any]) -> Work:
        """Count the work of training and validating one epoch; see `step`."""
        step, evaluation = self._passes(config)
        return step * (self.n_training // self._batch(recipe_of(self._fixed, config))) + evaluation

    def _batch(self, recipe: Recipe) -> int:
        return min(recipe.batch_size, self.n_training)

    def _passes(self, config: Mapping[str, Any]) -> tuple[Work, Work]:
        method, recipe = method_of(config, self._own), recipe_of(self._fixed, config)
        key = (structure(method), self._batch(recipe), recipe.accumulate, recipe.drop_path > 0)
        if key not in self._known:
            try:
                self._known[key] = self._counted(method, recipe)
            except (NotImplementedError, RuntimeError):
                self._known[key] = self._counted(Full(), recipe)
        return self._known[key]

    def _counted(self, method: Method, recipe: Recipe) -> tuple[Work, Work]:
        self._task.set_head(self._model, self._n_classes, torch.Generator())
        try:
            adapt(self._model, method)
            cut = self._cut(recipe, "train", self.n_training)
            step = step_work(self._model, self._batch(recipe), recipe, cut, self._task)
            cut = self._cut(recipe, "validation", self._n_validation)
            return step, evaluation_work(self._model, self._n_validation, cut, self._task)
        finally:
            if adaptation(self._model) is not None:
                remove(self._model)
            self._task.remove_head(self._model)

    def _cut(self, recipe: Recipe, split: str, n_images: int) -> int:
        return kept_at(self._model, recipe.prefix_cuts, split, n_images, self._augment, most_bytes=PREFIX_BYTES)[0]
