"""A trial: one configuration, one split, one seed, and how far it has come."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a trial is plain data: reading and showing one does not need the space's machinery
    from spaces import Config

PARAMETERS = ("adapter_params", "head_params", "trainable_params")  # costs that are counted; all others are metrics under "cost/"
Metrics = Mapping[str, float]  # one epoch's numbers: "val/top1", "val/loss", "train/loss", "cost/train_seconds" ...


class State(enum.StrEnum):
    """Where a trial stands."""

    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    COMPLETE = "COMPLETE"  # exactly budget.epochs, finite objectives
    PRUNED = "PRUNED"  # stopped early, with its rung or reason
    FAILED = "FAILED"  # ended by its own fault, with the reason

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to the trial by itself."""
        return self in (State.COMPLETE, State.PRUNED, State.FAILED)


class Decision(enum.StrEnum):
    """What a back end does with a trial after a report."""

    CONTINUE = "CONTINUE"
    STOP = "STOP"  # the trial has ended: complete, pruned or failed


@dataclass(frozen=True)
class Trial:
    """One row of the ledger's trials.

    Attributes:
        number: Counts from 0 in the order of starting.
        state: Where it stands.
        config: Its point of the space; "method" among the keys.
        seed: Seed of adapter, head, data order and dropout.
        adapter_params: Exact count of trainable parameters apart from the head.
        head_params: Parameters of the classification head.
        epochs: How many epochs are reported.
        metrics: The last epoch's metrics.
        reason: Why it was PRUNED or FAILED.
        rung: At which rung (in epochs) it was PRUNED.
        n_attempts: How often it was started on a worker.
        started: Unix time of the decision to run it.
        finished: Unix time of its end.
        extends: The trial whose checkpoint it goes on from, with more epochs; None for a trial of the search.
        planned_epochs: How many epochs an extended trial gets in all; None for the budget's.
        against: What its study weighs accuracy against, the second objective.
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

    @property
    def method(self) -> str:
        """The adapter method's name."""
        return str(self.config["method"])

    @property
    def objectives(self) -> tuple[float, float]:
        """(val/top1 of the last epoch, size); meaningful for COMPLETE trials."""
        return self.metrics["val/top1"], float(self.size)

    @property
    def size(self) -> float:
        """The second objective: adapter parameters, unless the study names another cost; of a metric that of the last epoch."""
        return self.cost(self.against)

    def cost(self, key: str) -> float:
        """A count of parameters, or a metric of the last epoch.

        Raises:
            KeyError: if the trial has not reported it.
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
    """Return the trial of a number that a person has given.

    Args:
        trials: All trials of the study, in the order of their numbers.
        number: The trial's number.
        study: The study, as the message names it.

    Raises:
        ValueError: There is no such trial; the message says which there are.
    """
    if 0 <= number < len(trials):
        return trials[number]
    known = f"trials 0 to {len(trials) - 1}" if len(trials) > 1 else "only trial 0" if trials else "no trials yet"
    raise ValueError(f"no trial {number}: {study} has {known}")
