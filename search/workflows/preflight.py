"""What is found out before a study's first trial: sizes, images, the precision that pays, the memory that a worker takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from search.backends.base import BackEnd
from search.config import trial_resources
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import RequestError
from search.storage import location
from search.storage.facts import TrialMemory

if TYPE_CHECKING:
    from search.config.study_file import StudyFile
    from search.costs import Sizes


@dataclass(frozen=True)
class Preflight:
    """What is known before training.

    Attributes:
        sizes: Of every configuration.
        precision: Which one pays, where that is asked and not known yet.
        bytes_needed: Of a worker, by arithmetic, where that is not known yet and will not be measured.
    """

    sizes: Sizes
    precision: Mapping[str, Any] | None = None
    bytes_needed: int | None = None


def measure_before_start(
    file: StudyFile, back_end: BackEnd, on_decoded: Callable[[int, int], None] | None, say: Callable[[str], None]
) -> Preflight:
    """Builds the model without its memory, looks at every image, and imports what drives the search, too.

    Raises:
        RequestError: if backbone or data are not to be had.
    """
    from trainables import audit, choose_precision, measure
    from trainables.imports import large_imports

    with large_imports():
        if back_end == "ray":
            from search.backends import ray_tune  # noqa: F401
        worker = file.worker()
        try:
            sizes = measure(worker["backbone"], worker["data"])
            if (found := audit(worker["backbone"], worker["data"], progress=on_decoded)) is not None and found.skipped:
                say(describe_skipped(found.skipped))
            if location.ledger_in(file.folder).exists():
                return Preflight(sizes)
            precision = needed = None
            if file.recipe.precision == "auto":
                gpu = file.resources.gpus_per_trial != 0
                precision = choose_precision(**worker, backbone_params=sizes.backbone_params, gpu=gpu)
            gpus = file.resources.gpus_per_trial
            if gpus != "auto" and back_end == "ray" and file.data.kind != "synthetic":
                from trainables.costs.memory import private_bytes

                needed = bytes_needed(file, sizes, process_bytes=private_bytes(), gpus=gpus)
            return Preflight(sizes, precision, needed)
        except ValueError as error:
            raise RequestError(str(error)) from error


def measure_memory(file: StudyFile, back_end: BackEnd, known: Preflight, say: Callable[[str], None]) -> TrialMemory | None:
    """What a trial takes, where it is not known yet: by arithmetic, or from a few steps on a node of its kind.

    Raises:
        RequestError: if it cannot be measured.
    """
    if back_end == "in-process" or file.data.kind == "synthetic" or location.ledger_in(file.folder).exists():
        return None
    if known.bytes_needed is not None:
        from cluster.connect import largest_memory

        return trial_resources.reserved_memory(known.bytes_needed, most=largest_memory(**file.resources.of_a_trial(None)))
    from search.backends import ray_tune
    from search.workflows.plan import to_probe

    configs = to_probe(file, known.sizes, file.budget.max_params or known.sizes.backbone_params)
    try:
        return trial_resources.memory_fact(ray_tune.memory(file.worker(), configs, file.resources, say))
    except ValueError as error:
        raise RequestError(f"memory could not be measured: {error}") from error


def describe_skipped(skipped: Sequence[str], most: int = 20) -> str:
    """What was left out of a data set, for people."""
    more = [f"... and {len(skipped) - most} more"] if len(skipped) > most else []
    return "\n  ".join([f"data: skipped, as data.on_problem asks ({len(skipped)}):", *skipped[:most], *more])


CUDA_BYTES = 2 * 2**30  # of the host's memory, that CUDA's libraries take in each process: no card was here to measure it on


def bytes_needed(file: StudyFile, sizes: Sizes, *, process_bytes: int, gpus: float) -> int:
    """What a worker will take of its node's memory, by arithmetic.

    Args:
        file: The study file.
        sizes: Of its configurations.
        process_bytes: Of a process that has the libraries, and nothing else.
        gpus: The share of a GPU that a trial gets.
    """
    if gpus > 0:
        return process_bytes + CUDA_BYTES + 4 * sizes.backbone_params  # which pass through the host on their way to the card
    return process_bytes + max(_of_training(file, sizes), default=0)


def _of_training(file: StudyFile, sizes: Sizes) -> Iterator[int]:
    """Of each method's default at the largest batch; methods that do not fit the backbone are left out."""
    space = file.joint_space()
    for method in space.methods:
        batch = next(knob for knob in space.knobs(method) if knob.key == "optim.batch_size").largest
        with suppress(ValueError):
            yield sizes.training_bytes(space.default(method), math.ceil(batch / file.recipe.accumulate))
