"""What the sampler `auto` chooses among: points drawn from the space and neighbours of good trials, or what is left of a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.pareto import Axis
from search.samplers.encoding import Coding
from spaces import Config, JointSpace, key_of

Array = NDArray[np.float64]
N_DRAWN, N_CHANGED = 320, 192  # candidates of one ask: drawn from the space, and changed from good trials
N_STRUCTURES = 8  # different sizes among the drawn of one method, so that counting stays cheap


class Point(NamedTuple):
    """One configuration.

    Attributes:
        method: Its method.
        code: (knobs,) as in `search.samplers.encoding`.
        size: What is known of it before training; beyond every limit if it is impossible.
        features: (F,) as in `search.samplers.encoding`.
    """

    method: str
    code: Array
    size: float
    features: Array


class Candidates(NamedTuple):
    """Points to choose among: codes by method, and for all of them together sizes and features."""

    points: list[tuple[str, Array]]
    sizes: NDArray[Any]
    features: Array

    def config(self, i: int, coding: Coding) -> Config:
        """The configuration of candidate `i`."""
        for method, codes in self.points:
            if i < len(codes):
                return coding.config(method, codes[i])
            i -= len(codes)
        raise IndexError(i)


class CandidateGenerator:
    """All that there is to choose from.

    Args:
        space: The joint space.
        size: Of a configuration, known before training; ValueError if it is impossible.
        max_size: Largest that is wanted.
        axis: Where sizes lie.
        pool: The only configurations that there are; None for the whole space.
    """

    def __init__(
        self,
        space: JointSpace,
        *,
        size: Callable[[Config], float],
        max_size: float,
        axis: Axis,
        pool: Sequence[Config] | None = None,
    ) -> None:
        self.coding = Coding(space)
        self._size, self._max_size, self._axis = size, max_size, axis
        self._counted: dict[tuple[str, bytes], float] = {}  # sizes by method and the codes of the knobs that move them
        self._taken: set[str] = set()
        self._pool = None if pool is None else [(key_of(config), self.point(config)) for config in pool]

    def point(self, config: Config) -> Point:
        """A configuration of the space."""
        method, code, size = str(config["method"]), self.coding.code(config), self._count(config)
        return Point(method, code, size, self._features(method, code[None, :], np.array([size]))[0])

    def take(self, config: Config) -> None:
        """It is no candidate any more."""
        self._taken.add(key_of(config))

    def is_taken(self, config: Config) -> bool:
        """Whether it is known already."""
        return key_of(config) in self._taken

    def anything(self, random: np.random.Generator) -> Config:
        """Any point of the space, whatever its size."""
        method = self.coding.methods[int(random.integers(len(self.coding.methods)))]
        return self.coding.config(method, self.coding.draw(method, 1, random)[0])

    def among(self, methods: Sequence[str], parents: Sequence[tuple[str, Array]], random: np.random.Generator) -> Candidates | None:
        """Candidates of some methods; None if nothing is possible and small enough.

        Args:
            methods: Of these.
            parents: (method, code) of good trials, whose neighbours are candidates.
            random: Draws them.
        """
        if self._pool is not None:
            self._pool = [(key, point) for key, point in self._pool if key not in self._taken]
            left = [point for _, point in self._pool if point.method in methods and point.size <= self._max_size]
            part = random.choice(len(left), size=(len(left) + 1) // 2, replace=False)  # as a space is never seen whole either
            return _together([left[i] for i in np.sort(part)])
        drawn = [(m, self._drawn(m, max(N_STRUCTURES, N_DRAWN // len(methods)), random)) for m in methods]
        return self._allowed(drawn + self._changed(parents, methods, random))

    def _drawn(self, method: str, n: int, random: np.random.Generator) -> Array:
        """Codes of a method: few different settings of the knobs that move its size, many of the others."""
        codes = self.coding.draw(method, n, random)
        sized = self.coding.sized[method]
        codes[:, sized] = codes[random.integers(min(n, N_STRUCTURES), size=n)][:, sized]
        return codes

    def _changed(
        self, parents: Sequence[tuple[str, Array]], methods: Sequence[str], random: np.random.Generator
    ) -> list[tuple[str, Array]]:
        """Neighbours of the parents, each method's share as large as its share of them."""
        found = []
        for method in methods:
            if codes := [code for its_method, code in parents if its_method == method]:
                share = max(1, round(N_CHANGED * len(codes) / len(parents)))
                found.append((method, self.coding.change(method, np.stack(codes)[np.arange(share) % len(codes)], random)))
        return found

    def _allowed(self, points: list[tuple[str, Array]]) -> Candidates | None:
        """Those that are possible and small enough, with their sizes and features; each different size is counted once."""
        kept, sizes, features = [], [], []
        for method, codes in points:
            keys = [(method, row.tobytes()) for row in np.ascontiguousarray(codes[:, self.coding.sized[method]])]
            for key, code in zip(keys, codes, strict=True):
                if key not in self._counted:
                    self._counted[key] = self._count(self.coding.config(method, code))
            counted = np.array([self._counted[key] for key in keys])
            good = counted <= self._max_size
            if good.any():
                kept.append((method, codes[good]))
                sizes.append(counted[good])
                features.append(self._features(method, codes[good], counted[good]))
        return Candidates(kept, np.concatenate(sizes), np.concatenate(features)) if kept else None

    def _count(self, config: Config) -> float:
        try:
            return self._size(config)
        except ValueError:
            return self._max_size + 1

    def _features(self, method: str, codes: Array, sizes: NDArray[Any]) -> Array:
        """(n, F); a unit of size is four decades, or the largest that is wanted."""
        return self.coding.features(method, codes, self._axis.positions(sizes) / (1.0 if self._axis.linear else 4.0))


def _together(points: list[Point]) -> Candidates | None:
    if not points:
        return None
    codes = [(point.method, point.code[None, :]) for point in points]
    return Candidates(codes, np.array([point.size for point in points]), np.stack([point.features for point in points]))
