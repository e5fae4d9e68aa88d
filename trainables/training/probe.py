"""The memory that training takes, measured with a few batches in a process like a worker's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from trainables.costs.memory import private_bytes
from trainables.tasks.base import EVAL_BATCH
from trainables.training.trial import AdapterWorker

N_BATCHES = 8  # of each split, at most


class Short(AdapterWorker):
    """A worker whose epochs are cut to at most `N_BATCHES` batches of each split."""

    def start(self, config: Mapping[str, Any], **rest: Any) -> int:
        """See `AdapterWorker.start`."""
        self._whole, self._watched = dict(self._splits), {}  # a watched data set takes the batches of the validation split
        begun = super().start(config, **rest)
        sizes = {"train": N_BATCHES * self._running().plan.recipe.batch_size, "validation": N_BATCHES * EVAL_BATCH}
        for name, split in self._whole.items():
            n = min(len(split), sizes.get(name, len(split)))
            self._splits[name] = replace(split, images=split.images[:n], labels=split.labels[:n], digest=None)
        self._prefixes.forget()
        return begun

    def finish(self) -> None:
        """See `AdapterWorker.finish`."""
        if self._run is not None:
            self._splits = self._whole
        super().finish()

    def peak_bytes(self, config: Mapping[str, Any]) -> float:
        """Train two short epochs, and return the peak memory of the process, or of its tensors on the GPU."""
        self.start(config, seed=0, epochs=2, folder=None)
        try:
            self.step()
            return self.step()["cost/peak_memory_bytes"]
        finally:
            self.finish()


def memory(
    backbone: Mapping[str, Any],
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    configs: Iterable[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Measure the memory that training takes, in a process like a worker's.

    Returns:
        `peak_bytes` of each method (on the GPU if there is one, else on the host), `card_bytes` (total memory of the GPU, 0
        without one), and `host_bytes` (peak private memory of this process, see `trainables.costs.memory.private_bytes`).
    """
    trial, peaks = Short(backbone, data, recipe, methods), dict[str, float]()
    host = private_bytes(peak=True)
    for config in configs:
        method = str(config["method"])
        peaks[method] = max(peaks.get(method, 0.0), trial.peak_bytes(config))
        host = max(host, private_bytes(peak=True))  # each trial's own peak, if the system allows the peak to be reset
    card = torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0
    return {"peak_bytes": peaks, "card_bytes": card, "host_bytes": host}
