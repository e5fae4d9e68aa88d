"""The in-process back end: one trial after the other, in this process, without Ray. For debugging, tests and tiny studies."""

from __future__ import annotations

import time

from search.errors import OutOfReach
from search.study.lost_workers import WorkerLoss
from search.study.study import Study
from search.trial import Decision, State, Trial
from trainables.protocol import Stopped, Trainable, is_out_of_memory

PAUSE_SECONDS = 0.25  # between two looks at a study that is paused


def run(study: Study, trainable: Trainable) -> None:
    """Drive a study to its end."""
    while True:
        study.handle_requests()
        trial = study.ask()
        if trial is not None:
            _attempt(study, trainable, trial)
        elif study.is_paused:
            time.sleep(PAUSE_SECONDS)
        else:
            return


def _attempt(study: Study, trainable: Trainable, trial: Trial) -> None:
    try:
        _train(study, trainable, trial)
    except Stopped:
        study.handle_requests()  # the flag's reason
    except OutOfReach:
        raise  # the study's trouble, not the trial's
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            study.worker_lost(trial.number, WorkerLoss.MEMORY, why)
        else:
            study.tell(trial.number, State.FAILED, why)
    trainable.finish()
    study.worker_gone(trial.number)


def _train(study: Study, trainable: Trainable, trial: Trial) -> None:
    folder = study.checkpoint_folder(trial.number)
    epoch = trainable.start(trial.config, seed=trial.seed, epochs=study.planned_epochs(trial), folder=folder)
    metrics = trainable.replay() if epoch > trial.epochs else None
    decision = Decision.CONTINUE
    while decision is Decision.CONTINUE:
        if metrics is None:
            metrics = trainable.step()
            epoch += 1
        study.handle_requests()
        decision = study.report(trial.number, epoch, metrics)
        metrics = None
