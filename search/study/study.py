"""The study: a state machine with three operations, `ask`, `report` and `tell`, and without a loop or a clock.

A back end drives it: in-process, simulated, Ray. With the same study file and seed, one worker writes the same sequence of (event,
trial, config, epoch, metrics) on any back end.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from search.config.data_sections import Images
from search.config.loading import check_stored
from search.config.sections import Budget
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import LedgerError, RequestError
from search.samplers.base import Done, NewConfig, Promote, Wait
from search.seeds import seed_for
from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.storage.events import EventKind
from search.storage.facts import Pinned, TrialMemory
from search.storage.ledger import Ledger
from search.storage.rows import Pause, Request, StudyRow
from search.storage.sql_ledger import SqlLedger
from search.study import user_requests
from search.study.budget_clock import BudgetClock
from search.study.checks import facts_of, refuse_changes, refuse_hopeless
from search.study.epoch_outcome import judge_epoch, why_broken
from search.study.extension import Extension, copy_checkpoint, extended_trial, widened_file
from search.study.further_runs import FurtherRuns, n_affordable
from search.study.heartbeat import Heartbeat
from search.study.in_flight import InFlight
from search.study.lost_workers import WorkerLoss
from search.study.opening import Opening, find_study
from search.study.state import SearchState
from search.trial import Decision, Metrics, State, Trial
from spaces import Config

MAX_REJECTIONS_IN_A_ROW = 1000


def max_rejections(n_trials: int | None) -> int:
    """Return the number of rejected configurations with which a study of so many trials ends: the ledger keeps each of them."""
    return max(100_000, 10 * (n_trials or 0))


class Stopping(enum.Enum):
    """The ways in which a user can stop a driver; the study is then INTERRUPTED and can be resumed."""

    WHEN_IDLE = "nothing new starts, what runs is trained to its end"
    NOW = "what runs is left at its checkpoint"


class Study:
    """One question, and all decisions about it so far.

    `Study.create` and `Study.open` return one; both claim the ledger for this process.

    Args:
        file: Study file.
        ledger: Ledger that this process has claimed.
        sizes: Sizes of configurations, known before training.
        pool: The only configurations that exist (the rows of a recorded table); None for the whole space.

    Attributes:
        file: Resolved study file, with its current budget.
        folder: Folder of the study, except perhaps for its checkpoints.
        checkpoints: Folder of the checkpoints.
        row: Fixed properties of the study.
        state: State of the search; read-only for others.
    """

    def __init__(self, file: StudyFile, ledger: Ledger, sizes: Sizes, *, pool: Sequence[Config] | None = None) -> None:
        self.row: StudyRow = ledger.study()
        self.file = file.model_copy(update={"budget": Budget.model_validate(self.row.budget)})
        self.folder = file.folder
        self._ledger = ledger
        self._sizes = sizes
        self._pool = pool
        self.checkpoints = checkpoints.checkpoint_folder(self.folder, self.row.name, self.row.facts.checkpoints)
        self._in_flight = InFlight(self.checkpoints if ledger.is_durable else None)
        self._dropped: set[int] = set()  # trials whose checkpoint was ahead of the ledger; they wait for a worker
        self._heartbeat: Heartbeat | None = None
        self._stopping: Stopping | None = None
        self._replay()
        opening: dict[str, Any] = {"version": metadata.version("paretune")}
        if self.checkpoints != self.folder and ledger.is_durable:
            opening["mark"] = uuid.uuid4().hex
            checkpoints.claim_folder(self.checkpoints, self.row.uid, opening["mark"])
        with ledger.decision() as writer:
            writer.event(EventKind.OPENED, **opening)
        self._clock = BudgetClock(ledger.now, self.state.seconds)

    def _replay(self) -> None:
        """Rebuild the in-memory state from the ledger; called on open and after the space is widened."""
        self._further = FurtherRuns(self.file, self.row.facts)
        self.state = SearchState(self.file, self.row, self._sizes, self._ledger, pool=self._pool)
        self._in_flight.queue(self.state.trials)

    # -- creating and opening ------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        file: StudyFile,
        sizes: Sizes,
        *,
        precision: Mapping[str, Any] | None = None,
        memory: TrialMemory | None = None,
        pinned: Pinned | None = None,
        n_validation: int | None = None,
        now: Callable[[], float] | None = None,
        opening: Opening | None = None,
    ) -> Study:
        """Create a study in `file.folder`.

        Args:
            file: Study file.
            sizes: Sizes of its configurations.
            precision: Answer to `recipe.precision: auto`; None if it was not configured.
            memory: Memory that a trial takes; None if it was not measured or computed.
            pinned: Data and weights; None if they were not looked at.
            n_validation: Number of validation images without those that are skipped; None to count all.
            now: Clock of the ledger; None for the database's.
            opening: Result of `find_study`; None to call it here.

        Raises:
            LedgerError: If the folder already has a study.
        """
        location = (opening or find_study(file)).location
        facts = facts_of(file, sizes, precision, memory, pinned, n_validation=n_validation)
        refuse_hopeless(file, sizes, facts.max_params)
        if (folder := checkpoints.checkpoint_folder(file.folder, file.study, facts.checkpoints)) != file.folder:
            checkpoints.refuse_taken(folder)
        ledger = SqlLedger.create(
            location.path, address=location.address, name=file.study, file=file.resolved(), facts=facts.as_json(), now=now
        )
        with _closed_by_errors(ledger):
            return cls(file, ledger, sizes)

    @classmethod
    def open(
        cls, file: StudyFile, sizes: Sizes, *, now: Callable[[], float] | None = None, opening: Opening | None = None
    ) -> Study:
        """Open the study in `file.folder` and rebuild it by replaying its ledger; the arguments are those of `create`.

        Raises:
            LedgerError: If there is none, or another driver runs it.
            StudyFileError: If it was created from another study file; the message shows the difference.
        """
        opening = opening or find_study(file)
        ledger = SqlLedger.open(opening.location.ledger_path, now=now)
        with _closed_by_errors(ledger):
            ledger.claim()
            row = ledger.study()
            if opening.saved is not None and row.file != opening.saved.row.file:  # another driver has widened it since
                refuse_changes(row, file)
            return cls(file, ledger, sizes)

    def pin(self, pinned: Pinned) -> None:
        """Record data and weights: of a study that began before this was done at once, or whose data have moved."""
        path = str(self.file.data.path) if isinstance(self.file.data, Images) else None
        moved: dict[str, Any] = {} if path is None or path == self.row.file["data"]["path"] else {"path": path}
        own: dict[str, Any] = {key: dict(digests) for key in ("methods", "watched") if (digests := getattr(pinned, key))}
        with self._ledger.decision() as writer:
            writer.event(EventKind.PINNED, rules=pinned.rules, data=pinned.data, weights=pinned.weights, **own, **moved)
        self.row = self._ledger.study()

    def heartbeat(self) -> Heartbeat:
        """Return the thread that renews the lease and polls the users' requests while the `with` block runs."""
        self._heartbeat = Heartbeat(self._ledger, self.checkpoints)
        return self._heartbeat

    def leave(self, error: BaseException | None = None) -> None:
        """Write into the ledger that and why this driver leaves, unless the ledger cannot be written any more.

        Args:
            error: Exception that ended the driver; None if it has done what there was to do.
        """
        reason = "finished" if self._stopping is None else "stopped by a user"
        if error is not None:
            interrupted = isinstance(error, KeyboardInterrupt | SystemExit)
            reason = "interrupted" if interrupted else f"an error: {type(error).__name__}"
        with suppress(LedgerError, OSError), self._ledger.decision() as writer:
            writer.event(EventKind.LEFT, reason=reason)

    def close(self) -> None:
        """Release the ledger. RUNNING trials resume when the study is opened again."""
        self._ledger.close()

    # -- the three operations ------------------------------------------------------------------------------------------------------

    def ask(self) -> Trial | None:
        """Return the next trial to run, or None if nothing can start.

        A trial that ran when the last driver ended comes first, under its own number. Then comes a further run of a complete trial,
        if one is worth it now (`search.study.further_runs`), then head-only, the points of the study file, and the sampler's
        proposals. Configurations that are too large, invalid or already known are rejected on the way, in the same transaction.
        """
        if self._stopping is Stopping.NOW:
            return None
        if (waits := self._in_flight.first_waiting) is not None:
            with self._ledger.decision() as writer:
                trial = writer.attempt(self.state.trials[waits])
                is_gone = self._of_this_run(trial).epochs and not self._has_checkpoint(trial.number, trial.run)
                if is_gone and trial.number not in self._dropped:
                    reason = "its checkpoint is gone: its reports stay, and the same epochs are trained again"
                    writer.event(EventKind.RESTARTED, trial.number, reason=reason)
            self._dropped.discard(trial.number)
            self.state.trials[trial.number] = trial
            return self._handed_out(trial)
        if self._stopping is not None or self.state.paused or self._budget_spent():
            return None
        if (further := self._further_run()) is not None or self.state.confirming or self.state.ended:
            return further
        rejections: list[tuple[Config, str]] = []
        in_all = max_rejections(self.file.budget.n_trials)
        while len(rejections) < MAX_REJECTIONS_IN_A_ROW and self.state.n_rejected < in_all:
            answer = self.state.next_answer()
            if isinstance(answer, Promote):
                return self._promoted(self.state.trial_of(answer.ticket), rejections)
            if not isinstance(answer, NewConfig):
                return self._rest(answer, rejections)
            config, ticket = answer.config, answer.ticket
            try:
                adapter_params, head_params = self.state.check(config)
            except ValueError as error:
                rejections.append((config, str(error)))
                self.state.reject(ticket)
                continue
            number = len(self.state.trials)
            seed = seed_for(self.file.search.seed, "trial", self.state.n_searched)
            objective, against = self.file.objectives
            trial = Trial(
                number,
                State.RUNNING,
                config,
                seed,
                adapter_params,
                head_params,
                objective=objective,
                against=against,
                n_folds=self.file.data.folds,
            )
            if foreign := self._ledger.is_durable and self._has_checkpoint(number):
                checkpoints.remove_folder(checkpoints.trial_folder(self.checkpoints, number))
            with self._ledger.decision() as writer:
                writer.reject(rejections)
                trial = writer.start(trial)
                if foreign:
                    reason = "its folder held a checkpoint of which the ledger knows nothing; the ledger was restored from a copy"
                    writer.event(EventKind.RESTARTED, number, reason=reason)
            self.state.start(trial, ticket)
            return self._handed_out(trial)
        how_many = (
            f"{in_all:,} configurations"
            if self.state.n_rejected >= in_all
            else f"{MAX_REJECTIONS_IN_A_ROW:,} configurations in a row"
        )
        return self._no_more(f"the space is exhausted: {how_many} were rejected", rejections)

    def _rest(self, answer: Wait | Done, rejections: Sequence[tuple[Config, str]]) -> Trial | None:
        """Start no new configuration until a trial reports, or for good."""
        if isinstance(answer, Done):
            return self._no_more(f"the sampler is done: {answer.reason}", rejections)
        if all(trial.state.finished for trial in self.state.trials):
            return self._no_more("the sampler waits, but every trial has ended", rejections)
        if rejections:
            with self._ledger.decision() as writer:
                writer.reject(rejections)
        return None

    def _no_more(self, reason: str, rejections: Sequence[tuple[Config, str]] = ()) -> Trial | None:
        """Start no new configuration for good; return a further run, if some of the budget is kept for them."""
        if not self.file.confirm:
            self._end(reason, rejections)
            return None
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            writer.event(EventKind.CONFIRMING, reason=reason)
        self.state.confirming = reason
        return self._further_run()

    def _further_run(self) -> Trial | None:
        """Train a complete trial again if that is worth it now; end the study if its answer is sure, or nothing is worth more."""
        if (sure := self._further.why_sure(self.state)) is not None:
            self._end(sure)
            return None
        if not self.file.confirm:
            return None
        if self.state.confirming is None and (reason := self._clock.why_searched(self.file, self.state)) is not None:
            return self._no_more(reason)
        trial, why = self._further.choose(self.state, lambda number: not self._in_flight.has(number))
        if trial is not None:
            return self._continued(trial)
        if self.state.confirming is not None and all(trial.state.finished for trial in self.state.trials):
            self._end(f"{self.state.confirming}; {why}")
        return None

    def _continued(self, trial: Trial) -> Trial:
        """Begin a further run of a complete trial."""
        run = len(trial.values) + 1
        if self._ledger.is_durable:
            checkpoints.remove_run(self.checkpoints, trial.number, run)  # left by a ledger that was restored from a copy
        with self._ledger.decision() as writer:
            trial = writer.continue_(trial, seed=self._seed(trial, run), fold=self._fold(run))
        self.state.continue_(trial)
        return self._handed_out(trial)

    def _seed(self, trial: Trial, run: int) -> int:
        return seed_for(self.file.search.seed, f"run {run}", trial.number)

    def _fold(self, run: int) -> int:
        return 0 if self.file.data.folds is None else run - 1

    def fold(self, trial: Trial) -> int:
        """Return the part of the pool that validates in a trial's current run; 0 in a study without folds."""
        return self._fold(trial.run)

    def _of_this_run(self, trial: Trial) -> Trial:
        """Return a RUNNING trial with the epochs and the seed of its current run."""
        if not trial.runs:
            return trial
        done = trial.epochs - len(trial.runs) * self.file.budget.epochs
        return replace(trial, epochs=done, seed=self._seed(trial, trial.run))

    def _promoted(self, trial: Trial, rejections: Sequence[tuple[Config, str]]) -> Trial:
        """Resume a trial that a rung had stopped, because the sampler expects more of it than of any new one."""
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            trial = writer.promote(trial)
        self.state.promote(trial)
        return self._handed_out(trial)

    def _handed_out(self, trial: Trial) -> Trial:
        self._in_flight.hand_out(trial.number)
        return self._of_this_run(trial)

    def report(self, number: int, epoch: int, metrics: Metrics) -> Decision:
        """Record one epoch of a trial and decide whether it continues.

        The last epoch of the budget completes the trial in the same transaction, a rung or a limit may prune it, and a number
        that is not finite fails it. Epochs that are already in the ledger (repeated after a resume) change nothing. Neither do
        those of a trial that has ended or is paused: its checkpoint holds them.

        An epoch after a gap comes from a checkpoint that is newer than the ledger, which was restored from a copy. The checkpoint
        is deleted, and the trial trains again from its first epoch in another worker.

        Raises:
            ValueError: If an objective is missing.
        """
        trial = self.state.trials[number]
        if trial.state is not State.RUNNING:
            return Decision.STOP
        if epoch <= (known := self._of_this_run(trial).epochs):
            return Decision.CONTINUE
        if epoch > known + 1:
            self._drop_checkpoint(trial, epoch)
            return Decision.STOP
        if (objective := self.file.objectives[0]) not in metrics:
            raise ValueError(f"trial {number} reported no {objective}; a trainable must report it in every epoch")
        last = epoch == self.planned_epochs(trial)
        if trial.runs:
            return self._report_further(trial, epoch, metrics, last=last)
        judgement = judge_epoch(self.state, trial, epoch, metrics, last=last)
        with self._ledger.decision() as writer:
            trial = writer.report(trial, epoch, metrics)
            if judgement.state is not State.RUNNING:
                trial = writer.finish(trial, judgement.state, **judgement.why)
        if judgement.counts:
            self.state.report(trial, epoch, metrics)
        self.state.set_standing(trial, limit=judgement.why.get("limit"))
        return self._decision(trial)

    def _report_further(self, trial: Trial, epoch: int, metrics: Metrics, *, last: bool) -> Decision:
        """Record an epoch of a further run. No rung stops it: the mean of those that survive would be too good."""
        broken = why_broken(self.state, epoch, metrics)
        with self._ledger.decision() as writer:
            trial = writer.report(trial, trial.epochs + 1, metrics)
            if broken is not None:
                trial = writer.finish(trial, State.COMPLETE, reason=f"run {trial.run}: {broken}")
            elif last:
                trial = writer.finish(trial.with_runs([*trial.runs, metrics]), State.COMPLETE)
        self.state.set_standing(trial)
        return self._decision(trial)

    def _decision(self, trial: Trial) -> Decision:
        goes_on = trial.state is State.RUNNING and self._stopping is not Stopping.NOW
        return Decision.CONTINUE if goes_on else Decision.STOP

    def _has_checkpoint(self, number: int, run: int = 1) -> bool:
        return checkpoints.has_checkpoint(self.checkpoints, number, run)

    def _drop_checkpoint(self, trial: Trial, epoch: int) -> None:
        """Delete a checkpoint that is ahead of the ledger; the same epochs are trained again."""
        reason = (
            f"its checkpoint has {epoch} epochs, the ledger {self._of_this_run(trial).epochs}: the ledger is older, as after a "
            "restore from a copy; the same epochs are trained again"
        )
        with self._ledger.decision() as writer:
            writer.event(EventKind.RESTARTED, trial.number, reason=reason)
        checkpoints.remove_run(self.checkpoints, trial.number, trial.run)
        self._dropped.add(trial.number)

    def tell(self, number: int, state: State, reason: str) -> None:
        """End a trial before its last epoch: FAILED by itself or its worker, or PRUNED by a user.

        If a further run ends so, the trial is COMPLETE with the runs that it has, and is not trained again.
        """
        trial = self.state.trials[number]
        if trial.state.finished:
            return
        if trial.runs:
            state, reason = State.COMPLETE, f"run {trial.run}: {reason}"
        with self._ledger.decision() as writer:
            trial = writer.finish(trial, state, reason=reason)
        self.state.set_standing(trial)

    def worker_lost(self, number: int, loss: WorkerLoss, why: str) -> None:
        """Requeue a trial whose worker died, to resume from its checkpoint in a new worker; fail it after too many losses.

        After running out of memory, the new worker gets twice the share of a GPU, if trials share one.
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
        """Move a trial, unless it has ended, to another worker, where it resumes from its checkpoint; this is no failure."""
        if self.state.trials[number].state is State.RUNNING:
            with self._ledger.decision() as writer:
                writer.event(EventKind.MOVED, number, reason=why, goes_on="from its checkpoint in another worker")

    def request_stop(self, number: int) -> None:
        """Ask the worker to stop at its next batch. The trial keeps its state and is queued for another worker."""
        self._in_flight.request_stop(number)

    def gpu_share(self, number: int) -> float:
        """Return the GPU share of the trial's worker."""
        return self.state.lost_workers.gpu_share(number)

    def worker_gone(self, number: int) -> None:
        """Record that the worker has left the trial: at its end, at its stop flag, or by dying. A RUNNING trial is queued again.

        Every back end calls this once for every trial that it was given.
        """
        trial = self.state.trials[number]
        self._in_flight.leave(trial)
        if trial.runs and trial.state is State.COMPLETE and self._ledger.is_durable:
            for run in range(max(2, len(trial.runs)), len(trial.runs) + 2):  # the one that is complete, or ended early
                checkpoints.remove_run(self.checkpoints, number, run)

    # -- requests of users ---------------------------------------------------------------------------------------------------------

    def handle_requests(self) -> None:
        """Carry out the requests that have arrived since the last call; each is one decision, carried out or refused.

        With a heartbeat thread, a call without new requests costs nothing.
        """
        if self._heartbeat is not None and not self._heartbeat.requests_waiting():
            return
        for request in self._ledger.requests(waiting=True):
            if request.verb == "extend":
                self._extend_for(request)
                continue
            number, trials = request.trial, self.state.trials
            asked = None if number is None or number >= len(trials) else trials[number]
            with self._ledger.decision() as writer:
                try:
                    user_requests.check_request(request.verb, number, None if asked is None else asked.state, len(trials))
                except user_requests.Refused as refusal:
                    writer.answer(request, str(refusal))
                    continue
                trial = user_requests.carry_out(writer, request, asked)
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
                paused = Pause(request.who, self._ledger.now(), request.detail.get("reason"))
                self.state.paused = paused if request.verb == "pause" else None

    def _extend_for(self, request: Request) -> None:
        try:
            self.extend(Extension(**request.detail, trial=request.trial), request=request)
        except (ValueError, RequestError) as error:
            with self._ledger.decision() as writer:
                writer.act_for(request.who)
                writer.answer(request, str(error))

    def extend(self, extension: Extension, *, request: Request | None = None) -> None:
        """Make the study larger, and resume it if it had ended.

        Args:
            extension: Requested changes.
            request: Request of the user, if it came from one.

        Raises:
            ValueError: If a value would shrink, or a trial cannot continue; nothing is changed then.
        """
        wide = None if extension.file is None else widened_file(self._current_file(), extension.file)
        budget = self.row.budget if wide is None else wide.resolved()["budget"]
        changes = extension.changes(budget, spent=self._clock.seconds_used() / 3600, now=self._ledger.now())
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
            self._clock = BudgetClock(self._ledger.now, self.state.seconds)
            return
        if trial is not None:
            self.state.start(trial, None)
            self._in_flight.queue([trial])
        self.state.extend()

    def _current_file(self) -> StudyFile:
        """Return the study file with its current budget."""
        file = check_stored(dict(self.row.file) | {"budget": dict(self.row.budget)})
        return file.kept_like(self.file)

    # -- queries -------------------------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """A copy of all trials, safe to read from another thread."""
        return list(self.state.trials)

    @property
    def finished(self) -> bool:
        """True if nothing runs and nothing more will start."""
        return not self._budget_left and all(trial.state.finished for trial in self.state.trials)

    @property
    def is_paused(self) -> bool:
        """True while the study is paused by a user and still has trials to start."""
        return self.state.paused is not None and self._stopping is None and self._budget_left

    @property
    def waits_for(self) -> str | None:
        """The user who paused the study and the time, in words; None if it is not paused."""
        paused = self.state.paused if self.is_paused else None
        return None if paused is None else paused.words(self.file.study)

    def n_wanted(self) -> int:
        """Return how many trials could run now if there was room for all: those that run, and those left in the budget.

        If a budget in hours or patience turns out to be spent, the study ends, as in `ask`.
        """
        if self._stopping is Stopping.NOW:
            return 0
        new = 0 if self._stopping or self.state.paused or self._budget_spent() else self._trials_left
        if new <= 0 and self.file.confirm and self._budget_left:
            new = n_affordable(self.file, self.state.trials, racing=False)
        return max(0, new) + sum(trial.state is State.RUNNING for trial in self.state.trials)

    @property
    def _budget_left(self) -> bool:
        """True if the budget has trials left, as far as that is known without reading the clock."""
        return self.state.ended is None and (self._trials_left > 0 or self.file.confirm > 0)

    @property
    def _trials_left(self) -> int:
        if self.state.confirming is not None:
            return 0
        return self.file.budget.trials_left(self.state.n_searched, self.file.confirm)

    @property
    def stopping(self) -> Stopping | None:
        """The way in which a user has stopped the driver, or None."""
        return self._stopping

    @property
    def ended(self) -> str | None:
        """The reason why nothing new starts although the budget has trials left: exhausted space, time spent, a stalled front."""
        return self.state.ended

    @property
    def reference_point(self) -> tuple[float, float]:
        """The reference point of the hypervolume: (score of a guess, largest allowed size); see `search.metrics`."""
        return self.state.reference_point

    def front(self) -> list[Trial]:
        """Return the non-dominated COMPLETE trials, smallest first; equal objectives in the order of numbers."""
        return sorted((self.state.trials[number] for number in self.state.front), key=lambda trial: (trial.size, trial.number))

    def hypervolume(self) -> float:
        """Return the front's hypervolume."""
        return self.state.front.hypervolume

    def planned_epochs(self, trial: Trial) -> int:
        """Return the number of epochs of the complete trial."""
        return trial.planned_epochs or self.file.budget.epochs

    def checkpoint_folder(self, number: int) -> Folder:
        """Return the folder of a trial's checkpoint, in a form that every process of the machine or cluster can use."""
        folder = checkpoints.trial_folder(self.checkpoints, number)
        return folder.absolute() if isinstance(folder, Path) else folder

    # -- internals -----------------------------------------------------------------------------------------------------------------

    def _budget_spent(self) -> bool:
        """Return whether the budget, in trials, in hours or in patience, is spent; end the study if it is."""
        if self._budget_left and (reason := self._clock.why_spent(self.file, self.state)) is not None:
            self._end(reason)
        return not self._budget_left

    def _end(self, reason: str, rejections: Sequence[tuple[Config, str]] = ()) -> None:
        with self._ledger.decision() as writer:
            writer.reject(rejections)
            writer.event(EventKind.ENDED, reason=reason)
        self.state.ended = reason


@contextmanager
def _closed_by_errors(ledger: Ledger) -> Iterator[None]:
    """Release the ledger if the block fails, so that the study is free at once."""
    try:
        yield
    except BaseException:
        ledger.close()
        raise
