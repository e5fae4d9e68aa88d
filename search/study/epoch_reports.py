"""The record of each epoch that a trial reports, and of the decision about the trial, in one transaction."""

from __future__ import annotations

from search.storage.events import EventKind
from search.study import trial_runs
from search.study.epoch_outcome import judge_epoch, why_broken
from search.study.session import Session, Stopping
from search.trial import Decision, Metrics, State, Trial


class EpochReports:
    """The epochs that trials report in one session.

    Args:
        session: Session of the study.
    """

    def __init__(self, session: Session) -> None:
        self._session = session

    def record(self, number: int, epoch: int, metrics: Metrics) -> Decision:
        """Record one epoch of a trial and decide whether it continues; see `Study.report`.

        Raises:
            ValueError: If an objective is missing.
        """
        file, trial = self._session.file, self._session.state.trials[number]
        if trial.state is not State.RUNNING:
            return Decision.STOP
        if epoch <= (known := trial_runs.in_its_run(file, trial).epochs):
            return Decision.CONTINUE
        if epoch > known + 1:
            self._drop_checkpoint(trial, epoch, known)
            return Decision.STOP
        if (objective := file.objectives[0]) not in metrics:
            raise ValueError(f"trial {number} reported no {objective}; a trainable must report it in every epoch")
        last = epoch == trial_runs.planned_epochs(file, trial)
        if trial.runs:
            return self._of_further_run(trial, epoch, metrics, last=last)
        return self._of_first_run(trial, epoch, metrics, last=last)

    def _of_first_run(self, trial: Trial, epoch: int, metrics: Metrics, *, last: bool) -> Decision:
        state = self._session.state
        judgement = judge_epoch(state, trial, epoch, metrics, last=last)
        with self._session.ledger.decision() as writer:
            trial = writer.report(trial, epoch, metrics)
            if judgement.state is not State.RUNNING:
                trial = writer.finish(trial, judgement.state, **judgement.why)
        if judgement.counts:
            state.report(trial, epoch, metrics)
        state.set_standing(trial, limit=judgement.why.get("limit"))
        return self._decision(trial)

    def _of_further_run(self, trial: Trial, epoch: int, metrics: Metrics, *, last: bool) -> Decision:
        """Record an epoch of a further run. No rung stops it: the mean of those that survive would be too good."""
        broken = why_broken(self._session.state, epoch, metrics)
        with self._session.ledger.decision() as writer:
            trial = writer.report(trial, trial.epochs + 1, metrics)
            if broken is not None:
                trial = writer.finish(trial, State.COMPLETE, reason=f"run {trial.run}: {broken}")
            elif last:
                trial = writer.finish(trial.with_runs([*trial.runs, metrics]), State.COMPLETE)
        self._session.state.set_standing(trial)
        return self._decision(trial)

    def _decision(self, trial: Trial) -> Decision:
        goes_on = trial.state is State.RUNNING and self._session.stopping is not Stopping.NOW
        return Decision.CONTINUE if goes_on else Decision.STOP

    def _drop_checkpoint(self, trial: Trial, epoch: int, known: int) -> None:
        """Delete a checkpoint that is ahead of the ledger; the same epochs are trained again."""
        reason = (
            f"its checkpoint has {epoch} epochs, the ledger {known}: the ledger is older, as after a "
            "restore from a copy; the same epochs are trained again"
        )
        with self._session.ledger.decision() as writer:
            writer.event(EventKind.RESTARTED, trial.number, reason=reason)
        self._session.checkpoints.drop(trial)
