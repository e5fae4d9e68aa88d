"""A trial: one configuration, one split, one seed, and its progress."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from search.metrics import METRICS, TOP1, Metric

if TYPE_CHECKING:  # a trial is plain data: reading and showing one does not load the search spaces
    from spaces import Config

PARAMETERS = ("adapter_params", "head_params", "trainable_params")  # counted costs; all others are metrics under "cost/"
Metrics = Mapping[str, float]  # one epoch's numbers: "val/top1", "val/loss", "train/loss", "cost/train_seconds" ...


class State(enum.StrEnum):
    """The state of a trial."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"  # exactly budget.epochs, finite objectives
    PRUNED = "PRUNED"  # stopped early, with its rung or reason
    FAILED = "FAILED"  # failed by itself, with the reason

    @property
    def finished(self) -> bool:
        """True if nothing more will happen to the trial by itself."""
        return self in (State.COMPLETE, State.PRUNED, State.FAILED)


class Decision(enum.StrEnum):
    """The action of a back end after a trial's report."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"  # the trial has ended: complete, pruned or failed


@dataclass(frozen=True)
class Trial:
    """One row of the ledger's trials.

    Attributes:
        number: Number in the order of starting, counted from 0.
        state: State of the trial.
        config: Point of the space, with the key "method".
        seed: Seed of adapter, head, data order and dropout.
        adapter_params: Exact number of trainable parameters without the head.
        head_params: Number of parameters of the classification head.
        epochs: Number of reported epochs.
        metrics: Metrics of the last epoch.
        reason: Reason why it was PRUNED or FAILED.
        rung: Rung (in epochs) at which it was PRUNED.
        n_attempts: Number of its starts on a worker.
        started: Unix time of the decision to run it.
        finished: Unix time of its end.
        extends: Trial from whose checkpoint it resumes with more epochs; None for a trial of the search.
        planned_epochs: Total epochs of an extended trial; None for the budget's.
        against: Second objective of its study.
        objective: First objective of its study.
        runs: Metrics of each complete run, if it was trained again on another fold or from another seed; else empty. `metrics` is
            their mean then.
        n_folds: Number of folds of its study; None if it has none.
    """

    number: int
    state: State
    config: Config
    seed: int
    adapter_params: int
    head_params: int
    epochs: int = 0
    metrics: Metrics = field(default_factory=dict)
    reason: str | None = None
    rung: int | None = None
    n_attempts: int = 1
    started: float = 0.0
    finished: float | None = None
    extends: int | None = None
    planned_epochs: int | None = None
    against: str = "adapter_params"
    objective: str = TOP1
    runs: tuple[Metrics, ...] = ()
    n_folds: int | None = None

    @property
    def is_complete(self) -> bool:
        """True if it has an objective: it is COMPLETE, or was and is trained again."""
        return self.state is State.COMPLETE or bool(self.runs)

    @property
    def run(self) -> int:
        """The number of its current run, counted from 1; of a trial that has ended, of its last complete run."""
        return len(self.runs) + (not self.state.finished) if self.runs else 1

    @property
    def values(self) -> tuple[float, ...]:
        """The first objective of each complete run."""
        return tuple(one.get(self.objective, math.nan) for one in self.runs or (self.metrics,))

    def with_runs(self, runs: Sequence[Metrics]) -> Trial:
        """Return the trial with the metrics of so many complete runs."""
        keys = [key for key in runs[0] if all(key in one for one in runs)]
        return replace(self, runs=tuple(runs), metrics={key: math.fsum(one[key] for one in runs) / len(runs) for key in keys})

    def first_run(self, epochs: int) -> Trial:
        """Return the trial as it was after its first run of so many epochs."""
        return replace(self, epochs=epochs, metrics=self.runs[0], runs=()) if self.runs else self

    @property
    def method(self) -> str:
        """The name of the adapter method."""
        return str(self.config["method"])

    @property
    def objectives(self) -> tuple[float, float]:
        """The pair (score of the last epoch, or of the mean of its runs; size); meaningful for COMPLETE trials."""
        return self.metric.score(self.quality), float(self.size)

    @property
    def metric(self) -> Metric:
        """The metric of the first objective."""
        return METRICS[self.objective]

    @property
    def quality(self) -> float:
        """The first objective after the last epoch; NaN if the trial has not reported it."""
        return self.metrics.get(self.objective, math.nan)

    @property
    def size(self) -> float:
        """The second objective: adapter parameters, unless the study uses another cost; metrics are those of the last epoch."""
        return self.cost(self.against)

    def cost(self, key: str) -> float:
        """Return a number of parameters, or a metric of the last epoch.

        Raises:
            KeyError: If the trial has not reported it.
        """
        counts = {"adapter_params": self.adapter_params, "head_params": self.head_params}
        return sum(counts.values()) if key == "trainable_params" else counts[key] if key in counts else self.metrics[key]

    @property
    def label(self) -> str:
        """A short sortable name, `0042-lily-r8-e4`, for MLflow and plots."""
        parts = [f"{self.number:04d}", self.method]
        for knob, letter in (("rank", "r"), ("n_experts", "e")):
            if (value := self.config.get(f"{self.method}.{knob}")) is not None:
                parts.append(f"{letter}{value}")
        return "-".join(parts)


def find_trial(trials: Sequence[Trial], number: int, study: str = "this study") -> Trial:
    """Return the trial of a number that a user has given.

    Args:
        trials: All trials of the study, in the order of their numbers.
        number: Number of the trial.
        study: Name of the study in the message.

    Raises:
        ValueError: If the trial does not exist; the message says which trials exist.
    """
    if 0 <= number < len(trials):
        return trials[number]
    raise ValueError(no_trial(number, len(trials), study))


def no_trial(number: int, n_trials: int, study: str = "this study") -> str:
    """Say that a trial does not exist, and which trials do."""
    known = f"trials 0 to {n_trials - 1}" if n_trials > 1 else "only trial 0" if n_trials else "no trials yet"
    return f"no trial {number}: {study} has {known}"
