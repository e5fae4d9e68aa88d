"""A study as the driver that has claimed it has it open: the file, ledger and state that all its decisions share."""

from __future__ import annotations

import enum
import uuid
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from search.config.loading import check_stored
from search.config.sections import Budget
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.storage import checkpoints
from search.storage.events import EventKind
from search.storage.ledger import Ledger
from search.storage.rows import StudyRow
from search.study import trial_runs
from search.study.budget_clock import BudgetClock
from search.study.further_runs import FurtherRuns
from search.study.in_flight import InFlight
from search.study.state import SearchState
from search.study.trial_checkpoints import TrialCheckpoints
from search.trial import Trial
from spaces import Config


class Stopping(enum.Enum):
    """The ways in which a user can stop a driver; the study is then INTERRUPTED and can be resumed."""

    WHEN_IDLE = "nothing new starts, what runs is trained to its end"
    NOW = "what runs is left at its checkpoint"


class Session:
    """One driver's session of a study, from the event `opened` on.

    Args:
        file: Study file.
        ledger: Ledger that this process has claimed.
        sizes: Sizes of configurations, known before training.
        pool: The only configurations that exist; None for the whole space.

    Attributes:
        file: Resolved study file, with its current budget.
        row: Fixed properties of the study.
        ledger: Ledger that this process has claimed.
        sizes: Sizes of configurations, known before training.
        checkpoints: Checkpoints of the trials.
        in_flight: RUNNING trials: those that a worker has, and those that wait for one.
        state: State of the search.
        further: Choice of further runs.
        clock: Time that the study has used.
        stopping: The way in which a user has stopped the driver, or None.
    """

    def __init__(self, file: StudyFile, ledger: Ledger, sizes: Sizes, *, pool: Sequence[Config] | None = None) -> None:
        self.row: StudyRow = ledger.study()
        self.file = file.model_copy(update={"budget": Budget.model_validate(self.row.budget)})
        self.ledger, self.sizes, self._pool = ledger, sizes, pool
        folder = checkpoints.checkpoint_folder(self.file.folder, self.row.name, self.row.facts.checkpoints)
        self.checkpoints = TrialCheckpoints(folder, is_durable=ledger.is_durable)
        self.in_flight = InFlight(folder if ledger.is_durable else None)
        self.stopping: Stopping | None = None
        self._replay()
        opening: dict[str, Any] = {"version": metadata.version("paretune")}
        if folder != self.file.folder and ledger.is_durable:
            opening["mark"] = uuid.uuid4().hex
            checkpoints.claim_folder(folder, self.row.uid, opening["mark"])
        with ledger.decision() as writer:
            writer.event(EventKind.OPENED, **opening)
        self.clock = BudgetClock(ledger.now, self.state.seconds)

    def _replay(self) -> None:
        self.further = FurtherRuns(self.file, self.row.facts)
        self.state = SearchState(self.file, self.row, self.sizes, self.ledger, pool=self._pool)
        self.in_flight.queue(self.state.trials)

    # -- changes of the study itself -----------------------------------------------------------------------------------------------

    def read_row(self) -> None:
        """Read the fixed properties again, after a fact of the study was recorded."""
        self.row = self.ledger.study()

    def read_budget(self) -> None:
        """Read the study again, after its budget has grown."""
        self.read_row()
        self.file = self.current_file()

    def rebuild(self) -> None:
        """Rebuild the state by replaying the ledger, after the space was widened."""
        self._replay()
        self.clock = BudgetClock(self.ledger.now, self.state.seconds)

    def current_file(self) -> StudyFile:
        """Return the study file with the budget that the ledger has now."""
        file = check_stored(dict(self.row.file) | {"budget": dict(self.row.budget)})
        return file.kept_like(self.file)

    # -- trials and their workers --------------------------------------------------------------------------------------------------

    def hand_out(self, trial: Trial) -> Trial:
        """Give a trial to a worker; return it with the epochs and the seed of its current run."""
        self.in_flight.hand_out(trial.number)
        return trial_runs.in_its_run(self.file, trial)

    # -- the rest of the budget ----------------------------------------------------------------------------------------------------

    @property
    def trials_left(self) -> int:
        """The number of new configurations that the budget still holds."""
        if self.state.confirming is not None:
            return 0
        return self.file.budget.trials_left(self.state.n_searched, self.file.confirm)

    @property
    def budget_left(self) -> bool:
        """True if the budget has trials left, as far as that is known without reading the clock."""
        return self.state.ended is None and (self.trials_left > 0 or self.file.confirm > 0)

    def budget_spent(self) -> bool:
        """Return whether the budget, in trials, in hours or in patience, is spent; end the study if it is."""
        if self.budget_left and (reason := self.clock.why_spent(self.file, self.state)) is not None:
            self.end(reason)
        return not self.budget_left

    def end(self, reason: str, rejections: Sequence[tuple[Config, str]] = ()) -> None:
        """Start nothing new any more, although the budget has trials left."""
        with self.ledger.decision() as writer:
            writer.reject(rejections)
            writer.event(EventKind.ENDED, reason=reason)
        self.state.ended = reason
