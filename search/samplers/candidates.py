"""The candidates of the sampler `auto`: points drawn from the space and neighbours of good trials, or the rest of a pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.pareto import Axis
from search.samplers.encoding import Coding
from search.samplers.shared_columns import RATE
from spaces import Config, key_of

Array = NDArray[np.float64]
N_DRAWN, N_CHANGED = 320, 192  # candidates of one ask: drawn from the space, and modified from good trials
N_COUNTED = 100_000  # sizes that are remembered
N_SMALL = 64  # candidates of a method's smallest sensible size
N_NEAR = 3  # the same in a pool
N_STRUCTURES = 8  # different sizes among the points drawn for one method, which keeps counting cheap


class Point(NamedTuple):
    """One configuration.

    Attributes:
        method: Method of the configuration.
        code: Code (knobs,), see `search.samplers.encoding`.
        size: Size before training; above every limit for an invalid configuration.
        features: Features (F,), see `search.samplers.encoding`.
    """

    method: str
    code: Array
    size: float
    features: Array


class Candidates(NamedTuple):
    """A set of points to choose from: codes by method, and sizes and features of all points together."""

    points: list[tuple[str, Array]]
    sizes: NDArray[Any]
    features: Array

    def where(self, mask: NDArray[np.bool_]) -> Candidates | None:
        """Return the points with a mask (n,); None if there is none."""
        if not mask.any():
            return None
        ends = np.cumsum([len(codes) for _, codes in self.points])
        points = [(method, codes[part]) for (method, codes), part in zip(self.points, np.split(mask, ends[:-1]), strict=True)]
        return Candidates(points, self.sizes[mask], self.features[mask])

    def config(self, i: int, coding: Coding) -> Config:
        """Return the configuration of candidate `i`."""
        for method, codes in self.points:
            if i < len(codes):
                return coding.config(method, codes[i])
            i -= len(codes)
        raise IndexError(i)


class CandidateGenerator:
    """The source of candidates.

    Args:
        coding: Coding of the joint space.
        size: Function that returns a configuration's size before training; ValueError if it is invalid.
        max_size: Largest allowed size.
        axis: Axis of sizes.
        pool: The only available configurations; None for the whole space.
        n_structures: Number of different sizes among the points drawn for one method.
    """

    def __init__(
        self,
        coding: Coding,
        *,
        size: Callable[[Config], float],
        max_size: float,
        axis: Axis,
        pool: Sequence[Config] | None = None,
        n_structures: int = N_STRUCTURES,
    ) -> None:
        self.coding = coding
        self._size, self._max_size, self._axis, self._n_structures = size, max_size, axis, n_structures
        self._counted: dict[tuple[str, bytes], float] = {}  # sizes by method and the codes of the knobs that affect size
        self._taken: set[str] = set()
        self._pool = None if pool is None else [(key_of(config), self.point(config)) for config in pool]
        self._keys = None if self._pool is None else {key for key, _ in self._pool}

    def point(self, config: Config) -> Point:
        """Encode a configuration of the space."""
        method, code, size = str(config["method"]), self.coding.code(config), self._count(config)
        return Point(method, code, size, self._features(method, code[None, :], np.array([size]))[0])

    def take(self, config: Config) -> None:
        """Remove a configuration from the candidates."""
        self._taken.add(key_of(config))

    def is_taken(self, config: Config) -> bool:
        """Return whether a configuration is already known."""
        return key_of(config) in self._taken

    def is_available(self, config: Config) -> bool:
        """Return whether a configuration is not known yet, small enough, and in the pool if there is one."""
        if self.is_taken(config) or (self._keys is not None and key_of(config) not in self._keys):
            return False
        return self._count(config) <= self._max_size

    def smallest(self, method: str, default: Config, random: np.random.Generator) -> Candidates | None:
        """Return candidates of a method's smallest sensible size: its default with ranks and counts at their smallest values.

        The first one has the default's other knobs. The rest have other learning rates, and half of them other knobs too. In a
        pool, they are its nearest rows by the knobs that affect size, nearest to the default first.
        """
        columns, code = self.coding.columns[method], self.coding.code(default)
        numbers = [j for j in self.coding.sized[method] if columns[j].is_number]
        for j in numbers:
            code[j] = columns[j].smallest
        if self._pool is not None:
            return self._nearest(method, code)
        codes = np.tile(code, (N_SMALL, 1))
        for j, column in enumerate(columns):
            if j not in self.coding.sized[method]:
                first = 1 if column.key == RATE else N_SMALL // 2
                codes[first:, j] = column.draw(N_SMALL - first, random)
        return self._allowed([(method, codes)])

    def _nearest(self, method: str, code: Array) -> Candidates | None:
        pool = [(key, point) for key, point in self._pool or () if point.method == method and key not in self._taken]
        left = [point for _, point in pool if point.size <= self._max_size]
        if not left:
            return None
        features = np.stack([self.coding.features(method, point.code[None, :], np.zeros(1))[0] for point in left])
        wanted = self.coding.features(method, code[None, :], np.zeros(1))[0]
        ofsize = self.coding.columns_of(method, self.coding.sized[method])
        distance = ((features - wanted)[:, ofsize] ** 2).sum(1)
        near = np.flatnonzero(distance <= np.sort(distance)[min(N_NEAR, len(left)) - 1])
        rest = ((features - wanted) ** 2).sum(1)[near]
        return _together([left[i] for i in near[np.argsort(rest, kind="stable")]])

    def anything(self, random: np.random.Generator) -> Config:
        """Return any point of the space, of any size."""
        method = self.coding.methods[int(random.integers(len(self.coding.methods)))]
        return self.coding.config(method, self.coding.draw(method, 1, random)[0])

    def among(self, methods: Sequence[str], parents: Sequence[tuple[str, Array]], random: np.random.Generator) -> Candidates | None:
        """Return candidates of the given methods; None if none is valid and small enough.

        Args:
            methods: Methods of the candidates.
            parents: Pairs (method, code) of good trials, whose neighbours are candidates.
            random: Generator of the draws.
        """
        if self._pool is not None:
            self._pool = [(key, point) for key, point in self._pool if key not in self._taken]
            left = [point for _, point in self._pool if point.method in methods and point.size <= self._max_size]
            part = random.choice(len(left), size=(len(left) + 1) // 2, replace=False)  # half of it, as a space is only sampled too
            return _together([left[i] for i in np.sort(part)])
        drawn = [(m, self._drawn(m, max(N_STRUCTURES, N_DRAWN // len(methods)), random)) for m in methods]
        return self._allowed(drawn + self._changed(parents, methods, random))

    def _drawn(self, method: str, n: int, random: np.random.Generator) -> Array:
        """Draw codes of a method: few different settings of the knobs that affect its size, many of the others."""
        codes = self.coding.draw(method, n, random)
        sized = self.coding.sized[method]
        codes[:, sized] = codes[random.integers(min(n, self._n_structures), size=n)][:, sized]
        return codes

    def _changed(
        self, parents: Sequence[tuple[str, Array]], methods: Sequence[str], random: np.random.Generator
    ) -> list[tuple[str, Array]]:
        """Return neighbours of the parents; each method's share equals its share of the parents."""
        found = []
        for method in methods:
            if codes := [code for its_method, code in parents if its_method == method]:
                share = max(1, round(N_CHANGED * len(codes) / len(parents)))
                found.append((method, self.coding.change(method, np.stack(codes)[np.arange(share) % len(codes)], random)))
        return found

    def _allowed(self, points: list[tuple[str, Array]]) -> Candidates | None:
        """Keep valid and small enough points, with their sizes and features; each different size is counted once."""
        kept, sizes, features = [], [], []
        if len(self._counted) > N_COUNTED:  # a range that changes sizes has ever new ones
            self._counted.clear()
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
        """Return features (n, F); the unit of size is four decades, or the largest allowed size."""
        return self.coding.features(method, codes, self._axis.positions(sizes) / (1.0 if self._axis.linear else 4.0))


def _together(points: list[Point]) -> Candidates | None:
    if not points:
        return None
    codes = [(point.method, point.code[None, :]) for point in points]
    return Candidates(codes, np.array([point.size for point in points]), np.stack([point.features for point in points]))
