"""Families of synthetic surfaces over every method's knobs, with known fronts, to compare search algorithms without training.

A member of a family is drawn from its number: every constant below follows from (family, instance, name), so two instances are
two different problems. With p adapter parameters, s = log10(1 + p) decades and method m,

    top1 = ceiling_m(s) - sum over knobs k of penalty_m,k(value),    ceiling_m(s) = o_m - 0.4 exp(-s / d_m)

Sizes are p = c_m x (product of ranks and counts) x b x t, where b is the fraction of adapted blocks and t the number of matrices
that the targets name. Knobs that affect the size have no penalty. Any other knob costs w_k u(value)^2 with u in [0, 1] drawn for
each value; most w_k are small. The costs of a trial are not in the order of sizes, see `Surface.costs`. The learning rate costs
0.06 (log10 lr - l)^2, other continuous knobs 0.02 times the squared decades from their best value.

`valley`: l depends on the method. All curves have the same shape, so early epochs rank trials well.
`crossing`: l falls with the size, and `scale` acts as its square root in learning rate, so knobs interact. Large adapters and small
learning rates start slowly, so curves cross and early epochs mislead.

Noise on a curve dies out with the learning rate: the last epoch is exact, and so is the front.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from trainables.folder import Folder

FAMILIES = ("valley", "crossing")
LOSSES = ("log_loss", "ece")  # metrics of which a smaller value is better
N_CLASSES = 10
HEAD_PARAMS = 650
BACKBONE_PARAMS = 1_000_000
CHANCE = 1.0 / N_CLASSES
WIGGLE = 0.02  # standard deviation of the noise in the first epochs, as a fraction of accuracy
_RANKS = ("rank", "extra_rank", "n_experts", "n_spaces")
_TARGETS = ("targets", "position", "insertion", "variant")
_N_BLOCKS = 8  # of the fictitious backbone


class Surface:
    """One member of a family; see `trainables.protocol.Sizes` for `count`.

    Args:
        family: Family, `valley` or `crossing`.
        instance: Number of the member.
    """

    n_classes = N_CLASSES
    task = "classification"
    n_validation = None  # accuracies are exact
    backbone_params = BACKBONE_PARAMS

    def __init__(self, family: str, instance: int = 0) -> None:
        if family not in FAMILIES:
            raise ValueError(f"a synthetic surface must be one of {', '.join(FAMILIES)}, got {family!r}")
        self.family, self._name = family, f"{family}/{instance}"
        self._drawn = cache(lambda name: random.Random(f"{self._name}/{name}").random())  # noqa: S311 - not cryptography

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return (adapter_params, head_params) of a configuration."""
        method = str(config["method"])
        if method == "head_only":
            return 0, HEAD_PARAMS
        size = 20.0 * 10.0 ** (1.5 * self._drawn(f"{method}/size"))
        for key, value in config.items():
            owner, _, knob = key.partition(".")
            if owner != method:
                continue
            if knob in _RANKS:
                size *= max(0.5, float(value))  # `householder.extra_rank` may be 0
            elif knob in _TARGETS:
                size *= self._matrices(key, value)
            elif knob == "layers":
                size *= _part(value)
        return max(1, int(size)), HEAD_PARAMS

    def costs(self, config: Mapping[str, Any]) -> dict[str, float]:
        """Return the metrics under `cost/` of a trial, exact and equal in every epoch.

        An adapter takes its operations, 1 + 2e-5 p, and for every adapted layer a time that depends on the method: a small adapter
        in many layers is slower than a large one in few. Merged, it costs as much as the backbone.
        """
        method, (size, _) = str(config["method"]), self.count(config)
        n_adapted = 0.0 if method == "head_only" else _blocks(config) * self._n_matrices(config)
        gflops = 1.0 + 2e-5 * size
        latency = gflops + (0.05 + 0.4 * self._drawn(f"{method}/overhead")) * n_adapted
        return {
            "cost/gflops": gflops,
            "cost/latency_ms": latency,
            "cost/latency_merged_ms": 1.0,
            "cost/step_seconds": 0.01 * latency,
            "cost/peak_memory_bytes": 1e8 + 16.0 * size + 1e7 * n_adapted,
        }

    def gflops(self, config: Mapping[str, Any]) -> float:
        """Return 10^9 operations of one image."""
        return self.costs(config)["cost/gflops"]

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """Return 0, since nothing is computed."""
        return 0

    def frozen(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return (0, 0), since nothing is computed."""
        return 0, 0

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """Return None: synthetic adapters can always be merged."""
        return None

    def final(self, config: Mapping[str, Any]) -> float:
        """Return the accuracy of a configuration after its last epoch (fraction)."""
        method, (size, _) = str(config["method"]), self.count(config)
        lost = sum(self._penalty(key, value) for key, value in config.items() if not moves_size(key))
        lost += 0.06 * (self._log_lr(config) - self._best_log_lr(method, size)) ** 2
        return max(CHANCE, self._ceiling(method, size) - lost)

    def curve(self, config: Mapping[str, Any], *, seed: int, epochs: int) -> Iterator[float]:
        """Yield the accuracy after each epoch; `seed` draws the noise."""
        final, speed, noise = self.final(config), self._speed(config), random.Random(seed)  # noqa: S311 - not cryptography
        for epoch in range(1, epochs + 1):
            risen = (1.0 - math.exp(-speed * epoch / epochs)) / (1.0 - math.exp(-speed))
            wiggle = WIGGLE * (1.0 - epoch / epochs) * noise.gauss(0.0, 1.0)
            yield min(1.0, max(0.0, CHANCE + (final - CHANCE) * risen + wiggle))

    def best(self, values: Mapping[str, Sequence[Any] | None], against: str = "adapter_params") -> list[tuple[float, float]]:
        """Return the best (top1, cost) of one method for every setting of the knobs that affect its size.

        Args:
            against: Name of the cost: `adapter_params`, or one of `costs`.
            values: Values of each knob, None for a range, and `method` with one value. The best value of a range, and a learning
                rate that fits every size, are assumed to lie within it.
        """
        [method] = values["method"] or ()
        sized = {key: choices for key, choices in values.items() if choices is not None and moves_size(key)}
        lost = sum(
            min(self._penalty(key, value) for value in choices)
            for key, choices in values.items()
            if choices is not None and key not in sized
        )
        found = []
        for combination in product(*sized.values()):
            config = {"method": method} | dict(zip(sized, combination, strict=True))
            size, _ = self.count(config)
            cost = float(size) if against == "adapter_params" else self.costs(config)[against]
            found.append((max(CHANCE, self._ceiling(method, size) - lost), cost))
        return found

    # -- the constants of this member ----------------------------------------------------------------------------------------------

    def _matrices(self, key: str, value: Any) -> int:
        """Return how many matrices of a block a choice of targets adapts."""
        return 1 + int(4.0 * self._drawn(f"{key}={value}"))

    def _n_matrices(self, config: Mapping[str, Any]) -> int:
        """Return how many matrices of a block a configuration adapts."""
        own = ((key, value) for key, value in config.items() if key.partition(".")[0] == config["method"])
        return math.prod(self._matrices(key, value) for key, value in own if key.partition(".")[2] in _TARGETS)

    def _ceiling(self, method: str, size: int) -> float:
        offset, decades = 0.97 - 0.12 * self._drawn(f"{method}/offset"), 1.2 + 1.2 * self._drawn(f"{method}/decades")
        return offset - 0.4 * math.exp(-math.log10(1.0 + size) / decades)

    def _penalty(self, key: str, value: Any) -> float:
        if key in ("method", "optim.lr") or (self.family == "crossing" and key.endswith(".scale")):
            return 0.0
        if isinstance(value, float) and key.endswith("temperature"):
            return 0.02 * (math.log10(value) - 2.0 * self._drawn(f"{key}/best") + 1.0) ** 2
        return 0.15 * self._drawn(f"{key}/weight") ** 3 * self._drawn(f"{key}={value}") ** 2

    def _best_log_lr(self, method: str, size: int) -> float:
        best = -3.2 + 0.6 * self._drawn("lr") + 0.4 * self._drawn(f"{method}/lr")
        if self.family == "crossing":
            best -= 0.25 * (math.log10(1.0 + size) - 3.0)
        return min(max(best, -3.9), -1.8)  # within the packaged range

    def _log_lr(self, config: Mapping[str, Any]) -> float:
        log_lr = math.log10(float(config["optim.lr"]))
        if self.family == "crossing" and (scale := config.get(f"{config['method']}.scale")) is not None:
            log_lr += 0.5 * math.log10(float(scale))
        return log_lr

    def _speed(self, config: Mapping[str, Any]) -> float:
        """Return how many time constants a full run has."""
        if self.family == "valley":
            return 5.0
        method, (size, _) = str(config["method"]), self.count(config)
        behind = self._best_log_lr(method, size) - self._log_lr(config)  # decades below the best learning rate
        slow = 0.25 * (math.log10(1.0 + size) - 3.0) + 0.8 * behind + self._drawn(f"{method}/slow")
        return 6.0 / (1.0 + math.exp(2.0 * (slow - 0.8))) + 1.0


def _blocks(config: Mapping[str, Any]) -> float:
    """Return the fraction of blocks that a configuration adapts."""
    return _part(config.get(f"{config['method']}.layers", "all"))


def _part(layers: str) -> float:
    return 1.0 if layers == "all" else int(layers.rpartition("-")[2]) / _N_BLOCKS


def moves_size(key: str) -> bool:
    """Return whether a knob affects the size on the surfaces."""
    knob = key.partition(".")[2]
    return knob in _RANKS or knob in _TARGETS or knob == "layers"


def judged(top1: float, metric: str) -> dict[str, float]:
    """Return the metric that a study adds to accuracy: as good as it, so that the surface's front is the same."""
    return {} if metric == "top1" else {f"val/{metric}": 1.0 - top1 if metric in LOSSES else top1}


class SurfaceTrainable:
    """A trainable whose metrics come from a surface; see `Trainable`. It keeps no checkpoint, so trials restart."""

    def __init__(self, surface: Surface, metric: str = "top1") -> None:
        self._surface, self._metric = surface, metric
        self._left: Iterator[float] = iter(())
        self._costs: dict[str, float] = {}

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None, fold: int = 0) -> int:
        """Set up a trial."""
        self._left, self._costs = self._surface.curve(config, seed=seed, epochs=epochs), self._surface.costs(config)
        return 0

    def replay(self) -> dict[str, float] | None:
        """Return None: nothing is ever restored."""
        return None

    def step(self) -> dict[str, float]:
        """Run one epoch."""
        top1 = next(self._left)
        return {"val/top1": top1, "val/loss": 1.0 - top1, "train/loss": 1.0 - top1} | judged(top1, self._metric) | self._costs

    def finish(self) -> None:
        """Do nothing: there is no state to restore."""
