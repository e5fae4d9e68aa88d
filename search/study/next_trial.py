"""The choice of a free worker's next trial: one that waits, a further run, one that a rung had stopped, or a new configuration."""

from __future__ import annotations

from collections.abc import Sequence

from search.samplers.base import Done, NewConfig, Promote, Wait
from search.seeds import seed_for
from search.storage.events import EventKind
from search.study.next_run import NextRun
from search.study.session import Session, Stopping
from search.study.trial_runs import in_its_run
from search.trial import State, Trial
from spaces import Config

MAX_REJECTIONS_IN_A_ROW = 1000
_GONE = "its checkpoint is gone: its reports stay, and the same epochs are trained again"
_FOREIGN = "its folder held a checkpoint of which the ledger knows nothing; the ledger was restored from a copy"

Rejections = Sequence[tuple[Config, str]]  # configurations with the reasons


def max_rejections(n_trials: int | None) -> int:
    """Return the number of rejected configurations with which a study of so many trials ends: the ledger keeps each of them."""
    return max(100_000, 10 * (n_trials or 0))


class NextTrial:
    """The choice of the next trial in one session, and its start.

    Args:
        session: Session of the study.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._runs = NextRun(session)

    def start(self) -> Trial | None:
        """Start or resume the next trial; return it, or None if nothing can start."""
        session = self._session
        if session.stopping is Stopping.NOW:
            return None
        if (waits := session.in_flight.first_waiting) is not None:
            return self._resumed(session.state.trials[waits])
        if session.stopping is not None or session.state.paused or session.budget_spent():
            return None
        if (further := self._runs.start()) is not None or session.state.confirming or session.state.ended:
            return further
        return self._proposed()

    def _resumed(self, trial: Trial) -> Trial:
        """Resume a trial that ran when its last worker or driver ended."""
        session = self._session
        with session.ledger.decision() as writer:
            trial = writer.attempt(trial)
            if session.checkpoints.is_gone(trial, in_its_run(session.file, trial).epochs):
                writer.event(EventKind.RESTARTED, trial.number, reason=_GONE)
        session.checkpoints.resumed(trial.number)
        session.state.trials[trial.number] = trial
        return session.hand_out(trial)

    def _proposed(self) -> Trial | None:
        """Start what the sampler proposes; reject configurations that are too large, invalid or already known on the way."""
        session = self._session
        state, rejections = session.state, list[tuple[Config, str]]()
        in_all = max_rejections(session.file.budget.n_trials)
        while len(rejections) < MAX_REJECTIONS_IN_A_ROW and state.n_rejected < in_all:
            answer = state.next_answer()
            if isinstance(answer, Promote):
                return self._promoted(state.trial_of(answer.ticket), rejections)
            if not isinstance(answer, NewConfig):
                return self._rest(answer, rejections)
            try:
                params = state.check(answer.config)
            except ValueError as error:
                rejections.append((answer.config, str(error)))
                state.reject(answer.ticket)
            else:
                return self._new(answer, params, rejections)
        many = f"{in_all:,} configurations"
        how_many = many if state.n_rejected >= in_all else f"{MAX_REJECTIONS_IN_A_ROW:,} configurations in a row"
        return self._runs.stop_searching(f"the space is exhausted: {how_many} were rejected", rejections)

    def _new(self, answer: NewConfig, params: tuple[int, int], rejections: Rejections) -> Trial:
        """Start a trial of a new configuration with these (adapter_params, head_params)."""
        session, state = self._session, self._session.state
        objective, against = session.file.objectives
        trial = Trial(
            len(state.trials),
            State.RUNNING,
            answer.config,
            seed_for(session.file.search.seed, "trial", state.n_searched),
            *params,
            objective=objective,
            against=against,
            n_folds=session.file.data.folds,
        )
        foreign = session.checkpoints.clear_folder(trial.number)
        with session.ledger.decision() as writer:
            writer.reject(rejections)
            trial = writer.start(trial)
            if foreign:
                writer.event(EventKind.RESTARTED, trial.number, reason=_FOREIGN)
        state.start(trial, answer.ticket)
        return session.hand_out(trial)

    def _promoted(self, trial: Trial, rejections: Rejections) -> Trial:
        """Resume a trial that a rung had stopped, because the sampler expects more of it than of any new one."""
        session = self._session
        with session.ledger.decision() as writer:
            writer.reject(rejections)
            trial = writer.promote(trial)
        session.state.promote(trial)
        return session.hand_out(trial)

    def _rest(self, answer: Wait | Done, rejections: Rejections) -> Trial | None:
        """Start no new configuration until a trial reports, or for good."""
        session = self._session
        if isinstance(answer, Done):
            return self._runs.stop_searching(f"the sampler is done: {answer.reason}", rejections)
        if all(trial.state.finished for trial in session.state.trials):
            return self._runs.stop_searching("the sampler waits, but every trial has ended", rejections)
        if rejections:
            with session.ledger.decision() as writer:
                writer.reject(rejections)
        return None
