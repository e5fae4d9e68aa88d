"""The study: a state machine with three verbs, `ask`, `report` and `tell`, and neither a loop nor a clock.

Back ends drive it: in-process, simulated, Ray. The same study file and seed on one worker writes the same sequence of (event,
trial, config, epoch, metrics) whichever back end runs it.
"""

from __future__ import annotations

import enum
import json
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search import flags, pareto, requests
from search.attendant import Attendant
from search.config import ANCHOR, Budget, StudyFile, check
from search.errors import RequestError
from search.extension import Extension, copy_checkpoint, longer, wider
from search.front import compared
from search.ledger import Ledger, StudyRecord
from search.losses import Loss, Losses
from search.question import Sizes, facts_of, refuse_changes, refuse_hopeless
from search.rungs import Rungs
from search.sampler import Sampler
from search.seeds import seed_for
from search.sizes import CachedSize
from search.trial import Decision, Metrics, State, Trial
from search.writer import Request
from spaces import Config

MAX_REJECTIONS_IN_A_ROW = 1000


class Stopping(enum.Enum):
    """How a driver was told to stop by hand; the study is INTERRUPTED then, and can be resumed."""

    WHEN_IDLE = "nothing new starts, what runs is trained to its end"
    NOW = "what runs is left at its checkpoint"


