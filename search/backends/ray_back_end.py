"""The back end on Ray: the cluster of `RAY_ADDRESS`, or one embedded on this machine. `ray_tune` is imported late."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from cluster.capacity import FreeSlots, at_a_time
from search.backends.base import Capacity, Order, Outcome
from search.config import trial_resources
from search.config.study_file import StudyFile
from search.errors import RequestError
from search.storage import checkpoints
from search.storage.facts import Facts, TrialMemory
from search.study.study import Study
from spaces import Config

PRELOAD = "trainables.workers.preload"  # module that a worker imports before its first task
_IMPORTING_SECONDS = 5.0  # time in which workers import torch


class RayBackEnd:
    """A back end with warm actors, as many trials at once as fit; see `search.backends.base.BackEnd`.

    Args:
        n_cpus: Cores that an embedded Ray may use; None for all.
        n_slots: Maximum number of trials at once; None for as many as fit.
    """

    recorder_delay = _IMPORTING_SECONDS

    def __init__(self, *, n_cpus: int | None = None, n_slots: int | None = None) -> None:
        self._n_cpus, self._n_slots = n_cpus, n_slots
        self._slots: int | FreeSlots | None = None  # set by `capacity`

    def prepare(self) -> None:
        """Import Tune."""
        from search.backends import ray_tune  # noqa: F401

    @contextmanager
    def connect(self, file: StudyFile) -> Iterator[None]:
        """Join the cluster of `RAY_ADDRESS` or start one; if every core gets a trial, workers import torch in the meantime."""
        from cluster.connect import connected

        one_each = file.resources.cpus_per_trial == 1 and file.resources.gpus_per_trial == 0
        preload = (PRELOAD,) if one_each and file.data.kind != "synthetic" else ()
        try:
            connection = connected(n_cpus=self._n_cpus, preload=preload)
        except ValueError as error:
            raise RequestError(str(error)) from error
        with connection:
            yield

    def check(self, file: StudyFile) -> None:
        """Refuse clusters whose nodes lack our packages or the storage, or that accept jobs without a token.

        A trial may resume on any node.
        """
        if not os.environ.get("RAY_ADDRESS"):
            return
        from cluster.health import odd_nodes
        from cluster.nodes import refuse_open

        shared = None if file.shared is None else checkpoints.impatient(checkpoints.open_folder(file.shared))
        try:
            refuse_open()
            odd = odd_nodes(file.storage.absolute() if shared is None else shared)
        except OSError as error:
            raise RequestError(f"storage: {file.shared or file.storage} cannot be written ({error.strerror})") from error
        except ValueError as error:
            raise RequestError(str(error)) from error
        if odd:
            raise RequestError("\n".join(f"{node.what}: {node.found}; {node.remedy}" for node in odd))

    def reserves_memory(self, file: StudyFile) -> bool:
        """Return True except for simulated training, which needs no memory."""
        return file.data.kind != "synthetic"

    def measure(
        self,
        file: StudyFile,
        computed_bytes: int | None,
        configs: Callable[[], Sequence[Config]],
        say: Callable[[str], None],
    ) -> TrialMemory:
        """Reserve the computed memory, or measure a few steps on a node where a trial would run."""
        if computed_bytes is not None:
            from cluster.connect import largest_memory

            most = largest_memory(**file.resources.of_a_trial(None))
            return trial_resources.reserved_memory(computed_bytes, most=most)
        from search.backends import ray_tune

        try:
            return trial_resources.memory_fact(ray_tune.memory(file.worker(), configs(), file.resources, say))
        except ValueError as error:
            raise RequestError(f"memory could not be measured: {error}") from error

    def capacity(self, study: Study) -> Capacity:
        """Count slots; on a cluster that may grow, they are counted again while the study runs."""
        from cluster.connect import slots

        takes = study.file.resources.of_a_trial(study.row.facts.memory)
        try:
            if os.environ.get("RAY_ADDRESS"):
                self._slots = free = FreeSlots(takes, self._n_slots)
                return Capacity(at_a_time(free), free.waits)
            self._slots = n = min(slots(**takes), self._n_slots or sys.maxsize)
            return Capacity(at_a_time(n))
        except ValueError as error:
            raise RequestError(str(error)) from error

    def run(self, study: Study) -> None:
        """Drive the study with Ray Tune."""
        from search.backends import ray_tune

        if self._slots is None:
            self.capacity(study)
        assert self._slots is not None  # noqa: S101 - `capacity` sets it
        ray_tune.run(study, n_slots=self._slots)

    def retrain(self, file: StudyFile, facts: Facts, orders: Iterable[Order]) -> Iterator[Outcome]:
        """Retrain on warm actors, as many at a time as there are slots."""
        waiting = iter(orders)
        if (first := next(waiting, None)) is None:
            return
        import trainables
        from cluster.connect import connected
        from cluster.nodes import refuse_open

        worker = file.worker(facts)
        try:
            trainables.refuse_untestable(worker["data"])
            trainables.refuse_changed(worker["backbone"], worker["data"], worker.get("methods", ()))
            with connected(n_cpus=self._n_cpus):
                from search.backends import ray_tune

                refuse_open()
                takes = file.resources.of_a_trial(facts.memory)
                n_slots = FreeSlots(takes).at_most  # orders that wait for a node make an autoscaler start one
                yield from ray_tune.retrain(worker, chain([first], waiting), n_slots=n_slots, **takes)
        except ValueError as error:
            raise RequestError(str(error)) from error
