"""The answer of a study with how sure it is: which adapter to take, what it will score, and what would change that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from search.results.belief import LEVEL, POINT, Belief, Choice
from search.results.recommendation import cost_in_words, describe_trial
from search.trial import Trial


@dataclass(frozen=True)
class SureAnswer:
    """An answer, with what it rests on.

    Attributes:
        belief: Belief about the study's complete trials.
        choice: The choice; None if no trial is complete or small enough.
        within: Loss against the best that is allowed, in the metric's own unit.
        max_size: Largest size that was asked for.
    """

    belief: Belief
    choice: Choice | None
    within: float
    max_size: float = math.inf

    @classmethod
    def of(cls, belief: Belief, *, within: float = POINT, max_size: float = math.inf) -> SureAnswer:
        """Choose the smallest trial that loses at most `within` (fraction) against the best, with probability 0.9."""
        return cls(belief, belief.choose(within=within, max_size=max_size), within, max_size)

    @property
    def trial(self) -> Trial | None:
        """The chosen trial."""
        return None if self.choice is None else self.belief.trials[self.choice.index]

    def __str__(self) -> str:
        """Return the answer in a few sentences."""
        belief, choice = self.belief, self.choice
        if choice is None:
            small = "" if math.isinf(self.max_size) else f" with at most {self.max_size:,.6g}"
            return f"No trial{small} is complete yet, so there is no answer yet."
        metric = belief.trials[choice.index].metric
        lost = f"{100 * self.within:g} point{'' if self.within == POINT else 's'}" if metric.in_percent else f"{self.within:g}"
        loses = f"at most {lost} against the best"
        limited = "" if math.isinf(self.max_size) else f" of at most {self.max_size:,.6g}"
        named = _named(belief.trials[choice.index])
        if choice.holds:
            said = [f"{named} loses {loses}{limited} with probability {choice.probability:.2f}."]
        else:
            sure = f"loses {loses} with probability {choice.probability:.2f}, less than {LEVEL:g}"
            said = [f"Not settled: {named} is expected to be the best{limited}, and {sure}."]
        low, high = sorted(map(metric.score, belief.interval(choice.index)))
        expected = metric.words(metric.score(float(belief.mean[choice.index])))
        said.append(
            f"Expect {expected} on new images ({metric.format(low)} to {metric.format(high)}); "
            f"{metric.words(belief.trials[choice.index].quality)} were measured."
        )
        said.append(self._next_point(choice.index))
        if choice.rival is not None:
            needed = metric.words(metric.score(float(np.quantile(belief.draws.max(1), 0.5)) - self.within))
            better = "above" if metric.larger_is_better else "below"
            said.append(
                f"{_named(belief.trials[choice.rival])} would do with probability {choice.rival_probability:.2f}: "
                f"to change the answer, it would have to be truly {better} {needed}."
            )
        return " ".join(said)

    def _next_point(self, index: int) -> str:
        found, in_points = self.belief.gain(index, POINT), self.belief.trials[index].metric.in_percent
        if found is None:
            return f"No larger one is expected to be {'a point' if in_points else f'{POINT:g}'} better."
        larger = self.belief.trials[found]
        return f"One more {'point' if in_points else f'{POINT:g}'} costs {cost_in_words(larger)} ({_named(larger, short=True)})."

    def as_json(self) -> Mapping[str, Any]:
        """Return the answer as JSON values, in the metric's own unit; accuracies are fractions."""
        belief, choice, p_front = self.belief, self.choice, self.belief.p_front()
        one: dict[str, Any] | None = None
        if choice is not None:
            rival = None if choice.rival is None else belief.trials[choice.rival].number
            one = {
                "trial": belief.trials[choice.index].number,
                "probability": choice.probability,
                "holds": choice.holds,
                "rival": rival,
            }
        return {
            "answer": str(self),
            "within": self.within,
            "max_size": None if math.isinf(self.max_size) else self.max_size,
            "choice": one,
            "trials": [
                {
                    "trial": trial.number,
                    "size": trial.size,
                    "measured": trial.quality,
                    "expected": trial.metric.score(float(mean)),
                    "interval": sorted(map(trial.metric.score, belief.interval(i))),
                    "p_front": float(p),
                }
                for i, (trial, mean, p) in enumerate(zip(belief.trials, belief.mean, p_front, strict=True))
            ],
        }


def _named(trial: Trial, *, short: bool = False) -> str:
    words = f"{describe_trial(trial)}, trial {trial.number}"
    return words if short else f"{words} ({cost_in_words(trial)})"
