"""The ends of trials before their last epoch, and the workers that leave a trial or die."""

from __future__ import annotations

from search.storage.events import EventKind
from search.study.lost_workers import WorkerLoss
from search.study.session import Session
from search.trial import State


class TrialEnds:
    """The ends of trials, and of their time with a worker, in one session.

    Args:
        session: Session of the study.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def tell(self, number: int, state: State, reason: str) -> None:
        """End a trial before its last epoch; see `Study.tell`."""
        trial = self._session.state.trials[number]
        if trial.state.finished:
            return
        if trial.runs:
            state, reason = State.COMPLETE, f"run {trial.run}: {reason}"
        with self._session.ledger.decision() as writer:
            trial = writer.finish(trial, state, reason=reason)
        self._session.state.set_standing(trial)

    def worker_lost(self, number: int, loss: WorkerLoss, why: str) -> None:
        """Requeue a trial whose worker died, or fail it; see `Study.worker_lost`."""
        state = self._session.state
        if state.trials[number].state is not State.RUNNING:
            return
        lost = state.lost_workers
        times = lost.count(number, loss) + 1
        if times >= loss.limit:
            self.tell(number, State.FAILED, f"{loss.words} {times} times: {why}")
            return
        share = lost.gpu_share(number)
        lost.record(number, loss)
        more = {"gpus": gpus} if (gpus := lost.gpu_share(number)) != share else {}
        goes_on = "from its checkpoint in a fresh worker"
        with self._session.ledger.decision() as writer:
            writer.event(EventKind.LOST, number, loss=loss.name, reason=why, goes_on=goes_on, **more)

    def requeue(self, number: int, why: str) -> None:
        """Move a trial, unless it has ended, to another worker; see `Study.requeue`."""
        if self._session.state.trials[number].state is State.RUNNING:
            with self._session.ledger.decision() as writer:
                writer.event(EventKind.MOVED, number, reason=why, goes_on="from its checkpoint in another worker")

    def worker_gone(self, number: int) -> None:
        """Record that the worker has left the trial, and queue a RUNNING one again; see `Study.worker_gone`."""
        trial = self._session.state.trials[number]
        self._session.in_flight.leave(trial)
        if trial.runs and trial.state is State.COMPLETE:
            self._session.checkpoints.clear_further_runs(trial)
