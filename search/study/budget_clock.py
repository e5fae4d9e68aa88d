"""The time that a study has used, and the reasons for which a budget ends it before its last trial."""

from __future__ import annotations

from collections.abc import Callable

from search.config.study_file import StudyFile
from search.study.state import SearchState


class BudgetClock:
    """The time that all drivers of a study have used, by the ledger's clock.

    Args:
        now: Clock of the ledger, in Unix seconds.
        seconds: Time used up to now, as a replay of the ledger counts it.
    """

    def __init__(self, now: Callable[[], float], seconds: float) -> None:
        self._now, self._seconds, self._read_at = now, seconds, now()

    def seconds_used(self) -> float:
        """Return the time used, in seconds. A clock that is set back does not return any."""
        now = self._now()
        self._seconds += max(0.0, now - self._read_at)
        self._read_at = now
        return self._seconds

    def why_spent(self, file: StudyFile, state: SearchState) -> str | None:
        """Return why the budget ends the study now: hours, date or patience; None if it does not."""
        budget = file.budget
        if budget.max_hours is not None and self.seconds_used() >= 3600 * budget.max_hours:
            return f"budget.max_hours = {budget.max_hours:g} is spent"
        if budget.until is not None and self._now() >= budget.until.timestamp():
            return f"budget.until = {budget.until:%Y-%m-%d %H:%M} is over"
        return None if file.confirm else self._why_stalled(file, state)

    def why_searched(self, file: StudyFile, state: SearchState) -> str | None:
        """Return why no new configuration is started, and the rest is for further runs: trials, hours or patience; else None."""
        budget, hours = file.budget, file.budget.max_hours
        if budget.trials_left(state.n_searched, file.confirm) <= 0:
            return f"{state.n_searched} configurations have been tried"
        if hours is not None and self.seconds_used() >= 3600 * (1.0 - file.confirm) * hours:
            return f"{1.0 - file.confirm:.0%} of budget.max_hours = {hours:g} are spent"
        return self._why_stalled(file, state)

    def _why_stalled(self, file: StudyFile, state: SearchState) -> str | None:
        patience = file.budget.stall_trials
        if patience is None or state.n_ended - state.last_front_change < patience:
            return None
        return f"the front has not moved for {patience} trials (budget.stall_trials)"
