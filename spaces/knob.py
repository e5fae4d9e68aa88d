"""A knob: one hyperparameter with its distribution, default, meaning and source; and the overrides of a study file.

An override is a list (these values), a mapping `{low, high, log?, step?}` (this range), or a plain value (fixed).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

Value = str | int | float | bool | None


def in_words(values: BaseDistribution) -> str:
    """Describe a distribution in plain text: `1, 2, 4` or `0.0001 to 0.02 (log)`."""
    if isinstance(values, CategoricalDistribution):
        return ", ".join(str(choice) for choice in values.choices)
    if isinstance(values, IntDistribution | FloatDistribution):
        return f"{values.low:g} to {values.high:g}" + (" (log)" if values.log else "")
    raise TypeError(f"{values!r} is not one of Optuna's three distributions")


@dataclass(frozen=True)
class Knob:
    """One hyperparameter of a space.

    Attributes:
        key: Dotted name, the same in the study file, `--set`, Parquet and MLflow (`lily.rank`, `optim.lr`).
        distribution: Values that a search tries.
        default: Value in the paper; the first configuration of a method that a search tries consists of defaults.
        meaning: Description in one sentence.
        unit: Unit of the value ("" for a choice between names).
        source: Source of range and default.
        sizes: True if the number of trainable parameters depends on the knob.
        pattern: Regular expression of further words that are values; "" for none.
        bounds: Interval of all possible values, as "[0, 1)"; "" if the method or the backbone decides.
    """

    key: str
    distribution: BaseDistribution
    default: Value
    meaning: str
    unit: str
    source: str
    sizes: bool = True
    pattern: str = ""
    bounds: str = ""

    @property
    def nearest_default(self) -> Value:
        """The default, or the nearest value of the distribution (an override may exclude the paper's value)."""
        return self.nearest(self.default)

    def nearest(self, value: Value) -> Value:
        """Return the value of the distribution that is nearest to another; among words that do not hold it, the first.

        Raises:
            TypeError: If the distribution is a range, and the value is no number.
        """
        values = self.distribution
        if isinstance(values, CategoricalDistribution):
            if value in values.choices:
                return value
            if isinstance(value, int | float) and all(isinstance(v, int | float) for v in values.choices):
                return min(values.choices, key=lambda v: abs(float(v) - value))  # type: ignore[arg-type]
            return values.choices[0]
        if isinstance(values, IntDistribution | FloatDistribution) and isinstance(value, int | float):
            within = min(max(value, values.low), values.high)
            within = within if values.step is None else values.low + round((within - values.low) / values.step) * values.step
            return round(within) if isinstance(values, IntDistribution) else within
        raise TypeError(f"{self.key}: {values!r} has no default")

    @property
    def largest(self) -> float:
        """The largest value of a numeric knob."""
        values = self.distribution
        if isinstance(values, IntDistribution | FloatDistribution):
            return values.high
        if isinstance(values, CategoricalDistribution):
            return max(float(choice) for choice in values.choices if isinstance(choice, int | float))
        raise TypeError(f"{values!r} is not one of Optuna's three distributions")

    def typed(self, value: Any) -> Any:
        """Return an override of a study file with values of this knob's type: 0 becomes 0.0 where the knob is a real number.

        Args:
            value: Override, see the module.

        Raises:
            ValueError: If the override is no range, or one of its values has another type or is none of the choices; the message
                has the nearest value.
        """
        if isinstance(value, list | tuple):
            distribution_of(value)
            return [self._typed(choice) for choice in value]
        if not isinstance(value, Mapping):
            return self._typed(value)
        if (kind := self.kind) not in _NUMBERS:
            raise ValueError(f"a range needs numbers, and this knob is {_IN_WORDS[kind]}: {in_words(self.distribution)}")
        _refuse_other_keys(value)
        log = value.get("log", False)
        if not isinstance(log, bool):
            raise ValueError(f"log must be true or false, got {log!r}")
        if isinstance(step := value.get("step"), int | float) and not isinstance(step, bool) and step <= 0:
            raise ValueError(f"a step must be above 0, got {step!r}")
        unbound = replace(self, bounds="")
        found: dict[str, Any] = {}
        for key, part in value.items():
            plain = key == "log" or (key == "step" and part is None)
            found[key] = part if plain else (unbound if key == "step" else self)._typed(part)
        if found.get("step") is not None and {"low", "high"} <= found.keys():
            n_steps = (found["high"] - found["low"]) / found["step"]
            if abs(n_steps - round(n_steps)) > 1e-6:
                last = found["low"] + math.floor(n_steps + 1e-9) * found["step"]
                raise ValueError(
                    f"steps of {found['step']:g} do not lead from {found['low']:g} to {found['high']:g}; nearest high: {last:g}"
                )
        distribution_of(found)
        return found

    @property
    def kind(self) -> Any:
        """The type of the knob's values: bool, int, float or str."""
        if isinstance(self.distribution, IntDistribution):
            return int
        if isinstance(self.distribution, FloatDistribution):
            return float
        assert isinstance(self.distribution, CategoricalDistribution)  # noqa: S101 - Optuna has three
        kinds = {type(choice) for choice in self.distribution.choices} - {type(None)}
        return next(kind for kind in (str, float, int, bool) if kind in kinds)

    def _typed(self, value: Any) -> Any:
        kind = self.kind
        choices = self.distribution.choices if isinstance(self.distribution, CategoricalDistribution) else ()
        if value is None and None in choices:
            return None
        if kind is float and type(value) in (int, float):
            if not math.isfinite(value):
                raise ValueError(f"a knob's value must be finite, got {value!r}")
            return self._within(float(value))
        if type(value) is kind and kind is int:
            return self._within(value)
        if type(value) is kind and (kind is not str or value in choices or (self.pattern and re.fullmatch(self.pattern, value))):
            return value
        if kind is int and isinstance(value, float) and math.isfinite(value):
            raise ValueError(f"must be a whole number, got {value!r}; nearest: {round(value)}")
        if kind in _NUMBERS and isinstance(value, str):
            raise ValueError(f"must be {_IN_WORDS[kind]}, got the word {value!r}; write a number, without quotes")
        near = difflib.get_close_matches(str(value), [str(choice) for choice in choices], n=1) if kind is str else []
        listed = f" of {', '.join(str(choice) for choice in choices)}" if kind is str else ""
        also = f" (or {self.pattern})" if self.pattern else ""
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"must be {_IN_WORDS[kind]}{listed}{also}, got {value!r}{meant}")

    def _within(self, value: float) -> Value:
        """Check a number against `bounds`."""
        if not self.bounds:
            return value
        low, high = (float(bound) for bound in self.bounds[1:-1].split(","))
        open_below, open_above = self.bounds[0] == "(", self.bounds[-1] == ")"
        if value < low or (open_below and value == low):
            raise ValueError(f"must be in {self.bounds}, got {value!r}" + ("" if open_below else f"; nearest: {low:g}"))
        if value > high or (open_above and value == high):
            raise ValueError(f"must be in {self.bounds}, got {value!r}" + ("" if open_above else f"; nearest: {high:g}"))
        return value

    def overridden(self, value: Any) -> Knob:
        """Return this knob with the values that a study file assigns to it.

        Args:
            value: Override, see the module.

        Raises:
            ValueError: If the override is invalid (an empty list, low above high, an unknown key).
        """
        return replace(self, distribution=distribution_of(value))


