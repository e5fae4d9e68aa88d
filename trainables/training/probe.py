"""The cost of an epoch of a configuration on this machine, extrapolated from a few of its batches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from trainables.costs.memory import EVAL_BATCH, private_bytes
from trainables.training.trial import AdapterWorker

N_BATCHES = 8  # of each split, at most
N_FEWEST = 8  # images of each split of a configuration when time is short
_N_MANY = 1_000  # images of each split from which `N_BATCHES` batches are affordable
_MARGIN = 1.5  # a training step of some methods takes longer than that of the one measured first
Progress = Callable[[int, int, str], None]  # (done, all, name of the method)


@dataclass(frozen=True)
class Probe:
    """The measured cost of one configuration.

    Attributes:
        config: The configuration.
        setup_seconds: Time from the configuration to its first step, on a worker that has loaded the backbone.
        epoch_seconds: Time to train and validate a full epoch.
        step_seconds: Time of one training step.
        peak_memory_bytes: Peak memory of the process, or of its tensors on the GPU.
        n_images: Number of images of each split, if it was cut below a batch to save time; the memory is then too small.
    """

    config: Mapping[str, Any]
    setup_seconds: float
    epoch_seconds: float
    step_seconds: float
    peak_memory_bytes: float
    n_images: int | None = None


class Short(AdapterWorker):
    """A worker whose epochs are cut to at most `N_BATCHES` batches of each split, or to `n_images` images."""

    n_images: int | None = None

    def start(self, config: Mapping[str, Any], **rest: Any) -> int:
        """See `AdapterWorker.start`."""
        self._whole = dict(self._splits)
        begun = super().start(config, **rest)
        sizes = {"train": N_BATCHES * self._running().plan.recipe.batch_size, "validation": N_BATCHES * EVAL_BATCH}
        if self.n_images is not None:
            sizes = dict.fromkeys(sizes, self.n_images)
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

    def probe(self, config: Mapping[str, Any]) -> Probe:
        """Train two short epochs, and extrapolate the second to a full one."""
        begun, few = time.perf_counter(), dict(config)
        usual = int(config.get("optim.batch_size", 32))
        if self.n_images is not None:
            few["optim.batch_size"] = min(usual, self.n_images)
        self.start(few, seed=0, epochs=2, folder=None)
        ready = time.perf_counter()
        try:
            self.step()  # warms up the caches
            found = self.step()
            longer = {name: len(self._whole[name]) / len(split) for name, split in self._splits.items()}
        finally:
            self.finish()
        seconds = found["cost/train_seconds"] * longer["train"] + found["cost/eval_seconds"] * longer.get("validation", 1.0)
        step = found["cost/step_seconds"] * usual / int(few.get("optim.batch_size", usual))
        return Probe(config, ready - begun, seconds, step, found["cost/peak_memory_bytes"], self.n_images)


def probe(
    backbone: Mapping[str, Any],
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    configs: Iterable[Mapping[str, Any]],
    *,
    patience: float | None = None,
    on_done: Progress = lambda done, of, method: None,
) -> Iterator[Probe]:
    """Measure configurations one after the other.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        data: The `data` argument of `trainables.make`.
        recipe: The `recipe` argument of `trainables.make`.
        configs: Valid configurations.
        patience: Seconds for all of them; on a slow machine fewer images are used. None for whole batches.
        on_done: Callback that receives the number of measured configurations, of all, and the method of the last.

    Raises:
        ValueError: If `trainables.make` raises it.
    """
    trial, waiting = Short(backbone, data, recipe), list(configs)
    on_done(0, len(waiting), "")
    begun = time.perf_counter()
    if patience is not None and waiting:
        trial.n_images = N_FEWEST
        trial.probe(waiting[min(1, len(waiting) - 1)])  # the first is head-only, which is faster than the others
        of_an_image = _MARGIN * (time.perf_counter() - begun) / (4 * N_FEWEST)  # two epochs of two splits
        affordable = int(patience / len(waiting) / 4 / of_an_image)
        trial.n_images = None if affordable >= _N_MANY else max(N_FEWEST, affordable)
    for done, config in enumerate(waiting, start=1):
        if patience is not None and time.perf_counter() - begun > patience:
            trial.n_images = N_FEWEST
        yield trial.probe(config)
        on_done(done, len(waiting), str(config["method"]))


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
