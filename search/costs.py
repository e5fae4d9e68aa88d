"""What a study weighs accuracy against, and the limits that it sets.

Some costs are known before training, exactly and for nothing: a configuration that breaks such a limit is rejected. The others a
trial measures: it is stopped by the first epoch that breaks a limit, and neither rungs nor sampler take that epoch for an accuracy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Protocol

from search.trial import PARAMETERS, Metrics
from spaces import Config

GFLOPS: Final = "cost/gflops"
TIMES: Final = ("cost/train_seconds", "cost/eval_seconds", "cost/step_seconds")
LATENCIES: Final = ("cost/latency_ms", "cost/latency_merged_ms")
KNOWN: Final = (*PARAMETERS, GFLOPS)  # before training
MEASURED: Final = (*TIMES, "cost/peak_memory_bytes", *LATENCIES)
COSTS: Final = (*KNOWN, *MEASURED)
ACCURACY: Final = "val/top1"
ADAPTER_PARAMS: Final = "adapter_params"


class Sizes(Protocol):
    """What is known of a configuration before training, from the real model; a ValueError says that it is impossible."""

    @property
    def n_classes(self) -> int:
        """Classes of the data set."""

    @property
    def n_validation(self) -> int | None:
        """Images that accuracies are measured on; None where they are not measured on images."""

    @property
    def backbone_params(self) -> int:
        """Parameters of the frozen backbone."""

    def count(self, config: Config) -> tuple[int, int]:
        """(adapter_params, head_params)."""

    def gflops(self, config: Config) -> float:
        """10^9 operations of one image's forward pass, as a trial reports them under `cost/gflops`."""

    def training_bytes(self, config: Config, batch_size: int) -> int:
        """What a worker takes of its machine's memory to train it, beside its libraries; with room."""

    def unmergeable(self, config: Config) -> str | None:
        """Why the adapter cannot be folded into the weights; None if it can, or if only training can tell."""


class Costs:
    """The costs that a study names.

    Args:
        sizes: What is known before training.
        against: The second objective.
        limits: Cost to the largest value that is wanted; `adapter_params` is among them.
        n_epochs: Of a whole trial.
    """

    def __init__(self, sizes: Sizes, *, against: str, limits: Mapping[str, float], n_epochs: int) -> None:
        self._sizes, self._against, self._limits, self._n_epochs = sizes, against, limits, n_epochs
        named = dict.fromkeys((against, *limits))
        self.reported = tuple(key for key in named if key not in PARAMETERS)  # by every epoch of a trial
        self.counts_operations = GFLOPS in self.reported
        self.measures_size = against in MEASURED
        self.checked = tuple(key for key in limits if key in KNOWN)  # limits that cost nothing to keep

    # -- before training -----------------------------------------------------------------------------------------------------------

    def check(self, config: Config) -> tuple[int, int]:
        """(adapter_params, head_params) of a configuration that keeps every limit, as far as that is known.

        Raises:
            ValueError: if it is impossible, or breaks one.
        """
        known = self.known(config)
        for key in self.beyond(known):
            raise ValueError(_too_much(key, known[key], self._limits[key]))
        return int(known["adapter_params"]), int(known["head_params"])

    def size(self, config: Config) -> float:
        """The second objective, or adapter parameters where only training tells it; what is beyond its own limit has a size, too.

        Raises:
            ValueError: if the configuration is impossible, or breaks another limit.
        """
        known = self.known(config)
        for key in self.beyond(known):
            if key != self._against:
                raise ValueError(_too_much(key, known[key], self._limits[key]))
        return known[ADAPTER_PARAMS if self.measures_size else self._against]

    def beyond(self, known: Mapping[str, float]) -> list[str]:
        """The limits that are broken by what is known of a configuration."""
        return [key for key, value in known.items() if value > self._limits.get(key, value)]

    def known(self, config: Config) -> dict[str, float]:
        """Every cost of a configuration that need not be measured, as far as the study names it; parameters always.

        Raises:
            ValueError: if it is impossible.
        """
        adapter_params, head_params = self._sizes.count(config)
        known: dict[str, float] = {"adapter_params": adapter_params, "head_params": head_params}
        known["trainable_params"] = adapter_params + head_params
        if self.counts_operations:
            known[GFLOPS] = self._sizes.gflops(config)
        if "cost/latency_merged_ms" in self.reported and (reason := self._sizes.unmergeable(config)) is not None:
            raise ValueError(f"{reason}; the study names cost/latency_merged_ms")
        return known

    # -- while training ------------------------------------------------------------------------------------------------------------

    def missing(self, metrics: Metrics) -> str | None:
        """A cost that the study names and the epoch does not tell."""
        return next((key for key in self.reported if key not in metrics), None)

    def measured_size(self, epoch: int, metrics: Metrics) -> float | None:
        """The second objective as an epoch has measured it; None where it was known before, or the epoch warms up."""
        return metrics.get(self._against) if self.measures_size and not self._warms_up(self._against, epoch) else None

    def broken(self, epoch: int, metrics: Metrics) -> tuple[str, str] | None:
        """The limit that an epoch breaks, and how. The first epoch warms up: its times count only if it is the last."""
        for key, limit in self._limits.items():
            if key not in PARAMETERS and not self._warms_up(key, epoch) and metrics.get(key, limit) > limit:
                return key, f"{_too_much(key, metrics[key], limit)}, at epoch {epoch}"
        return None

    def _warms_up(self, key: str, epoch: int) -> bool:
        return key in TIMES and epoch == 1 and self._n_epochs > 1

    def counts(self, epoch: int, metrics: Metrics) -> bool:
        """Whether an epoch's accuracy may be compared with others'."""
        return self.missing(metrics) is None and self.broken(epoch, metrics) is None


def study_costs(file: Any, sizes: Sizes, *, max_params: int) -> Costs:
    """The costs that a study file names; `max_params` is what `budget.max_params` came to."""
    limits = {ADAPTER_PARAMS: float(max_params), **file.budget.limits}
    return Costs(sizes, against=file.objectives[1], limits=limits, n_epochs=file.budget.epochs)


def _too_much(key: str, value: float, limit: float) -> str:
    if key == ADAPTER_PARAMS:
        return f"{value:,} adapter parameters are more than budget.max_params = {limit:,.0f}"
    return f"{key} {value:,.6g} is more than budget.limits allows ({limit:,.6g})"


# -- in a study file ---------------------------------------------------------------------------------------------------------------


def unknown(key: str) -> str | None:
    """What is wrong with the name of a cost, or None."""
    if key in COSTS:
        return None
    if key == "cost/images_per_second":
        return "more of it is better, so it is no cost; name cost/step_seconds"
    near = difflib.get_close_matches(key, COSTS, n=1)
    return f"{key!r} is no cost" + (f"; did you mean {near[0]}?" if near else f"; there are {', '.join(COSTS)}")


def problems(objectives: tuple[str, str], limits: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is wrong with the costs that a study file names: path and text.

    Args:
        objectives: As they are written.
        limits: Of the budget.
    """
    against = objectives[1]
    if against == "head_params":
        yield ("objectives",), "head_params is the same for every configuration; name a cost that they differ in"
    elif against != ADAPTER_PARAMS and against not in limits:
        remedy = f"write budget.limits: {{{against}: ...}}"
        yield ("objectives",), f"{against} needs its limit, from which the hypervolume is measured; {remedy}"
