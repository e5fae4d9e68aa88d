"""What a back end is: the seam behind which Ray, this process and a simulated cluster train.

**The life of a back end.** A command makes one by its name (`search.backends.choose.make_back_end`) and hands it down. For a search
it is used once, in this order:

1. `prepare` imports what the back end needs, in a thread, while
2. `connect` starts or joins what runs the trials. The block of `connect` holds all that follows.
3. `check` refuses machines on which the study could not run.
4. `measure` finds out what memory a trial takes, if the study is new.
5. `capacity` says how many trials run at once, and `run` drives the study: it calls `ask` for trials, has workers train them epoch
   by epoch, calls `report` after each epoch, stops a worker when the answer is STOP, calls `worker_gone` once for every trial that
   it was given, and `handle_requests` at least every second. It returns when `ask` has nothing more and nothing runs.

For retraining a front, `retrain` is all that is called; it connects by itself when the first order comes.

A back end decides nothing: which trial starts, resumes, stops or has failed is the study's to say. The same study and seed on one
worker has the same history on every back end.

**Writing one.** One file here with a class that has these methods, one line in `BACK_ENDS`: docs/developing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search.config.study_file import StudyFile
from search.storage.checkpoints import Folder
from search.storage.facts import Facts, TrialMemory
from search.study.study import Study
from spaces import Config


@dataclass(frozen=True)
class Order:
    """One model to retrain.

    Attributes:
        number: The number of its trial in the sibling ledger.
        config: Its configuration.
        seed: The seed of adapter, head, data order and dropout.
        epochs: The epochs to train.
        folder: The folder of its checkpoint.
    """

    number: int
    config: dict[str, Any]
    seed: int
    epochs: int
    folder: Folder


@dataclass(frozen=True)
class Outcome:
    """The result of an order.

    Attributes:
        number: The order's number.
        metrics: `test/top1`, `test/loss`, and those of the last epoch; empty after a failure.
        correct: (n,) which test images the model classifies correctly, in the order of the split; None after a failure.
        failure: Why it failed; None if it did not.
    """

    number: int
    metrics: dict[str, float]
    correct: NDArray[np.bool_] | None
    failure: str | None = None


@dataclass(frozen=True)
class Capacity:
    """How many trials run at once.

    Attributes:
        words: The number in words, for people: `2 trials at a time`.
        waits: Says what the back end waits for before any trial can run; None while it waits for nothing.
    """

    words: str
    waits: Callable[[], str | None] = lambda: None


class BackEnd(Protocol):
    """What runs the trials of a study."""

    @property
    def recorder_delay(self) -> float:
        """Seconds that the recorder leaves the cores to workers which start."""

    def prepare(self) -> None:
        """Import what `run` needs. Called in a thread while `connect` works."""

    def connect(self, file: StudyFile) -> AbstractContextManager[None]:
        """Start or join what runs the trials, for as long as the block lasts.

        Raises:
            RequestError: It cannot be reached, or refuses us.
        """

    def check(self, file: StudyFile) -> None:
        """Refuse machines on which the study could not run.

        Raises:
            RequestError: The machines and the remedy.
        """

    def reserves_memory(self, file: StudyFile) -> bool:
        """Return whether several trials share a machine, so that the memory of each has to be known."""

    def measure(
        self,
        file: StudyFile,
        computed_bytes: int | None,
        configs: Callable[[], Sequence[Config]],
        say: Callable[[str], None],
    ) -> TrialMemory:
        """Find out what memory a trial takes. Called once, when a study is made, and only if `reserves_memory`.

        Args:
            file: The study file.
            computed_bytes: The memory of a worker by arithmetic; None if it has to be measured.
            configs: Makes the configurations to measure.
            say: Gets what the measurement waits for.

        Raises:
            RequestError: It cannot be measured.
        """

    def capacity(self, study: Study) -> Capacity:
        """Return how many trials of the study run at once.

        Raises:
            RequestError: Not even one fits, on a cluster that does not grow.
        """

    def run(self, study: Study) -> None:
        """Drive an open study until nothing runs and nothing more starts."""

    def retrain(self, file: StudyFile, facts: Facts, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Train and test models. Nothing is connected or imported before the first order.

        Args:
            file: The study file.
            facts: The study's facts.
            orders: The models, taken one by one, when a worker is free.

        Yields:
            Outcomes as they come, in any order.

        Raises:
            RequestError: The models cannot be trained at all.
        """
