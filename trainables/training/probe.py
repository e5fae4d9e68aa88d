"""The cost of an epoch of a configuration on this machine, extrapolated from a few of its batches."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainables.costs.memory import EVAL_BATCH, private_bytes
from trainables.training.trial import AdapterWorker

N_BATCHES = 8  # of each split, at most


@dataclass(frozen=True)
class Probe:
    """The measured cost of one configuration.

    Attributes:
        config: The configuration.
        setup_seconds: Time from the configuration to its first step, on a worker that has loaded the backbone.
        epoch_seconds: Time to train and validate a full epoch.
        step_seconds: Time of one training step.
        peak_memory_bytes: Peak memory of the process, or of its tensors on the GPU.
    """

    config: Mapping[str, Any]
    setup_seconds: float
    epoch_seconds: float
    step_seconds: float
    peak_memory_bytes: float


class Short(AdapterWorker):
    """A worker whose epochs are cut to at most `N_BATCHES` batches of each split."""

    def start(self, config: Mapping[str, Any], **rest: Any) -> int:
        """See `AdapterWorker.start`."""
        self._whole = dict(self._splits)
        begun = super().start(config, **rest)
        sizes = {"train": N_BATCHES * self._running().plan.recipe.batch_size, "validation": N_BATCHES * EVAL_BATCH}
        for name, split in self._whole.items():
            n = min(len(split), sizes.get(name, len(split)))
            self._splits[name] = replace(split, images=split.images[:n], labels=split.labels[:n])
        self._prefixes.clear()
        return begun

    def finish(self) -> None:
        """See `AdapterWorker.finish`."""
        if self._run is not None:
            self._splits = self._whole
        super().finish()

    def probe(self, config: Mapping[str, Any]) -> Probe:
        """Train two short epochs, and extrapolate the second to a full one."""
        begun = time.perf_counter()
        self.start(config, seed=0, epochs=2, folder=None)
        ready = time.perf_counter()
        try:
            self.step()  # warms up the caches
            found = self.step()
            longer = {name: len(self._whole[name]) / len(split) for name, split in self._splits.items()}
        finally:
            self.finish()
        seconds = found["cost/train_seconds"] * longer["train"] + found["cost/eval_seconds"] * longer.get("validation", 1.0)
        return Probe(config, ready - begun, seconds, found["cost/step_seconds"], found["cost/peak_memory_bytes"])


def probe(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], configs: Iterable[Mapping[str, Any]]
) -> Iterator[Probe]:
    """Measure configurations one after the other.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        data: The `data` argument of `trainables.make`.
        recipe: The `recipe` argument of `trainables.make`.
        configs: Valid configurations.

    Raises:
        ValueError: If `trainables.make` raises it.
    """
    trial = Short(backbone, data, recipe)
    for config in configs:
        yield trial.probe(config)


def memory(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], configs: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """Measure the memory that training takes, in a process like a worker's.

    Returns:
        `peak_bytes` of each method (on the GPU if there is one, else on the host), `card_bytes` (total memory of the GPU, 0
        without one), and `host_bytes` (peak private memory of this process, see `trainables.costs.memory.private_bytes`).
    """
    peaks: dict[str, float] = {}
    host = private_bytes(peak=True)
    for found in probe(backbone, data, recipe, configs):
        method = str(found.config["method"])
        peaks[method] = max(peaks.get(method, 0.0), found.peak_memory_bytes)
        host = max(host, private_bytes(peak=True))  # each trial's own peak, if the system allows the peak to be reset
    card = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return {"peak_bytes": peaks, "card_bytes": card, "host_bytes": host}