class Study:
    """One question and everything decided about it so far.

    Made by `Study.create` or `Study.open`; both claim the ledger for this process.

    Args:
        file: The study file.
        ledger: Claimed by this process.
        sizes: What is known of a configuration before training.
        pool: The only configurations that there are (the rows of a recorded table); None for the whole space.

    Attributes:
        file: The resolved study file, its budget as extended since.
        folder: Where everything of the study lies.
        record: What was fixed when the study was made.
    """

    def __init__(self, file: StudyFile, ledger: Ledger, sizes: Sizes, *, pool: Sequence[Config] | None = None) -> None:
        self.record: StudyRecord = ledger.study()
        self.file = file.model_copy(update={"budget": Budget.model_validate(self.record.budget)})
        self.folder = file.folder
        self._ledger = ledger
        self._sizes = sizes
        self._pool = pool
        self._at_work: set[int] = set()  # handed to a worker that has not left it yet
        self._stopping: Stopping | None = None
        self._remember_all()
        with ledger.decision() as writer:
            writer.event("opened")
        self._looked_at = ledger.now()

    def _remember_all(self) -> None:
        """What is known is made from the ledger alone: when a study is opened, and when its space was widened."""
        file, sizes = self.file, self._sizes
        self._max_params: int = int(self.record.facts["max_params"])
        self._space = file.joint_space()
        self._front = pareto.Front(self.reference_point)  # of the COMPLETE trials
        self._sampler = Sampler(
            self._space,
            kind=file.search.sampler,
            seed=file.search.seed,
            size=CachedSize(sizes, self._space, exact=self._pool is not None),
            max_params=self._max_params,
            front=self._front,
            n_epochs=file.budget.epochs,
            pool=self._pool,
        )
        rungs = file.search.rungs
        self._rungs = None if rungs is None else Rungs(**rungs.model_dump(exclude={"promote"}), epochs=file.budget.epochs)
        self._promotes = rungs is not None and rungs.promote
        self._first = deque(self._first_configs())  # asked for before the sampler is
        self._trials: list[Trial] = []
        self._tickets: dict[int, int | None] = {}  # trial number -> the sampler's ticket
        self._trial_of: dict[int | None, int] = {}  # the other way round
        self._numbers: dict[str, int] = {}  # configuration -> number of its trial, to know duplicates
        self._in_flight: deque[int] = deque()  # RUNNING and on no worker; go on before anything new starts
        self._losses = Losses(file.resources.gpus_per_trial)
        self._paused = False  # nothing new starts until it is unpaused
        self._ended: str | None = None  # why nothing new starts
        self._n_ended = 0  # trials that had their chance: trained to the end, or stopped because others were better
        self._last_move = 0  # how many of them had ended when the front last changed
        self._seconds = 0.0  # spent on the study, over all drivers, up to the last look at the clock
        self._n_extended = 0  # trials that go on where another one ended; no part of `budget.n_trials`
        for config, top1, size, _ in self.record.facts.get("learnt", ()):
            if (known := self._sampler.add(config, drawn=False)) is not None:
                self._sampler.complete(known, top1, size)
        self._replay()

    # -- making and opening --------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        file: StudyFile,
        sizes: Sizes,
        *,
        precision: Mapping[str, Any] | None = None,
        now: Callable[[], float] = time.time,
    ) -> Study:
        """A new study in `file.folder`; `precision` as of `facts_of`, `now` is the ledger's clock.

        Raises:
            LedgerError: if the folder holds a study already.
        """
        facts = facts_of(file, sizes, precision)
        refuse_hopeless(file, sizes, facts["max_params"])
        ledger = Ledger.create(file.folder / "ledger.db", name=file.study, file=file.resolved(), facts=facts, now=now)
        return cls(file, ledger, sizes)

    @classmethod
    def open(cls, file: StudyFile, sizes: Sizes, *, now: Callable[[], float] = time.time) -> Study:
        """The study that lies in `file.folder`, rebuilt by replaying its ledger.

        Raises:
            LedgerError: if there is none, or another driver runs it.
            StudyFileError: if it was made from another study file; the message shows the difference.
        """
        ledger = Ledger.open(file.folder / "ledger.db", now=now)
        refuse_changes(ledger.study(), file)
        ledger.claim()
        return cls(file, ledger, sizes)

    def attended(self) -> Attendant:
        """The thread that keeps the lease and raises flags, while the `with` block runs."""
        return Attendant(self._ledger, self.folder)

    def close(self) -> None:
        """Give the ledger back. Trials that are RUNNING go on when the study is opened again."""
        self._ledger.close()

    # -- the three verbs -----------------------------------------------------------------------------------------------------------

    def ask(self) -> Trial | None:
        """The next trial to run, or None when there is nothing (more) to start.

        A trial that ran when the last driver ended comes first, under its own number. Otherwise head-only, then the paper's default
        of each method, then what the sampler chooses; configurations that are too large, impossible or known already are rejected
        on the way, in the same transaction.
        """
        if self._stopping is Stopping.NOW:
            return None
        if self._in_flight:
            with self._ledger.decision() as writer:
                trial = writer.attempt(self._trials[self._in_flight[0]])
                if trial.epochs and not flags.has_checkpoint(self.folder, trial.number):
                    reason = "its checkpoint is gone: what was reported stays, and is trained again to get there"
                    writer.event("restarted", trial.number, reason=reason)
            self._in_flight.popleft()
            self._trials[trial.number] = trial
            return self._handed_out(trial)
        if self._stopping is not None or self._paused or self._nothing_new():
            return None
        rejections: list[tuple[Config, str]] = []
        while len(rejections) < MAX_REJECTIONS_IN_A_ROW:
            ticket, config = self._next_config()
            if config is None:
                return self._promoted(self._trial_of[ticket], rejections)
            try:
                adapter_params, head_params = self._sizes.count(config)
                self._check(config, adapter_params)
            except ValueError as error:
                rejections.append((config, str(error)))
                if ticket is not None:
                    self._sampler.reject(ticket)
                continue
            number = len(self._trials)
            seed = seed_for(self.file.search.seed, "trial", self._n_searched)
            trial = Trial(number, State.RUNNING, config, seed, adapter_params, head_params)
            with self._ledger.decision() as writer:
                writer.reject(rejections)
                trial = writer.start(trial)
            self._remember(trial, ticket)
            return self._handed_out(trial)
        self._end(f"the space is exhausted: {MAX_REJECTIONS_IN_A_ROW:,} configurations in a row were rejected", rejections)
        return None

    def _promoted(self, number: int, rejections: Sequence[tuple[Config, str]]) -> Trial:
        """A trial that a rung had stopped goes on, because the sampler expects more of it than of anything new."""
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            trial = writer.promote(self._trials[number])
        self._trials[number] = trial
        self._n_ended -= 1
        return self._handed_out(trial)

    def report(self, number: int, epoch: int, metrics: Metrics) -> Decision:
        """Take in one epoch of a trial and decide whether it goes on.

        The last epoch of the budget completes the trial in the same transaction, a rung may prune it, and a number that is not
        finite fails it. Epochs that the ledger holds already (repeated after a resume) change nothing, nor do those of a trial that
        has ended or is paused: its checkpoint holds them.

        Raises:
            ValueError: if the trial is not running, an epoch is left out, or an objective is missing.
        """
        trial = self._trials[number]
        if trial.state is not State.RUNNING:
            return Decision.STOP
        if epoch <= trial.epochs:
            return Decision.CONTINUE
        if epoch != trial.epochs + 1:
            raise ValueError(f"trial {number} reported epoch {epoch} after epoch {trial.epochs}; epochs arrive one by one")
        if (objective := self.file.objectives[0]) not in metrics:
            raise ValueError(f"trial {number} reported no {objective}; a trainable reports it every epoch")
        broken = next((f"{key} is {value} at epoch {epoch}" for key, value in metrics.items() if not math.isfinite(value)), None)
        rungs = self._rungs if broken is None and trial.extends is None else None
        verdict = None if rungs is None else rungs.verdict(epoch, trial.adapter_params, metrics[objective])
        with self._ledger.decision() as writer:
            trial = writer.report(trial, epoch, metrics)
            if broken is not None:
                trial = writer.finish(trial, State.FAILED, reason=broken)
            elif epoch == self.planned_epochs(trial):
                trial = writer.finish(trial, State.COMPLETE)
            elif verdict is not None and not verdict.goes_on:
                reason = (
                    f"{objective} {metrics[objective]:.4f} at epoch {epoch} is below {verdict.bar:.4f}, "
                    f"the bar among the {verdict.n_peers} trials of its size or smaller"
                )
                trial = writer.finish(trial, State.PRUNED, reason=reason, rung=epoch)
        if rungs is not None:
            rungs.add(epoch, trial.adapter_params, metrics[objective])
        if broken is None and (ticket := self._tickets[number]) is not None:
            self._sampler.report(ticket, epoch, metrics[objective])
        self._settle(trial)
        goes_on = trial.state is State.RUNNING and self._stopping is not Stopping.NOW
        return Decision.CONTINUE if goes_on else Decision.STOP

    def tell(self, number: int, state: State, reason: str) -> None:
        """End a trial before its last epoch: FAILED by its own or its worker's fault, or PRUNED by hand."""
        trial = self._trials[number]
        if trial.state.finished:
            return
        with self._ledger.decision() as writer:
            trial = writer.finish(trial, state, reason=reason)
        self._settle(trial)

    def lost(self, number: int, loss: Loss, why: str) -> None:
        """The trial has lost its worker. It goes on from its checkpoint in a fresh one, unless that has happened too often.

        After running out of memory the fresh worker gets twice the share of a GPU, where trials share one.
        """
        trial = self._trials[number]
        if trial.state is not State.RUNNING:
            return
        times = self._losses.times(number, loss) + 1
        if times >= loss.limit:
            self.tell(number, State.FAILED, f"{loss.words} {times} times: {why}")
            return
        share = self._losses.gpus(number)
        self._losses.note(number, loss)
        more = {"gpus": gpus} if (gpus := self._losses.gpus(number)) != share else {}
        with self._ledger.decision() as writer:
            writer.event("lost", number, loss=loss.name, reason=why, goes_on="from its checkpoint in a fresh worker", **more)

    def gpus(self, number: int) -> float:
        """The share of a GPU that the trial's worker gets."""
        return self._losses.gpus(number)

    def left(self, number: int) -> None:
        """The trial's worker has left it: at its end, at its flag, or because it died. A trial still RUNNING waits for another.

        Every back end says so once for every trial that it was given.
        """
        self._at_work.discard(number)
        flags.lower(self.folder, number)
        if self._trials[number].state is State.RUNNING and number not in self._in_flight:
            self._in_flight.append(number)

    # -- by hand -------------------------------------------------------------------------------------------------------------------

    def obey(self) -> None:
        """Carry out what people have asked for since the last look; each request is one decision, refused or done."""
        for request in self._ledger.requests(waiting=True):
            if request.verb == "extend":
                self._extend_for(request)
                continue
            with self._ledger.decision() as writer:
                try:
                    requests.allow(request.verb, self._trials, request.trial)
                except requests.Refused as refusal:
                    writer.serve(request, str(refusal))
                    continue
                trial = requests.carry_out(writer, request, None if request.trial is None else self._trials[request.trial])
            if trial is not None:
                self._changed_by_hand(trial)
            elif request.verb == "stop":
                self._stopping = Stopping.NOW if request.detail.get("now") else Stopping.WHEN_IDLE
                if self._stopping is Stopping.NOW:
                    flags.hoist(self.folder, self._at_work)
            else:
                self._paused = request.verb == "pause"

    def _changed_by_hand(self, trial: Trial) -> None:
        number = trial.number
        self._settle(trial)
        if trial.state is State.RUNNING:  # unpaused: if its worker has not left yet, it goes on as if nothing had happened
            flags.lower(self.folder, number)
            if number not in self._at_work:
                self._in_flight.append(number)
            return
        if number in self._in_flight:
            self._in_flight.remove(number)
        if number in self._at_work:
            flags.hoist(self.folder, [number])

    def _extend_for(self, request: Request) -> None:
        try:
            self.extend(Extension(**request.detail, trial=request.trial), request=request)
        except (ValueError, RequestError) as error:
            with self._ledger.decision() as writer:
                writer.by(request.who)
                writer.serve(request, str(error))

    def extend(self, extension: Extension, *, request: Request | None = None) -> None:
        """Make the study larger; what had ended it before no longer does.

        Args:
            extension: What is asked for.
            request: Of whom, if it was asked for by hand.

        Raises:
            ValueError: if it would not be larger in everything, or a trial cannot go on; nothing is changed then.
        """
        wide = None if extension.file is None else wider(self._current(), extension.file)
        budget = self.record.budget if wide is None else wide.resolved()["budget"]
        changes = extension.changes(budget, spent=self._seconds_spent() / 3600, now=self._ledger.now())
        trial = None
        if extension.trial is not None:
            trial = longer(self._trials, extension.trial, extension.epochs, usual=self.file.budget.epochs)
            copy_checkpoint(self.folder, extension.trial, trial.number)
        elif extension.epochs is not None:
            raise ValueError("--epochs extends one trial: name it with --trial; budget.epochs is fixed")
        if wide is not None:
            refuse_hopeless(wide, self._sizes, self._max_params)
        with self._ledger.decision() as writer:
            if request is not None:
                writer.by(request.who)
                writer.serve(request)
            if wide is not None:
                writer.event("widened", file=wide.resolved())
            if trial is None or extension.more_trials or extension.max_hours is not None or extension.until is not None:
                writer.event("extended", **changes)
            if trial is not None:
                trial = writer.start(trial)
        self.record = self._ledger.study()
        self.file = self._current()
        if wide is not None:
            self._remember_all()
            self._looked_at = self._ledger.now()
            return
        if trial is not None:
            self._remember(trial, None)
            self._in_flight.append(trial.number)
        self._extended()

    def _current(self) -> StudyFile:
        """The study file with the budget as extended."""
        file = check(dict(self.record.file) | {"budget": dict(self.record.budget)})
        return file.model_copy(update={"storage": self.file.storage})

    # -- looking -------------------------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """A copy of all trials, safe to read from another thread."""
        return list(self._trials)

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will start."""
        started_all = self._ended is not None or self._n_searched >= self.file.budget.n_trials
        return started_all and all(trial.state.finished for trial in self._trials)

    @property
    def waits(self) -> bool:
        """Whether nothing starts now, but may when the study is unpaused by hand."""
        more = self._ended is None and self._n_searched < self.file.budget.n_trials
        return self._paused and self._stopping is None and more

    @property
    def stopping(self) -> Stopping | None:
        """How the driver was told to stop by hand, or None."""
        return self._stopping

    @property
    def ended(self) -> str | None:
        """Why nothing new starts although trials are left in the budget: exhausted space, time spent, a front that stands still."""
        return self._ended

    @property
    def reference_point(self) -> tuple[float, float]:
        """(chance level, largest adapter): where the hypervolume is measured from."""
        top1, size = self.record.facts["reference_point"]
        return float(top1), float(size)

    def front(self) -> list[Trial]:
        """The non-dominated COMPLETE trials, smallest first; equal objectives in the order of numbers."""
        return sorted((self._trials[number] for number in self._front), key=lambda trial: (trial.adapter_params, trial.number))

    def hypervolume(self) -> float:
        """The front's hypervolume."""
        return self._front.hypervolume

    def planned_epochs(self, trial: Trial) -> int:
        """How many epochs the trial has when it is complete."""
        return trial.planned_epochs or self.file.budget.epochs

    def checkpoint_folder(self, number: int) -> Path:
        """Where a trial's checkpoint lies."""
        return flags.trial_folder(self.folder, number)

    # -- inside --------------------------------------------------------------------------------------------------------------------

    def _first_configs(self) -> list[Config]:
        """Head-only anchors the small end; then the papers' defaults, the file's points, and the fronts that it learns from."""
        everything = self.file.model_copy(update={"methods": (ANCHOR, *self.file.methods)}).joint_space()
        fronts = [config for config, _, _, on_front in self.record.facts.get("learnt", ()) if on_front]
        first = [everything.default(method) for method in everything.methods] + self.file.points() + fronts
        return list({_key(config): config for config in first}.values())

    def _nothing_new(self) -> bool:
        """Whether the budget, in trials, in hours or in patience, is spent."""
        budget = self.file.budget
        if self._ended is not None or self._n_searched >= budget.n_trials:
            return True
        if budget.max_hours is not None and self._seconds_spent() >= 3600 * budget.max_hours:
            self._end(f"budget.max_hours = {budget.max_hours:g} is spent")
        elif budget.until is not None and self._ledger.now() >= budget.until.timestamp():
            self._end(f"budget.until = {budget.until:%Y-%m-%d %H:%M} is over")
        elif budget.stall_trials is not None and self._n_ended - self._last_move >= budget.stall_trials:
            self._end(f"the front has not moved for {budget.stall_trials} trials (budget.stall_trials)")
        return self._ended is not None

    @property
    def _n_searched(self) -> int:
        """Trials that count against `budget.n_trials`."""
        return len(self._trials) - self._n_extended

    def _seconds_spent(self) -> float:
        now = self._ledger.now()
        self._seconds += max(0.0, now - self._looked_at)  # a clock that is stepped back gives no time back
        self._looked_at = now
        return self._seconds

    def _end(self, reason: str, rejections: Sequence[tuple[Config, str]] = ()) -> None:
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            writer.event("ended", reason=reason)
        self._ended = reason

    def _extended(self) -> None:
        self._ended = None
        self._last_move = self._n_ended  # patience begins anew

    def _next_config(self) -> tuple[int | None, Config | None]:
        if self._first:
            config = self._first.popleft()
            return self._sampler.add(config, drawn=False), config
        return self._sampler.draw()

    def _check(self, config: Config, adapter_params: int) -> None:
        if adapter_params > self._max_params:
            raise ValueError(f"{adapter_params:,} adapter parameters are more than budget.max_params = {self._max_params:,}")
        if (twin := self._numbers.get(_key(config))) is not None:
            raise ValueError(f"the same configuration as trial {twin}")

    def _remember(self, trial: Trial, ticket: int | None) -> None:
        self._trials.append(trial)
        self._tickets[trial.number] = ticket
        self._trial_of[ticket] = trial.number
        self._n_extended += trial.extends is not None
        if trial.extends is None:
            self._numbers[_key(trial.config)] = trial.number

    def _handed_out(self, trial: Trial) -> Trial:
        flags.lower(self.folder, trial.number)
        self._at_work.add(trial.number)
        return trial

    def _settle(self, trial: Trial) -> None:
        """Take a trial's new standing over into memory, and tell the sampler if it has ended."""
        self._trials[trial.number] = trial
        self._n_ended += trial.extends is None and trial.state in (State.COMPLETE, State.PRUNED)
        if compared(trial) and self._front.add(*trial.objectives, trial.number):
            self._last_move = self._n_ended
        ticket = self._tickets[trial.number]
        if ticket is None:
            return
        if trial.state is State.COMPLETE:
            self._sampler.complete(ticket, trial.metrics["val/top1"], trial.adapter_params)
        elif trial.state is State.PRUNED:
            self._sampler.prune(ticket, for_good=trial.rung is None or not self._promotes)
        elif trial.state is State.FAILED:
            self._sampler.fail(ticket)

    def _replay(self) -> None:
        """Rebuild memory and sampler by going through the ledger's events in their order."""
        trials = {trial.number: trial for trial in self._ledger.trials()}
        reports = {report.event: report for report in self._ledger.reports()}
        if self._rungs is not None:
            for report in reports.values():
                top1 = report.metrics.get(self.file.objectives[0], math.nan)
                if math.isfinite(top1) and trials[report.trial].extends is None:
                    self._rungs.add(report.epoch, trials[report.trial].adapter_params, top1)
        last = 0.0  # time of the event before; a driver's time runs from its "opened" to its last event
        for event in self._ledger.events():
            self._seconds += 0.0 if event.kind == "opened" else max(0.0, event.time - last)
            last = event.time
            if event.kind == "rejected":
                if (ticket := self._taken_up(event.detail["config"])) is not None:
                    self._sampler.reject(ticket)
            elif event.kind == "started" and event.trial is not None:
                trial = trials[event.trial]
                ticket = self._taken_up(trial.config) if trial.extends is None else None
                self._remember(replace(trial, state=State.RUNNING), ticket)
            elif event.kind == "reported" and event.trial is not None:
                top1 = reports[event.number].metrics.get(self.file.objectives[0], math.nan)
                if math.isfinite(top1) and (ticket := self._tickets[event.trial]) is not None:
                    self._sampler.report(ticket, reports[event.number].epoch, top1)
            elif event.kind == "pruned" and event.trial is not None:  # it may have gone on since
                self._settle(replace(trials[event.trial], state=State.PRUNED, rung=event.detail.get("rung")))
            elif event.kind == "promoted" and event.trial is not None:
                self._trials[event.trial] = replace(trials[event.trial], state=State.RUNNING)
                self._n_ended -= 1
                if (ticket := self._tickets[event.trial]) is not None:
                    self._sampler.revive(ticket)
            elif event.kind in ("completed", "failed") and event.trial is not None:
                self._settle(trials[event.trial])
            elif event.kind == "ended":
                self._ended = str(event.detail["reason"])
            elif event.kind == "extended":
                self._extended()
            elif event.kind == "lost" and event.trial is not None:
                self._losses.note(event.trial, Loss[event.detail["loss"]])
            elif event.kind in ("paused", "unpaused"):
                state = State.PAUSED if event.kind == "paused" else State.RUNNING
                if event.trial is None:
                    self._paused = state is State.PAUSED
                else:
                    self._trials[event.trial] = replace(self._trials[event.trial], state=state)
        running = (trial.number for trial in self._trials if trial.state is State.RUNNING)
        self._in_flight.extend(number for number in running if number not in self._at_work)

    def _taken_up(self, config: Config) -> int | None:
        first = config in self._first  # in its order, unless the space was widened since
        if first:
            self._first.remove(config)
        return self._sampler.add(config, drawn=not first)


def _key(config: Config) -> str:
    return json.dumps(config, sort_keys=True)
