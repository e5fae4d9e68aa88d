"""The speed of a machine: seconds per operation, byte and kernel call, from a few steps of three methods on noise.

The constants hold for one backbone, precision and number of threads, and every configuration of a study. They fit the measured
steps best, relative to each step's time. Three steps alone do not determine three constants well, because a step with more
operations also moves more bytes; so the fit is drawn towards constants that take equal shares of an average step.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from trainables import backbones
from trainables.adapters import adapt, method_of, remove, trainable_parameters, undecayed_parameters
from trainables.costs.memory import forget_peak, peak_bytes
from trainables.costs.work import Work, step_work
from trainables.recipe.precision import explicit_attention, fused_attention
from trainables.recipe.recipe import Recipe, optimiser, recipe_of
from trainables.recipe.step import backward

REFERENCES: Final = ("head_only", "lora", "householder")  # from few large kernels to many small ones
TOWARDS_EQUAL: Final = 0.03  # weight of equal shares; from 0.01 to 0.1 the error of 22 methods was the same
N_CLASSES: Final = 10
MOST_IMAGES: Final = 32
STEP_SECONDS: Final = 0.1  # the batch is doubled until a step of LoRA takes this long
REPEATS: Final = (2, 15)  # steps of each method, least and most, after one that warms up
SECONDS: Final = 1.0  # after this time no further step of a method starts, once there are enough


@dataclass(frozen=True)
class Speed:
    """The constants of a machine, and what else the measurement told.

    Attributes:
        per_operation: Seconds per floating-point operation.
        per_byte: Seconds per byte that a kernel reads or writes.
        per_call: Seconds per kernel.
        setup_seconds: Seconds from a configuration to its first step, on a worker that has loaded the backbone.
        n_images: Images of a measured step.
        base_bytes: Memory of the process before the backbone was built; of its tensors on a GPU.
        peak_bytes: Peak memory of LoRA's steps.
        error: Largest ratio between a measured step and its prediction, at least 1.
    """

    per_operation: float
    per_byte: float
    per_call: float
    setup_seconds: float
    n_images: int
    base_bytes: float
    peak_bytes: float
    error: float

    def seconds(self, work: Work) -> float:
        """Return the seconds that an amount of work takes."""
        return self.per_operation * work.operations + self.per_byte * work.bytes + self.per_call * work.calls


def measure(
    backbone: Mapping[str, Any], recipe: Mapping[str, Any], on_done: Callable[[int, int, str], None] = lambda done, of, name: None
) -> Speed:
    """Measure the constants on this machine: no weights and no data are needed.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        recipe: The `recipe` argument of `trainables.make`.
        on_done: Callback that receives the number of measured methods, of all, and the name of the last.

    Raises:
        ValueError: If the backbone cannot be built.
    """
    own = replace(recipe_of(recipe, {}), accumulate=1, compile=False)
    device = torch.device(own.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(own.n_threads)
    try:
        forget_peak(device)
        base = float(peak_bytes(device))
        on_meta = backbones.create(backbone["name"], img_size=backbone.get("img_size"), device="meta")
        model = backbones.create(backbone["name"], backbones.RANDOM, backbone.get("img_size"), device)
        n_images = _enough_images(model, own, device)
        works, seconds, setups, peak = [], [], [], base
        for done, name in enumerate(REFERENCES):
            on_done(done, len(REFERENCES), name)
            with suppress(ValueError):  # not every method fits every backbone
                forget_peak(device)
                setup, took = _measured(model, name, n_images, own, device)
                works.append(_work(on_meta, name, n_images, own))
                seconds.append(took)
                setups.append(setup)
                peak = float(peak_bytes(device)) if name == "lora" else peak
        on_done(len(REFERENCES), len(REFERENCES), "")
        constants, error = fit(works, seconds)
        return Speed(*constants, statistics.mean(setups), n_images, base, peak, error)
    finally:
        torch.set_num_threads(threads)


def fit(works: Sequence[Work], seconds: Sequence[float]) -> tuple[tuple[float, float, float], float]:
    """Return the non-negative constants with the least squared relative error, and the largest ratio that is left."""
    amounts = np.array([[work.operations, work.bytes, work.calls] for work in works], np.float64)
    relative = amounts / np.array(seconds)[:, None]
    scale = relative.mean(0)
    weight = (TOWARDS_EQUAL * len(seconds)) ** 0.5
    matrix = np.vstack([relative / scale, weight * np.eye(3)])
    target = np.concatenate([np.ones(len(seconds)), np.full(3, weight / 3)])
    shares, _ = nnls(matrix, target)
    ratios = relative @ (shares / scale)
    per_operation, per_byte, per_call = (float(value) for value in shares / scale)
    return (per_operation, per_byte, per_call), float(np.maximum(ratios, 1 / ratios).max())


def _enough_images(model: nn.Module, recipe: Recipe, device: torch.device) -> int:
    n_images = 1
    with _Adapted(model, "lora", recipe, device) as adapted:
        adapted.step(1)  # warms up
        while n_images < MOST_IMAGES and adapted.step(n_images) < STEP_SECONDS:
            n_images *= 2
    return n_images


def _measured(model: nn.Module, name: str, n_images: int, recipe: Recipe, device: torch.device) -> tuple[float, float]:
    """Return the seconds of setting a method up, and the median of its steps."""
    begun = time.perf_counter()
    with _Adapted(model, name, recipe, device) as adapted:
        setup = time.perf_counter() - begun
        adapted.step(n_images)
        begun, taken = time.perf_counter(), list[float]()
        least, most = REPEATS
        while len(taken) < least or (len(taken) < most and time.perf_counter() - begun < SECONDS):
            taken.append(adapted.step(n_images))
        begun = time.perf_counter()
    return setup + time.perf_counter() - begun, statistics.median(taken)


def _work(on_meta: nn.Module, name: str, n_images: int, recipe: Recipe) -> Work:
    backbones.set_head(on_meta, N_CLASSES, torch.Generator())
    adapt(on_meta, method_of({"method": name}))
    try:
        return step_work(on_meta, n_images, replace(recipe, drop_path=0.0))
    finally:
        remove(on_meta)
        backbones.remove_head(on_meta)


class _Adapted:
    """A model with an adapter, a head and an optimiser, as a trial's, until the end of the block."""

    def __init__(self, model: nn.Module, name: str, recipe: Recipe, device: torch.device) -> None:
        self._model, self._name, self._recipe, self._device = model, name, recipe, device

    def __enter__(self) -> _Adapted:
        generator = torch.Generator().manual_seed(0)
        backbones.set_head(self._model, N_CLASSES, generator)
        try:
            adapt(self._model, method_of({"method": self._name}), generator=generator)
        except ValueError:
            backbones.remove_head(self._model)
            raise
        self._explicit = explicit_attention(self._model) if self._recipe.precision == "bfloat16" and self._on_cpu else []
        trained = [parameter for _, parameter in trainable_parameters(self._model)]
        self._optimiser = optimiser(trained, self._recipe, undecayed_parameters(self._model))
        self._model.train()
        return self

    @property
    def _on_cpu(self) -> bool:
        return self._device.type == "cpu"

    def step(self, n_images: int) -> float:
        """Take one step on noise, and return its seconds."""
        images, labels = self._batch(n_images)
        begun = time.perf_counter()
        backward(self._model, [(images, labels)], n_images, self._recipe)
        self._optimiser.step()
        self._optimiser.zero_grad()
        if not self._on_cpu:
            torch.cuda.synchronize(self._device)
        return time.perf_counter() - begun

    def _batch(self, n_images: int) -> tuple[Tensor, Tensor]:
        wanted = backbones.preprocessing(self._model)
        shape = (n_images, wanted.channels, *wanted.size)
        return torch.randn(shape, device=self._device), torch.zeros(n_images, dtype=torch.long, device=self._device)

    def __exit__(self, *raised: object) -> None:
        fused_attention(self._explicit)
        remove(self._model)
        backbones.remove_head(self._model)
        self._model.eval()
