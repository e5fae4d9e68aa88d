"""What an epoch of a configuration takes on this machine, measured on a few of its batches."""

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
    """One configuration.

    Attributes:
        config: It.
        setup_seconds: From its configuration to its first step, on a worker that has the backbone.
        epoch_seconds: Training and validation of a whole epoch.
        step_seconds: One training step.
        peak_memory_bytes: Of the process, or of its tensors on the GPU.
    """

    config: Mapping[str, Any]
    setup_seconds: float
    epoch_seconds: float
    step_seconds: float
    peak_memory_bytes: float


class Short(AdapterWorker):
    """A trial of epochs that are cut short: of at most `N_BATCHES` batches of each split."""

    def start(self, config: Mapping[str, Any], **rest: Any) -> int:
        """See `AdapterTrial.start`."""
        self._whole = dict(self._splits)
        begun = super().start(config, **rest)
        sizes = {"train": N_BATCHES * self._running().plan.recipe.batch_size, "validation": N_BATCHES * EVAL_BATCH}
        for name, split in self._whole.items():
            n = min(len(split), sizes.get(name, len(split)))
            self._splits[name] = replace(split, images=split.images[:n], labels=split.labels[:n])
        self._prefixes.clear()
        return begun

    def finish(self) -> None:
        """See `AdapterTrial.finish`."""
        if self._run is not None:
            self._splits = self._whole
        super().finish()

    def probe(self, config: Mapping[str, Any]) -> Probe:
        """Train two short epochs; the second is measured, and multiplied to a whole one."""
        begun = time.perf_counter()
        self.start(config, seed=0, epochs=2, folder=None)
        ready = time.perf_counter()
        try:
            self.step()  # fills caches
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
        backbone: As of `trainables.make`.
        data: As of `trainables.make`.
        recipe: As of `trainables.make`.
        configs: Possible ones.

    Raises:
        ValueError: as `trainables.make` does.
    """
    trial = Short(backbone, data, recipe)
    for config in configs:
        yield trial.probe(config)


def memory(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], configs: Iterable[Mapping[str, Any]]
) -> dict[str, Any]:
    """What training takes of memory, in a process like a worker's.

    Returns:
        `peak_bytes` of each method (on a GPU of the card, else of the host), `card_bytes` of the whole card (0 without one), and
        `host_bytes`, what this process held for itself at most (see `trainables.costs.memory.private_bytes`).
    """
    peaks: dict[str, float] = {}
    host = private_bytes(peak=True)
    for found in probe(backbone, data, recipe, configs):
        method = str(found.config["method"])
        peaks[method] = max(peaks.get(method, 0.0), found.peak_memory_bytes)
        host = max(host, private_bytes(peak=True))  # each trial's own peak, where the system lets it be measured anew
    card = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return {"peak_bytes": peaks, "card_bytes": card, "host_bytes": host}
