"""The in-process back end: one trial after the other, in this process, without Ray. For debugging, tests and tiny studies."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import chain

from cluster.capacity import at_a_time
from search.backends.base import Capacity, LocalBackEnd, Order, Outcome, folder_of_run
from search.config.study_file import StudyFile
from search.errors import OutOfReach, RequestError
from search.storage.facts import Facts
from search.study.lost_workers import WorkerLoss
from search.study.study import Study
from search.trial import Decision, State, Trial
from trainables import make
from trainables.folder import Unwritable
from trainables.protocol import Stopped, Trainable, is_out_of_memory

PAUSE_SECONDS = 0.25  # between two polls of a paused study


class InProcessBackEnd(LocalBackEnd):
    """A back end that runs one trial after the other, in this process; see `search.backends.base.BackEnd`."""

    def capacity(self, study: Study) -> Capacity:
        """Return one."""
        return Capacity(at_a_time(1))

    def run(self, study: Study) -> None:
        """Train the study's trials one by one."""
        run(study, make(**study.file.worker(study.row.facts)))

    def retrain(self, file: StudyFile, facts: Facts, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Retrain one model after the other."""
        waiting = iter(orders)
        if (first := next(waiting, None)) is None:
            return
        from trainables.workers.retrainer import Retrainer

        retrainer = Retrainer(**file.worker(facts))
        try:
            retrainer.load()
        except ValueError as error:
            raise RequestError(str(error)) from error
        for order in chain([first], waiting):
            try:
                done = retrainer(order.config, seed=order.seed, epochs=order.epochs, folder=order.folder)
            except Unwritable as error:
                raise OutOfReach(str(error)) from error
            except Exception as error:
                yield Outcome(order.number, {}, None, f"{type(error).__name__}: {error}")
            else:
                yield Outcome(order.number, done.metrics, done.correct, answers=done.answers)


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
        study.handle_requests()  # the request that set the flag
    except OutOfReach:
        raise  # a problem of the study, not of the trial
    except Unwritable as error:
        raise OutOfReach(str(error)) from error
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        if is_out_of_memory(error):
            study.worker_lost(trial.number, WorkerLoss.MEMORY, why)
        else:
            study.tell(trial.number, State.FAILED, why)
    trainable.finish()
    study.worker_gone(trial.number)


def _train(study: Study, trainable: Trainable, trial: Trial) -> None:
    folder = folder_of_run(study, trial)
    epoch = trainable.start(
        trial.config, seed=trial.seed, epochs=study.planned_epochs(trial), folder=folder, fold=study.fold(trial)
    )
    metrics = trainable.replay() if epoch > trial.epochs else None
    decision = Decision.CONTINUE
    while decision is Decision.CONTINUE:
        if metrics is None:
            metrics = trainable.step()
            epoch += 1
        study.handle_requests()
        decision = study.report(trial.number, epoch, metrics)
        metrics = None
