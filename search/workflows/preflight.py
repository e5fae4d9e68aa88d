"""Checks and measurements before a study's first trial: sizes, images, the faster precision, the memory of a worker."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.backends.base import BackEnd
from search.config.prefix_cache import prefix_fact
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import RequestError
from search.storage import checkpoints
from search.storage.facts import Pinned, TrialMemory
from search.study.checks import notes_on, refuse_unmeasurable
from search.study.opening import Opening
from search.workflows.validation import refuse_what_cannot_start
from spaces import Config
from trainables.protocol import DATA_RULES

if TYPE_CHECKING:
    from search.config.study_file import StudyFile
    from search.costs import Sizes


CUDA_BYTES = 2 * 2**30  # host memory of CUDA's libraries in each process; an estimate, not measured on a GPU


@dataclass(frozen=True)
class Preflight:
    """The knowledge about a study before its first trial.

    Attributes:
        sizes: Sizes of its configurations.
        precision: Answer to `recipe.precision: auto`; None if it is not configured or the study exists.
        computed_bytes: Computed memory of a worker; None if it is not needed, or has to be measured.
        pinned: Data and weights on which the study stands.
        n_validation: Number of validation images that can be used; None for a kind of data without images.
        skipped: Parts of the data set that `data.on_problem: skip` leaves out, one line each.
    """

    sizes: Sizes
    precision: Mapping[str, Any] | None = None
    computed_bytes: int | None = None
    pinned: Pinned | None = None
    n_validation: int | None = None
    skipped: tuple[str, ...] = ()


def examine(
    opening: Opening,
    back_end: BackEnd,
    on_decoded: Callable[[int, int], None] | None,
    on_tried: Callable[[int, int], None],
    say: Callable[[str], None],
) -> Preflight:
    """Build the model on the meta device, decode and check every image, and import the back end.

    Raises:
        RequestError: If backbone, data or methods are unavailable, or not those with which the study began.
    """
    from trainables import audit, choose_precision, measure
    from trainables.imports import large_imports

    file = opening.file
    with large_imports():
        back_end.prepare()
        worker = file.worker(None if opening.saved is None else opening.saved.row.facts)
        try:
            own = worker.get("methods", ())
            sizes = measure(worker["backbone"], worker["data"], own)
            if opening.is_new:
                refuse_what_cannot_start(file, sizes, on_tried=on_tried)  # before all images are decoded
            found = audit(worker["backbone"], worker["data"], progress=on_decoded)
            skipped = () if found is None else found.skipped
            if skipped:
                say(describe_skipped(skipped) if opening.is_new else count_skipped(skipped, file.log))
            rules = worker["data"].get("rules", DATA_RULES)
            pinned = None
            if found is not None:
                pinned = Pinned(
                    rules=rules,
                    data=found.data_digest,
                    weights=found.weights_digest,
                    methods={method["name"]: method["digest"] for method in own},
                    watched={name: digest for name, (_, digest) in found.watched.items()},
                )
            if not opening.is_new:
                return Preflight(sizes, pinned=pinned, skipped=skipped)
            if found is not None:
                refuse_unmeasurable(file, found.classes, found.n_images["validation"])
            for note in notes_on(file) if found is None else notes_on(file, found.n_images.get("train"), found.classes):
                say(note)
            precision = computed = None
            if file.recipe.precision == "auto":
                gpu = file.resources.gpus_per_trial != 0
                precision = choose_precision(
                    worker["backbone"], worker["data"], worker["recipe"], backbone_params=sizes.backbone_params, gpu=gpu
                )
            gpus = file.resources.gpus_per_trial
            if gpus != "auto" and back_end.reserves_memory(file):
                from trainables.costs.memory import private_bytes

                computed = bytes_needed(file, sizes, process_bytes=private_bytes(), gpus=gpus)
            n_validation = None if found is None else found.n_images.get("validation")
            return Preflight(sizes, precision, computed, pinned, n_validation, skipped)
        except ValueError as error:
            raise RequestError(str(error)) from error


def measure_memory(opening: Opening, back_end: BackEnd, known: Preflight, say: Callable[[str], None]) -> TrialMemory | None:
    """Determine the memory of a trial of a new study; return None if trials do not share a machine.

    Raises:
        RequestError: If it cannot be measured.
    """
    file = opening.file
    if not opening.is_new or not back_end.reserves_memory(file):
        return None

    def configs() -> Sequence[Config]:
        from search.workflows.plan import to_probe

        return to_probe(file, known.sizes, file.budget.max_params or known.sizes.backbone_params)

    found = back_end.measure(file, known.computed_bytes, configs, say)
    if known.computed_bytes is not None:
        return found
    return found.model_copy(update={"host_bytes": found.host_bytes + prefix_fact(file, known.sizes).cut_bytes})


def refuse_unwritable(file: StudyFile) -> None:
    """Refuse a shared checkpoint location that cannot be written from this machine, before anything starts.

    Raises:
        RequestError: If it cannot be written; the message has the reason and the remedy.
    """
    if file.shared is None:
        return
    from cluster.health import storage

    found = storage(checkpoints.impatient(checkpoints.open_folder(file.shared)))
    if not found.good:
        raise RequestError(f"{found.what}: {found.found}; {found.remedy}")


def describe_skipped(skipped: Sequence[str], most: int | None = 20) -> str:
    """Return the lines that list the skipped parts of a data set, all of them if `most` is None."""
    more = [f"... and {len(skipped) - most} more"] if most is not None and len(skipped) > most else []
    return "\n  ".join([f"data: skipped, as data.on_problem requests ({len(skipped)}):", *skipped[:most], *more])


def count_skipped(skipped: Sequence[str], log: Path) -> str:
    """Return the line for a study whose skipped parts were listed when it was created."""
    return f"data: {len(skipped)} skipped, as data.on_problem requests; listed in {log}"


def bytes_needed(file: StudyFile, sizes: Sizes, *, process_bytes: int, gpus: float) -> int:
    """Compute the memory that a worker takes on its node.

    Args:
        file: Study file.
        sizes: Sizes of its configurations.
        process_bytes: Memory of a process that has imported only the libraries.
        gpus: GPUs, or share of one, of a trial.
    """
    process_bytes += prefix_fact(file, sizes).cut_bytes  # held in memory where the disk is full
    if gpus > 0:
        return process_bytes + CUDA_BYTES + 4 * sizes.backbone_params  # the weights pass through the host on their way to the GPU
    return process_bytes + max(training_bytes(file, sizes), default=0)


def training_bytes(file: StudyFile, sizes: Sizes) -> Iterator[int]:
    """Yield the memory of each method's default at the largest batch, without methods that do not fit the backbone."""
    space = file.joint_space()
    for method in space.methods:
        batch = next(knob for knob in space.knobs(method) if knob.key == "optim.batch_size").largest
        with suppress(ValueError):
            yield sizes.training_bytes(space.default(method), math.ceil(batch / file.recipe.accumulate))
