"""The Ray back end: Tune runs the trials on warm actors, the study decides. The only file of `search` that imports Ray.

Two thin shells face Tune: a searcher whose `suggest` calls the study's `ask`, and a scheduler whose `on_trial_result` calls its
`report`. Tune stores nothing that matters: its snapshots go to a temporary folder, its loggers and retries are off. A driver
that dies leaves trials RUNNING in the ledger, and the next driver resumes them.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.error import TuneError
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from cluster import nodes, scratch
from cluster.capacity import FreeSlots, bundle_of, gpus_of, in_a_slot
from search.backends import tune_internals
from search.backends.base import Order, Outcome, folder_of_run
from search.backends.node_watch import NodeWatch
from search.config.sections import Resources
from search.errors import OutOfReach, RequestError
from search.study.lost_workers import WorkerLoss
from search.study.study import Study
from search.trial import Decision, State
from trainables import probed_memory
from trainables.folder import Unwritable
from trainables.protocol import Changed
from trainables.workers.ray_tune import TuneTrial
from trainables.workers.retrainer import Retrainer

# Habits of Tune that would conflict with the ledger or cost time. They must be set before a Tuner is created.
_QUIET_TUNE = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # result.json, CSV and TensorBoard per trial: the ledger has it all
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # a study does not resume from the experiment's snapshot
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the run at once; the ledger is durable at every moment
    "TUNE_RESULT_BUFFER_LENGTH": "1",  # every epoch is reported when it ends
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # no banner; the command line shows the study
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # start the workers of all slots at once; the searcher below keeps to the slots
}

SLOTS_ARE_KNOWN_FOR_SECONDS = 2.0


def run(study: Study, *, n_slots: int | FreeSlots) -> None:
    """Drive a study to its end on the connected Ray cluster.

    Args:
        study: Study to drive; it stays open.
        n_slots: Number of trials at once; or the capacity of a cluster whose nodes come and go, which is polled every two seconds.
    """
    os.environ.update(_QUIET_TUNE)
    tune_internals.start_workers_without_environment()
    tune_internals.count_no_callbacks()
    usual = study.file.resources.of_a_trial(study.row.facts.memory)

    def bundle(config: dict[str, Any]) -> tune.PlacementGroupFactory:
        takes, where = bundle_of(**{**usual, "gpus_per_trial": config["gpus"]})
        return tune.PlacementGroupFactory([takes], **where)

    watch = NodeWatch(study) if isinstance(n_slots, FreeSlots) else None
    searcher = _StudySearcher(study, n_slots)
    try:
        with scratch.temporary_folder("paretune-tune-") as folder:
            tuner = tune.Tuner(
                tune.with_resources(TuneTrial, bundle),
                tune_config=tune.TuneConfig(
                    search_alg=searcher,
                    scheduler=_StudyScheduler(study, watch, searcher),
                    num_samples=-1,  # the study decides when it is over
                    reuse_actors=True,
                ),
                run_config=tune.RunConfig(
                    callbacks=[_RequestPoller(study, watch)],
                    name=study.file.study,
                    storage_path=str(folder),
                    verbose=0,
                    checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # trials write their own after every epoch
                ),
            )
            tuner.fit()
    except TuneError as error:
        own: BaseException | None = error  # Tune wraps exceptions of our shells in this one, with a traceback as its message
        while own is not None and not isinstance(own, RequestError | OutOfReach):
            own = own.__cause__ or own.__context__
        raise own or error from None


def memory(
    worker: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    resources: Resources,
    say: Callable[[str], object] = lambda waiting: None,
) -> dict[str, Any]:
    """Measure a few steps of each configuration on a node for trials; see `trainables.training.probe.memory`.

    Args:
        worker: Arguments of `trainables.make`.
        configs: Valid configurations.
        resources: Resources of a trial.
        say: Callback that receives a message about waiting, if an autoscaler has to start a node first.

    Raises:
        ValueError: If `trainables.make` raises it, no node fits, or the node that an autoscaler should start is not specified.
    """
    takes = {**resources.of_a_trial(None), "gpus_per_trial": gpus_of(resources.gpus_per_trial, resources.accelerator_type)}
    return in_a_slot(probed_memory, worker, list(configs), takes=takes, say=say).value


def retrain(
    worker: Mapping[str, Any],
    orders: Iterable[Order],
    *,
    n_slots: int,
    cpus_per_trial: int,
    gpus_per_trial: float,
    accelerator_type: str | None = None,
    memory_per_trial: int = 0,
) -> Iterator[Outcome]:
    """Carry out final trainings on warm actors, as many at a time as there are slots.

    Ray restarts an actor that dies, twice at most; it resumes from its checkpoint.

    Args:
        worker: Arguments of `Retrainer`.
        orders: Trainings to carry out, taken one by one when a slot is free.
        n_slots: Number of trainings at a time.
        cpus_per_trial: Cores of a training.
        gpus_per_trial: Number of GPUs, or share of one, of a training.
        accelerator_type: Accelerator type of the nodes; None for any.
        memory_per_trial: Bytes of a node's memory reserved for a training; 0 for none.

    Raises:
        RequestError: If a node has other data or weights than those with which the study began.
        OutOfReach: If a checkpoint cannot be written.
    """
    takes = {"num_cpus": cpus_per_trial, "num_gpus": gpus_per_trial, "label_selector": nodes.labels(accelerator_type)}
    takes |= {"memory": memory_per_trial} if memory_per_trial else {}
    actor_class = ray.remote(**takes, max_restarts=2, max_task_retries=2)(Retrainer)
    waiting = iter(orders)
    idle: list[Any] = []
    running: dict[Any, tuple[Order, Any]] = {}
    while True:
        while len(running) < n_slots and (order := next(waiting, None)) is not None:
            actor = idle.pop() if idle else actor_class.remote(**worker)
            done = actor.__call__.remote(order.config, seed=order.seed, epochs=order.epochs, folder=order.folder)
            running[done] = order, actor
        if not running:
            return
        [done], _ = ray.wait(list(running), num_returns=1)
        order, actor = running.pop(done)
        idle.append(actor)
        try:
            final = ray.get(done)
        except Changed as error:  # Ray's exceptions are also of the type of their cause
            raise RequestError(f"node {_node_of(actor)}: {getattr(error, 'cause', error)}") from None
        except Unwritable as error:
            raise OutOfReach(f"node {_node_of(actor)}: {getattr(error, 'cause', error)}") from None
        except ray.exceptions.RayError as error:
            yield Outcome(order.number, {}, None, str(getattr(error, "cause", None) or error).strip().splitlines()[-1])
        else:
            yield Outcome(order.number, final.metrics, final.correct, answers=final.answers)


class _RequestPoller(tune.Callback):  # type: ignore[misc]
    """A callback that carries out the users' requests in each step of Tune's loop."""

    def __init__(self, study: Study, watch: NodeWatch | None) -> None:
        self._study, self._watch = study, watch

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        self._study.handle_requests()
        if self._watch is not None:
            self._watch.poll(trials)

    def __getstate__(self) -> dict[str, Any]:
        return {}


class _StudySearcher(Searcher):  # type: ignore[misc]
    """A searcher whose `suggest` calls the study's `ask`."""

    def __init__(self, study: Study, n_slots: int | FreeSlots) -> None:
        super().__init__()
        self._study = study
        self._slots = n_slots
        self._looked, self._wanted = -math.inf, 0  # time of the last poll of the capacity, and number of wanted trials
        self._numbers: dict[str, int] = {}  # Tune's name of a live trial -> our number

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if not self._numbers:
            self._study.handle_requests()  # while nothing runs, Tune calls only this method, again and again
        if len(self._numbers) >= self._n_slots():
            over = not self._numbers and not self._study.n_wanted() and not self._study.is_paused
            return str(Searcher.FINISHED) if over else None  # a study that wants no trial may have no node left
        trial = self._study.ask()
        if trial is None:  # a running trial may yet need a worker: paused and unpaused, or its worker lost
            return None if self._numbers or self._study.is_paused else str(Searcher.FINISHED)
        self._numbers[trial_id] = trial.number
        return {
            "make": self._study.file.worker(self._study.row.facts),
            "trial": trial.number,
            "config": trial.config,
            "seed": trial.seed,
            "epochs": self._study.planned_epochs(trial),
            "reported": trial.epochs,
            "fold": self._study.fold(trial),
            "gpus": self._study.gpu_share(trial.number),
            "folder": folder_of_run(self._study, trial),
        }

    @property
    def spares(self) -> bool:
        """True if an idle worker is superfluous: it would keep its node from an autoscaler that removes it."""
        return isinstance(self._slots, FreeSlots) and self._slots.grows and self._wanted <= len(self._numbers)

    def _n_slots(self) -> int:
        if isinstance(self._slots, int):
            return self._slots
        if (now := time.monotonic()) - self._looked > SLOTS_ARE_KNOWN_FOR_SECONDS:
            self._looked, self._wanted = now, self._study.n_wanted()
            self._slots.poll(self._wanted)
        return self._slots.n

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._study.worker_gone(self._numbers.pop(trial_id))

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its shells into a snapshot that is never read; a study cannot be pickled

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the ledger has the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing: a study is resumed by replaying its ledger."""


class _StudyScheduler(FIFOScheduler):  # type: ignore[misc]
    """A scheduler that passes results to `report` and errors to `worker_lost`. Tune calls the latter before `on_trial_complete`."""

    def __init__(self, study: Study, watch: NodeWatch | None, searcher: _StudySearcher) -> None:
        super().__init__()
        self._study, self._watch, self._searcher = study, watch, searcher
        self._ended: set[str] = set()  # Tune's names of trials whose workers we have ended ourselves

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """End idle workers first: Tune calls this in each step, and would otherwise keep one of them to the end."""
        if self._searcher.spares:
            tune_internals.end_idle_actors(tune_controller)
        return super().choose_trial_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        report = json.loads(result["report"])
        if trial.trial_id in self._ended:  # a last result that arrived before the kill
            return str(TrialScheduler.CONTINUE)
        if "changed" in report:
            raise RequestError(f"node {_node_of(tune_internals.actor_of(trial))}: {report['changed']}")
        if "unwritable" in report:
            raise OutOfReach(f"node {_node_of(tune_internals.actor_of(trial))}: {report['unwritable']}")
        if "unseen" in report:
            raise RequestError(
                f"storage: node {_node_of(tune_internals.actor_of(trial))} has no {report['unseen']}; a node that joins must see "
                "the storage as the others do (docs/cluster.md). Nothing is lost: fix it, and run the study again"
            )
        if report.get("memory"):
            self._study.worker_lost(report["trial"], WorkerLoss.MEMORY, report["failure"])
            return self._end(trial)  # a process that ran out of memory is not reused
        decision = Decision.STOP
        if "failure" in report:
            self._study.tell(report["trial"], State.FAILED, report["failure"])
        elif "stopped" not in report:  # the trial was not stopped by its flag
            decision = self._study.report(report["trial"], report["epoch"], report["metrics"])
        if self._watch is not None and (node := self._watch.leaving(trial)) is not None:
            self._study.requeue(report["trial"], f"node {node[:6]} is about to leave the cluster")
            return self._end(trial)
        return str(TrialScheduler.STOP if decision is Decision.STOP else TrialScheduler.CONTINUE)

    def _end(self, trial: Any) -> str:
        """End the worker, which Tune would keep for the next trial."""
        self._ended.add(trial.trial_id)
        ray.kill(tune_internals.actor_of(trial))
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        if trial.trial_id in self._ended:
            return
        why = _first_line(trial.error_file)
        memory = re.search("low on memory|out of memory|OutOfMemory|OOM", why) is not None  # Ray's memory monitor killed it
        self._study.worker_lost(trial.config["trial"], WorkerLoss.MEMORY if memory else WorkerLoss.DEATH, why)


def _node_of(actor: Any) -> str:
    """Return the name of an actor's node, for messages."""
    node = nodes.node_of(tune_internals.id_of(actor))
    return "unknown" if node is None else nodes.name_and_memory(node)[0]


def _first_line(path: str | None) -> str:
    """Return Tune's text of an error, without its own heading."""
    if path is None:
        return "the reason is unknown"
    lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()]
    return " ".join(lines[1:4])[:300] or "the reason is unknown"
