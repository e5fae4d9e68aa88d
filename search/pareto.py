"""The Pareto mathematics of two objectives: accuracy (larger is better) and size (smaller is better).

A hypervolume is an area, so the scale of the size axis matters. Parameters are measured in decades, log10(1 + p): every tenfold
saving has the same value, and head-only (p = 0) has a finite position. Other costs (operations, time, memory) differ by factors
near one: their position is their share of the reference, in any unit (`linear`).

The code is exact, vectorised and independent of the rest of Paretune. A point is (top1, size); for another metric than accuracy,
`top1` is its score (`search.metrics`), which is at most 1 and may be negative. A point *dominates* another if
it is at least as good in both objectives and better in one. Equal points do not dominate each other, so ties stay on the front
together.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 2): top1, size


def non_dominated(points: Sequence[tuple[float, float]] | Points) -> NDArray[np.bool_]:
    """Return which points are not dominated by any other point.

    Args:
        points: Points (n, 2), top1 and size; infinities are allowed, NaN is not.

    Returns:
        (n,) booleans in the order of the points. O(n log n): sorted by size, a point survives if its accuracy exceeds that of
        every smaller point and equals the best at its own size.

    Raises:
        ValueError: If a coordinate is NaN.
    """
    array = _checked(points)
    if not len(array):
        return np.zeros(0, dtype=bool)
    top1, size = array[:, 0], array[:, 1]
    order = np.lexsort((-top1, size))  # by size, the most accurate of one size first
    top1, size = top1[order], size[order]
    first_of_size = np.concatenate(([True], size[1:] != size[:-1]))
    group = np.cumsum(first_of_size) - 1
    best_of_group = top1[first_of_size]
    best_of_smaller = np.concatenate(([-np.inf], np.maximum.accumulate(best_of_group)[:-1]))
    smallest_group = group == 0
    survives = (top1 == best_of_group[group]) & (smallest_group | (top1 > best_of_smaller[group]))
    mask = np.empty(len(array), dtype=bool)
    mask[order] = survives
    return mask


def hypervolume(points: Sequence[tuple[float, float]] | Points, reference: tuple[float, float], *, linear: bool = False) -> float:
    """Compute the area that the points dominate, down to a reference point.

    Args:
        points: Points (n, 2), top1 and size.
        reference: Worst point (top1, size) that still counts: usually chance level 1/C and `budget.max_params`.
        linear: True if positions of sizes are shares of the reference instead of decades.

    Returns:
        The area in accuracy x decades of size (or x shares of the reference). Points beyond the reference add nothing.
    """
    array = _checked(points)
    axis = Axis(reference[1], linear=linear)
    top1_floor, size_ceiling = reference[0], axis.end
    inside = array[(array[:, 0] > top1_floor) & (axis.positions(array[:, 1]) < size_ceiling)]
    front = inside[non_dominated(inside)]
    if not len(front):
        return 0.0
    front = np.unique(front[:, ::-1], axis=0)[:, ::-1]  # by size, equal points once
    on_axis = axis.positions(front[:, 1])
    right = np.append(on_axis[1:], size_ceiling)
    # Sorted by size, accuracy rises along the front: each point owns the strip up to its larger neighbour.
    return float(np.sum((right - on_axis) * (front[:, 0] - top1_floor)))


def ranks(points: Sequence[tuple[float, float]] | Points) -> NDArray[np.int64]:
    """Return how many fronts precede each point's own: 0 on the front, 1 on the front of the rest, and so on.

    Returns:
        (n,) ranks in the order of the points. It takes one pass of `non_dominated` for each front.

    Raises:
        ValueError: If a coordinate is NaN.
    """
    array = _checked(points)
    rank = np.zeros(len(array), dtype=np.int64)
    left = np.arange(len(array))
    while len(left):
        on_front = non_dominated(array[left])
        left = left[~on_front]
        rank[left] += 1
    return rank


def crowding(points: Sequence[tuple[float, float]] | Points) -> NDArray[np.float64]:
    """Return how isolated each point of a front is: the crowding distance of NSGA-II (Deb et al., 2002).

    Args:
        points: Points (n, 2), top1 and size, finite; usually of one rank.

    Returns:
        (n,) distances: the gaps between the point's two neighbours in each objective, as fractions of the objective's range
        (sizes as log10(1 + p)), summed; infinite for the first and last point of an objective. Among equal points, one gets the
        gap.
    """
    array = _checked(points)
    distance = np.zeros(len(array))
    if not len(array):
        return distance
    for values in (array[:, 0], np.log10(1.0 + array[:, 1])):
        order = np.argsort(values, kind="stable")
        span = values[order[-1]] - values[order[0]]
        if span > 0:
            distance[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
        distance[order[[0, -1]]] = np.inf
    return distance


def contributions(points: Sequence[tuple[float, float]] | Points, reference: tuple[float, float]) -> NDArray[np.float64]:
    """Return the hypervolume that the front would lose without each member; 0 for other points and for equal members."""
    array = _checked(points)
    lost = np.zeros(len(array))
    inside = np.flatnonzero((array[:, 0] > reference[0]) & (np.log10(1.0 + array[:, 1]) < _decades(reference[1])))
    on_front = inside[non_dominated(array[inside])]
    distinct, first, count = np.unique(array[on_front][:, ::-1], axis=0, return_index=True, return_counts=True)  # by size
    if not len(distinct):
        return lost
    decades, top1 = np.log10(1.0 + distinct[:, 0]), distinct[:, 1]
    right = np.append(decades[1:], _decades(reference[1]))
    below = np.concatenate(([reference[0]], top1[:-1]))
    # A point alone owns the strip up to its larger neighbour, above the accuracy of its smaller neighbour.
    lost[on_front[first]] = np.where(count == 1, (right - decades) * (top1 - below), 0.0)
    return lost


@dataclass(frozen=True)
class Axis:
    """The axis of sizes.

    Attributes:
        largest: Size of the reference point.
        linear: True if positions are shares of it, False if they are decades.
    """

    largest: float
    linear: bool = False

    def __call__(self, size: float) -> float:
        """Return the position of one size; 0 for size 0."""
        return size / self.largest if self.linear else _decades(size)

    def positions(self, sizes: NDArray[Any]) -> NDArray[np.float64]:
        """Return the positions (n,) of many sizes."""
        found: NDArray[np.float64] = sizes / self.largest if self.linear else np.log10(1.0 + sizes)
        return found

    @property
    def end(self) -> float:
        """The position of the reference point."""
        return self(self.largest)


class Front:
    """A front and its hypervolume, updated point by point.

    An insertion is a binary search and, if the point survives, one change of a list as long as the front: the number of points
    seen so far does not matter.

    Args:
        reference: Worst point (top1, size) that still counts towards the hypervolume.
        linear: Option of `hypervolume`.

    Attributes:
        axis: Axis of sizes.
    """

    def __init__(self, reference: tuple[float, float], *, linear: bool = False) -> None:
        self.axis = Axis(reference[1], linear=linear)
        self._floor, self._ceiling = reference[0], self.axis.end
        self._sizes: list[float] = []  # of the front's distinct points, ascending
        self._top1s: list[float] = []  # of the same points, ascending
        self._members: list[list[int]] = []  # numbers of the members at the same points
        self.hypervolume = 0.0

    def __len__(self) -> int:
        return sum(map(len, self._members))

    def __iter__(self) -> Iterator[int]:
        """Iterate over the members, smallest first; equal points in the order of insertion."""
        return (member for equals in self._members for member in equals)

    def add(self, top1: float, size: float, member: int) -> bool:
        """Insert a point.

        Args:
            top1: Accuracy of the point.
            size: Size of the point.
            member: Number of the point.

        Returns:
            True if it is on the front now; later points may remove it.

        Raises:
            ValueError: If a coordinate is NaN.
        """
        if math.isnan(top1) or math.isnan(size):
            raise ValueError("a Pareto point may not be NaN: such a trial is FAILED, not compared")
        before = bisect_right(self._sizes, size)  # points of this size or smaller
        if before and self._top1s[before - 1] >= top1:
            equal = self._top1s[before - 1] == top1 and self._sizes[before - 1] == size
            if equal:
                self._members[before - 1].append(member)
            return equal
        self.hypervolume += self.gain(top1, size)
        first = before - 1 if before and self._sizes[before - 1] == size else before
        last = bisect_right(self._top1s, top1, first)  # larger or equal points that are not more accurate are removed
        self._sizes[first:last], self._top1s[first:last], self._members[first:last] = [size], [top1], [[member]]
        return True

    def rebuild(self, points: Iterable[tuple[float, float, int]]) -> None:
        """Replace all points, each (top1, size, number): some of them have changed."""
        self._sizes, self._top1s, self._members, self.hypervolume = [], [], [], 0.0
        for point in points:
            self.add(*point)

    def gain(self, top1: float, size: float) -> float:
        """Compute the hypervolume that a point would add: its area above the front, strip by strip from its size upwards."""
        gain, left = 0.0, self.axis(size)
        if not (top1 > self._floor and left < self._ceiling):
            return 0.0
        n = bisect_right(self._sizes, size)
        level = self._top1s[n - 1] if n else -math.inf  # of the front on the strip that begins at `left`
        while left < self._ceiling and level < top1:
            right = min(self.axis(self._sizes[n]), self._ceiling) if n < len(self._sizes) else self._ceiling
            if right > left:
                gain += (right - left) * (top1 - max(level, self._floor))
            if n == len(self._sizes):
                break
            left, level, n = right, self._top1s[n], n + 1
        return gain

    def level(self, size: float) -> float:
        """Return the accuracy of the front at a size or below; minus infinity below its smallest member."""
        n = bisect_right(self._sizes, size)
        return self._top1s[n - 1] if n else -math.inf

    def strips(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the front as a staircase inside the reference point.

        Returns:
            (n + 1,) ascending edges, the positions of sizes from 0 to the reference, and (n,) the accuracy reached from each
            edge to the next, at least the reference's.
        """
        n = bisect_left(self._sizes, self._ceiling, key=self.axis)
        on_axis = [self.axis(size) for size in self._sizes[:n]]
        levels = [self._floor, *(max(top1, self._floor) for top1 in self._top1s[:n])]
        return np.array([0.0, *on_axis, self._ceiling]), np.array(levels)


def _decades(size: float) -> float:
    return math.log10(1.0 + size)


def _checked(points: Sequence[tuple[float, float]] | Points) -> Points:
    array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if np.isnan(array).any():
        raise ValueError("a Pareto point may not be NaN: such a trial is FAILED, not compared")
    return array
