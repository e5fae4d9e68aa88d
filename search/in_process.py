"""The in-process back end: one trial after the other, in this process, without Ray. For debugging, tests and tiny studies."""

from __future__ import annotations

from search.ledger import CannotWrite
from search.study import Study
from search.trial import Decision, State, Trial
from trainables import Trainable


def run(study: Study, trainable: Trainable) -> None:
    """Drive a study to its end."""
    while (trial := study.ask()) is not None:
        try:
            _train(study, trainable, trial)
        except CannotWrite:
            raise  # the study's trouble, not the trial's
        except Exception as error:
            study.tell(trial.number, State.FAILED, f"{type(error).__name__}: {error}")
        trainable.finish()


def _train(study: Study, trainable: Trainable, trial: Trial) -> None:
    folder = study.checkpoint_folder(trial.number)
    epoch = trainable.start(trial.config, seed=trial.seed, epochs=study.file.budget.epochs, folder=folder)
    metrics = trainable.replay() if epoch > trial.epochs else None
    decision = Decision.CONTINUE
    while decision is Decision.CONTINUE:
        if metrics is None:
            metrics = trainable.step()
            epoch += 1
        decision = study.report(trial.number, epoch, metrics)
        metrics = None
