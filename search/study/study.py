"""The study: a state machine with three verbs, `ask`, `report` and `tell`, and neither a loop nor a clock.

Back ends drive it: in-process, simulated, Ray. The same study file and seed on one worker writes the same sequence of (event,
trial, config, epoch, metrics) whichever back end runs it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config.loading import check
from search.config.sections import Budget
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import RequestError, StudyFileError
from search.samplers.base import Done, NewConfig, Promote, Result, Wait
from search.seeds import seed_for
from search.storage import checkpoints
from search.storage import checkpoints as checkpoint_store
from search.storage.checkpoints import Folder
from search.storage.events import EventKind
from search.storage.facts import TrialMemory
from search.storage.ledger import Ledger
from search.storage.rows import Request, StudyRow
from search.storage.sql_ledger import SqlLedger
from search.study import user_requests
from search.study.checks import facts_of, refuse_changes, refuse_hopeless
from search.study.epoch_outcome import judge_epoch
from search.study.extension import Extension, copy_checkpoint, extended_trial, widened_file
from search.study.heartbeat import Heartbeat
from search.study.in_flight import InFlight
from search.study.lost_workers import WorkerLoss
from search.study.opening import Opening, find_study
from search.study.state import SearchState
from search.trial import Decision, Metrics, State, Trial
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
        folder: Where everything of the study lies, but perhaps its checkpoints.
        checkpoints: Where those lie.
        record: What was fixed when the study was made.
        known: What it knows so far; for others to read.
    """

    def __init__(self, file: StudyFile, ledger: Ledger, sizes: Sizes, *, pool: Sequence[Config] | None = None) -> None:
        self.row: StudyRow = ledger.study()
        self.file = file.model_copy(update={"budget": Budget.model_validate(self.row.budget)})
        self.folder = file.folder
        self._ledger = ledger
        self._sizes = sizes
        self._pool = pool
        self.checkpoints = checkpoint_store.checkpoint_folder(self.folder, self.row.name, self.row.facts.checkpoints)
        self._in_flight = InFlight(self.checkpoints)
        self._heartbeat: Heartbeat | None = None
        self._stopping: Stopping | None = None
        self._replay()
        if self.checkpoints != self.folder:
            checkpoint_store.claim_folder(self.checkpoints, self.row.uid)
        with ledger.decision() as writer:
            writer.event(EventKind.OPENED)
        self._clock_read_at = ledger.now()

    def _replay(self) -> None:
        """When a study is opened, and when its space was widened."""
        self.state = SearchState(self.file, self.row, self._sizes, self._ledger, pool=self._pool)
        self._in_flight.queue(self.state.trials)

    # -- making and opening --------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        file: StudyFile,
        sizes: Sizes,
        *,
        precision: Mapping[str, Any] | None = None,
        memory: TrialMemory | None = None,
        now: Callable[[], float] | None = None,
        opening: Opening | None = None,
    ) -> Study:
        """Make a new study in `file.folder`.

        Args:
            file: The study file.
            sizes: Counts the parameters of configurations.
            precision: The answer to `recipe.precision: auto`; None where it was not asked.
            memory: The memory that a trial takes; None where it was not asked.
            now: The ledger's clock; None for the database's.
            opening: The study as `find_study` found it; None to find it here.

        Raises:
            LedgerError: The folder holds a study already.
        """
        location = (opening or find_study(file)).location
        facts = facts_of(file, sizes, precision, memory)
        refuse_hopeless(file, sizes, facts.max_params)
        if (checkpoints := checkpoint_store.checkpoint_folder(file.folder, file.study, facts.checkpoints)) != file.folder:
            checkpoint_store.refuse_taken(checkpoints)
        ledger = SqlLedger.create(
            location.path, address=location.address, name=file.study, file=file.resolved(), facts=facts.as_json(), now=now
        )
        return cls(file, ledger, sizes)

    @classmethod
    def open(
        cls, file: StudyFile, sizes: Sizes, *, now: Callable[[], float] | None = None, opening: Opening | None = None
    ) -> Study:
        """Open the study in `file.folder` and rebuild it by replaying its ledger; arguments as for `create`.

        Raises:
            LedgerError: There is none, or another driver runs it.
            StudyFileError: It was made from another study file; the message shows the difference.
        """
        opening = opening or find_study(file)
        ledger = SqlLedger.open(opening.location.ledger_path, now=now)
        ledger.claim()
        row = ledger.study()
        if opening.saved is not None and row.file != opening.saved.row.file:  # widened by another driver since it was found
            try:
                refuse_changes(row, file)
            except StudyFileError:
                ledger.close()
                raise
        return cls(file, ledger, sizes)

    def heartbeat(self) -> Heartbeat:
        """The thread that keeps the lease and looks for what people ask, while the `with` block runs."""
        self._heartbeat = Heartbeat(self._ledger, self.checkpoints)
        return self._heartbeat

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
        if (waits := self._in_flight.first_waiting) is not None:
            with self._ledger.decision() as writer:
                trial = writer.attempt(self.state.trials[waits])
                if trial.epochs and not checkpoints.has_checkpoint(self.checkpoints, trial.number):
                    reason = "its checkpoint is gone: what was reported stays, and is trained again to get there"
                    writer.event(EventKind.RESTARTED, trial.number, reason=reason)
            self.state.trials[trial.number] = trial
            return self._handed_out(trial)
        if self._stopping is not None or self.state.paused or self._budget_spent():
            return None
        rejections: list[tuple[Config, str]] = []
        while len(rejections) < MAX_REJECTIONS_IN_A_ROW:
            answer = self.state.next_answer()
            if isinstance(answer, Promote):
                return self._promoted(self.state.trial_of(answer.ticket), rejections)
            if not isinstance(answer, NewConfig):
                self._rest(answer, rejections)
                return None
            config, ticket = answer.config, answer.ticket
            try:
                adapter_params, head_params = self.state.check(config)
            except ValueError as error:
                rejections.append((config, str(error)))
                if ticket is not None:
                    self.state.sampler.tell(ticket, Result.REJECTED)
                continue
            number = len(self.state.trials)
            seed = seed_for(self.file.search.seed, "trial", self.state.n_searched)
            trial = Trial(number, State.RUNNING, config, seed, adapter_params, head_params, against=self.file.objectives[1])
            with self._ledger.decision() as writer:
                writer.reject(rejections)
                trial = writer.start(trial)
            self.state.start(trial, ticket)
            return self._handed_out(trial)
        self._end(f"the space is exhausted: {MAX_REJECTIONS_IN_A_ROW:,} configurations in a row were rejected", rejections)
        return None

    def _rest(self, answer: Wait | Done, rejections: Sequence[tuple[Config, str]]) -> None:
        """Start nothing: until a trial reports, or for good."""
        if isinstance(answer, Done):
            self._end(f"the sampler is done: {answer.reason}", rejections)
        elif all(trial.state.finished for trial in self.state.trials):
            self._end("the sampler waits, but every trial has ended", rejections)
        elif rejections:
            with self._ledger.decision() as writer:
                writer.reject(rejections)

    def _promoted(self, trial: Trial, rejections: Sequence[tuple[Config, str]]) -> Trial:
        """A trial that a rung had stopped goes on, because the sampler expects more of it than of anything new."""
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            trial = writer.promote(trial)
        self.state.promote(trial)
        return self._handed_out(trial)

    def _handed_out(self, trial: Trial) -> Trial:
        self._in_flight.hand_out(trial.number)
        return trial

    def report(self, number: int, epoch: int, metrics: Metrics) -> Decision:
        """Take in one epoch of a trial and decide whether it goes on.

        The last epoch of the budget completes the trial in the same transaction, a rung or a limit may prune it, and a number that
        is not finite fails it. Epochs that the ledger holds already (repeated after a resume) change nothing, nor do those of a
        trial that has ended or is paused: its checkpoint holds them.

        Raises:
            ValueError: if the trial is not running, an epoch is left out, or an objective is missing.
        """
        trial = self.state.trials[number]
        if trial.state is not State.RUNNING:
            return Decision.STOP
        if epoch <= trial.epochs:
            return Decision.CONTINUE
        if epoch != trial.epochs + 1:
            raise ValueError(f"trial {number} reported epoch {epoch} after epoch {trial.epochs}; epochs arrive one by one")
        if (objective := self.file.objectives[0]) not in metrics:
            raise ValueError(f"trial {number} reported no {objective}; a trainable reports it every epoch")
        last = epoch == self.planned_epochs(trial)
        judgement = judge_epoch(self.state, trial, epoch, metrics, objective=objective, last=last)
        with self._ledger.decision() as writer:
            trial = writer.report(trial, epoch, metrics)
            if judgement.state is not State.RUNNING:
                trial = writer.finish(trial, judgement.state, **judgement.why)
        if judgement.counts:
            self.state.report(trial, epoch, metrics)
        self.state.set_standing(trial, limit=judgement.why.get("limit"))
        goes_on = trial.state is State.RUNNING and self._stopping is not Stopping.NOW
        return Decision.CONTINUE if goes_on else Decision.STOP

    def tell(self, number: int, state: State, reason: str) -> None:
        """End a trial before its last epoch: FAILED by its own or its worker's fault, or PRUNED by hand."""
        trial = self.state.trials[number]
        if trial.state.finished:
            return
        with self._ledger.decision() as writer:
            trial = writer.finish(trial, state, reason=reason)
        self.state.set_standing(trial)

    def worker_lost(self, number: int, loss: WorkerLoss, why: str) -> None:
        """The trial has lost its worker. It goes on from its checkpoint in a fresh one, unless that has happened too often.

        After running out of memory the fresh worker gets twice the share of a GPU, where trials share one.
        """
        trial = self.state.trials[number]
        if trial.state is not State.RUNNING:
            return
        times = self.state.lost_workers.count(number, loss) + 1
        if times >= loss.limit:
            self.tell(number, State.FAILED, f"{loss.words} {times} times: {why}")
            return
        share = self.state.lost_workers.gpu_share(number)
        self.state.lost_workers.record(number, loss)
        more = {"gpus": gpus} if (gpus := self.state.lost_workers.gpu_share(number)) != share else {}
        with self._ledger.decision() as writer:
            writer.event(
                EventKind.LOST, number, loss=loss.name, reason=why, goes_on="from its checkpoint in a fresh worker", **more
            )

    def requeue(self, number: int, why: str) -> None:
        """The trial leaves its worker for another one, from its checkpoint, without a fault of anyone's; if it has not ended."""
        if self.state.trials[number].state is State.RUNNING:
            with self._ledger.decision() as writer:
                writer.event(EventKind.MOVED, number, reason=why, goes_on="from its checkpoint in another worker")

    def request_stop(self, number: int) -> None:
        """The trial's worker is told to leave it at its next batch; the trial stays what it is, and waits for another."""
        self._in_flight.request_stop(number)

    def gpu_share(self, number: int) -> float:
        """The share of a GPU that the trial's worker gets."""
        return self.state.lost_workers.gpu_share(number)

    def worker_gone(self, number: int) -> None:
        """The trial's worker has left it: at its end, at its flag, or because it died. A trial still RUNNING waits for another.

        Every back end says so once for every trial that it was given.
        """
        self._in_flight.leave(self.state.trials[number])

    # -- by hand -------------------------------------------------------------------------------------------------------------------

    def handle_requests(self) -> None:
        """Carry out what people have asked for since the last look; each request is one decision, refused or done.

        It costs nothing in a study that is attended, unless somebody has asked.
        """
        if self._heartbeat is not None and not self._heartbeat.requests_waiting():
            return
        for request in self._ledger.requests(waiting=True):
            if request.verb == "extend":
                self._extend_for(request)
                continue
            with self._ledger.decision() as writer:
                try:
                    user_requests.check_request(request.verb, self.state.trials, request.trial)
                except user_requests.Refused as refusal:
                    writer.answer(request, str(refusal))
                    continue
                trial = user_requests.carry_out(
                    writer, request, None if request.trial is None else self.state.trials[request.trial]
                )
            if trial is not None:
                self.state.set_standing(trial)
                if trial.state is State.RUNNING:
                    self._in_flight.clear_stop(trial)
                else:
                    self._in_flight.request_stop(trial.number)
            elif request.verb == "stop":
                self._stopping = Stopping.NOW if request.detail.get("now") else Stopping.WHEN_IDLE
                if self._stopping is Stopping.NOW:
                    self._in_flight.request_stop_of_all()
            else:
                self.state.paused = request.verb == "pause"

    def _extend_for(self, request: Request) -> None:
        try:
            self.extend(Extension(**request.detail, trial=request.trial), request=request)
        except (ValueError, RequestError) as error:
            with self._ledger.decision() as writer:
                writer.act_for(request.who)
                writer.answer(request, str(error))

    def extend(self, extension: Extension, *, request: Request | None = None) -> None:
        """Make the study larger; what had ended it before no longer does.

        Args:
            extension: What is asked for.
            request: Of whom, if it was asked for by hand.

        Raises:
            ValueError: if it would not be larger in everything, or a trial cannot go on; nothing is changed then.
        """
        wide = None if extension.file is None else widened_file(self._current_file(), extension.file)
        budget = self.row.budget if wide is None else wide.resolved()["budget"]
        changes = extension.changes(budget, spent=self._seconds_spent() / 3600, now=self._ledger.now())
        trial = None
        if extension.trial is not None:
            trial = extended_trial(self.state.trials, extension.trial, extension.epochs, usual=self.file.budget.epochs)
            copy_checkpoint(self.checkpoints, extension.trial, trial.number)
        elif extension.epochs is not None:
            raise ValueError("--epochs extends one trial: name it with --trial; budget.epochs is fixed")
        if wide is not None:
            refuse_hopeless(wide, self._sizes, self.row.facts.max_params)
        with self._ledger.decision() as writer:
            if request is not None:
                writer.act_for(request.who)
                writer.answer(request)
            if wide is not None:
                writer.event(EventKind.WIDENED, file=wide.resolved())
            if trial is None or extension.more_trials or extension.max_hours is not None or extension.until is not None:
                writer.event(EventKind.EXTENDED, **changes)
            if trial is not None:
                trial = writer.start(trial)
        self.row = self._ledger.study()
        self.file = self._current_file()
        if wide is not None:
            self._replay()
            self._clock_read_at = self._ledger.now()
            return
        if trial is not None:
            self.state.start(trial, None)
            self._in_flight.queue([trial])
        self.state.extend()

    def _current_file(self) -> StudyFile:
        """The study file with the budget as extended."""
        file = check(dict(self.row.file) | {"budget": dict(self.row.budget)})
        return file.kept_like(self.file)

    # -- looking -------------------------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """A copy of all trials, safe to read from another thread."""
        return list(self.state.trials)

    @property
    def finished(self) -> bool:
        """Whether nothing runs and nothing more will start."""
        return not self._budget_left and all(trial.state.finished for trial in self.state.trials)

    @property
    def is_paused(self) -> bool:
        """Whether nothing starts now, but may when the study is unpaused by hand."""
        return self.state.paused and self._stopping is None and self._budget_left

    def n_wanted(self) -> int:
        """Trials that could be at work now if there was room for all: those that run, and those that the budget has left.

        A budget in hours or patience that is found spent ends the study, as `ask` would.
        """
        if self._stopping is Stopping.NOW:
            return 0
        new = (
            0 if self._stopping or self.state.paused or self._budget_spent() else self.file.budget.n_trials - self.state.n_searched
        )
        return new + sum(trial.state is State.RUNNING for trial in self.state.trials)

    @property
    def _budget_left(self) -> bool:
        """Whether the budget has trials left, as far as that is known without looking at the clock."""
        return self.state.ended is None and self.state.n_searched < self.file.budget.n_trials

    @property
    def stopping(self) -> Stopping | None:
        """How the driver was told to stop by hand, or None."""
        return self._stopping

    @property
    def ended(self) -> str | None:
        """Why nothing new starts although trials are left in the budget: exhausted space, time spent, a front that stands still."""
        return self.state.ended

    @property
    def reference_point(self) -> tuple[float, float]:
        """(chance level, largest size that is wanted): where the hypervolume is measured from."""
        return self.state.reference_point

    def front(self) -> list[Trial]:
        """The non-dominated COMPLETE trials, smallest first; equal objectives in the order of numbers."""
        return sorted((self.state.trials[number] for number in self.state.front), key=lambda trial: (trial.size, trial.number))

    def hypervolume(self) -> float:
        """The front's hypervolume."""
        return self.state.front.hypervolume

    def planned_epochs(self, trial: Trial) -> int:
        """How many epochs the trial has when it is complete."""
        return trial.planned_epochs or self.file.budget.epochs

    def checkpoint_folder(self, number: int) -> Folder:
        """Where a trial's checkpoint lies; as every process of this machine, or of the cluster, finds it."""
        folder = checkpoints.trial_folder(self.checkpoints, number)
        return folder.absolute() if isinstance(folder, Path) else folder

    # -- inside --------------------------------------------------------------------------------------------------------------------

    def _budget_spent(self) -> bool:
        """Whether the budget, in trials, in hours or in patience, is spent."""
        budget = self.file.budget
        if not self._budget_left:
            return True
        if budget.max_hours is not None and self._seconds_spent() >= 3600 * budget.max_hours:
            self._end(f"budget.max_hours = {budget.max_hours:g} is spent")
        elif budget.until is not None and self._ledger.now() >= budget.until.timestamp():
            self._end(f"budget.until = {budget.until:%Y-%m-%d %H:%M} is over")
        elif budget.stall_trials is not None and self.state.n_ended - self.state.last_front_change >= budget.stall_trials:
            self._end(f"the front has not moved for {budget.stall_trials} trials (budget.stall_trials)")
        return self.state.ended is not None

    def _seconds_spent(self) -> float:
        now = self._ledger.now()
        self.state.seconds += max(0.0, now - self._clock_read_at)  # a clock that is stepped back gives no time back
        self._clock_read_at = now
        return self.state.seconds

    def _end(self, reason: str, rejections: Sequence[tuple[Config, str]] = ()) -> None:
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            writer.event(EventKind.ENDED, reason=reason)
        self.state.ended = reason
