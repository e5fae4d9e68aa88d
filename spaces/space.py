"""The search space of a method, and the joint space of several methods.

A space is data: Optuna distributions with a meaning, a unit and a source. It depends on neither models nor training. A space only
holds Optuna's distribution objects; drawing from them is left to the samplers.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)

from spaces.knob import Knob, Value, distribution_of

if TYPE_CHECKING:
    import optuna

Config = dict[str, Value]  # one point of a space: flat, dotted keys, "method" among them


def key_of(config: Mapping[str, object]) -> str:
    """Return a string that is equal exactly for equal configurations."""
    return json.dumps(config, sort_keys=True)


def _suggest(trial: optuna.Trial, key: str, values: BaseDistribution) -> Value:
    if isinstance(values, CategoricalDistribution):
        return trial.suggest_categorical(key, values.choices)
    if isinstance(values, IntDistribution):
        return trial.suggest_int(key, values.low, values.high, step=values.step, log=values.log)
    if isinstance(values, FloatDistribution):
        return trial.suggest_float(key, values.low, values.high, step=values.step, log=values.log)
    raise TypeError(f"{key}: {values!r} is not one of Optuna's three distributions")


def _contains(values: BaseDistribution, value: Value) -> bool:
    if isinstance(values, CategoricalDistribution):
        return value in values.choices
    if isinstance(values, IntDistribution | FloatDistribution):
        return isinstance(value, int | float) and values.low <= value <= values.high
    raise TypeError(f"{values!r} is not one of Optuna's three distributions")


@dataclass(frozen=True)
class Space:
    """The knobs of one method, and the shared defaults that its paper's training recipe changes.

    Attributes:
        method: Name of the method.
        knobs: Knobs of the method; each key starts with the method's name and a dot.
        recipe: Paper's values of shared knobs (`optim.lr`) that differ from the shared defaults.
    """

    method: str
    knobs: tuple[Knob, ...] = ()
    recipe: Mapping[str, Value] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the space as plain JSON values, for ledgers: `from_json` restores it without running the code of a method."""
        knobs = [{**vars(knob), "distribution": json.loads(distribution_to_json(knob.distribution))} for knob in self.knobs]
        return {"method": self.method, "knobs": knobs, "recipe": dict(self.recipe)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Space:
        """Return the space of `as_json`.

        Raises:
            ValueError: If it is none.
        """
        try:
            knobs = [{**knob, "distribution": json_to_distribution(json.dumps(knob["distribution"]))} for knob in stored["knobs"]]
            return cls(stored["method"], tuple(Knob(**knob) for knob in knobs), stored["recipe"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"is not the stored space of a method ({type(error).__name__}: {error})") from error


@dataclass(frozen=True)
class JointSpace:
    """The joint space of several methods: a point chooses the method, then the method's own knobs, then the shared ones.

    Attributes:
        spaces: Spaces of the methods, in the order of the study file.
        shared: Training knobs, the same for every method.
    """

    spaces: tuple[Space, ...]
    shared: tuple[Knob, ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods, in order."""
        return tuple(space.method for space in self.spaces)

    def only(self, method: str) -> JointSpace:
        """Return the part of this space that belongs to one method."""
        return JointSpace(tuple(space for space in self.spaces if space.method == method), self.shared)

    def knobs(self, method: str) -> tuple[Knob, ...]:
        """Return the knobs of a method: its own, then the shared ones with the paper's defaults."""
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
        """Return the distributions of the points of one method by key, including the choice of the method."""
        named: dict[str, BaseDistribution] = {"method": CategoricalDistribution(self.methods)}
        return named | {knob.key: knob.distribution for knob in self.knobs(method)}

    def holds(self, config: Config) -> bool:
        """Return whether a configuration is a point of this space."""
        method = str(config["method"])
        if method not in self.methods:
            return False
        try:
            return all(_contains(knob.distribution, config[knob.key]) for knob in self.knobs(method))
        except KeyError:
            return False

    def default(self, method: str) -> Config:
        """Return the paper's configuration of a method, with each knob moved to the nearest value in the space."""
        return {"method": method} | {knob.key: knob.nearest_default for knob in self.knobs(method)}

    def nearest(self, config: Mapping[str, Value]) -> Config | None:
        """Return the point that is nearest to a configuration of another space, with defaults for what it lacks.

        Return None if its method is not in this space, or one of its values has another type than the knob.
        """
        method = str(config.get("method"))
        if method not in self.methods:
            return None
        found: Config = {"method": method}
        try:
            for knob in self.knobs(method):
                found[knob.key] = knob.nearest(config[knob.key]) if knob.key in config else knob.nearest_default
        except TypeError:
            return None
        return found

    def expanded(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """Return a `space:` section in which `*.layers` stands for this knob of every method that has it.

        A knob that is also named itself keeps its own value. A key that stands for nothing stays as it is.
        """
        found = dict[str, Any]()
        for key, value in overrides.items():
            knobs = [k.key for s in self.spaces for k in s.knobs if str(key) == f"*.{k.key.partition('.')[2]}"]
            found |= {knob: value for knob in knobs if knob not in overrides} if knobs else {key: value}
        return found

    def problems(self, overrides: Mapping[str, Any]) -> dict[str, str]:
        """Return the problem of each invalid key in a study file's `space:` section; empty if all are valid."""
        keys = {knob.key for space in self.spaces for knob in space.knobs} | {knob.key for knob in self.shared}
        found = {}
        for key, value in overrides.items():
            if key not in keys:
                every = {f"*.{known.partition('.')[2]}" for known in keys} if str(key).startswith("*.") else keys
                near = difflib.get_close_matches(str(key).casefold(), every, n=1)
                found[str(key)] = "no such knob" + (f"; did you mean {near[0]}?" if near else "")
                continue
            try:
                distribution_of(value)
            except ValueError as error:
                found[key] = str(error)
        return found

    def typed(self, overrides: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """Return a `space:` section with values of its knobs' types, and the problem of each key that has other values.

        A knob of two methods has the same type in both.
        """
        knobs = {knob.key: knob for space in self.spaces for knob in space.knobs} | {knob.key: knob for knob in self.shared}
        values, problems = dict[str, Any](), dict[str, str]()
        for key, value in overrides.items():
            try:
                values[key] = knobs[key].typed(value) if key in knobs else value
            except ValueError as error:
                problems[key] = str(error)
        return values, problems

    def with_overrides(self, overrides: Mapping[str, Any]) -> JointSpace:
        """Return this space with the study file's `space:` section applied.

        Raises:
            ValueError: If keys are unknown or overrides invalid; the message names each of them, with the nearest known key.
        """
        if problems := self.problems(overrides):
            raise ValueError("\n".join(f"{key}: {problem}" for key, problem in problems.items()))

        def applied(knobs: Sequence[Knob]) -> tuple[Knob, ...]:
            return tuple(k.overridden(overrides[k.key]) if k.key in overrides else k for k in knobs)

        return JointSpace(tuple(replace(s, knobs=applied(s.knobs)) for s in self.spaces), applied(self.shared))
