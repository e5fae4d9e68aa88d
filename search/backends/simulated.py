"""The simulated back end: simulated workers on a virtual clock, for trainables that know their metrics without training.

Study, rungs and sampler decide as in a real search. Only the training is replayed (recorded learning curves, or a synthetic
surface), and time is the trainable's own: the seconds that an epoch reports, or one second if it reports none.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cluster.capacity import at_a_time
from search.backends.base import Capacity, LocalBackEnd, Order, Outcome
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import RequestError
from search.storage.facts import Facts
from search.storage.in_memory import InMemoryLedger
from search.study.checks import facts_of, refuse_hopeless
from search.study.lost_workers import WorkerLoss
from search.study.study import Study
from search.trial import PARAMETERS, Decision, Metrics, State, Trial
from spaces import Config
from trainables.protocol import Trainable, is_out_of_memory
from trainables.simulated.recorded import RecordedTrainable, Table


class VirtualClock:
    """A clock that stands still between events; it counts seconds since the simulation began."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.seconds


@dataclass(frozen=True)
class Replay:
    """The replacement of training.

    Attributes:
        sizes: Sizes of configurations, known before training.
        make: Function that returns a worker's trainable.
        pool: The only configurations that can be trained (those of a recorded table); None if all can.
    """

    sizes: Sizes
    make: Callable[[], Trainable]
    pool: Sequence[Config] | None

    @classmethod
    def of_table(cls, table: Table, file: StudyFile) -> Replay:
        """Replay the recorded runs that are points of the study's space.

        Raises:
            ValueError: If there is none, or the runs have other epochs than the budget, or lack a metric or cost of the study.
        """
        if file.budget.epochs != table.epochs:
            raise ValueError(f"budget.epochs is {file.budget.epochs}, the recorded curves have {table.epochs}; use as many")
        named = {key for key in (*file.objectives, *file.budget.limits) if key not in PARAMETERS}
        if missing := sorted(named.difference(*(row.curves for row in table.rows[:1]))):
            raise ValueError(
                f"the table has no {missing[0]}, which the study uses; its curves are {', '.join(table.rows[0].curves)}"
            )
        space = file.joint_space()
        pool = [row.config for row in table.rows if space.holds(row.config)]
        if not pool:
            raise ValueError(f"the table has no configuration of the study's space; it has runs of {', '.join(table.methods)}")
        return cls(table, lambda: RecordedTrainable(table), pool)


def create(file: StudyFile, sizes: Sizes, clock: VirtualClock, *, pool: Sequence[Config] | None = None) -> Study:
    """Create a study in memory.

    Args:
        file: Study file.
        sizes: Sizes of configurations, known before training.
        clock: Clock of its decisions.
        pool: The only configurations that can be trained (those of a recorded table); None if all can.
    """
    facts = facts_of(file, sizes)
    if pool is None:
        refuse_hopeless(file, sizes, facts.max_params)
    ledger = InMemoryLedger(name=file.study, file=file.resolved(), facts=facts.as_json(), now=clock)
    return Study(file, ledger, sizes, pool=pool)


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
        study: Study from `create`, with the same clock.
        make: Function that returns a worker's trainable.
        clock: Clock that is advanced from event to event.
        n_workers: Number of trials at once.
        on_event: Callback after every epoch.
    """
    idle = [_Worker(make()) for _ in range(n_workers)]
    events: list[tuple[float, int, _Worker]] = []  # (end of the epoch, event number, worker); the number keeps ties in order
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
class SimulatedBackEnd(LocalBackEnd):
    """A back end of simulated workers on a virtual clock; see `search.backends.base.BackEnd`.

    Attributes:
        make: Function that returns a worker's trainable.
        clock: Clock of the study, which is advanced from event to event.
        n_workers: Number of trials at once.
        on_event: Callback after every epoch.
    """

    make: Callable[[], Trainable]
    clock: VirtualClock
    n_workers: int
    on_event: Callable[[], None] = lambda: None

    def capacity(self, study: Study) -> Capacity:
        """Return the number of simulated workers."""
        return Capacity(at_a_time(self.n_workers))

    def run(self, study: Study) -> None:
        """Replay the study's trials."""
        run(study, self.make, self.clock, n_workers=self.n_workers, on_event=self.on_event)

    def retrain(self, file: StudyFile, facts: Facts, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Refuse: a simulation has no model to test."""
        raise RequestError("a simulation trains nothing, so nothing can be retrained")


@dataclass
class _Worker:
    """A simulated worker, one epoch ahead of what it has reported.

    Attributes:
        trainable: Trainable of the worker.
        seconds: Duration of the current epoch.
    """

    trainable: Trainable
    seconds: float = 0.0

    def start(self, study: Study, trial: Trial) -> None:
        """Start a trial, or resume a paused one by skipping its reported epochs."""
        self._trial, self._done = trial.number, trial.epochs
        planned, fold = study.planned_epochs(trial), study.fold(trial)
        self.trainable.start(trial.config, seed=trial.seed, epochs=planned, folder=None, fold=fold)
        for _ in range(trial.epochs):
            self.trainable.step()
        self._next()

    def report(self, study: Study) -> Decision:
        """Report the epoch that has just ended, and start the next one if there is any."""
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
