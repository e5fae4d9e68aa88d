"""Random search: points drawn uniformly from a joint space."""

from __future__ import annotations

import math
import random

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.samplers.base import Answer, NewConfig, Result
from spaces import Config, JointSpace, Value


def draw_uniformly(space: JointSpace, rng: random.Random) -> Config:
    """Draw a method, then each of its knobs: choices with equal probability, ranges uniformly (in the logarithm if configured)."""
    method = rng.choice(space.methods)
    config: Config = {"method": method}
    for knob in space.knobs(method):
        config[knob.key] = _value(knob.distribution, rng)
    return config


def _value(values: BaseDistribution, rng: random.Random) -> Value:
    if isinstance(values, CategoricalDistribution):
        return rng.choice(values.choices)
    if isinstance(values, IntDistribution):
        if values.log:
            return min(
                values.high, max(values.low, round(math.exp(rng.uniform(math.log(values.low - 0.5), math.log(values.high + 0.5)))))
            )
        return rng.randrange(values.low, values.high + 1, values.step)
    if isinstance(values, FloatDistribution):
        if values.log:
            return min(values.high, max(values.low, math.exp(rng.uniform(math.log(values.low), math.log(values.high)))))
        if values.step is not None:
            return min(
                values.high, values.low + values.step * rng.randrange(int((values.high - values.low) / values.step + 1e-9) + 1)
            )
        return rng.uniform(values.low, values.high)
    raise TypeError(f"{values!r} is not one of Optuna's three distributions")


class RandomSampler:
    """A sampler that draws uniformly and learns nothing; see `search.samplers.base.Sampler`."""

    def __init__(self, space: JointSpace) -> None:
        self._space, self._n = space, 0

    def ask(self, seed: int) -> Answer:
        """Draw a configuration."""
        return NewConfig(draw_uniformly(self._space, random.Random(seed)))  # noqa: S311 - not cryptography

    def add(self, config: Config, *, drawn: bool) -> int:
        """Return the next ticket."""
        self._n += 1
        return self._n - 1

    def report(self, ticket: int, epoch: int, top1: float, size: float | None, seconds: float | None) -> None:
        """Learn nothing."""

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Learn nothing."""

    def promote(self, ticket: int) -> None:
        """Learn nothing."""

    def revise(self, ticket: int, top1: float, n_runs: int) -> None:
        """Learn nothing."""
