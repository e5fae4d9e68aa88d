"""The start of further runs: of complete trials that are trained again, and the end of the search for configurations before it."""

from __future__ import annotations

from collections.abc import Sequence

from search.storage.events import EventKind
from search.study.session import Session
from search.study.trial_runs import fold_of_run, seed_of_run
from search.trial import Trial
from spaces import Config


class NextRun:
    """The start of further runs in one session.

    Args:
        session: Session of the study.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def start(self) -> Trial | None:
        """Train a complete trial again if that is worth it now; end the study if its answer is sure, or nothing is worth more."""
        session = self._session
        state = session.state
        if (sure := session.further.why_sure(state)) is not None:
            session.end(sure)
            return None
        if not session.file.confirm:
            return None
        if state.confirming is None and (reason := session.clock.why_searched(session.file, state)) is not None:
            return self.stop_searching(reason)
        trial, why = session.further.choose(state, lambda number: not session.in_flight.has(number))
        if trial is not None:
            return self._continued(trial)
        if state.confirming is not None and all(trial.state.finished for trial in state.trials):
            session.end(f"{state.confirming}; {why}")
        return None

    def stop_searching(self, reason: str, rejections: Sequence[tuple[Config, str]] = ()) -> Trial | None:
        """Start no new configuration for good; return a further run, if some of the budget is kept for them."""
        session = self._session
        if not session.file.confirm:
            session.end(reason, rejections)
            return None
        with session.ledger.decision() as writer:
            writer.reject(rejections)
            writer.event(EventKind.CONFIRMING, reason=reason)
        session.state.confirming = reason
        return self.start()

    def _continued(self, trial: Trial) -> Trial:
        """Begin a further run of a complete trial."""
        session, run = self._session, len(trial.values) + 1
        session.checkpoints.clear_run(trial.number, run)  # left by a ledger that was restored from a copy
        with session.ledger.decision() as writer:
            trial = writer.continue_(trial, seed=seed_of_run(session.file, trial, run), fold=fold_of_run(session.file, run))
        session.state.continue_(trial)
        return session.hand_out(trial)
