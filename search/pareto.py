"""Pareto mathematics in two objectives: accuracy (larger is better) and size (smaller is better).

Exact, vectorised and free of any other part of Paretune. A point is (top1, size); a point *dominates* another when it is at least
as good in both objectives and better in one. Equal points do not dominate each other, so ties stay on the front together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]  # (n, 2): top1, size


def non_dominated(points: Sequence[tuple[float, float]] | Points) -> NDArray[np.bool_]:
    """Which points no other point dominates.

    Args:
        points: (n, 2), top1 and size; infinities are allowed, NaN is not.

    Returns:
        (n,) booleans in the order of the points. O(n log n): sorted by size, a point survives when its accuracy exceeds that of
        every smaller point and equals the best at its own size.

    Raises:
        ValueError: if a coordinate is NaN.
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


def hypervolume(points: Sequence[tuple[float, float]] | Points, reference: tuple[float, float]) -> float:
    """The area that the points dominate, down to a reference point.

    Args:
        points: (n, 2), top1 and size.
        reference: (top1, size) of the worst point that still counts: usually chance level 1/C and `budget.max_params`.

    Returns:
        The area in accuracy x decades of size, where a size of p parameters counts as log10(1 + p): every tenfold saving is worth
        the same, and head-only (p = 0) has a finite place. Points beyond the reference add nothing.
    """
    array = _checked(points)
    top1_floor, size_ceiling = reference[0], _decades(reference[1])
    inside = array[(array[:, 0] > top1_floor) & (np.log10(1.0 + array[:, 1]) < size_ceiling)]
    front = inside[non_dominated(inside)]
    if not len(front):
        return 0.0
    front = front[np.argsort(front[:, 1], kind="stable")]
    decades = np.log10(1.0 + front[:, 1])
    right = np.append(decades[1:], size_ceiling)
    # Sorted by size, accuracy rises along the front: each point owns the strip up to its larger neighbour.
    return float(np.sum((right - decades) * (front[:, 0] - top1_floor)))


def _decades(size: float) -> float:
    return math.log10(1.0 + size)


def _checked(points: Sequence[tuple[float, float]] | Points) -> Points:
    array = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if np.isnan(array).any():
        raise ValueError("a Pareto point may not be NaN: such a trial is FAILED, not compared")
    return array
