"""Laws of the Pareto mathematics, held against a naive oracle on points with ties, duplicates and infinities."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.pareto import Front, contributions, crowding, hypervolume, non_dominated, ranks

Point = tuple[float, float]

# Few values, so that ties and duplicates are frequent; infinities on both sides.
_ANY = st.lists(
    st.tuples(st.sampled_from([-math.inf, 0.0, 0.25, 0.5, 1.0, math.inf]), st.sampled_from([0.0, 1.0, 9.0, 99.0, math.inf])),
    max_size=30,
)
_FINITE = st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 10**6).map(float)), max_size=20)
_REFERENCE = (0.1, 9_999.0)


def dominates(a: Point, b: Point) -> bool:
    """The definition: at least as good in both, better in one."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def area(points: list[Point], reference: Point) -> float:
    """The hypervolume by definition: cut the plane at every coordinate and add up the cells that some point dominates."""
    decades = [(top1, math.log10(1.0 + size)) for top1, size in points]
    floor, ceiling = reference[0], math.log10(1.0 + reference[1])
    ys = sorted({floor, *(y for y, _ in decades if y > floor)})
    xs = sorted({ceiling, *(x for _, x in decades if x < ceiling)})
    cells = ((low, high, left, right) for low, high in pairwise(ys) for left, right in pairwise(xs))
    return math.fsum(
        (high - low) * (right - left) for low, high, left, right in cells if any(y >= high and x <= left for y, x in decades)
    )


@given(_ANY)
def test_a_point_survives_exactly_when_no_other_dominates_it(points: list[Point]) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


@given(_FINITE)
def test_continuous_points_survive_by_the_same_law(points: list[Point]) -> None:
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert non_dominated(points).tolist() == expected


@given(_ANY, st.randoms(use_true_random=False))
def test_the_order_of_the_points_does_not_matter(points: list[Point], random: Random) -> None:
    order = random.sample(range(len(points)), len(points))
    shuffled = non_dominated([points[i] for i in order])
    assert shuffled.tolist() == non_dominated(points)[order].tolist()


@given(_ANY.filter(bool))
def test_some_point_always_survives_and_the_front_of_the_front_is_itself(points: list[Point]) -> None:
    survivors = np.asarray(points)[non_dominated(points)]
    assert len(survivors) > 0
    assert non_dominated(survivors).all()


def test_no_points_have_an_empty_front_and_no_area() -> None:
    assert non_dominated([]).tolist() == []
    assert hypervolume([], _REFERENCE) == 0.0


def test_equal_points_stay_on_the_front_together() -> None:
    assert non_dominated([(0.5, 10.0), (0.5, 10.0), (0.4, 10.0)]).tolist() == [True, True, False]


@pytest.mark.parametrize("point", [(math.nan, 1.0), (0.5, math.nan)])
def test_nan_is_refused(point: Point) -> None:
    with pytest.raises(ValueError, match="may not be NaN"):
        non_dominated([point])
    with pytest.raises(ValueError, match="may not be NaN"):
        hypervolume([point], _REFERENCE)


def test_one_point_owns_a_rectangle() -> None:
    # From 99 parameters (2 decades) to 9,999 (4 decades), from 0.1 to 0.9.
    assert hypervolume([(0.9, 99.0)], _REFERENCE) == pytest.approx(0.8 * 2.0, rel=1e-15)


def test_head_only_has_a_finite_place_at_zero_decades() -> None:
    assert hypervolume([(0.6, 0.0)], _REFERENCE) == pytest.approx(0.5 * 4.0, rel=1e-15)


def test_two_points_own_two_strips() -> None:
    # 0 to 2 decades at 0.6 - 0.1, 2 to 4 decades at 0.9 - 0.1.
    assert hypervolume([(0.9, 99.0), (0.6, 0.0)], _REFERENCE) == pytest.approx(0.5 * 2.0 + 0.8 * 2.0, rel=1e-15)


@given(_FINITE)
def test_the_hypervolume_is_the_dominated_area(points: list[Point]) -> None:
    assert hypervolume(points, _REFERENCE) == pytest.approx(area(points, _REFERENCE), rel=1e-12, abs=1e-12)


@given(_FINITE, st.tuples(st.floats(0.0, 1.0), st.integers(0, 10**6).map(float)))
def test_one_more_point_never_shrinks_the_hypervolume(points: list[Point], extra: Point) -> None:
    assert hypervolume([*points, extra], _REFERENCE) >= hypervolume(points, _REFERENCE) - 1e-12


@given(_FINITE)
def test_dominated_points_and_duplicates_add_nothing(points: list[Point]) -> None:
    survivors = [point for point, keep in zip(points, non_dominated(points), strict=True) if keep]
    assert hypervolume(points + survivors, _REFERENCE) == pytest.approx(hypervolume(survivors, _REFERENCE), abs=1e-12)


