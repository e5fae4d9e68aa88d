"""The study: a state machine with three operations, `ask`, `report` and `tell`, and without a loop or a clock.

A back end drives it: in-process, simulated, Ray. With the same study file and seed, one worker writes the same sequence of (event,
trial, config, epoch, metrics) on any back end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from search.config.data_sections import Images
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import LedgerError
from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.storage.events import EventKind
from search.storage.facts import Pinned, TrialMemory
from search.storage.ledger import Ledger
from search.storage.rows import StudyRow
from search.storage.sql_ledger import SqlLedger
from search.study import trial_runs
from search.study.checks import facts_of, refuse_changes, refuse_hopeless
from search.study.epoch_reports import EpochReports
from search.study.extending import extend
from search.study.extension import Extension
from search.study.further_runs import n_affordable
from search.study.heartbeat import Heartbeat
from search.study.lost_workers import WorkerLoss
from search.study.next_trial import NextTrial
from search.study.opening import Opening, find_study
from search.study.request_handler import RequestHandler
from search.study.session import Session, Stopping
from search.study.state import SearchState
from search.study.trial_ends import TrialEnds
from search.trial import Decision, Metrics, State, Trial
from spaces import Config


class Study:
    """One question, and all decisions about it so far.

    `Study.create` and `Study.open` return one; both claim the ledger for this process.

    Args:
        file: Study file.
        ledger: Ledger that this process has claimed.
        sizes: Sizes of configurations, known before training.
        pool: The only configurations that exist (the rows of a recorded table); None for the whole space.

    Attributes:
        folder: Folder of the study, except perhaps for its checkpoints.
        checkpoints: Folder of the checkpoints.
    """

    def __init__(self, file: StudyFile, ledger: Ledger, sizes: Sizes, *, pool: Sequence[Config] | None = None) -> None:
        self._ledger = ledger
        self._session = session = Session(file, ledger, sizes, pool=pool)
        self._next_trial = NextTrial(session)
        self._reports = EpochReports(session)
        self._ends = TrialEnds(session)
        self._requests = RequestHandler(session)
        self._heartbeat: Heartbeat | None = None
        self.folder = file.folder
        self.checkpoints = session.checkpoints.folder

    @property
    def file(self) -> StudyFile:
        """The resolved study file, with its current budget."""
        return self._session.file

    @property
    def row(self) -> StudyRow:
        """The fixed properties of the study."""
        return self._session.row

    @property
    def state(self) -> SearchState:
        """The state of the search; read-only for others."""
        return self._session.state

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
        self._session.read_row()

    def heartbeat(self) -> Heartbeat:
        """Return the thread that renews the lease and polls the users' requests while the `with` block runs."""
        self._heartbeat = Heartbeat(self._ledger, self.checkpoints)
        return self._heartbeat

    def leave(self, error: BaseException | None = None) -> None:
        """Write into the ledger that and why this driver leaves, unless the ledger cannot be written any more.

        Args:
            error: Exception that ended the driver; None if it has done what there was to do.
        """
        reason = "finished" if self.stopping is None else "stopped by a user"
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
        return self._next_trial.start()

    def fold(self, trial: Trial) -> int:
        """Return the part of the pool that validates in a trial's current run; 0 in a study without folds."""
        return trial_runs.fold_of_run(self.file, trial.run)

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
        return self._reports.record(number, epoch, metrics)

    def tell(self, number: int, state: State, reason: str) -> None:
        """End a trial before its last epoch: FAILED by itself or its worker, or PRUNED by a user.

        If a further run ends so, the trial is COMPLETE with the runs that it has, and is not trained again.
        """
        self._ends.tell(number, state, reason)

    def worker_lost(self, number: int, loss: WorkerLoss, why: str) -> None:
        """Requeue a trial whose worker died, to resume from its checkpoint in a new worker; fail it after too many losses.

        After running out of memory, the new worker gets twice the share of a GPU, if trials share one.
        """
        self._ends.worker_lost(number, loss, why)

    def requeue(self, number: int, why: str) -> None:
        """Move a trial, unless it has ended, to another worker, where it resumes from its checkpoint; this is no failure."""
        self._ends.requeue(number, why)

    def request_stop(self, number: int) -> None:
        """Ask the worker to stop at its next batch. The trial keeps its state and is queued for another worker."""
        self._session.in_flight.request_stop(number)

    def gpu_share(self, number: int) -> float:
        """Return the GPU share of the trial's worker."""
        return self.state.lost_workers.gpu_share(number)

    def worker_gone(self, number: int) -> None:
        """Record that the worker has left the trial: at its end, at its stop flag, or by dying. A RUNNING trial is queued again.

        Every back end calls this once for every trial that it was given.
        """
        self._ends.worker_gone(number)

    # -- requests of users ---------------------------------------------------------------------------------------------------------

    def handle_requests(self) -> None:
        """Carry out the requests that have arrived since the last call; each is one decision, carried out or refused.

        With a heartbeat thread, a call without new requests costs nothing.
        """
        if self._heartbeat is None or self._heartbeat.requests_waiting():
            self._requests.handle()

    def extend(self, extension: Extension) -> None:
        """Make the study larger, and resume it if it had ended.

        Raises:
            ValueError: If a value would shrink, or a trial cannot continue; nothing is changed then.
        """
        extend(self._session, extension)

    # -- queries -------------------------------------------------------------------------------------------------------------------

    @property
    def trials(self) -> list[Trial]:
        """A copy of all trials, safe to read from another thread."""
        return list(self.state.trials)

    @property
    def finished(self) -> bool:
        """True if nothing runs and nothing more will start."""
        return not self._session.budget_left and all(trial.state.finished for trial in self.state.trials)

    @property
    def is_paused(self) -> bool:
        """True while the study is paused by a user and still has trials to start."""
        return self.state.paused is not None and self.stopping is None and self._session.budget_left

    @property
    def waits_for(self) -> str | None:
        """The user who paused the study and the time, in words; None if it is not paused."""
        paused = self.state.paused if self.is_paused else None
        return None if paused is None else paused.words(self.file.study)

    def n_wanted(self) -> int:
        """Return how many trials could run now if there was room for all: those that run, and those left in the budget.

        If a budget in hours or patience turns out to be spent, the study ends, as in `ask`.
        """
        if self.stopping is Stopping.NOW:
            return 0
        new = 0 if self.stopping or self.state.paused or self._session.budget_spent() else self._session.trials_left
        if new <= 0 and self.file.confirm and self._session.budget_left:
            new = n_affordable(self.file, self.state.trials, racing=False)
        return max(0, new) + sum(trial.state is State.RUNNING for trial in self.state.trials)

    @property
    def stopping(self) -> Stopping | None:
        """The way in which a user has stopped the driver, or None."""
        return self._session.stopping

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
        return trial_runs.planned_epochs(self.file, trial)

    def checkpoint_folder(self, number: int) -> Folder:
        """Return the folder of a trial's checkpoint, in a form that every process of the machine or cluster can use."""
        return self._session.checkpoints.of_trial(number)


@contextmanager
def _closed_by_errors(ledger: Ledger) -> Iterator[None]:
    """Release the ledger if the block fails, so that the study is free at once."""
    try:
        yield
    except BaseException:
        ledger.close()
        raise
