"""The importance of a method's knobs for its accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from search.metrics import METRICS, TOP1, Metric
from search.results.contributions import N_PLACES, N_POINTS
from search.samplers.encoding import Coding
from search.samplers.gaussian_process import Hyperparameters, Kernel, Surrogate, fit
from search.samplers.observations import Observations
from search.storage.rows import Report
from search.trial import State, Trial
from spaces import JointSpace

Array = NDArray[np.float64]
N_LEAST = 8  # trials that a method needs for a comparison of its knobs
N_OBSERVED = 512  # newest trials that importance is learnt from


def importance(
    space: JointSpace, trials: Iterable[Trial], reports: Iterable[Report], *, metric: Metric = METRICS[TOP1]
) -> Mapping[str, Mapping[str, float]]:
    """Return the share of the variance in a method's accuracy that each of its knobs explains alone.

    This is the first-order Sobol index (Sobol 1993) of the Gaussian process that `auto` predicts accuracies with: over the method's
    whole space, the variance of the mean accuracy at each value of the knob, divided by the total variance. Accuracies are in
    goodness, -log(error); stopped trials count with the value predicted from their curves. Effects of knobs that act only together
    are missing from the sum.

    Returns:
        Share in [0, 1] by method and knob, the largest first; a method with fewer than 8 trials is left out.
    """
    coding = Coding(space)
    known, tickets = Observations(len(coding.groups)), {}
    of = {trial.number: trial for trial in trials if space.holds(trial.config)}
    for number, trial in of.items():
        code = coding.code(trial.config)
        tickets[number] = known.add(trial.method, code, 0, coding.features(trial.method, code[None, :], np.zeros(1))[0])
    for report in reports:
        if report.trial in of and np.isfinite(value := report.metrics.get(metric.key, np.nan)):
            known.report(tickets[report.trial], metric.score(value))
    for number, trial in of.items():
        if trial.is_complete:
            known.complete(tickets[number], metric.score(trial.metrics[metric.key]))
        elif trial.state is State.FAILED:
            known.drop(tickets[number])
    observed = known.observed()[-N_OBSERVED:]
    if len(observed) < N_LEAST:
        return {}
    kernel, prior = Kernel(coding.groups, coding.shared), Hyperparameters.prior(np.ones(len(coding.names)).tolist())
    x, (y, extra) = known.features(observed), known.ends(observed)
    surrogate = Surrogate(kernel, fit(kernel, prior, x, y, extra), x, y, extra, pending=x[:0], pending_extra=0.0)
    n_of = {method: sum(known.methods[ticket] == method for ticket in observed) for method in space.methods}
    return {method: _of_method(coding, surrogate, method) for method in space.methods if n_of[method] >= N_LEAST}


def _of_method(coding: Coding, surrogate: Surrogate, method: str) -> dict[str, float]:
    random = np.random.default_rng(0)
    points = coding.draw(method, N_POINTS, random)

    def mean(codes: Array) -> Array:
        return surrogate.predict(coding.features(method, codes, np.zeros(len(codes))))[0]

    total = float(mean(points).var())
    found = {}
    for j, column in enumerate(coding.columns[method]):
        codes_of_column = np.arange(len(column.choices)) if column.choices is not None else (np.arange(N_PLACES) + 0.5) / N_PLACES
        levels = []
        for code_of_column in codes_of_column:
            moved = points[: N_POINTS // 4].copy()
            moved[:, j] = code_of_column
            levels.append(float(mean(moved).mean()))
        found[column.key] = min(1.0, float(np.var(levels)) / total) if total > 0 else 0.0
    return dict(sorted(found.items(), key=lambda item: -item[1]))
