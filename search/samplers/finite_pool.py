"""A finite set of configurations to choose from, such as the rows of a recorded table: each can be taken once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from search.samplers.encoding import Array, Coding
from search.samplers.shared_columns import SharedColumns
from spaces import Config, JointSpace, key_of


class FinitePool:
    """The remaining configurations of a pool.

    Args:
        space: The joint space of the configurations.
        configs: All configurations of the pool.
    """

    def __init__(self, space: JointSpace, configs: Sequence[Config]) -> None:
        self._coding = Coding(space)
        self._left = {key_of(config): config for config in configs}
        # The configurations of each method, in order, with their features, which define the distance between two of them.
        self._of = {method: [c for c in configs if c["method"] == method] for method in space.methods}
        self._shared = SharedColumns(space)
        self._features = {method: np.stack([self._distance_code(c) for c in rows]) for method, rows in self._of.items() if rows}

    def take(self, config: Mapping[str, object]) -> None:
        """Remove a configuration from the pool."""
        self._left.pop(key_of(config), None)

    def nearest(self, config: Config) -> Config:
        """Return the nearest unused configuration of the same method; else of all methods; else any used one.

        The distance is measured in knobs: two values of a named choice have distance 1, as have the ends of a scale or range. Other
        methods are compared by the knobs that they share (`search.samplers.shared_columns`).
        """
        method = str(config["method"])
        if method in self._features:
            target, rows = self._distance_code(config), self._of[method]
            distance = ((self._features[method] - target) ** 2).sum(1)
            for i in np.argsort(distance, kind="stable"):
                if key_of(rows[i]) in self._left:
                    return dict(rows[i])
        if not self._left:
            return dict(next(row for rows in self._of.values() for row in rows))
        target = self._code_in(self._shared, config)
        return dict(min(self._left.values(), key=lambda row: float(((self._code_in(self._shared, dict(row)) - target) ** 2).sum())))

    def _distance_code(self, config: Config) -> Array:
        return self._code_in(self._coding, config)

    def _code_in(self, coding: Coding, config: Config) -> Array:
        target: Array = coding.features(str(config["method"]), coding.code(config)[None, :], np.zeros(1))[0]
        return target
