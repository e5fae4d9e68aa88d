"""The second objective of a study, and the limits on costs.

Some costs are known exactly before training, for free: a configuration that breaks such a limit is rejected. The others are
measured in a trial: the first epoch that breaks a limit stops it, and neither rungs nor sampler use the accuracy of that epoch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Final, Protocol

from search.trial import PARAMETERS, Metrics
from spaces import Config

GFLOPS: Final = "cost/gflops"
TIMES: Final = ("cost/train_seconds", "cost/eval_seconds", "cost/step_seconds")
LATENCIES: Final = ("cost/latency_ms", "cost/latency_merged_ms")
KNOWN: Final = (*PARAMETERS, GFLOPS)  # before training
MEASURED: Final = (*TIMES, "cost/peak_memory_bytes", *LATENCIES)
COSTS: Final = (*KNOWN, *MEASURED)
ADAPTER_PARAMS: Final = "adapter_params"


def epoch_seconds(metrics: Metrics) -> float | None:
    """Return the seconds of training and validation that an epoch reports; None if it reports none."""
    seconds = [metrics[key] for key in ("cost/train_seconds", "cost/eval_seconds") if key in metrics]
    return sum(seconds) if seconds else None


class Sizes(Protocol):
    """The properties of a configuration that are known before training, from the real model; ValueError if it is invalid."""

    @property
    def n_classes(self) -> int:
        """The number of classes of the data set."""

    @property
    def task(self) -> str:
        """The name of the task (`trainables.tasks`)."""

    @property
    def n_validation(self) -> int | None:
        """The number of images that accuracies are measured on; None if they are not measured on images."""

    @property
    def backbone_params(self) -> int:
        """The number of parameters of the frozen backbone."""

    def count(self, config: Config) -> tuple[int, int]:
        """Return (adapter_params, head_params)."""

    def gflops(self, config: Config) -> float:
        """Return 10^9 operations of one image's forward pass, as a trial reports them in `cost/gflops`."""

    def training_bytes(self, config: Config, batch_size: int) -> int:
        """Estimate, with a margin, the memory that training takes in a worker in addition to its libraries."""

    def frozen(self, config: Config) -> tuple[int, int]:
        """Return the last point of the backbone with only frozen weights in front, and the bytes of all images' tokens there."""

    def unmergeable(self, config: Config) -> str | None:
        """Return why the adapter cannot be merged into the weights; None if it can, or if only training can tell."""


