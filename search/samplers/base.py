"""The interface of a sampler, which random search, Optuna's samplers and our own model implement.

**The life of a sampler.** It is created when a study is opened, with everything that it may use (`SamplerContext`). `ask` proposes
the next action. The study counts the parameters of a proposed configuration and calls `add` with it, whether it will be trained or
not; the ticket that `add` returns identifies the configuration from then on. The sampler learns by `tell` that a configuration was
REJECTED before training. For a trained one the study calls `report` after every epoch, and `tell` at the end.
Configurations that the sampler did not propose (anchors, the papers' defaults, the user's points, results of other studies) are
added in the same way.

**Replay.** A sampler has no memory of its own. When a study is opened again, a new sampler gets the same calls of `add`, `report`,
`tell` and `promote` in the same order, and must then answer `ask(seed)` as the first one would have. So an answer may depend only
on the seed and on these calls: on no clock, no global random state, and no state that `ask` itself changes.

**Writing one.** One file here with a class that has these six methods, one line in `SAMPLERS` of `search.samplers.sampler`:
docs/developing.md.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from search.pareto import Front
from spaces import Config, JointSpace


@dataclass(frozen=True)
class NewConfig:
    """The answer that a configuration should be tried.

    Attributes:
        config: Point of the joint space.
        ticket: Ticket of the configuration after it was added; None before, and for a configuration outside the sampler's space.
    """

    config: Config
    ticket: int | None = None


@dataclass(frozen=True)
class Promote:
    """The answer that a trial which was stopped at a rung should resume.

    Attributes:
        ticket: Ticket of its configuration.
    """

    ticket: int


@dataclass(frozen=True)
class Wait:
    """The answer that nothing should start before more results are known."""


@dataclass(frozen=True)
class Done:
    """The answer that nothing is left to try.

    Attributes:
        reason: Reason, in words that complete "the study has ended: ...".
    """

    reason: str


Answer = NewConfig | Promote | Wait | Done


class Part(enum.StrEnum):
    """A part of `auto` that came after its first version. The facts of a study name the parts with which it began."""

    SHARED = "shared columns"  # knobs of one meaning are the same columns for every method (`search.samplers.shared_columns`)
    CLIPPED = "clipped"  # accuracies of diverged trials are clipped, and failed trials make their like less likely
    NOISE = "noise"  # each accuracy counts with the standard error of its images and of a seed
    RUNS = "runs"  # the mean of several runs counts with the standard error of a mean
    AGREEMENT = "agreement"  # trials on other data count as far as this study's trials agree with them
    START = "start"  # a start that fits the budget, the smallest sensible size first (`search.samplers.start`)


ALL_PARTS = frozenset(Part)


class Result(enum.Enum):
    """The result of a configuration."""

    COMPLETE = "it was trained to the end"
    STOPPED = "its trial was stopped at a rung, and may be promoted"
    PRUNED = "its trial was stopped for good, because others were better or a user asked for it"
    OVER_LIMIT = "its trial was stopped because it costs more than a limit allows"
    FAILED = "its trial ended by an error"
    REJECTED = "it was refused before training"


@dataclass(frozen=True)
class SamplerContext:
    """Everything that a sampler may use.

    Attributes:
        space: Joint space to sample from.
        size: Function that computes the second objective of a configuration, as far as it is known before training; it raises
            ValueError if the configuration is invalid. None if sizes are not counted.
        max_size: Largest allowed size; None for no limit.
        measured: True if only training can measure the second objective (time, memory).
        front: Front of the complete trials, updated by the study.
        n_epochs: Epochs of a complete trial.
        pool: The only configurations that exist (the rows of a recorded table); None for the whole space.
        by_seconds: True if the budget is in hours, so that what a trial adds is weighed against its seconds.
        n_trials: Number of trials of the budget with which the study began; None if only hours limit it.
        n_images: Number of images that accuracies are measured on; None if that is unknown, or the metric is another one.
        folds: True if each run of a trial is measured on other images.
        parts: Parts of `auto` with which the study began.
        elsewhere: Configurations of studies with other data, and the standardised goodness of each within its study.
        of_prior: Keys of the configurations with which a prior begins: they are trials of their methods as if `auto` had proposed
            them.
    """

    space: JointSpace
    size: Callable[[Config], float] | None = None
    max_size: float | None = None
    measured: bool = False
    front: Front | None = None
    n_epochs: int = 1
    pool: Sequence[Config] | None = None
    by_seconds: bool = False
    n_trials: int | None = None
    n_images: int | None = None
    folds: bool = False
    parts: frozenset[Part] = ALL_PARTS
    elsewhere: Sequence[tuple[Config, float]] = ()
    of_prior: frozenset[str] = frozenset()


class Sampler(Protocol):
    """A rule that proposes what to try next and learns from the results."""

    def ask(self, seed: int) -> Answer:
        """Propose what to do next; the same history and seed give the same answer."""

    def add(self, config: Config, *, drawn: bool) -> int:
        """Register a configuration of the space and return its ticket, counted from 0.

        Args:
            config: Point of the space.
            drawn: True if `ask` proposed it when it was new.
        """

    def report(self, ticket: int, epoch: int, top1: float, size: float | None, seconds: float | None) -> None:
        """Record one epoch of a trial.

        Args:
            ticket: Ticket of the configuration.
            epoch: Number of the epoch, counted from 1.
            top1: Score after the epoch (`search.metrics`), at most 1: the accuracy, or that of another metric.
            size: Second objective, if training has measured it; else None.
            seconds: Seconds of training and validation, as far as they are reported; else None.
        """

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Record the result of a configuration.

        Args:
            ticket: Ticket of the configuration.
            result: Result of the configuration.
            top1: Score after the last epoch; given only with COMPLETE.
            size: Second objective; given with COMPLETE, and with OVER_LIMIT if it was measured.
        """

    def promote(self, ticket: int) -> None:
        """Record that a STOPPED trial resumes; `report` and `tell` will be called for it again."""

    def revise(self, ticket: int, top1: float, n_runs: int) -> None:
        """Record the score of a COMPLETE trial after a further run: the mean of so many."""