@given(st.lists(st.tuples(st.floats(0.0, 0.1), st.floats(0.0, 1e6)) | st.tuples(st.floats(0.0, 1.0), st.floats(9_999.0, 1e6))))
def test_points_beyond_the_reference_add_nothing(points: list[Point]) -> None:
    assert hypervolume(points, _REFERENCE) == 0.0


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
@pytest.mark.slow
def test_ten_thousand_points_agree_with_a_scan(seed: int) -> None:
    random = np.random.default_rng(seed)
    points = np.stack([random.integers(0, 800, 10_000) / 800, random.integers(0, 3_000, 10_000)], axis=1)
    best = -math.inf
    front = set()
    for size in np.unique(points[:, 1]):  # one size after the other, the smallest first
        top1 = points[points[:, 1] == size, 0].max()
        if top1 > best:
            front.add((float(top1), float(size)))
            best = top1
    mask = non_dominated(points)
    assert {tuple(point) for point in points[mask].tolist()} == front


@given(_ANY, st.randoms(use_true_random=False))
def test_a_front_kept_point_by_point_is_the_front_of_all(points: list[Point], random: Random) -> None:
    random.shuffle(points)
    front = Front(_REFERENCE)
    for number, point in enumerate(points):
        now = non_dominated(points[: number + 1])
        assert front.add(*point, number) == now[number]
        assert sorted(front) == np.flatnonzero(now).tolist()
    assert [points[number][1] for number in front] == sorted(points[number][1] for number in front)


@given(_FINITE)
def test_a_hypervolume_kept_point_by_point_is_the_hypervolume_of_all(points: list[Point]) -> None:
    front = Front(_REFERENCE)
    for number, point in enumerate(points):
        before = front.hypervolume
        promised = front.gain(*point)
        front.add(*point, number)
        assert front.hypervolume == pytest.approx(hypervolume(points[: number + 1], _REFERENCE), rel=1e-9, abs=1e-9)
        assert front.hypervolume - before == pytest.approx(promised, rel=1e-9, abs=1e-9)


@given(_ANY)
def test_infinities_are_worth_the_same_point_by_point(points: list[Point]) -> None:
    front = Front(_REFERENCE)
    for number, point in enumerate(points):
        front.add(*point, number)
    assert front.hypervolume == pytest.approx(hypervolume(points, _REFERENCE), rel=1e-9, abs=1e-9)


@given(_FINITE, st.floats(0.0, 1.0), st.integers(0, 9_999).map(float))
def test_the_staircase_is_the_front(points: list[Point], top1: float, size: float) -> None:
    """What a new point adds is the area between it and the stairs to its right."""
    front = Front(_REFERENCE)
    for number, point in enumerate(points):
        front.add(*point, number)
    edges, levels = front.strips()
    widths = np.diff(np.maximum(edges, math.log10(1.0 + size)))
    assert float(np.sum(widths * np.maximum(0.0, top1 - levels))) == pytest.approx(front.gain(top1, size), rel=1e-9, abs=1e-9)
    assert float(np.sum(np.diff(edges) * (levels - _REFERENCE[0]))) == pytest.approx(front.hypervolume, rel=1e-9, abs=1e-9)
    assert front.level(size) == max((point[0] for point in points if point[1] <= size), default=-math.inf)


def test_a_front_refuses_nan() -> None:
    with pytest.raises(ValueError, match="may not be NaN"):
        Front(_REFERENCE).add(math.nan, 1.0, 0)


@given(_ANY)
def test_a_rank_is_the_number_of_fronts_before(points: list[Point]) -> None:
    """By definition: rank 0 is dominated by nobody; any other is one more than the worst rank among those that dominate it."""
    found = ranks(points).tolist()
    for point, rank in zip(points, found, strict=True):
        above = [other for p, other in zip(points, found, strict=True) if dominates(p, point)]
        assert rank == (max(above) + 1 if above else 0)


@given(_FINITE)
def test_a_contribution_is_what_the_front_would_lose(points: list[Point]) -> None:
    everything, survives = hypervolume(points, _REFERENCE), non_dominated(points).tolist()
    expected = []
    for i in range(len(points)):
        others = [point for j, point in enumerate(points) if survives[j] and j != i]
        expected.append(everything - hypervolume(others, _REFERENCE) if survives[i] else 0.0)
    assert contributions(points, _REFERENCE).tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_crowding_is_the_gap_between_the_neighbours() -> None:
    # Decades 0, 1, 2, 4 and accuracies 0.1, 0.3, 0.4, 0.5: the second has gaps 2 of 4 decades and 0.3 of 0.4.
    points = [(0.1, 0.0), (0.3, 9.0), (0.4, 99.0), (0.5, 9_999.0)]
    assert crowding(points).tolist() == pytest.approx([math.inf, 2 / 4 + 0.3 / 0.4, 3 / 4 + 0.2 / 0.4, math.inf])
    assert crowding(points[::-1]).tolist() == pytest.approx(crowding(points)[::-1].tolist())
    assert crowding([]).tolist() == []