class Costs:
    """The costs that a study uses.

    Args:
        sizes: Properties that are known before training.
        against: Second objective.
        limits: Largest allowed value of each limited cost, including `adapter_params`.
        n_epochs: Number of epochs of a complete trial.
    """

    def __init__(self, sizes: Sizes, *, against: str, limits: Mapping[str, float], n_epochs: int) -> None:
        self._sizes, self._against, self._limits, self._n_epochs = sizes, against, limits, n_epochs
        named = dict.fromkeys((against, *limits))
        self.reported = tuple(key for key in named if key not in PARAMETERS)  # by every epoch of a trial
        self.counts_operations = GFLOPS in self.reported
        self.measures_size = against in MEASURED
        self.checked = tuple(key for key in limits if key in KNOWN)  # limits that can be checked before training

    # -- before training -----------------------------------------------------------------------------------------------------------

    def check(self, config: Config) -> tuple[int, int]:
        """Return (adapter_params, head_params) of a configuration, after checking every limit that is known before training.

        Raises:
            ValueError: If the configuration is invalid, or breaks a limit.
        """
        known = self._parameters(config)  # first, because counting operations takes 30 times as long
        self._refuse_beyond(known)
        self._refuse_beyond(self._operations(config))
        return int(known["adapter_params"]), int(known["head_params"])

    def size(self, config: Config) -> float:
        """Return the second objective, or adapter parameters if it has to be measured; it may exceed its own limit.

        Raises:
            ValueError: If the configuration is invalid, or breaks another limit.
        """
        known = self.known(config)
        for key in self.beyond(known):
            if key != self._against:
                raise ValueError(_too_much(key, known[key], self._limits[key]))
        return known[ADAPTER_PARAMS if self.measures_size else self._against]

    def _refuse_beyond(self, known: Mapping[str, float]) -> None:
        for key in self.beyond(known):
            raise ValueError(_too_much(key, known[key], self._limits[key]))

    def beyond(self, known: Mapping[str, float]) -> list[str]:
        """Return the limits that are broken by the known costs of a configuration."""
        return [key for key, value in known.items() if value > self._limits.get(key, value)]

    def known(self, config: Config) -> dict[str, float]:
        """Return every cost of a configuration that is known before training and used by the study; parameters always.

        Raises:
            ValueError: If the configuration is invalid.
        """
        return self._parameters(config) | self._operations(config)

    def _parameters(self, config: Config) -> dict[str, float]:
        adapter_params, head_params = self._sizes.count(config)
        return {"adapter_params": adapter_params, "head_params": head_params, "trainable_params": adapter_params + head_params}

    def _operations(self, config: Config) -> dict[str, float]:
        """Return the operations of a configuration, if the study uses them.

        Raises:
            ValueError: If the configuration cannot be merged, and the study uses its merged latency.
        """
        known = {GFLOPS: self._sizes.gflops(config)} if self.counts_operations else {}
        if "cost/latency_merged_ms" in self.reported and (reason := self._sizes.unmergeable(config)) is not None:
            raise ValueError(f"{reason}; the study uses cost/latency_merged_ms")
        return known

    # -- while training ------------------------------------------------------------------------------------------------------------

    def missing(self, metrics: Metrics) -> str | None:
        """Return a cost that the study uses and the epoch does not report, or None."""
        return next((key for key in self.reported if key not in metrics), None)

    def measured_size(self, epoch: int, metrics: Metrics) -> float | None:
        """Return the second objective as measured by an epoch; None if it was known before, or the epoch is a warm-up."""
        return metrics.get(self._against) if self.measures_size and not self._warms_up(self._against, epoch) else None

    def broken(self, epoch: int, metrics: Metrics) -> tuple[str, str] | None:
        """Return the limit that an epoch breaks, and how. The first epoch is a warm-up: its times count only if it is the last."""
        for key, limit in self._limits.items():
            if key not in PARAMETERS and not self._warms_up(key, epoch) and metrics.get(key, limit) > limit:
                return key, f"{_too_much(key, metrics[key], limit)}, at epoch {epoch}"
        return None

    def _warms_up(self, key: str, epoch: int) -> bool:
        return key in TIMES and epoch == 1 and self._n_epochs > 1

    def counts(self, epoch: int, metrics: Metrics) -> bool:
        """Return whether an epoch's accuracy may be compared with others."""
        return self.missing(metrics) is None and self.broken(epoch, metrics) is None


def _too_much(key: str, value: float, limit: float) -> str:
    if key == ADAPTER_PARAMS:
        return f"{value:,} adapter parameters are more than budget.max_params = {limit:,.0f}"
    return f"{key} {value:,.6g} is more than budget.limits allows ({limit:,.6g})"


# -- in a study file ---------------------------------------------------------------------------------------------------------------


def unknown(key: str) -> str | None:
    """Return what is wrong with the name of a cost, or None."""
    if key in COSTS:
        return None
    if key == "cost/images_per_second":
        return "cost/images_per_second is a speed, not a cost: use cost/step_seconds"
    near = difflib.get_close_matches(key, COSTS, n=1)
    return f"{key!r} is not a cost" + (f"; did you mean {near[0]}?" if near else f"; choose one of {', '.join(COSTS)}")


def problems(objectives: tuple[str, str], limits: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the problems with the costs that a study file uses, as path and text.

    Args:
        objectives: Objectives in the file.
        limits: Limits of the budget.
    """
    against = objectives[1]
    if against == "head_params":
        yield ("objectives",), "head_params is the same for every configuration; choose a cost that varies"
    elif against != ADAPTER_PARAMS and against not in limits:
        remedy = f"write budget.limits: {{{against}: ...}}"
        yield ("objectives",), f"{against} needs a limit, which is the reference point of the hypervolume; {remedy}"
