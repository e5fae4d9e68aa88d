"""What a space is: the knobs of a method, and several methods' spaces joined into one.

A space is data: Optuna distributions with a meaning, a unit and a source. It knows neither models nor training. Optuna is imported
by whoever samples; a space only holds its distribution objects.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

if TYPE_CHECKING:
    import optuna

Value = str | int | float | bool | None
Config = dict[str, Value]  # one point of a space: flat, dotted keys, "method" among them


def key_of(config: Mapping[str, object]) -> str:
    """A text that equal configurations share, and no others."""
    return json.dumps(config, sort_keys=True)


def in_words(values: BaseDistribution) -> str:
    """A distribution as a person would write it: `1, 2, 4` or `0.0001 to 0.02 (log)`."""
    if isinstance(values, CategoricalDistribution):
        return ", ".join(str(choice) for choice in values.choices)
    if isinstance(values, IntDistribution | FloatDistribution):
        return f"{values.low:g} to {values.high:g}" + (" (log)" if values.log else "")
    raise TypeError(f"{values!r} is none of Optuna's three distributions")


@dataclass(frozen=True)
class Knob:
    """One hyperparameter of a space.

    Attributes:
        key: Dotted name, the same in the study file, `--set`, Parquet and MLflow (`lily.rank`, `optim.lr`).
        distribution: The values that a search tries.
        default: The paper's value; the first configuration of a method that a search tries is made of defaults.
        meaning: One sentence.
        unit: What the value counts or measures ("" for a choice between names).
        source: Where range and default come from.
        sizes: Whether the number of trainable parameters depends on it.
    """

    key: str
    distribution: BaseDistribution
    default: Value
    meaning: str
    unit: str
    source: str
    sizes: bool = True

    @property
    def nearest_default(self) -> Value:
        """The default, or the value of the distribution that lies nearest to it (an override may exclude the paper's value)."""
        values = self.distribution
        if isinstance(values, CategoricalDistribution):
            if self.default in values.choices:
                return self.default
            if isinstance(self.default, int | float) and all(isinstance(v, int | float) for v in values.choices):
                default = self.default
                return min(values.choices, key=lambda v: abs(float(v) - default))  # type: ignore[arg-type]
            return values.choices[0]
        if isinstance(values, IntDistribution | FloatDistribution) and isinstance(self.default, int | float):
            return min(max(self.default, values.low), values.high)
        raise TypeError(f"{self.key}: no default can be found in {values!r}")

    @property
    def largest(self) -> float:
        """The largest value of a knob that has numbers."""
        values = self.distribution
        if isinstance(values, IntDistribution | FloatDistribution):
            return values.high
        if isinstance(values, CategoricalDistribution):
            return max(float(choice) for choice in values.choices if isinstance(choice, int | float))
        raise TypeError(f"{values!r} is none of Optuna's three distributions")

    def overridden(self, value: Any) -> Knob:
        """This knob with the values that a study file gives it.

        Args:
            value: A list (these values), a mapping `{low, high, log?, step?}` (this range) or a plain value (fixed).

        Raises:
            ValueError: if the override says nothing (an empty list, low above high, an unknown key).
        """
        return replace(self, distribution=_distribution(value))


def _distribution(value: Any) -> BaseDistribution:
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("an empty list leaves nothing to choose; give at least one value")
        return CategoricalDistribution(tuple(_plain(choice) for choice in value))
    if not isinstance(value, Mapping):
        return CategoricalDistribution((_plain(value),))
    if set(value) - {"low", "high", "log", "step"} or not {"low", "high"} <= set(value):
        raise ValueError(f"a range is {{low, high, log, step}} with low and high given, got {dict(value)!r}")
    low, high, log, step = value["low"], value["high"], bool(value.get("log", False)), value.get("step")
    if not all(isinstance(bound, int | float) and math.isfinite(bound) for bound in (low, high)):
        raise ValueError(f"low and high are finite numbers, got {low!r} and {high!r}")
    if low > high or (log and low <= 0):
        raise ValueError(f"a range needs low <= high (and low > 0 when log), got low={low!r}, high={high!r}")
    if step is not None and (log or not isinstance(step, int | float) or not step > 0 or not math.isfinite(step)):
        raise ValueError(f"a step is a number above 0, and a logarithmic range takes none, got step={step!r}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _plain(value: Any) -> Value:
    """A value that a knob can take; JSON must be able to hold it."""
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError(f"a knob's value is a number, a word or true and false, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a knob's value is finite, got {value!r}")
    return value


def _suggest(trial: optuna.Trial, key: str, values: BaseDistribution) -> Value:
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    if isinstance(values, FloatDistribution):
        return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
    raise TypeError(f"{key}: {values!r} is none of Optuna's three distributions")


def _contains(values: BaseDistribution, value: Value) -> bool:
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    if isinstance(values, IntDistribution | FloatDistribution):
        return isinstance(value, int | float) and values.low <= value <= values.high
    raise TypeError(f"{values!r} is none of Optuna's three distributions")


@dataclass(frozen=True)
class Space:
    """The knobs of one method, and where its paper's training recipe differs from the shared defaults.

    Attributes:
        method: The method's name.
        knobs: Its own knobs, each key beginning with the method's name and a dot.
        recipe: The paper's values of shared knobs (`optim.lr`) where they differ from the shared defaults.
    """

    method: str
    knobs: tuple[Knob, ...] = ()
    recipe: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class JointSpace:
    """Several methods' spaces as one: the method is asked for first, then its own knobs, then the shared ones.

    Attributes:
        spaces: One space per method, in the order of the study file.
        shared: The knobs of training, the same for every method.
    """

    spaces: tuple[Space, ...]
    shared: tuple[Knob, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in order."""
        return tuple(space.method for space in self.spaces)

    def only(self, method: str) -> JointSpace:
        """The part of this space that belongs to one method."""
        return JointSpace(tuple(space for space in self.spaces if space.method == method), self.shared)

    def knobs(self, method: str) -> tuple[Knob, ...]:
        """The knobs of a method, its own first, then the shared ones with the paper's defaults."""
        space = next(s for s in self.spaces if s.method == method)
        shared = (replace(k, default=space.recipe.get(k.key, k.default)) for k in self.shared)
        return (*space.knobs, *shared)

    def suggest(self, trial: optuna.Trial) -> Config:
        """Let an Optuna trial choose one point (define-by-run)."""
        method = trial.suggest_categorical("method", self.methods)
        config: Config = {"method": method}
        for knob in self.knobs(method):
            config[knob.key] = _suggest(trial, knob.key, knob.distribution)
        return config

    def distributions(self, method: str) -> dict[str, BaseDistribution]:
        """Key to distribution for the points of one method, the choice of the method included."""
        named: dict[str, BaseDistribution] = {"method": CategoricalDistribution(self.methods)}
        return named | {knob.key: knob.distribution for knob in self.knobs(method)}

    def holds(self, config: Config) -> bool:
        """Whether a configuration is a point of this space."""
        method = str(config["method"])
        if method not in self.methods:
            return False
        try:
            return all(_contains(knob.distribution, config[knob.key]) for knob in self.knobs(method))
        except KeyError:
            return False

    def default(self, method: str) -> Config:
        """The paper's configuration of a method, each knob moved to the nearest value that the space holds."""
        return {"method": method} | {knob.key: knob.nearest_default for knob in self.knobs(method)}

    def problems(self, overrides: Mapping[str, Any]) -> dict[str, str]:
        """What is wrong with each key of a study file's `space:` section; empty when nothing is."""
        keys = {knob.key for space in self.spaces for knob in space.knobs} | {knob.key for knob in self.shared}
        found = {}
        for key, value in overrides.items():
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, n=1)
                found[str(key)] = "no such knob" + (f"; did you mean {near[0]}?" if near else "")
                continue
            try:
                _distribution(value)
            except ValueError as error:
                found[key] = str(error)
        return found

    def with_overrides(self, overrides: Mapping[str, Any]) -> JointSpace:
        """This space with the study file's `space:` section applied.

        Raises:
            ValueError: naming every key that no method has (with the nearest one that exists) and every override that says nothing.
        """
        if problems := self.problems(overrides):
            raise ValueError("\n".join(f"{key}: {problem}" for key, problem in problems.items()))

        def applied(knobs: Sequence[Knob]) -> tuple[Knob, ...]:
            return tuple(k.overridden(overrides[k.key]) if k.key in overrides else k for k in knobs)

        return JointSpace(tuple(replace(s, knobs=applied(s.knobs)) for s in self.spaces), applied(self.shared))
