"""What a sampler is: the seam behind which random search, Optuna's samplers and our own model stand.

**The life of a sampler.** It is made when a study is opened, with everything that it may use (`SamplerContext`). `ask` proposes
the next thing to do. The study counts the parameters of a proposed configuration and calls `add` with it, whether it will be
trained or not; the ticket that `add` returns is the configuration's name from then on. A configuration that is refused before
training is told as REJECTED. One that is trained calls `report` after every epoch and is told how it ended by `tell`.
Configurations that the sampler did not propose (anchors, the papers' defaults, the user's points, results of other studies) are
added in the same way.

**Replay.** A sampler has no memory of its own. When a study is opened again, a new sampler gets the same calls of `add`, `report`,
`tell` and `promote` in the same order, and must then answer `ask(seed)` as the first one would have. So an answer may depend on the
seed and on what was told, and on nothing else: no clock, no global random state, no state that `ask` itself changes.

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
        config: A point of the joint space.
        ticket: Its ticket, once it was added; None before, and for a configuration that the sampler never hears of.
    """

    config: Config
    ticket: int | None = None


@dataclass(frozen=True)
class Promote:
    """The answer that a trial which was stopped at a rung should resume.

    Attributes:
        ticket: The ticket of its configuration.
    """

    ticket: int


@dataclass(frozen=True)
class Wait:
    """The answer that nothing should start now, and something may when more is known."""


@dataclass(frozen=True)
class Done:
    """The answer that nothing is left to try.

    Attributes:
        reason: Why, in words that complete "the study has ended: ...".
    """

    reason: str


Answer = NewConfig | Promote | Wait | Done


class Result(enum.Enum):
    """What became of a configuration."""

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
        space: The joint space to sample from.
        size: Computes the second objective of a configuration, as far as it is known before training; raises ValueError if the
            configuration is impossible. None where nobody counts.
        max_size: The largest size that is wanted; None for no limit.
        measured: True if only training tells the second objective (time, memory).
        front: The front of the complete trials, kept up to date by the study.
        n_epochs: Epochs of a complete trial.
        pool: The only configurations that exist (the rows of a recorded table); None for the whole space.
    """

    space: JointSpace
    size: Callable[[Config], float] | None = None
    max_size: float | None = None
    measured: bool = False
    front: Front | None = None
    n_epochs: int = 1
    pool: Sequence[Config] | None = None


class Sampler(Protocol):
    """A rule that proposes what to try next and learns from what became of it."""

    def ask(self, seed: int) -> Answer:
        """Propose what to do next; the same history and seed give the same answer."""

    def add(self, config: Config, *, drawn: bool) -> int:
        """Take up a configuration of the space and return its ticket, counted from 0.

        Args:
            config: A point of the space.
            drawn: True if `ask` proposed it when it was new.
        """

    def report(self, ticket: int, epoch: int, top1: float, size: float | None) -> None:
        """Take in one epoch of a trial.

        Args:
            ticket: The configuration's ticket.
            epoch: The epoch, counted from 1.
            top1: The validation accuracy after it, in [0, 1].
            size: The second objective, if training has measured it; else None.
        """

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Take in what became of a configuration.

        Args:
            ticket: The configuration's ticket.
            result: How it ended.
            top1: The validation accuracy after the last epoch; given with COMPLETE only.
            size: The second objective; given with COMPLETE, and with OVER_LIMIT if it was measured.
        """

    def promote(self, ticket: int) -> None:
        """Take in that a STOPPED trial resumes: it reports again, and is told again how it ended."""
