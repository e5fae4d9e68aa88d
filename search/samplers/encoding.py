"""Points of a joint space as numbers, in which a surrogate measures distances; many are drawn and modified at a time.

A *code* is a row of numbers, one for each knob of the method: the index of a choice, or the position in a range between 0 and 1
(in the logarithm for logarithmic ranges). *Features* are columns that all methods share. Equal knob names of several methods
(`rank`, `scale`, `layers`) have separate columns for each method but one weight, so that results of one method help the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import Config, JointSpace, Value
from spaces.knob import Knob

Array = NDArray[np.float64]


class Column:
    """One knob: its values as codes, and the features of a code.

    Args:
        knob: The knob.
    """

    def __init__(self, knob: Knob) -> None:
        self.key, self.suffix = knob.key, knob.key.partition(".")[2]
        self.values: BaseDistribution = knob.distribution
        choices = self.values.choices if isinstance(self.values, CategoricalDistribution) else None
        self.choices = None if choices is None else list(choices)
        self.ordered = self.choices is None or (
            len(self.choices) > 2 and all(isinstance(c, int | float) and not isinstance(c, bool) for c in self.choices)
        )
        self.width = 1 if self.ordered or self.choices is None else (len(self.choices) if len(self.choices) > 1 else 0)
        if self.choices is not None:
            self._features = self._of_choices()

    def _of_choices(self) -> Array:
        """Return features (choices, width): positions on a scale for numeric choices, else one column for each choice."""
        choices = self.choices or []
        if not self.ordered:
            return np.eye(len(choices)) / math.sqrt(2.0) if len(choices) > 1 else np.zeros((1, 0))  # distance 1 between two names
        ranks = np.argsort(np.argsort(np.asarray(choices, dtype=np.float64)))
        return (ranks / (len(choices) - 1))[:, None]

    @property
    def ends(self) -> list[Value]:
        """The choices of the knob, or the ends of its range."""
        if self.choices is not None:
            return self.choices
        values = cast(FloatDistribution | IntDistribution, self.values)
        return [values.low, values.high]

    @property
    def is_number(self) -> bool:
        """True if all values are numbers."""
        return all(isinstance(value, int | float) and not isinstance(value, bool) for value in self.ends)

    @property
    def smallest(self) -> float:
        """The code of the smallest value of a number."""
        return 0.0 if self.choices is None else float(np.argmin(np.array(self.choices, dtype=np.float64)))

    def draw(self, n: int, random: np.random.Generator) -> Array:
        """Draw `n` codes, uniform over the choices or the range."""
        return random.integers(len(self.choices), size=n).astype(float) if self.choices is not None else random.random(n)

    def numbers(self, codes: Array) -> Array:
        """Return the values (n,) of codes of a knob whose values are numbers; a range is not rounded to its steps."""
        if self.choices is not None:
            return np.array(self.choices, dtype=np.float64)[codes.astype(np.int64)]
        values = cast(FloatDistribution | IntDistribution, self.values)
        low, high = float(values.low), float(values.high)
        found: Array = low * (high / low) ** codes if values.log else low + codes * (high - low)
        return found

    def features(self, codes: Array) -> Array:
        """Convert codes (n,) to features (n, width)."""
        return self._features[codes.astype(np.int64)] if self.choices is not None else codes[:, None]

    def value(self, code: float) -> Value:
        """Return the value of a code."""
        if self.choices is not None:
            return self.choices[int(code)]
        values = cast(FloatDistribution | IntDistribution, self.values)
        low, high = float(values.low), float(values.high)
        number = math.exp(math.log(low) + code * (math.log(high) - math.log(low))) if values.log else low + code * (high - low)
        if values.step is not None and not values.log:
            number = low + round((number - low) / values.step) * values.step
        number = min(max(number, low), high)
        return round(number) if isinstance(values, IntDistribution) else number

    def code(self, value: Value) -> float:
        """Return the code of a value.

        Raises:
            ValueError: If the knob cannot take the value.
        """
        if self.choices is not None:
            return float(self.choices.index(value))
        values = cast(FloatDistribution | IntDistribution, self.values)
        if not isinstance(value, int | float) or not values.low <= value <= values.high:
            raise ValueError(f"{self.key}: {value!r} is outside its range")
        if values.low == values.high:
            return 0.5
        if values.log:
            return (math.log(value) - math.log(values.low)) / (math.log(values.high) - math.log(values.low))
        return (value - values.low) / (values.high - values.low)


class Coding:
    """The codes and features of a joint space."""

    def __init__(self, space: JointSpace) -> None:
        self.methods = space.methods
        self.columns = {method: [Column(knob) for knob in space.knobs(method)] for method in self.methods}
        shared = {knob.key for knob in space.shared}
        names = ["size", *(f"shared {knob.suffix}" for knob in self.columns[self.methods[0]] if knob.key in shared), "method"]
        self._columns: dict[tuple[str, str], slice] = {}  # (method, key) -> columns of the features
        groups, is_shared = [0], [True]
        for key, column in ((c.key, c) for c in self.columns[self.methods[0]] if c.key in shared):
            columns = slice(len(groups), len(groups) + column.width)
            self._columns |= {(method, key): columns for method in self.methods}
            groups += [names.index(f"shared {column.suffix}")] * column.width
            is_shared += [True] * column.width
        self._method_at = len(groups)
        groups += [names.index("method")] * len(self.methods)
        is_shared += [False] * len(self.methods)
        for method in self.methods:
            for column in self.columns[method]:
                if column.key in shared:
                    continue
                if column.suffix not in names:
                    names.append(column.suffix)
                self._columns[method, column.key] = slice(len(groups), len(groups) + column.width)
                groups += [names.index(column.suffix)] * column.width
                is_shared += [False] * column.width
        self.sized = {m: [j for j, knob in enumerate(space.knobs(m)) if knob.sizes] for m in self.methods}
        self.names = names  # of the groups
        self.groups, self.shared = np.array(groups), np.array(is_shared)
        self.labels = self._labels()

    def _labels(self) -> list[tuple[object, ...]]:
        """Return a label (F,) of each feature column, equal for the columns of knobs that methods have in common by name."""
        labels: list[tuple[object, ...]] = [(i,) for i in range(len(self.groups))]
        for method, columns in self.columns.items():
            for column in columns:
                at = self._columns[method, column.key]
                labels[at] = [(column.suffix, column.width, j) for j in range(column.width)]
        return labels

    def columns_of(self, method: str, knobs: Sequence[int]) -> list[int]:
        """Return the feature columns of some knobs of a method, given by their indices."""
        return [i for j in knobs for i in range(*self._columns[method, self.columns[method][j].key].indices(len(self.groups)))]

    def draw(self, method: str, n: int, random: np.random.Generator) -> Array:
        """Draw codes (n, knobs), uniform over the method's space."""
        return np.stack([column.draw(n, random) for column in self.columns[method]], axis=1)

    def change(self, method: str, codes: Array, random: np.random.Generator) -> Array:
        """Return neighbours (n, knobs) of some points: one or two knobs are redrawn, ranges are moved by about a tenth."""
        columns, changed = self.columns[method], codes.copy()
        touched = random.random(codes.shape) < 1.5 / len(columns)
        touched[np.arange(len(codes)), random.integers(len(columns), size=len(codes))] = True
        for j, column in enumerate(columns):
            rows = np.flatnonzero(touched[:, j])
            if column.choices is None:
                moved = codes[rows, j] + 0.1 * random.standard_normal(len(rows))
                changed[rows, j] = np.clip(moved, 0.0, 1.0)
            else:
                changed[rows, j] = column.draw(len(rows), random)
        return changed

    def config(self, method: str, code: Array) -> Config:
        """Return the configuration of one code."""
        config: Config = {"method": method}
        for column, number in zip(self.columns[method], code, strict=True):
            config[column.key] = column.value(float(number))
        return config

    def code(self, config: Mapping[str, Value]) -> Array:
        """Return the code of a configuration, (knobs,).

        Raises:
            ValueError, KeyError: If it is not a point of the space.
        """
        return np.array([column.code(config[column.key]) for column in self.columns[str(config["method"])]])

    def features(self, method: str, codes: Array, sizes: Array) -> Array:
        """Return features (n, F) of one method's codes, and of sizes on a scale whose unit is about the whole range."""
        found = np.zeros((len(codes), len(self.groups)))
        found[:, 0] = sizes
        found[:, self._method_at + self.methods.index(method)] = 1.0 / math.sqrt(2.0)
        for j, column in enumerate(self.columns[method]):
            found[:, self._columns[method, column.key]] = column.features(codes[:, j])
        return found
