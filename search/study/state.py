"""What a study knows so far: made from its ledger alone, so that it can be made again at any time.

A study that is opened replays the ledger's events in their order; one that runs takes in each decision after it is written. Both
ways lead to the same knowledge, and so to the same next decision.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from search import pareto
from search.config import trial_resources
from search.config.study_file import ANCHOR, StudyFile
from search.costs import Sizes, study_costs
from search.front import compared
from search.samplers.base import Answer, NewConfig, Result, SamplerContext
from search.samplers.sampler import SeededSampler
from search.samplers.size_cache import CachedSize
from search.storage.events import EventKind
from search.storage.ledger import Ledger
from search.storage.rows import Event, Report, StudyRow
from search.study.lost_workers import LostWorkers, WorkerLoss
from search.study.rungs import Rungs
from search.trial import PARAMETERS, Metrics, State, Trial
from spaces import Config, key_of


class SearchState:
    """All that decisions rest upon.

    Args:
        file: The resolved study file.
        row: What was fixed when the study was made.
        sizes: What is known of a configuration before training.
        ledger: Is replayed.
        pool: The only configurations that there are (the rows of a recorded table); None for the whole space.

    Attributes:
        costs: Those that the study names, and their limits.
        reference_point: (chance level, largest adapter, or the limit of what accuracy is weighed against): where the hypervolume is
            measured from.
        trials: All of them, by their numbers.
        front: Of the COMPLETE trials.
        sampler: Has been told everything.
        rungs: Hold every report within the limits; None where the study has none.
        promotes: Whether a trial that a rung stopped may go on.
        lost_workers: How often trials lost their workers.
        paused: Whether nothing new starts until it is unpaused.
        ended: Why nothing new starts although trials are left in the budget, or None.
        n_ended: Trials that had their chance: trained to the end, or stopped because others were better.
        last_front_change: How many of them had ended when the front last changed.
        seconds: Spent on the study by all drivers, up to the last event.
    """

    def __init__(
        self, file: StudyFile, row: StudyRow, sizes: Sizes, ledger: Ledger, *, pool: Sequence[Config] | None = None
    ) -> None:
        self.costs = study_costs(file, sizes, max_params=row.facts.max_params)
        self.reference_point = row.facts.reference_point
        self.trials: list[Trial] = []
        self.front = pareto.Front(self.reference_point, linear=file.objectives[1] not in PARAMETERS)
        space = file.joint_space()
        context = SamplerContext(
            space,
            size=CachedSize(self.costs.size, space, exact=pool is not None, operations=self.costs.counts_operations),
            max_size=float(row.facts.max_params) if self.costs.measures_size else self.reference_point[1],
            measured=self.costs.measures_size,
            front=self.front,
            n_epochs=file.budget.epochs,
            pool=pool,
        )
        self.sampler = SeededSampler.make(file.search.sampler, context, seed=file.search.seed)
        rungs = file.search.rungs
        self.rungs = None if rungs is None else Rungs(**rungs.model_dump(exclude={"promote"}), epochs=file.budget.epochs)
        self.promotes = rungs is not None and rungs.promote
        asked = file.resources.gpus_per_trial
        self.lost_workers = LostWorkers(
            lambda number: trial_resources.method_gpu_share(asked, row.facts.gpu_shares, self.trials[number].method)
        )
        self.paused = False
        self.ended: str | None = None
        self.n_ended = 0
        self.last_front_change = 0
        self.seconds = 0.0
        self._objective = file.objectives[0]
        self._first = deque(_first_configs(file, row))  # asked for before the sampler is
        self._tickets: dict[int, int | None] = {}  # trial number -> the sampler's ticket
        self._trial_of: dict[int | None, int] = {}  # the other way round
        self._numbers: dict[str, int] = {}  # configuration -> number of its trial, to know duplicates
        self._n_extended = 0  # trials that go on where another one ended; no part of `budget.n_trials`
        for config, top1, size, _ in row.facts.learned:
            if (known := self.sampler.add(config, drawn=False)) is not None:
                self.sampler.tell(known, Result.COMPLETE, top1=top1, size=size)
        self._replay(ledger)

    @property
    def n_searched(self) -> int:
        """Trials that count against `budget.n_trials`."""
        return len(self.trials) - self._n_extended

    # -- what to try next ----------------------------------------------------------------------------------------------------------

    def next_answer(self) -> Answer:
        """Return what to do next: first the anchors, the papers' defaults and the user's points, then what the sampler proposes."""
        if self._first:
            config = self._first.popleft()
            return NewConfig(config, self.sampler.add(config, drawn=False))
        return self.sampler.draw()

    def check(self, config: Config) -> tuple[int, int]:
        """(adapter_params, head_params) of a configuration that is worth a trial.

        Raises:
            ValueError: if it is impossible, breaks a limit, or is known already.
        """
        counted = self.costs.check(config)
        if (twin := self._numbers.get(key_of(config))) is not None:
            raise ValueError(f"the same configuration as trial {twin}")
        return counted

    def trial_of(self, ticket: int | None) -> Trial:
        """The trial whose configuration has the ticket."""
        return self.trials[self._trial_of[ticket]]

    # -- taking in what was decided ------------------------------------------------------------------------------------------------

    def start(self, trial: Trial, ticket: int | None) -> None:
        """A new trial; `ticket` is the sampler's, None for a trial that it never hears of."""
        self.trials.append(trial)
        self._tickets[trial.number] = ticket
        self._trial_of[ticket] = trial.number
        self._n_extended += trial.extends is not None
        if trial.extends is None:
            self._numbers[key_of(trial.config)] = trial.number

    def promote(self, trial: Trial) -> None:
        """A trial that a rung had stopped runs again."""
        self.trials[trial.number] = trial
        self.n_ended -= 1

    def report(self, trial: Trial, epoch: int, metrics: Metrics) -> None:
        """One more epoch of a trial, within the limits."""
        if self.rungs is not None and trial.extends is None:
            self.rungs.add(epoch, replace(trial, metrics=metrics).size, metrics[self._objective])
        self._report(trial.number, epoch, metrics)

    def _report(self, number: int, epoch: int, metrics: Metrics) -> None:
        if (ticket := self._tickets[number]) is not None:
            self.sampler.report(ticket, epoch, metrics[self._objective], self.costs.measured_size(epoch, metrics))

    def set_standing(self, trial: Trial, *, limit: str | None = None) -> None:
        """A trial's new standing; the sampler hears of it if the trial has ended. `limit`: the one that it was stopped for."""
        self.trials[trial.number] = trial
        self.n_ended += trial.extends is None and trial.state in (State.COMPLETE, State.PRUNED)
        if compared(trial) and self.front.add(*trial.objectives, trial.number):
            self.last_front_change = self.n_ended
        ticket = self._tickets[trial.number]
        if ticket is None:
            return
        if trial.state is State.COMPLETE:
            top1, size = trial.objectives
            self.sampler.tell(ticket, Result.COMPLETE, top1=top1, size=size)
        elif limit is not None:
            self.sampler.tell(ticket, Result.OVER_LIMIT, size=self.costs.measured_size(trial.epochs, trial.metrics))
        elif trial.state is State.PRUNED:
            for_good = trial.rung is None or not self.promotes
            self.sampler.tell(ticket, Result.PRUNED if for_good else Result.STOPPED)
        elif trial.state is State.FAILED:
            self.sampler.tell(ticket, Result.FAILED)

    def extend(self) -> None:
        """The budget is larger: what had ended the study no longer does, and patience begins anew."""
        self.ended = None
        self.last_front_change = self.n_ended

    # -- replaying -----------------------------------------------------------------------------------------------------------------

    def _replay(self, ledger: Ledger) -> None:
        trials = {trial.number: trial for trial in ledger.trials()}
        reports = {report.event: report for report in ledger.reports()}
        if self.rungs is not None:
            for report in reports.values():
                top1 = report.metrics.get(self._objective, math.nan)
                trial = replace(trials[report.trial], metrics=report.metrics)
                if math.isfinite(top1) and trial.extends is None and self.costs.counts(report.epoch, report.metrics):
                    self.rungs.add(report.epoch, trial.size, top1)
        last = 0.0  # time of the event before; a driver's time runs from its "opened" to its last event
        for event in ledger.events():
            self.seconds += 0.0 if event.kind is EventKind.OPENED else max(0.0, event.time - last)
            last = event.time
            if event.trial is None:
                self._replay_of_study(event)
            else:
                self._replay_of_trial(event, trials[event.trial], reports)

    def _replay_of_study(self, event: Event) -> None:
        if event.kind is EventKind.REJECTED:
            if (ticket := self._taken_up(event.detail["config"])) is not None:
                self.sampler.tell(ticket, Result.REJECTED)
        elif event.kind is EventKind.ENDED:
            self.ended = str(event.detail["reason"])
        elif event.kind is EventKind.EXTENDED:
            self.extend()
        elif event.kind in (EventKind.PAUSED, EventKind.UNPAUSED):
            self.paused = event.kind is EventKind.PAUSED

    def _replay_of_trial(self, event: Event, trial: Trial, reports: dict[int, Report]) -> None:
        """`trial` is what it is today; the event may be older."""
        number = trial.number
        if event.kind is EventKind.STARTED:
            ticket = self._taken_up(trial.config) if trial.extends is None else None
            self.start(replace(trial, state=State.RUNNING), ticket)
        elif event.kind is EventKind.REPORTED:
            report = reports[event.number]
            top1 = report.metrics.get(self._objective, math.nan)
            if math.isfinite(top1) and self.costs.counts(report.epoch, report.metrics):
                self._report(number, report.epoch, report.metrics)
        elif event.kind is EventKind.PRUNED:  # it may have gone on since
            self.set_standing(replace(trial, state=State.PRUNED, rung=event.detail.get("rung")), limit=event.detail.get("limit"))
        elif event.kind is EventKind.PROMOTED:
            self.promote(replace(trial, state=State.RUNNING))
            if (ticket := self._tickets[number]) is not None:
                self.sampler.promote(ticket)
        elif event.kind in (EventKind.COMPLETED, EventKind.FAILED):
            self.set_standing(trial)
        elif event.kind is EventKind.LOST:
            self.lost_workers.record(number, WorkerLoss[event.detail["loss"]])
        elif event.kind in (EventKind.PAUSED, EventKind.UNPAUSED):
            self.trials[number] = replace(
                self.trials[number], state=State.PAUSED if event.kind is EventKind.PAUSED else State.RUNNING
            )

    def _taken_up(self, config: Config) -> int | None:
        first = config in self._first  # in its order, unless the space was widened since
        if first:
            self._first.remove(config)
        return self.sampler.add(config, drawn=not first)


def _first_configs(file: StudyFile, row: StudyRow) -> list[Config]:
    """Head-only anchors the small end; then the papers' defaults, the file's points, and the fronts that it learns from."""
    everything = file.model_copy(update={"methods": (ANCHOR, *file.methods)}).joint_space()
    fronts = [config for config, _, _, on_front in row.facts.learned if on_front]
    first = [everything.default(method) for method in everything.methods] + file.points() + fronts
    return list({key_of(config): config for config in first}.values())
