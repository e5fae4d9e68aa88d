"""A trainable that trains nothing: accuracy is a formula with a known front. It tests searches without torch.

With p adapter parameters and s = log10(1 + p), the surface is

    best(p)          = 0.95 - 0.35 / (1 + s)                                  reached by the best knobs at size p
    top1(config)     = best(p) - 0.02 (log10 lr + 2.5)^2                       a learning rate of 10^-2.5 is best for all
    top1(config, e)  = chance + (top1(config) - chance) (1 - exp(-4 e / E)) / (1 - exp(-4))      after e of E epochs

so the front has, at every attainable size, the value best(p). Sizes: head_only 0; lora 1,000 r per adapted matrix; arc 150 r;
lily 400 r per expert. The costs of a trial follow from its size, see `costs`.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables import folder as folders
from trainables.folder import Folder
from trainables.protocol import raise_if_stopped
from trainables.simulated.surfaces import Surface, SurfaceTrainable, judged

N_BATCHES = 20
N_CLASSES = 10
HEAD_PARAMS = 650
BACKBONE_PARAMS = 1_000_000
BEST_LOG_LR = -2.5


def best(adapter_params: int) -> float:
    """Return the accuracy of the front at a size (fraction)."""
    return 0.95 - 0.35 / (1.0 + math.log10(1.0 + adapter_params))


def costs(adapter_params: int) -> dict[str, float]:
    """Return the costs of a trial: operations rise with size, time with operations; merged, it costs as much as the backbone."""
    gflops = 1.0 + 1e-5 * adapter_params
    return {
        "cost/step_seconds": 0.01 * gflops,
        "cost/peak_memory_bytes": 1e8 + 16.0 * adapter_params,
        "cost/gflops": gflops,
        "cost/latency_ms": 10.0 * gflops,
        "cost/latency_merged_ms": 10.0,
    }


class SyntheticSizes:
    """The sizes of the synthetic surface, by formula; see `trainables.protocol.Sizes`."""

    n_classes = N_CLASSES
    task = "classification"
    n_validation = None  # accuracies are exact
    backbone_params = BACKBONE_PARAMS

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return (adapter_params, head_params) of a configuration."""
        method = config["method"]
        if method == "head_only":
            return 0, HEAD_PARAMS
        rank = int(config.get(f"{method}.rank", 0))
        if method == "lora":
            return 1_000 * rank * len(str(config["lora.targets"]).replace("_mlp", "mm")), HEAD_PARAMS
        if method == "arc":
            return 150 * rank, HEAD_PARAMS
        if method == "lily":
            return 400 * rank * int(config["lily.n_experts"]), HEAD_PARAMS
        raise ValueError(f"the synthetic surface has no size for {method}; it knows head_only, lora, arc and lily")

    def gflops(self, config: Mapping[str, Any]) -> float:
        """Return 10^9 operations of one image."""
        return costs(self.count(config)[0])["cost/gflops"]

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """Return 0, since nothing is computed."""
        return 0

    def frozen(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return (0, 0), since nothing is computed."""
        return 0, 0

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """Return None: synthetic adapters can always be merged."""
        return None


class SyntheticTrainable:
    """A trainable whose metrics come from the surface; see `trainables.protocol.Trainable`.

    Args:
        noise: Standard deviation of a trial's accuracy around the surface, drawn once per seed.
        diverges_above_lr: Learning rate above which metrics are NaN from the second epoch on.
        epoch_seconds: Duration of an epoch of `N_BATCHES` batches; the stop flag is polled between batches.
        memory_params: Number of adapter parameters above which the second epoch runs out of memory.
        metric: Metric that is reported in addition to accuracy, see `judged`.
    """

    def __init__(
        self,
        *,
        noise: float = 0.0,
        diverges_above_lr: float | None = None,
        epoch_seconds: float = 0.0,
        memory_params: int | None = None,
        metric: str = "top1",
    ) -> None:
        self._noise = noise
        self._metric = metric
        self._epoch_seconds = epoch_seconds
        self._memory_params = memory_params
        self._diverges_above_lr = diverges_above_lr
        self._sizes = SyntheticSizes()
        self._epoch = 0

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None, fold: int = 0) -> int:
        """Set up a trial, or resume it after the epoch stored in `folder`."""
        self._config, self._epochs, self._folder = dict(config), epochs, folder
        self._adapter_params, _ = self._sizes.count(config)
        self._final = best(self._adapter_params) - 0.02 * (math.log10(float(config["optim.lr"])) - BEST_LOG_LR) ** 2
        self._final += self._noise * random.Random(seed).gauss(0.0, 1.0)  # noqa: S311 - not cryptography
        self._epoch = 0
        if folder is not None and (saved := folders.read(folder, "epoch.json")) is not None:
            self._epoch = int(json.loads(saved)["epoch"])
        return self._epoch

    def replay(self) -> dict[str, float] | None:
        """Return the metrics of the restored epoch."""
        return self._metrics() if self._epoch else None

    def step(self) -> dict[str, float]:
        """Run one epoch."""
        for _ in range(N_BATCHES if self._epoch_seconds else 1):
            raise_if_stopped(self._folder)
            time.sleep(self._epoch_seconds / N_BATCHES)
        if self._memory_params is not None and self._epoch and self._adapter_params > self._memory_params:
            raise MemoryError(f"{self._adapter_params:,} adapter parameters do not fit")
        self._epoch += 1
        if self._folder is not None:
            folders.write(self._folder, "epoch.json", json.dumps({"epoch": self._epoch}).encode())
        return self._metrics()

    def finish(self) -> None:
        """Do nothing: there is no state to restore."""

    def _metrics(self) -> dict[str, float]:
        if self._diverges_above_lr is not None and self._config["optim.lr"] > self._diverges_above_lr and self._epoch > 1:
            return {"val/top1": math.nan, "val/loss": math.nan, "train/loss": math.nan}
        chance = 1.0 / N_CLASSES
        learnt = (1.0 - math.exp(-4.0 * self._epoch / self._epochs)) / (1.0 - math.exp(-4.0))
        top1 = chance + (self._final - chance) * learnt
        return (
            {"val/top1": top1, "val/loss": 1.0 - top1, "train/loss": 1.0 - top1}
            | judged(top1, self._metric)
            | costs(self._adapter_params)
        )


def make(backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any]) -> SyntheticTrainable | SurfaceTrainable:
    """Build a trainable, see `trainables.make`.

    Only `data` (`surface` and `instance`, or the plain surface's options) and the recipe's metric matter.
    """
    metric = recipe.get("metric", "top1")
    if (family := data.get("surface", "plain")) != "plain":
        return SurfaceTrainable(Surface(family, data.get("instance", 0)), metric)
    options = {key: value for key, value in data.items() if key not in ("kind", "surface", "instance", "folds", "seed")}
    return SyntheticTrainable(**options, metric=metric)


def measure(backbone: Mapping[str, Any], data: Mapping[str, Any]) -> SyntheticSizes | Surface:
    """Return the sizes, see `trainables.measure`."""
    if (family := data.get("surface", "plain")) != "plain":
        return Surface(family, data.get("instance", 0))
    return SyntheticSizes()
