"""Checks made when a study is created or reopened, and the facts stored with it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from search.config.loading import check_stored
from search.config.prefix_cache import prefix_fact
from search.config.study_file import ANCHOR, StudyFile
from search.costs import ADAPTER_PARAMS, Sizes
from search.errors import StudyFileError
from search.metrics import CLASSIFICATION, METRICS, TASKS, unfit
from search.samplers.base import Part, SamplerContext
from search.samplers.sampler import SeededSampler
from search.samplers.start import n_start
from search.storage.facts import AutoFact, Facts, Pinned, PrecisionFact, TrialMemory
from search.storage.rows import StudyRow
from search.study.warm_start import learn
from spaces import Config, JointSpace

N_FEASIBILITY_DRAWS = 50
STEADY_STEPS = 50  # at the full learning rate before a first rung; the packaged study `emoji` has 52
BATCH_SIZE = 32  # of a configuration that does not say


def facts_of(
    file: StudyFile,
    sizes: Sizes,
    precision: Mapping[str, Any] | None = None,
    memory: TrialMemory | None = None,
    pinned: Pinned | None = None,
    *,
    n_validation: int | None = None,
) -> Facts:
    """Return the facts that are measured once, when a study is created, and stored in its ledger.

    Args:
        file: Study file.
        sizes: Sizes of its configurations.
        precision: Result of `trainables.recipe.precision`; None if it was not configured.
        memory: Memory that a trial takes; None if it was not measured or computed.
        pinned: Data and weights; None if they were not looked at.
        n_validation: Number of validation images without those that are skipped; None to count all.

    Raises:
        StudyFileError: If the labels do not allow the metric, or `search.learn_from` cannot be used.
    """
    max_params = file.budget.max_params or sizes.backbone_params
    refuse_unfit_metric(file, sizes)
    metric, against = METRICS[file.objectives[0]], file.objectives[1]
    largest = max_params if against == ADAPTER_PARAMS else file.budget.limits[against]
    known: dict[str, Any] = {} if precision is None else {"precision": PrecisionFact(**precision)}
    known |= {} if memory is None else {"memory": memory}
    known |= {"prefix": prefix_fact(file, sizes)}
    known |= {} if file.budget.max_hours is None else {"by_seconds": True}
    if file.search.sampler == "auto":
        known |= {"auto": AutoFact(parts=tuple(Part), n_trials=file.budget.n_trials)}
    known |= {} if file.shared is None else {"checkpoints": file.shared}
    return Facts(
        n_classes=sizes.n_classes,
        n_validation=sizes.n_validation if n_validation is None else n_validation,
        backbone_params=sizes.backbone_params,
        max_params=max_params,
        reference_point=(metric.score(metric.guess(sizes.n_classes, sizes.task)), largest),
        learned=tuple(learn(file, pinned)) if file.search.learn_from or file.search.prior else (),
        pinned=pinned,
        **known,
    )


def refuse_unfit_metric(file: StudyFile, sizes: Sizes) -> None:
    """Refuse a metric, or weights of classes, that the labels do not allow.

    Raises:
        StudyFileError: If there is one; the message names those that are allowed.
    """
    if (problem := unfit(file.objectives[0], sizes.task)) is not None:
        raise StudyFileError(f"objectives: {problem}")
    if sizes.task != CLASSIFICATION and file.recipe.class_weights != "none":
        raise StudyFileError(
            f"recipe.class_weights: {file.recipe.class_weights} needs one label for each image, and these have "
            f"{TASKS[sizes.task].labels}; use none"
        )


def refuse_unmeasurable(file: StudyFile, classes: Mapping[str, Mapping[str, int]], n_validation: int) -> None:
    """Refuse a metric that the validation images do not determine.

    Args:
        file: Study file.
        classes: Number of images of each class by split.
        n_validation: Number of validation images.

    Raises:
        StudyFileError: If there is one.
    """
    counts = [per_split["validation"] for per_split in classes.values()]
    lacking = {
        "val/auroc": ("with and without a class", any(0 < n < n_validation for n in counts)),
        "val/map": ("with a label", any(counts)),
        "val/miou": ("with a pixel of a class", any(counts)),
    }
    what, determined = lacking.get(file.objectives[0], ("", True))
    if not determined:
        raise StudyFileError(
            f"objectives: {file.objectives[0]} needs validation images {what}, and there are none; choose another metric, or split "
            "the data differently"
        )


def note_on_balance(file: StudyFile, classes: Mapping[str, Mapping[str, int]]) -> str | None:
    """Return a warning if most validation images are of one class, and the metric hides what becomes of the others; else None.

    Most means more than half, and more than 1.5 times an equal share. The arguments are those of
    `refuse_unmeasurable`.
    """
    metric = METRICS[file.objectives[0]]
    counts = {name: per_split["validation"] for name, per_split in classes.items()}
    if not metric.hides_rare_classes or not (n_images := sum(counts.values())):
        return None
    commonest = max(counts, key=counts.__getitem__)
    share = counts[commonest] / n_images
    if share <= max(0.5, 1.5 / len(counts)):
        return None
    fooled = f"always answering it has an accuracy of {share:.0%}"
    return (
        f"data: {share:.0%} of the validation images are of the class {commonest}, so {fooled}, and {metric.key} says little about "
        f"the other classes; one that is not fooled: objectives: [val/macro_f1, {file.objectives[1]}]; recipe.class_weights: "
        "balanced trains for it"
    )


def notes_on(file: StudyFile, n_training: int | None = None, classes: Mapping[str, Mapping[str, int]] | None = None) -> list[str]:
    """Return warnings about a study that can start, and would probably not answer its question.

    Args:
        file: Study file.
        n_training: Number of training images; None for a kind of data without images.
        classes: Number of images of each class by split; None for the same.
    """
    notes = [note_on_budget(file), note_on_grace(file, n_training), None if classes is None else note_on_balance(file, classes)]
    return [note for note in notes if note is not None]


def note_on_budget(file: StudyFile) -> str | None:
    """Return a warning if the budget ends before `auto` has given each method its fair start; None otherwise."""
    methods, n = [method for method in file.methods if method != ANCHOR], file.budget.n_trials
    if file.search.sampler != "auto" or n is None or n >= (needed := n_start(len(methods))):
        return None
    fewer = sum(n_start(k) <= n // 2 for k in range(1, len(methods)))
    return (
        f"budget.n_trials: the fair start takes {needed:,} trials (head-only, and the smallest size and the default "
        f"of each method, with others in between), so {n:,} leave some out; give {2 * needed:,} trials"
        + (f", or {fewer} method{'s' if fewer > 1 else ''}" if fewer else "")
    )


def note_on_grace(file: StudyFile, n_training: int | None) -> str | None:
    """Return a warning if the first rung compares learning rates rather than adapters, and the budget is in trials; None otherwise.

    An optimiser like Adam moves a weight by about the learning rate in a step. Before `STEADY_STEPS` steps at the full rate
    (methods differ in their default rates by a factor of ten), accuracies follow the rate more than anything else: on the recorded
    digits the rank correlation of accuracy with the rate exceeds that with the final accuracy until shortly after the warm-up.

    Args:
        file: Study file.
        n_training: Number of training images; None for a kind of data without images.
    """
    rungs, budget = file.search.rungs, file.budget
    if rungs is None or n_training is None or rungs.grace >= budget.epochs or budget.max_hours is not None:
        return None
    space = file.joint_space()
    defaults = [space.default(method) for method in file.methods]
    if len(rates := {float(config["optim.lr"] or 0) for config in defaults}) == 1 and not any(
        knob.key == "optim.lr" and not knob.distribution.single() for method in file.methods for knob in space.knobs(method)
    ):
        return None
    steps = max(1, n_training // int(defaults[0].get("optim.batch_size") or BATCH_SIZE))  # of an epoch, without an incomplete batch
    warm_up = file.recipe.warmup_fraction * budget.epochs * steps
    if (steady := rungs.grace * steps - warm_up) >= STEADY_STEPS:
        return None
    enough = math.ceil((warm_up + STEADY_STEPS) / steps)
    remedy = f"give grace: {enough}" if enough < budget.epochs else "give more epochs"
    least, most = min(rates), max(rates)
    differ = f", from {least:g} to {most:g} by default" if least < most else ""
    when = f"{steady:.0f} steps after the warm-up" if steady > 0 else "within the warm-up"
    return (
        f"search.rungs: the first rung, after {rungs.grace} of {budget.epochs} epochs, is {when}; accuracies tell learning rates "
        f"apart there{differ}, and not yet adapters, so good ones may be stopped; {remedy}, or rungs: null (all to the end)"
    )


def note_on_hours(file: StudyFile, n_trials: float) -> str | None:
    """Return a warning if hours alone limit a study, and end it before each method has had its fair start; None otherwise.

    Args:
        file: Study file.
        n_trials: Number of trials that the hours are expected to hold.
    """
    methods, hours = [method for method in file.methods if method != ANCHOR], file.budget.max_hours
    needed = n_start(len(methods))
    if file.search.sampler != "auto" or file.budget.n_trials is not None or hours is None or n_trials >= needed:
        return None
    enough = 2 * needed * hours / max(n_trials, 1.0)
    fewer = sum(n_start(k) <= n_trials / 2 for k in range(1, len(methods)))
    return (
        f"budget.max_hours: {hours:g} h hold about {n_trials:,.0f} trials, and the fair start takes {needed:,} (head-only, and the "
        f"smallest size and the default of each method, with others in between), so some are left out; give {enough:.2g} h"
        + (f", or {fewer} method{'s' if fewer > 1 else ''}" if fewer else "")
    )


def refuse_hopeless(file: StudyFile, sizes: Sizes, max_params: int) -> None:
    """Refuse methods without any trainable configuration, whose share of the search would be spent on rejections.

    Raises:
        StudyFileError: If there are such methods; the message names each with the reason of its smallest or last candidate.
    """
    space, costs = file.joint_space(), file.costs(sizes, max_params=max_params)
    problems = []
    for method in space.methods:
        smallest: int | None = None
        reason = ""
        for config in (space.default(method), *_random_draws(space.only(method))):
            try:
                adapter_params, _ = sizes.count(config)
            except ValueError as error:
                reason = str(error)
                continue
            smallest = adapter_params if smallest is None else min(smallest, adapter_params)
            try:
                costs.check(config)
            except ValueError as error:
                reason = str(error)
                continue
            break
        else:
            if smallest is not None and smallest > max_params:
                reason = f"its smallest adapter has {smallest:,} parameters, budget.max_params is {max_params:,}"
            problems.append(f"methods: {method}: nothing to train: {reason}")
    if problems:
        tried = f"(of {N_FEASIBILITY_DRAWS + 1} configurations tried)"
        raise StudyFileError("\n".join(f"{problem} {tried}; widen the space or the limit" for problem in problems))


def refuse_impossible_values(file: StudyFile, sizes: Sizes) -> None:
    """Refuse values in the study file's space with which no configuration is possible.

    Raises:
        StudyFileError: If there are such values; the message names each with the reason of one configuration.
    """
    space = file.joint_space()
    problems = []
    for key, override in file.space.items():
        for method in space.methods:
            if key not in {knob.key for knob in space.knobs(method)}:
                continue
            for value in _extremes(override):
                reason = _why_impossible(space, method, {key: value}, sizes)
                if reason is not None:
                    problems.append(f"space.{key}: {value!r}: {reason}")
    if problems:
        raise StudyFileError("\n".join(dict.fromkeys(problems)))


def _extremes(override: Any) -> list[Any]:
    if isinstance(override, Mapping):
        return [override["low"], override["high"]]
    return list(override) if isinstance(override, list | tuple) else [override]


def _why_impossible(space: JointSpace, method: str, values: Config, sizes: Sizes) -> str | None:
    """Return why no configuration of a method with these values can be counted; None if one can."""
    reason: str | None = None
    for config in (space.default(method), *_random_draws(space.only(method), 10)):
        try:
            sizes.count(config | values)
        except ValueError as error:
            reason = str(error)
        else:
            return None
    return reason


def refuse_changes(record: StudyRow, file: StudyFile) -> None:
    """Refuse a changed study file: it is fixed when the study is created.

    Raises:
        StudyFileError: If it has changed; the message shows every key whose value differs.
    """
    then, now = _flat(check_stored(record.file).resolved()), _flat(file.resolved())
    changed = [key for key in sorted({*then, *now}) if then.get(key) != now.get(key)]
    if record.facts.pinned is not None and record.facts.pinned.data is not None:
        changed = [key for key in changed if key != "data.path"]  # a data set may move: it is compared file by file
    if record.facts.pinned is not None and record.facts.pinned.methods:
        changed = [key for key in changed if not key.startswith("method_files.")]  # compared by the digest of its code
    if changed:
        lines = "\n".join(f"  {key}: {then.get(key, 'not set')} -> {now.get(key, 'not set')}" for key in changed)
        raise StudyFileError(
            f"study {file.study} exists in {file.folder} and was created from another study file:\n{lines}\n"
            f"Give the new question another name (study: ...), or restore the old values."
        )


def refuse_other_place(record: StudyRow, file: StudyFile) -> None:
    """Refuse another checkpoint location: checkpoints stay where the study was created.

    Raises:
        StudyFileError: If the location has changed; the message names both locations.
    """
    if (there := record.facts.checkpoints) != file.shared:
        raise StudyFileError(
            f"study {file.study} has its checkpoints in {there or file.folder}, its study file names {file.shared or file.folder}: "
            "they stay where they were created; set that location (storage: ...), or give the study another name"
        )


def _random_draws(space: JointSpace, n: int = N_FEASIBILITY_DRAWS) -> Iterator[Config]:
    return SeededSampler.make("random", SamplerContext(space)).draws(n)


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, part in value.items():
        if isinstance(part, Mapping):
            flat |= _flat(part, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = part
    return flat
