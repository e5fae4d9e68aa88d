"""The interface of a back end, which Ray, this process and a simulated cluster implement.

**The life of a back end.** A command creates one by its name (`search.backends.choose.make_back_end`) and passes it on. For a
search its methods are called in this order:

1. `prepare` imports the modules that the back end needs, in a thread, while
2. `connect` starts or joins the processes that run the trials. Everything below happens inside its block.
3. `check` refuses machines on which the study could not run.
4. `measure` determines the memory of a trial, if the study is new.
5. `capacity` returns how many trials run at once, and `run` drives the study: it calls `ask` for trials, has workers train them
   epoch by epoch, calls `report` after each epoch, stops a worker when the answer is STOP, calls `worker_gone` once for every trial
   that it was given, and `handle_requests` at least every second. It returns when `ask` returns nothing more and nothing runs.

For retraining a front, only `retrain` is called; it connects by itself when the first order arrives.

A back end makes no decisions: the study decides which trial starts, resumes, stops or has failed. The same study and seed on one
worker has the same history on every back end.

**Writing one.** One file here with a class that has these methods, one line in `BACK_ENDS`: docs/developing.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from search.config.study_file import StudyFile
from search.storage.checkpoints import Folder
from search.storage.facts import Facts, TrialMemory
from search.study.study import Study
from search.trial import Trial
from spaces import Config
from trainables.folder import RunFolder


@dataclass(frozen=True)
class Order:
    """One model to retrain.

    Attributes:
        number: Number of its trial in the sibling ledger.
        config: Configuration to train.
        seed: Seed of adapter, head, data order and dropout.
        epochs: Number of epochs to train.
        folder: Folder of its checkpoint.
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
        number: Number of the order.
        metrics: Metrics `test/top1`, `test/loss`, the study's own as `test/NAME`, and those of the last epoch; empty after a
            failure.
        correct: Correctness of the prediction on each test image, (n,), in the order of the split; None after a failure, and
            if images have any number of labels.
        failure: Reason of the failure; None after a success.
        answers: Probabilities and labels of the test images, if the study is not judged by accuracy; else None.
    """

    number: int
    metrics: dict[str, float]
    correct: NDArray[np.bool_] | None
    failure: str | None = None
    answers: tuple[NDArray[np.float64], NDArray[np.int64]] | None = None


def folder_of_run(study: Study, trial: Trial) -> Folder | RunFolder:
    """Return the folder of a trial's checkpoint as a worker of its current run sees it."""
    folder = study.checkpoint_folder(trial.number)
    return folder if trial.run == 1 else RunFolder(folder, trial.run)


@dataclass(frozen=True)
class Capacity:
    """The number of trials that run at once.

    Attributes:
        words: Number in words, for messages: `2 trials at a time`.
        waits: Function that returns what the back end waits for before any trial can run; None if it does not wait.
    """

    words: str
    waits: Callable[[], str | None] = lambda: None


class BackEnd(Protocol):
    """The component that runs the trials of a study."""

    @property
    def recorder_delay(self) -> float:
        """The seconds for which the recorder leaves the cores to starting workers."""

    def prepare(self) -> None:
        """Import the modules that `run` needs. Called in a thread while `connect` works."""

    def connect(self, file: StudyFile) -> AbstractContextManager[None]:
        """Start or join the processes that run the trials, until the block ends.

        Raises:
            RequestError: If they cannot be reached, or refuse access.
        """

    def check(self, file: StudyFile) -> None:
        """Refuse machines on which the study could not run.

        Raises:
            RequestError: If there are such machines; the message names them and the remedy.
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
        """Determine the memory of a trial. Called once, when a study is created, and only if `reserves_memory`.

        Args:
            file: Study file.
            computed_bytes: Computed memory of a worker; None if it has to be measured.
            configs: Function that returns the configurations to measure.
            say: Callback that receives messages about waiting.

        Raises:
            RequestError: If it cannot be measured.
        """

    def capacity(self, study: Study) -> Capacity:
        """Return how many trials of the study run at once.

        Raises:
            RequestError: If not even one fits, on a cluster that cannot grow.
        """

    def run(self, study: Study) -> None:
        """Drive an open study until nothing runs and nothing more starts."""

    def retrain(self, file: StudyFile, facts: Facts, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Train and test models. Nothing is connected or imported before the first order.

        Args:
            file: Study file.
            facts: Facts of the study.
            orders: Models to train, taken one by one when a worker is free.

        Yields:
            Outcomes as they arrive, in any order.

        Raises:
            RequestError: If the models cannot be trained at all.
        """


class LocalBackEnd:
    """The part of a back end that needs no other process: nothing to import, connect, check or reserve."""

    recorder_delay = 0.0

    def prepare(self) -> None:
        """Import nothing."""

    def connect(self, file: StudyFile) -> AbstractContextManager[None]:
        """Connect to nothing."""
        return nullcontext()

    def check(self, file: StudyFile) -> None:
        """Accept this machine."""

    def reserves_memory(self, file: StudyFile) -> bool:
        """Return False: a trial has the machine to itself."""
        return False

    def measure(
        self, file: StudyFile, computed_bytes: int | None, configs: Callable[[], Sequence[Config]], say: Callable[[str], None]
    ) -> TrialMemory:
        """Reserve nothing."""
        return TrialMemory()
