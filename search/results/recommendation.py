"""The recommendation of a study in one sentence: which adapter is worth its size.

A larger adapter has to be better by more than chance: the recommended member of a front is the smallest one within one standard
error of the best (Breiman, Friedman, Olshen and Stone 1984, section 3.4.3: the 1 SE rule).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from search.front import front
from search.metrics import TOP1
from search.results.noise import standard_error
from search.results.words import METHOD_NAMES, format_quantity
from search.trial import PARAMETERS, Trial


def recommended(trials: Iterable[Trial], n_validation: int | None) -> Trial | None:
    """Return the smallest member of the front within one standard error of the best; None for an empty front.

    Args:
        trials: Trials of one study.
        n_validation: Number of images that accuracies were measured on; None for exact accuracies. The best is recommended then,
            and where the standard error of the study's metric is unknown.
    """
    members = front(trials)
    if not members:
        return None
    least = members[-1].objectives[0] - (standard_error(members[-1], n_validation) or 0.0)
    return next(member for member in members if member.objectives[0] >= least)


def answer(trials: Iterable[Trial], n_validation: int | None) -> str:
    """Return one sentence: the recommended member, and its share of the best member's accuracy and size."""
    trials = list(trials)
    chosen = recommended(trials, n_validation)
    if chosen is None:
        return "No trial is complete yet, so there is no answer yet."
    best = front(trials)[-1]
    metric, error = best.metric, standard_error(best, n_validation)
    accuracy = metric.words(best.quality) + ("" if error is None else f" ± {metric.format(error)}")
    if metric.key != TOP1:
        accuracy = f"{metric.label} {accuracy}"
    if chosen.size == best.size:
        rest = "" if chosen.adapter_params else ", and needs no adapter at all"
        smaller = "; nothing smaller comes within one standard error" if error is not None and chosen.size else ""
        return f"{describe_trial(best)} is the best, {accuracy} with {cost_in_words(best)}{rest}{smaller}."
    accuracy_kept, size_kept = _share(chosen.quality / best.quality), _share(chosen.size / best.size)
    of_what, best_size = ("parameters", f"{best.size:,}") if best.against in PARAMETERS else (best.against, cost_in_words(best))
    kept = f"{accuracy_kept} of the best {metric.label} with {size_kept} of its {of_what}"
    told = f"{metric.words(chosen.quality)} with {cost_in_words(chosen)}, against {accuracy} with {best_size}"
    return f"{describe_trial(chosen)} keeps {kept} ({told}: {describe_trial(best)})."


def describe_trial(trial: Trial) -> str:
    """Return method, rank and adapted blocks: `LoRA r=2 on the last 4 blocks`."""
    words = [METHOD_NAMES.get(trial.method, trial.method)]
    words[0] = words[0][0].upper() + words[0][1:]
    if (rank := trial.config.get(f"{trial.method}.rank")) is not None:
        words.append(f"r={rank}")
    side, _, n = str(trial.config.get(f"{trial.method}.layers", "all")).partition("-")
    if n:
        words.append(f"on the {side} {n} blocks")
    return " ".join(words)


def cost_in_words(trial: Trial) -> str:
    """Return the size with its unit: `1,536 parameters`, `cost/gflops 0.01`."""
    if trial.against in PARAMETERS:
        return f"{trial.size:,} parameter{'' if trial.size == 1 else 's'}"
    return f"{trial.against} {format_quantity(trial.size)}"


def _share(ratio: float) -> str:
    """Return a ratio in percent; it is rounded to 0 or 100 only if it is exactly that."""
    value = 100.0 * ratio
    if 99.0 <= value < 100.0 or 0.0 < value < 1.0:
        return f"{math.floor(10 * value) / 10 if value >= 99.0 else value:.1f} %" if value >= 0.05 else "less than 0.1 %"
    return f"{value:.0f} %"
