"""The JSON form of trials and fronts that --json prints; other programs build on its fields."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.front import beside, front, hypervolume
from search.storage.rows import StudyRow, objectives_of
from search.trial import Trial


def trial_json(trial: Trial) -> dict[str, Any]:
    """Return one trial as plain JSON values (NaN is null). Other programs build on these fields: add fields, but keep these.

    `runs` is the study's metric of each complete run, if its trials may have several; the metrics are means over them then.
    """
    runs = {} if trial.n_folds is None and not trial.runs else {"n_folds": trial.n_folds, "runs": list(trial.values)}
    return runs | {
        "trial": trial.number,
        "state": trial.state.value,
        "method": trial.method,
        "config": dict(trial.config),
        "epochs": trial.epochs,
        "rung": trial.rung,
        "reason": trial.reason,
        "n_attempts": trial.n_attempts,
        "extends": trial.extends,
        "adapter_params": trial.adapter_params,
        "head_params": trial.head_params,
        "metrics": {key: value if math.isfinite(value) else None for key, value in trial.metrics.items()},
    }


def front_json(study: StudyRow, trials: Sequence[Trial], odds: Mapping[int, float] | None = None) -> dict[str, Any]:
    """Return the front as plain JSON values: `reference_point` as [metric, size], `members` as `trial_json`, smallest first.

    Each member also has `p_front`, its value in `odds` (the probability that it is truly on the front), null if it is unknown.
    """
    reference, known = study.facts.reference_point, odds or {}
    return {
        "study": study.name,
        "objectives": list(objectives_of(study.file)),
        "reference_point": [study.metric.score(reference[0]), reference[1]],
        "hypervolume": hypervolume(trials, reference),
        "members": [trial_json(trial) | {"p_front": known.get(trial.number)} for trial in front(trials)],
        "extended": [trial_json(trial) for trial in beside(trials)],
    }
