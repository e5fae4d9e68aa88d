"""The promise of `paretune validate`: what it accepts starts.

It does what a search does until its first training step, and leaves nothing behind: it looks at every image, counts, tries one
image with each method, and lets a study in memory choose its first trials.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from search.config.data_sections import Images, Normalization
from search.config.study_file import StudyFile
from search.costs import Sizes
from search.errors import RequestError, StudyFileError
from search.storage.in_memory import InMemoryLedger
from search.study.checks import facts_of, refuse_hopeless, refuse_impossible_values, refuse_unfit_metric, refuse_unmeasurable
from search.study.study import Study

if TYPE_CHECKING:
    from trainables.protocol import Audit

N_ASKED = 3  # trials of the sampler, after the first one of each method
Progress = Callable[[int, int], None]


def validate(
    file: StudyFile,
    *,
    on_decoded: Progress | None = None,
    on_tried: Progress = lambda done, of: None,
) -> Audit | None:
    """Check a study file until its first training step.

    Args:
        file: Study file.
        on_decoded: Callback that receives (decoded images, images).
        on_tried: Callback that receives (tried models, all models).

    Returns:
        The contents of the data set; None for a kind of data without images.

    Raises:
        RequestError: If the study could not start; the message names place, law and remedy.
    """
    from trainables import audit, measure

    with file.naming_lines():
        worker = file.worker()
        try:
            sizes = measure(worker["backbone"], worker["data"], worker.get("methods", ()))
            refuse_what_cannot_start(file, sizes, on_tried=on_tried)  # before all images are decoded
            found = audit(worker["backbone"], worker["data"], progress=on_decoded)
        except ValueError as error:
            raise RequestError(str(error)) from error
        if found is not None:
            refuse_unmeasurable(file, found.classes, found.n_images["validation"])
        facts = facts_of(file, sizes)
        study = Study(file, InMemoryLedger(name=file.study, file=file.resolved(), facts=facts.as_json(), now=lambda: 0.0), sizes)
        for _ in range(len(file.methods) + N_ASKED):
            if study.ask() is None:
                break
    return found


def refuse_what_is_not_meant(file: StudyFile) -> None:
    """Refuse errors that a file of the right form can have: an end in the past, a mean of 0 to 255, a value listed twice.

    Raises:
        StudyFileError: If there is something of the kind; the message has one line for each.
    """
    problems = []
    if file.budget.until is not None and file.budget.until <= datetime.now(UTC):
        problems.append(f"budget.until: {file.budget.until:%Y-%m-%d %H:%M} is in the past; give a later date, or null")
    if isinstance(file.data, Images) and isinstance(file.data.normalize, Normalization):
        largest = max(file.data.normalize.mean)
        if largest > 1:
            problems.append(
                f"data.normalize: pixels are numbers from 0 to 1 here, so a mean cannot be {largest:g}; divide mean and std by 255"
            )
    for key, values in file.space.items():
        if isinstance(values, list | tuple) and len(set(values)) < len(values):
            twice = next(value for n, value in enumerate(values) if value in values[:n])
            problems.append(f"space.{key}: {twice!r} is listed twice; keep one")
    if problems:
        raise StudyFileError("\n".join(problems))


def refuse_what_cannot_start(file: StudyFile, sizes: Sizes, *, on_tried: Progress = lambda done, of: None) -> None:
    """Refuse methods that break a law, values and methods without a possible configuration, and a backbone that takes no image.

    Raises:
        StudyFileError: If a value or a method is impossible, or the labels do not allow the metric.
        ValueError: If a method that the user brought breaks a law, or the backbone cannot be computed with.
    """
    from trainables import refuse_unlawful, rehearse

    refuse_what_is_not_meant(file)
    refuse_unfit_metric(file, sizes)
    worker = file.worker()
    own = worker.get("methods", ())
    refuse_unlawful(own)
    refuse_impossible_values(file, sizes)
    refuse_hopeless(file, sizes, file.budget.max_params or sizes.backbone_params)
    if file.data.kind != "synthetic":
        space = file.joint_space()
        rehearse(worker["backbone"], [space.default(method) for method in space.methods], own, progress=on_tried)
