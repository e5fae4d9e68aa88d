"""The time that a study has used, and the reasons for which a budget ends it before its last trial."""

from __future__ import annotations

from collections.abc import Callable

from search.config.sections import Budget
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

    def why_spent(self, budget: Budget, state: SearchState) -> str | None:
        """Return why the budget ends the study now: hours, date or patience; None if it does not."""
        if budget.max_hours is not None and self.seconds_used() >= 3600 * budget.max_hours:
            return f"budget.max_hours = {budget.max_hours:g} is spent"
        if budget.until is not None and self._now() >= budget.until.timestamp():
            return f"budget.until = {budget.until:%Y-%m-%d %H:%M} is over"
        if budget.stall_trials is not None and state.n_ended - state.last_front_change >= budget.stall_trials:
            return f"the front has not moved for {budget.stall_trials} trials (budget.stall_trials)"
        return None
