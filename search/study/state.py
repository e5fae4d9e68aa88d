"""The state of a search: derived from its ledger alone, so that it can be rebuilt at any time.

Opening a study replays the ledger's events in their order; a running study updates the state after each decision is written.
Both ways lead to the same state, and so to the same next decision.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from search import pareto
from search.config import trial_resources
from search.config.study_file import ANCHOR, StudyFile
from search.costs import Sizes, epoch_seconds
from search.front import compared
from search.metrics import METRICS, TOP1
from search.samplers.base import Answer, NewConfig, Part, Result, SamplerContext
from search.samplers.sampler import SeededSampler
from search.samplers.size_cache import CachedSize
from search.storage.events import EventKind
from search.storage.ledger import Ledger
from search.storage.rows import Event, Pause, Report, StudyRow
from search.study.lost_workers import LostWorkers, WorkerLoss
from search.study.rungs import Rungs
from search.trial import PARAMETERS, Metrics, State, Trial
from spaces import Config, key_of


class SearchState:
    """The state on which all decisions are based.

    Args:
        file: Resolved study file.
        row: Fixed properties of the study.
        sizes: Sizes of configurations, known before training.
        ledger: Ledger to replay.
        pool: The only configurations that exist (the rows of a recorded table); None for the whole space.

    Attributes:
        costs: Costs that the study uses, and their limits.
        metric: Metric by which trials are judged; rungs and sampler get its score.
        reference_point: Reference point of the hypervolume: (score of a guess, largest adapter, or the limit of another second
            objective).
        trials: All trials, by their numbers.
        front: Front of the COMPLETE trials.
        sampler: Sampler, which has all results.
        rungs: Rungs with every report within the limits; None if the study has none.
        promotes: True if a trial that a rung stopped may resume.
        lost_workers: Lost workers of the trials.
        paused: True if nothing new starts until the study is unpaused.
        ended: Reason why nothing new starts although the budget has trials left, or None.
        confirming: Reason why no new configuration is started, and further runs of trials are; or None.
        n_ended: Number of trials that had their chance: trained to the end, or stopped because others were better.
        last_front_change: Value of `n_ended` when the front last changed.
        seconds: Time spent on the study by all drivers, up to the last event.
    """

    def __init__(
        self, file: StudyFile, row: StudyRow, sizes: Sizes, ledger: Ledger, *, pool: Sequence[Config] | None = None
    ) -> None:
        self.costs = file.costs(sizes, max_params=row.facts.max_params)
        self.reference_point = row.facts.reference_point
        self.trials: list[Trial] = []
        self.front = pareto.Front(self.reference_point, linear=file.objectives[1] not in PARAMETERS)
        space, parts = file.joint_space(), _parts_of(row)
        context = SamplerContext(
            space,
            size=CachedSize(self.costs.size, space, exact=pool is not None, operations=self.costs.counts_operations),
            max_size=float(row.facts.max_params) if self.costs.measures_size else self.reference_point[1],
            measured=self.costs.measures_size,
            front=self.front,
            n_epochs=file.budget.epochs,
            pool=pool,
            by_seconds=row.facts.by_seconds,
            n_trials=None if row.facts.auto is None else row.facts.auto.n_trials,
            n_images=row.facts.n_validation if file.objectives[0] == TOP1 else None,
            folds=file.data.folds is not None,
            parts=parts,
            of_prior=frozenset(key_of(trial.config) for trial in row.facts.learned if trial.on_front and trial.top1 is None),
            elsewhere=tuple((t.config, t.standing) for t in row.facts.learned if t.standing is not None),
        )
        self._by_seconds, self._n_epochs = row.facts.by_seconds, file.budget.epochs
        self.sampler = SeededSampler.make(file.search.sampler, context, seed=file.search.seed)
        rungs = file.search.rungs
        self.rungs = None if rungs is None else Rungs(**rungs.model_dump(exclude={"promote"}), epochs=file.budget.epochs)
        self.promotes = rungs is not None and rungs.promote
        asked = file.resources.gpus_per_trial
        self.lost_workers = LostWorkers(
            lambda number: trial_resources.method_gpu_share(asked, row.facts.gpu_shares, self.trials[number].method)
        )
        self.paused: Pause | None = None
        self.ended: str | None = None
        self.confirming: str | None = None
        self.n_ended = 0
        self.n_rejected = 0
        self.last_front_change = 0
        self.seconds = 0.0
        self.metric = METRICS[file.objectives[0]]
        self._first = deque(_first_configs(file, row))  # proposed before the sampler is asked
        self._tickets: dict[int, int | None] = {}  # trial number -> the sampler's ticket
        self._trial_of: dict[int | None, int] = {}  # the sampler's ticket -> trial number
        self._numbers: dict[str, int] = {}  # configuration -> number of its trial, to detect duplicates
        self._n_extended = 0  # trials that continue an ended one, which `budget.n_trials` does not count
        for config, score, size, _, standing in row.facts.learned:
            if standing is None and score is not None and (known := self.sampler.add(config, drawn=False)) is not None:
                self.sampler.tell(known, Result.COMPLETE, top1=score, size=size)
        self._replay(ledger)

    @property
    def n_searched(self) -> int:
        """The number of trials that count against `budget.n_trials`."""
        return len(self.trials) - self._n_extended

    # -- what to try next ----------------------------------------------------------------------------------------------------------

    def next_answer(self) -> Answer:
        """Return the next action: first the anchors, the papers' defaults and the user's points, then the sampler's proposals."""
        if self._first:
            config = self._first.popleft()
            return NewConfig(config, self.sampler.add(config, drawn=False))
        return self.sampler.draw()

    def check(self, config: Config) -> tuple[int, int]:
        """Return (adapter_params, head_params) of a configuration that is worth a trial.

        Raises:
            ValueError: If it is invalid, breaks a limit, or is already known.
        """
        counted = self.costs.check(config)
        if (twin := self._numbers.get(_rounded(config))) is not None:
            raise ValueError(f"the same configuration as trial {twin}")
        return counted

    def trial_of(self, ticket: int | None) -> Trial:
        """Return the trial whose configuration has the ticket."""
        return self.trials[self._trial_of[ticket]]

    # -- updates after decisions ---------------------------------------------------------------------------------------------------

    def reject(self, ticket: int | None) -> None:
        """Count a configuration that was rejected before training, and tell the sampler, if it knows the configuration."""
        self.n_rejected += 1
        if ticket is not None:
            self.sampler.tell(ticket, Result.REJECTED)

    def start(self, trial: Trial, ticket: int | None) -> None:
        """Add a new trial; `ticket` is the sampler's, None for a trial that the sampler does not record."""
        self.trials.append(trial)
        self._tickets[trial.number] = ticket
        self._trial_of[ticket] = trial.number
        self._n_extended += trial.extends is not None
        if trial.extends is None:
            self._numbers[_rounded(trial.config)] = trial.number

    def promote(self, trial: Trial) -> None:
        """Record that a trial stopped by a rung runs again."""
        self.trials[trial.number] = trial
        self.n_ended -= 1

    def continue_(self, trial: Trial) -> None:
        """Record that a complete trial is trained again; it stays on the front with the runs that it has."""
        self.trials[trial.number] = trial
        self.n_ended -= trial.extends is None

    def report(self, trial: Trial, epoch: int, metrics: Metrics) -> None:
        """Record one more epoch of a trial, within the limits."""
        if self.rungs is not None and trial.extends is None:
            self.rungs.add(epoch, replace(trial, metrics=metrics).size, self.score(metrics), self.pace(metrics))
        self._report(trial.number, epoch, metrics)

    def score(self, metrics: Metrics) -> float:
        """Return the score of an epoch; NaN if it does not report the study's metric."""
        return self.metric.score(metrics.get(self.metric.key, math.nan))

    def pace(self, metrics: Metrics) -> float | None:
        """Return the seconds of an epoch, by which rungs judge if the budget is in hours; else None."""
        return epoch_seconds(metrics) if self._by_seconds else None

    def _report(self, number: int, epoch: int, metrics: Metrics) -> None:
        if (ticket := self._tickets[number]) is not None:
            size = self.costs.measured_size(epoch, metrics)
            self.sampler.report(ticket, epoch, self.score(metrics), size, epoch_seconds(metrics))

    def set_standing(self, trial: Trial, *, limit: str | None = None) -> None:
        """Record a trial's new state, and tell the sampler if it has ended. `limit` is the limit that it was stopped for."""
        self.trials[trial.number] = trial
        self.n_ended += trial.extends is None and trial.state in (State.COMPLETE, State.PRUNED)
        if trial.runs:
            if trial.state is State.COMPLETE:
                self._revise(trial)
            return
        if compared(trial) and self.front.add(*trial.objectives, trial.number):
            self.last_front_change = self.n_ended
        ticket = self._tickets[trial.number]
        if ticket is None:
            return
        if trial.state is State.COMPLETE:
            score, size = trial.objectives
            self.sampler.tell(ticket, Result.COMPLETE, top1=score, size=size)
        elif limit is not None:
            self.sampler.tell(ticket, Result.OVER_LIMIT, size=self.costs.measured_size(trial.epochs, trial.metrics))
        elif trial.state is State.PRUNED:
            for_good = trial.rung is None or not self.promotes
            self.sampler.tell(ticket, Result.PRUNED if for_good else Result.STOPPED)
        elif trial.state is State.FAILED:
            self.sampler.tell(ticket, Result.FAILED)

    def _revise(self, trial: Trial) -> None:
        """Record that a further run has ended: the objectives may have changed, and with them the front."""
        before = set(self.front)
        self.front.rebuild((*other.objectives, other.number) for other in self.trials if compared(other))
        if set(self.front) != before:
            self.last_front_change = self.n_ended
        if (ticket := self._tickets[trial.number]) is not None:
            self.sampler.revise(ticket, trial.objectives[0], len(trial.runs))

    def extend(self) -> None:
        """Record a larger budget: the study is no longer ended, and patience starts again."""
        self.ended = self.confirming = None
        self.last_front_change = self.n_ended

    # -- replaying -----------------------------------------------------------------------------------------------------------------

    def _replay(self, ledger: Ledger) -> None:
        trials = {trial.number: trial for trial in ledger.trials()}
        reports = {report.event: report for report in ledger.reports()}
        if self.rungs is not None:
            for report in reports.values():
                score = self.score(report.metrics)
                trial = replace(trials[report.trial], metrics=report.metrics)
                if math.isfinite(score) and trial.extends is None and self.costs.counts(report.epoch, report.metrics):
                    self.rungs.add(report.epoch, trial.size, score, self.pace(report.metrics))
        last = 0.0  # time of the previous event; a driver's time runs from its "opened" to its last event
        for event in ledger.events():
            self.seconds += 0.0 if event.kind is EventKind.OPENED else max(0.0, event.time - last)
            last = event.time
            if event.trial is None:
                self._replay_of_study(event)
            else:
                self._replay_of_trial(event, trials[event.trial], reports)

    def _replay_of_study(self, event: Event) -> None:
        if event.kind is EventKind.REJECTED:
            self.reject(self._taken_up(event.detail["config"]))
        elif event.kind is EventKind.ENDED:
            self.ended = str(event.detail["reason"])
        elif event.kind is EventKind.CONFIRMING:
            self.confirming = str(event.detail["reason"])
        elif event.kind is EventKind.EXTENDED:
            self.extend()
        elif event.kind in (EventKind.PAUSED, EventKind.UNPAUSED):
            self.paused = Pause.after(event, self.paused)

    def _replay_of_trial(self, event: Event, trial: Trial, reports: dict[int, Report]) -> None:
        """Replay an event of a trial; `trial` is its current state, which may be newer than the event."""
        number, first = trial.number, trial.first_run(self._n_epochs)
        if event.kind is EventKind.STARTED:
            ticket = self._taken_up(trial.config) if trial.extends is None else None
            self.start(replace(first, state=State.RUNNING), ticket)
        elif event.kind is EventKind.REPORTED:
            report = reports[event.number]
            is_further = trial.planned_epochs is None and report.epoch > self._n_epochs
            finite = math.isfinite(self.score(report.metrics))
            if finite and not is_further and self.costs.counts(report.epoch, report.metrics):
                self._report(number, report.epoch, report.metrics)
        elif event.kind is EventKind.PRUNED:  # it may have resumed since
            self.set_standing(replace(first, state=State.PRUNED, rung=event.detail.get("rung")), limit=event.detail.get("limit"))
        elif event.kind is EventKind.PROMOTED:
            self.promote(replace(first, state=State.RUNNING))
            if (ticket := self._tickets[number]) is not None:
                self.sampler.promote(ticket)
        elif event.kind is EventKind.CONTINUED:
            self.continue_(_after_runs(replace(trial, state=State.RUNNING), event.detail["run"] - 1))
        elif event.kind is EventKind.COMPLETED and trial.runs:
            then = replace(trial, state=State.COMPLETE, reason=event.detail.get("reason"))
            self.set_standing(_after_runs(then, event.detail["runs"]) if "runs" in event.detail else then.first_run(self._n_epochs))
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


def _after_runs(trial: Trial, n_runs: int) -> Trial:
    return trial.with_runs(trial.runs[:n_runs])


def _rounded(config: Config) -> str:
    """Return a string that is equal for configurations whose numbers agree in nine digits: a sampler's code rounds the last."""
    return key_of({key: float(f"{value:.9g}") if isinstance(value, float) else value for key, value in config.items()})


def _first_configs(file: StudyFile, row: StudyRow) -> list[Config]:
    """Return the first configurations: head-only as the small end, the papers' defaults, the file's points, learned fronts.

    The defaults are left to the sampler if it has a start of its own.
    """
    everything = file.model_copy(update={"methods": (ANCHOR, *file.methods)}).joint_space()
    fronts = [trial.config for trial in row.facts.learned if trial.on_front]
    methods = (ANCHOR,) if Part.START in _parts_of(row) else everything.methods
    first = [everything.default(method) for method in methods] + file.points() + fronts
    return list({key_of(config): config for config in first}.values())


def _parts_of(row: StudyRow) -> frozenset[Part]:
    """Return the parts of `auto` with which a study began; a part of a newer Paretune is not known here."""
    known = () if row.facts.auto is None else row.facts.auto.parts
    return frozenset(part for part in Part if part in known)
