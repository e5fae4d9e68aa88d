"""The warm start of a study from others: their results for the sampler, and their fronts to try first.

A study of other data has accuracies on another scale. Its trials count with their standing among each other, and may be tried here.
A prior (`search.prior`) is what several such studies say together.

They are read once, when the study is created, and stored among its facts, so the study does not depend on the others afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from search.config.prior_file import read_prior
from search.config.study_file import StudyFile
from search.errors import StudyFileError
from search.front import front
from search.results.saved_study import load
from search.samplers.learning_curve import standings
from search.storage.facts import LearnedTrial, Pinned
from search.trial import PARAMETERS, State, Trial
from spaces import Config, key_of


def learn(file: StudyFile, pinned: Pinned | None = None) -> list[LearnedTrial]:
    """Read what a study file names of other studies.

    Raises:
        StudyFileError: If a source cannot be read, or contains nothing that this study can use.
    """
    return _of_studies(file, pinned) + ([] if file.search.prior is None else _of_prior(file, file.search.prior))


def _of_prior(file: StudyFile, path: Path) -> list[LearnedTrial]:
    """Read a prior: its first configurations, then the standings of others, moved to the nearest points of this study's space."""
    space, prior = file.joint_space(), read_prior(path)
    first = {key_of(config): config for config in map(space.nearest, prior.first) if config is not None}
    moved = [(space.nearest(one.config), one.standing) for one in prior.trials]
    learned = [LearnedTrial(config, None, None, True) for config in first.values()]
    learned += [LearnedTrial(config, None, None, False, standing) for config, standing in moved if config is not None]
    if not learned:
        raise StudyFileError(
            f"search.prior: {path} knows none of the methods {', '.join(file.methods)}; learn it from studies that have them"
        )
    return learned


def _of_studies(file: StudyFile, pinned: Pinned | None) -> list[LearnedTrial]:
    """Read the complete trials of other studies that are points of this study's space."""
    space, (objective, against) = file.joint_space(), file.objectives
    learned: list[LearnedTrial] = []
    for source in file.search.learn_from:
        complete = [trial for trial in _trials(source) if trial.state is State.COMPLETE and space.holds(trial.config)]
        _refuse_changed(file, source, pinned)
        judged = [t for t in complete if objective in t.metrics]
        if complete and not judged:
            raise StudyFileError(
                f"search.learn_from: {source} was not judged by {objective}, which this study's trials are; leave it out"
            )
        usable = [t for t in judged if against in PARAMETERS or against in t.metrics]
        trials = [replace(t, objective=objective, against=against) for t in usable]
        if not trials:
            of_cost = "" if against in PARAMETERS else f" with a {against}"
            raise StudyFileError(
                f"search.learn_from: {source} has no complete trial{of_cost} that is a point of this study's space"
            )
        members = {trial.number for trial in front(trials)}
        within = (
            [None] * len(trials)
            if _same_data(file, source, pinned)
            else standings([trial.objectives[0] for trial in trials]).tolist()
        )
        learned += [
            LearnedTrial(dict(t.config), *t.objectives, t.number in members, standing)
            for t, standing in zip(trials, within, strict=True)
        ]
    return learned


def _same_data(file: StudyFile, source: Path, pinned: Pinned | None) -> bool:
    """Return whether a study's accuracies can be compared with this one's: same data and backbone. A Parquet file does not say."""
    if not source.is_dir():
        return True
    row, now = load(source).row, file.resolved()
    then = row.facts.pinned
    if pinned is not None and then is not None and None not in (pinned.data, pinned.weights):
        return (then.data, then.weights) == (pinned.data, pinned.weights)
    return bool(row.file["data"] == now["data"] and row.file["backbone"] == now["backbone"])


def _refuse_changed(file: StudyFile, source: Path, pinned: Pinned | None) -> None:
    """Refuse a study on the same path or weights as this one, or with a method of the same name, if the files were others then."""
    if pinned is None or not source.is_dir():
        return
    row = load(source).row
    then = row.facts.pinned
    if then is None:
        return
    now = file.resolved()
    for what, section, digest, new in (
        ("data", "data", then.data, pinned.data),
        ("weights", "backbone", then.weights, pinned.weights),
    ):
        same_place = row.file[section] == now[section]
        if same_place and None not in (digest, new) and digest != new:
            raise StudyFileError(
                f"search.learn_from: {source} was measured on the same {section}, but its {what} have changed since: its "
                "accuracies cannot be compared with this study's; leave it out"
            )
    if other := sorted(name for name, digest in then.methods.items() if pinned.methods.get(name, digest) != digest):
        raise StudyFileError(
            f"search.learn_from: {source} has a method {other[0]} whose code is not this study's: its accuracies cannot be "
            "compared with this study's; leave it out, or rename the method"
        )


def _trials(source: Path) -> Sequence[Trial]:
    """Read the trials of a study's folder, or of the Parquet file that a study writes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.is_dir():
        return load(source).history
    try:
        rows = pq.read_table(source).to_pylist()
        return [_of_row(row) for row in rows]
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise StudyFileError(f"search.learn_from: {source} is neither a study's folder nor its trials.parquet ({reason})") from None


def _of_row(row: dict[str, Any]) -> Trial:
    knobs: Config = {key: row[key] for key in row if (key == "method" or "." in key) and row[key] is not None}
    metrics = {key: row[key] for key in row if "/" in key and row[key] is not None and math.isfinite(row[key])}
    return Trial(
        row["trial"], State(row["state"]), knobs, row["seed"], row["adapter_params"], row["head_params"], row["epochs"], metrics
    )
