"""The simulated back end: imaginary workers on a virtual clock, for trainables that know their metrics without training.

The same study, rungs and sampler as in a real search decide; only the training is replayed (recorded learning curves, or a
synthetic surface) and the time is the trainable's own: the seconds that an epoch says it cost, or one where it says nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from cluster.capacity import at_a_time
from search.backends.base import Capacity, Order, Outcome
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import RequestError
from search.storage.facts import Facts, TrialMemory
from search.storage.in_memory import InMemoryLedger
from search.study.checks import facts_of, refuse_hopeless
from search.study.lost_workers import WorkerLoss
from search.study.study import Study
from search.trial import PARAMETERS, Decision, Metrics, State, Trial
from spaces import Config
from trainables.protocol import Trainable, is_out_of_memory
from trainables.simulated.recorded import RecordedTrainable, Table


class VirtualClock:
    """A clock that stands still between events; seconds since the simulation began."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """The time now."""
        return self.seconds


@dataclass(frozen=True)
class Replay:
    """What stands in for training.

    Attributes:
        sizes: What is known of a configuration beforehand.
        make: Makes a worker's trainable.
        pool: The only configurations that can be trained (those of a recorded table); None where all can.
    """

    sizes: Sizes
    make: Callable[[], Trainable]
    pool: Sequence[Config] | None

    @classmethod
    def of_table(cls, table: Table, file: StudyFile) -> Replay:
        """The recorded runs that are points of the study's space.

        Raises:
            ValueError: if there is none, the runs have other epochs than the study's budget, or lack a cost that it names.
        """
        if file.budget.epochs != table.epochs:
            raise ValueError(f"budget.epochs is {file.budget.epochs}, the recorded curves have {table.epochs}; ask for as many")
        named = {key for key in (file.objectives[1], *file.budget.limits) if key not in PARAMETERS}
        if missing := sorted(named.difference(*(row.curves for row in table.rows[:1]))):
            raise ValueError(
                f"the table holds no {missing[0]}, which the study names; its curves are {', '.join(table.rows[0].curves)}"
            )
        space = file.joint_space()
        pool = [row.config for row in table.rows if space.holds(row.config)]
        if not pool:
            raise ValueError(f"the table holds no configuration of the study's space; it has runs of {', '.join(table.methods)}")
        return cls(table, lambda: RecordedTrainable(table), pool)


def create(file: StudyFile, sizes: Sizes, clock: VirtualClock, *, pool: Sequence[Config] | None = None) -> Study:
    """A new study that lives in memory.

    Args:
        file: The study file.
        sizes: What is known before training.
        clock: The time of its decisions.
        pool: The only configurations that can be trained (those of a recorded table); None where all can.
    """
    facts = facts_of(file, sizes)
    if pool is None:
        refuse_hopeless(file, sizes, facts.max_params)
    return Study(file, InMemoryLedger(name=file.study, file=file.resolved(), facts=facts.as_json(), now=clock), sizes, pool=pool)


def run(
    study: Study,
    make: Callable[[], Trainable],
    clock: VirtualClock,
    *,
    n_workers: int,
    on_event: Callable[[], None] = lambda: None,
) -> None:
    """Drive a study to its end.

    Args:
        study: Made by `create`, with the same clock.
        make: Makes a worker's trainable.
        clock: Is set forward from event to event.
        n_workers: How many trials run at once.
        on_event: Is called after every epoch.
    """
    idle = [_Worker(make()) for _ in range(n_workers)]
    events: list[tuple[float, int, _Worker]] = []  # when which worker's epoch ends; the number keeps ties in order
    n_events = 0
    while True:
        while idle and (trial := study.ask()) is not None:
            worker = idle.pop()
            worker.start(study, trial)
            heapq.heappush(events, (clock.seconds + worker.seconds, n_events, worker))
            n_events += 1
        if not events:
            return
        clock.seconds, _, worker = heapq.heappop(events)
        decision = worker.report(study)
        on_event()
        if decision is Decision.CONTINUE:
            heapq.heappush(events, (clock.seconds + worker.seconds, n_events, worker))
            n_events += 1
        else:
            idle.append(worker)


@dataclass
class SimulatedBackEnd:
    """Imaginary workers on a virtual clock; see `search.backends.base.BackEnd`.

    Attributes:
        make: Makes a worker's trainable.
        clock: The clock, set forward from event to event; the study's clock too.
        n_workers: The number of trials that run at once.
        on_event: Called after every epoch.
    """

    make: Callable[[], Trainable]
    clock: VirtualClock
    n_workers: int
    on_event: Callable[[], None] = lambda: None
    recorder_delay: float = 0.0

    def prepare(self) -> None:
        """Import nothing."""

    def connect(self, file: StudyFile) -> AbstractContextManager[None]:
        """Connect to nothing."""
        return nullcontext()

    def check(self, file: StudyFile) -> None:
        """Accept every study."""

    def reserves_memory(self, file: StudyFile) -> bool:
        """Return False: imaginary workers take none."""
        return False

    def measure(
        self,
        file: StudyFile,
        computed_bytes: int | None,
        configs: Callable[[], Sequence[Config]],
        say: Callable[[str], None],
    ) -> TrialMemory:
        """Reserve nothing."""
        return TrialMemory()

    def capacity(self, study: Study) -> Capacity:
        """Return the number of imaginary workers."""
        return Capacity(at_a_time(self.n_workers))

    def run(self, study: Study) -> None:
        """Replay the study's trials."""
        run(study, self.make, self.clock, n_workers=self.n_workers, on_event=self.on_event)

    def retrain(self, file: StudyFile, facts: Facts, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Refuse: a simulation has no model to test."""
        raise RequestError("a simulation trains nothing, so nothing can be retrained")


@dataclass
class _Worker:
    """An imaginary worker, one epoch ahead of what it has reported.

    Attributes:
        trainable: What it runs.
        seconds: How long the epoch takes that it is at.
    """

    trainable: Trainable
    seconds: float = 0.0

    def start(self, study: Study, trial: Trial) -> None:
        """Begin a trial, or go on with one that was paused: what it did before is gone over without being reported."""
        self._trial, self._done = trial.number, trial.epochs
        self.trainable.start(trial.config, seed=trial.seed, epochs=study.planned_epochs(trial), folder=None)
        for _ in range(trial.epochs):
            self.trainable.step()
        self._next()

    def report(self, study: Study) -> Decision:
        """Hand in the epoch that has just ended, and begin the next if there is one."""
        if self._problem is not None:
            why = f"{type(self._problem).__name__}: {self._problem}"
            if is_out_of_memory(self._problem):
                study.worker_lost(self._trial, WorkerLoss.MEMORY, why)
            else:
                study.tell(self._trial, State.FAILED, why)
            study.worker_gone(self._trial)
            return Decision.STOP
        self._done += 1
        decision = study.report(self._trial, self._done, self._metrics)
        if decision is Decision.CONTINUE:
            self._next()
        else:
            self.trainable.finish()
            study.worker_gone(self._trial)
        return decision

    def _next(self) -> None:
        self._metrics: Metrics = {}
        self._problem: Exception | None = None
        try:
            self._metrics = self.trainable.step()
        except Exception as error:
            self._problem = error
        self.seconds = self._metrics.get("cost/train_seconds", 1.0) + self._metrics.get("cost/eval_seconds", 0.0)
