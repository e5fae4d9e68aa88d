"""The inference latency of a model, with the adapter as separate layers and merged into the weights.

Each pass processes one image (a batch of one, already on the device, normalised) through the full model with its head, in eval
mode. The two forms alternate, so that other load on the machine affects both alike. The median of the repeats is reported.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from trainables import backbones
from trainables.adapters import adapt, adapted_layers, merge, method_of, unmergeable
from trainables.adapters.own import own_methods
from trainables.recipe.recipe import recipe_of
from trainables.recipe.step import logits
from trainables.tasks.base import Task
from trainables.tasks.classification import ONE_LABEL

N_WARM_UP: Final = 5
MIN_REPEATS: Final = 20
MAX_REPEATS: Final = 500
SECONDS: Final = 0.3  # after this time no further repeat starts, once there are enough


@dataclass(frozen=True)
class Latency:
    """The measured latency of one model.

    Attributes:
        unmerged_ms: Median milliseconds per image with the adapter as separate layers.
        merged_ms: Median milliseconds per image of the plain timm model that contains the adapter; None if it cannot be merged.
        unmergeable: Reason why the adapter cannot be merged, or None.
        n: Number of repeats of each form.
        spread_ms: Half the interquartile range of the unmerged repeats, a measure of the median's uncertainty.
    """

    unmerged_ms: float
    merged_ms: float | None
    unmergeable: str | None
    n: int
    spread_ms: float

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics that a trial reports."""
        merged = {} if self.merged_ms is None else {"cost/latency_merged_ms": self.merged_ms}
        return {"cost/latency_ms": self.unmerged_ms} | merged


def latency(model: nn.Module, *, precision: str, seconds: float = SECONDS) -> Latency:
    """Measure the latency of a model with a head, adapted or not; the model is left unchanged.

    Args:
        model: Model on any device.
        precision: Precision, see `trainables.recipe.recipe.Recipe`.
        seconds: Minimum time to repeat.
    """
    wanted = backbones.preprocessing(model)
    device = next(model.parameters()).device
    image = torch.zeros(1, wanted.channels, *wanted.size, device=device)
    was_training = model.training
    merged, reason = _merged(model.eval())
    forms = [model] if merged is None else [model, merged]
    found: list[list[float]] = [[] for _ in forms]
    try:
        with torch.inference_mode():
            for _ in range(N_WARM_UP):
                for form in forms:
                    _milliseconds(form, image, precision)
            begun = time.perf_counter()
            while len(found[0]) < MIN_REPEATS or (len(found[0]) < MAX_REPEATS and time.perf_counter() - begun < seconds):
                for form, values in zip(forms, found, strict=True):
                    values.append(_milliseconds(form, image, precision))
    finally:
        model.train(was_training)
    medians = [statistics.median(values) for values in found]
    low, _, high = statistics.quantiles(found[0], n=4)
    plain = merged is None and reason is None  # nothing to merge: the model is its own merged form
    return Latency(medians[0], medians[0] if plain else medians[1] if merged else None, reason, len(found[0]), (high - low) / 2)


def measure(
    backbone: Mapping[str, Any],
    recipe: Mapping[str, Any],
    n_classes: int,
    config: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]] = (),
    *,
    task: Task = ONE_LABEL,
) -> dict[str, Any]:
    """Measure the latency of a configuration without its weights: no checkpoint, no data and no training is needed.

    A method that drops parameters while it trains (Heart-LoRA's heads) is measured at its final size.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        recipe: The `recipe` argument of `trainables.make`; only its precision, device and threads are used.
        n_classes: Number of outputs of the head.
        config: The configuration.
        methods: The `methods` argument of `trainables.make`.
        task: Task whose head the model has.

    Returns:
        The result of `trainables.measure_latency`.

    Raises:
        ValueError: If the backbone cannot be built, or the configuration does not fit it.
    """
    own, method = recipe_of(recipe, config), method_of(config, own_methods(methods))
    device = torch.device(own.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(own.n_threads)
    try:
        size = backbones.image_size(backbone.get("weights"), backbone.get("img_size"))
        model = backbones.create(backbone["name"], backbones.RANDOM, size, device)
        generator = torch.Generator().manual_seed(0)
        task.set_head(model, n_classes, generator)
        adapt(model, method, generator=generator)
        method.shrink_to_final_size(model)
        found = latency(model, precision=own.precision)
        how = {"unmergeable": found.unmergeable, "repeats": found.n, "spread_ms": found.spread_ms}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        return {**found.metrics, **how, "device": name, "threads": own.n_threads, "precision": own.precision}
    finally:
        torch.set_num_threads(threads)


def _merged(model: nn.Module) -> tuple[nn.Module | None, str | None]:
    """Return a merged copy, or the reason why there is none; (None, None) if there is nothing to merge."""
    if not adapted_layers(model):
        return None, None
    if (reason := unmergeable(model)) is not None:
        return None, reason
    folded = copy.deepcopy(model)
    merge(folded)
    return folded, None


def _milliseconds(model: nn.Module, image: torch.Tensor, precision: str) -> float:
    begun = time.perf_counter()
    logits(model, image, precision)
    if image.device.type == "cuda":
        torch.cuda.synchronize(image.device)
    return 1e3 * (time.perf_counter() - begun)
