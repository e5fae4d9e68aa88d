"""How long a model takes to answer: inference latency with the adapter beside the weights, and folded into them.

One image at a time (a batch of one, already on the device, normalised), the whole forward pass with the head, in eval mode. Both
forms are timed in turn, so that whatever else the machine does meets both alike; the median of the repeats counts.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from trainables import backbones
from trainables.adapters import adapt, adapted_layers, merge, method_of, unmergeable
from trainables.recipe.recipe import recipe_of
from trainables.recipe.step import logits

N_WARM_UP: Final = 5
MIN_REPEATS: Final = 20
MAX_REPEATS: Final = 500
SECONDS: Final = 0.3  # no further repeat is begun after this long, once there are enough


@dataclass(frozen=True)
class Latency:
    """What was measured of one model.

    Attributes:
        unmerged_ms: Milliseconds per image with the adapter's layers in their places: the median.
        merged_ms: The same of the plain timm model that the adapter was folded into; None where it cannot be.
        unmergeable: Why it cannot be, or None.
        n: Repeats of each.
        spread_ms: Half the distance between the quartiles of the unmerged repeats: how sure the median is of itself.
    """

    unmerged_ms: float
    merged_ms: float | None
    unmergeable: str | None
    n: int
    spread_ms: float

    @property
    def metrics(self) -> dict[str, float]:
        """As a trial reports them."""
        merged = {} if self.merged_ms is None else {"cost/latency_merged_ms": self.merged_ms}
        return {"cost/latency_ms": self.unmerged_ms} | merged


def latency(model: nn.Module, *, precision: str, seconds: float = SECONDS) -> Latency:
    """Times a model as it stands, adapted or not, with a head; it is left as it was.

    Args:
        model: On any device.
        precision: As of `trainables.recipe.recipe.Recipe`.
        seconds: How long to repeat, at least.
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
    plain = merged is None and reason is None  # nothing to fold: the model is its own merged form
    return Latency(medians[0], medians[0] if plain else medians[1] if merged else None, reason, len(found[0]), (high - low) / 2)


def measure(backbone: Mapping[str, Any], recipe: Mapping[str, Any], n_classes: int, config: Mapping[str, Any]) -> dict[str, Any]:
    """The latency of a configuration, without its weights: no checkpoint and no data is needed, and no epoch is trained.

    What a method drops while it trains (Heart-LoRA's heads) is dropped here too.

    Args:
        backbone: As of `trainables.make`.
        recipe: As of `trainables.make`; its precision, device and threads count.
        n_classes: Outputs of the head.
        config: The configuration.

    Returns:
        See `trainables.measure_latency`.

    Raises:
        ValueError: The backbone cannot be built, or the configuration does not fit it.
    """
    own, method = recipe_of(recipe, config), method_of(config)
    device = torch.device(own.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(own.n_threads)
    try:
        model = backbones.create(backbone["name"], backbones.RANDOM, backbone.get("img_size"), device)
        generator = torch.Generator().manual_seed(0)
        backbones.set_head(model, n_classes, generator)
        adapt(model, method, generator=generator)
        method.shrink_to_final_size(model)
        found = latency(model, precision=own.precision)
        how = {"unmergeable": found.unmergeable, "repeats": found.n, "spread_ms": found.spread_ms}
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
        return {**found.metrics, **how, "device": name, "threads": own.n_threads, "precision": own.precision}
    finally:
        torch.set_num_threads(threads)


def _merged(model: nn.Module) -> tuple[nn.Module | None, str | None]:
    """A merged copy, or why there is none; neither where nothing is to be folded."""
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
