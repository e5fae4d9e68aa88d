"""Features in which knobs of one meaning are the same columns for every method, so that each method learns from all others.

`Coding` gives each method its own columns of `rank`, `scale`, `layers`, ...: that a factor of 10 at this learning rate diverges is
learnt again for each method. Here knobs of one meaning share their columns, on one scale, and a method without the knob has the
value with which the knob would do nothing (`NEUTRAL`). One more column is the size of a step: learning rate times factor of the
update, because an optimiser like Adam moves a weight by about the learning rate, and the factor multiplies the move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np

from search.samplers.encoding import Array, Coding, Column
from spaces import JointSpace, Value
from spaces.knob import Knob

NEUTRAL: Mapping[str, Value] = {"scale": 1.0, "dropout": 0.0, "layers": "all"}
MIDDLE = 0.5  # feature of a number that a method does not have, and that has no neutral value
STEP = "shared step"  # group of the column of the step's size
RATE, FACTOR = "optim.lr", "scale"  # key of the learning rate, meaning of the factor of the update
STEP_DECADES = 3.0  # unit of the step's size
LEAST_STEP = 1e-9  # of the rate and of the factor: a logarithm needs more than 0


def meaning(key: str) -> str:
    """Return the meaning of a method's knob, which knobs of other methods may share: `rank` for `lora.rank` and `peft.lora.r`."""
    name = key.rpartition(".")[2]
    return {"r": "rank"}.get(name, "dropout" if name.endswith("dropout") else name)


class SharedColumns(Coding):
    """Codes as in `Coding`, and features with shared columns.

    Args:
        space: The joint space.
    """

    def __init__(self, space: JointSpace) -> None:
        super().__init__(space)
        training = {knob.key for knob in space.shared}
        together: dict[tuple[str, bool], dict[str, int]] = {}  # (meaning, is it a number) -> method -> index of the knob
        for method, columns in self.columns.items():
            for j, column in enumerate(columns):
                if column.key not in training:
                    together.setdefault((meaning(column.key), column.is_number), {})[method] = j
        for (name, number), places in together.items():
            known = [value for method, j in places.items() for value in self.columns[method][j].ends] + _neutral_zero(name, number)
            for method, j in places.items():
                knob = space.knobs(method)[j]
                self.columns[method][j] = _OnScale(knob, cast("list[float]", known)) if number else _Named(knob, known)
        self._lay_out(training, together)

    def _lay_out(self, training: set[str], together: Mapping[tuple[str, bool], Mapping[str, int]]) -> None:
        """Assign the columns: size, training knobs, the methods' knobs by meaning, the step's size, and the method."""
        self._columns = {}
        self._neutral: list[tuple[slice, Array, set[str]]] = []  # columns, features, and methods without the knob
        names, groups, common = ["size"], [0], [True]

        def place(name: str, width: int, *, shared: bool) -> slice:
            names.append(name)
            groups.extend([len(names) - 1] * width)
            common.extend([shared] * width)
            return slice(len(groups) - width, len(groups))

        for column in self.columns[self.methods[0]]:
            if column.key in training:
                at = place(f"shared {column.suffix}", column.width, shared=True)
                self._columns |= {(method, column.key): at for method in self.methods}
        for (name, _), places in together.items():
            method, j = next(iter(places.items()))
            first = cast("_OnScale | _Named", self.columns[method][j])
            at = place(name, first.width, shared=len(places) > 1)
            self._columns |= {(method, self.columns[method][j].key): at for method, j in places.items()}
            self._neutral.append((at, first.without(name), set(self.methods) - places.keys()))
        self._step_at = place(STEP, 1, shared=True).start
        self._method_at = place("method", len(self.methods), shared=False).start
        self.names, self.groups, self.shared = names, np.array(groups), np.array(common)
        self.labels = [(i,) for i in range(len(groups))]

    def features(self, method: str, codes: Array, sizes: Array) -> Array:
        """Return features (n, F) of one method's codes, and of sizes on a scale whose unit is about the whole range."""
        found = super().features(method, codes, sizes)
        for at, neutral, missing in self._neutral:
            if method in missing:
                found[:, at] = neutral
        for j, column in enumerate(self.columns[method]):
            if column.key == RATE or (meaning(column.key) == FACTOR and isinstance(column, _OnScale)):
                found[:, self._step_at] += np.log10(np.maximum(column.numbers(codes[:, j]), LEAST_STEP)) / STEP_DECADES
        return found


class _OnScale(Column):
    """A number on the scale that all methods with it share; it has no column if all have one value."""

    def __init__(self, knob: Knob, known: Sequence[float]) -> None:
        super().__init__(knob)
        self._known = np.array(sorted(set(known)), dtype=np.float64)
        self.width = int(len(self._known) > 1)

    def _place(self, numbers: Array) -> Array:
        """Return features (n, width): in the logarithm, or by rank among the known values if one of them is not positive."""
        known = self._known
        if not self.width:
            return np.zeros((len(numbers), 0))
        if known[0] > 0:
            found: Array = np.log(numbers / known[0])[:, None] / math.log(known[-1] / known[0])
            return found
        return np.interp(numbers, known, np.linspace(0.0, 1.0, len(known)))[:, None]

    def features(self, codes: Array) -> Array:
        """Convert codes (n,) to features (n, width)."""
        return self._place(self.numbers(codes))

    def without(self, name: str) -> Array:
        """Return the features (width,) of a method without the knob."""
        value = NEUTRAL.get(name)
        return self._place(np.array([value]))[0] if isinstance(value, float) else np.full(self.width, MIDDLE)


class _Named(Column):
    """A choice among the names of all methods with it; the only one has no column."""

    def __init__(self, knob: Knob, known: Sequence[Value]) -> None:
        super().__init__(knob)
        self._known = sorted({str(value) for value in known})
        self.width = len(self._known) if len(self._known) > 1 else 0
        self._features = np.stack([self._place(choice) for choice in self.choices or ()])

    def _place(self, value: Value) -> Array:
        """Return features (width,): the distance of two names is 1."""
        return np.array([str(value) == name for name in self._known[: self.width]]) / math.sqrt(2.0)

    def features(self, codes: Array) -> Array:
        """Convert codes (n,) to features (n, width)."""
        return self._features[codes.astype(np.int64)]

    def without(self, name: str) -> Array:
        """Return the features (width,) of a method without the knob."""
        return self._place(NEUTRAL.get(name))


def _neutral_zero(name: str, number: bool) -> list[Value]:
    """Return the neutral value of a number if it is 0, which must be on a scale by ranks."""
    return [0.0] if number and NEUTRAL.get(name) == 0.0 else []