_NUMBERS = (int, float)
_IN_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "one"}


def distribution_of(value: Any) -> BaseDistribution:
    """Return the distribution of an override.

    Raises:
        ValueError: If the override is invalid (an empty list, low above high, an unknown key).
    """
    if isinstance(value, list | tuple):
        if not value:
            raise ValueError("a list of values must not be empty; give at least one value")
        return CategoricalDistribution(tuple(_plain(choice) for choice in value))
    if not isinstance(value, Mapping):
        return CategoricalDistribution((_plain(value),))
    _refuse_other_keys(value)
    low, high, log, step = value["low"], value["high"], bool(value.get("log", False)), value.get("step")
    if not all(isinstance(bound, int | float) and math.isfinite(bound) for bound in (low, high)):
        raise ValueError(f"low and high must be finite numbers, got {low!r} and {high!r}")
    if low > high or (log and low <= 0):
        raise ValueError(f"a range needs low <= high (and low > 0 when log), got low={low!r}, high={high!r}")
    if step is not None and (log or not isinstance(step, int | float) or not step > 0 or not math.isfinite(step)):
        raise ValueError(f"a step must be a number above 0, and a logarithmic range has none, got step={step!r}")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=int(step or 1))
    return FloatDistribution(float(low), float(high), log=log, step=step)


def _refuse_other_keys(value: Mapping[str, Any]) -> None:
    if set(value) - {"low", "high", "log", "step"} or not {"low", "high"} <= set(value):
        values = next((part for part in value.values() if isinstance(part, list)), None)
        meant = "" if values is None else f"; for these values write the list alone: {values!r}"
        raise ValueError(f"a range must be {{low, high, log, step}} with at least low and high, got {dict(value)!r}{meant}")


def _plain(value: Any) -> Value:
    """Check that a knob can take a value and that JSON can represent it; return the value."""
    if value is not None and not isinstance(value, str | int | float | bool):
        raise ValueError(f"a knob's value must be a number, a word, true or false, got {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a knob's value must be finite, got {value!r}")
    return value
