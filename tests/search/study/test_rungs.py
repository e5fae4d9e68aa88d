"""The rule of the Pareto rungs, by its properties."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study.rungs import Rungs

POINTS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from([0.1, 0.5, 0.6, 0.601, 0.9])), min_size=1, max_size=30)
FACTORS = st.integers(2, 5)
EPSILONS = st.sampled_from([0.0, 0.005, 0.2])


def one_rung(factor: int = 3, epsilon: float = 0.0) -> Rungs:
    return Rungs(grace=1, factor=factor, epsilon=epsilon, epochs=2)


def goes_on(seen: list[tuple[int, float]], point: tuple[int, float], factor: int, epsilon: float) -> bool:
    """The rule in its own words, counted naively."""
    peers = [top1 for size, top1 in [*seen, point] if size <= point[0]]
    better = [top1 for top1 in peers if top1 > point[1] + epsilon]
    return len(better) < max(1, -(-len(peers) // factor))


@pytest.mark.parametrize(
    ("grace", "factor", "epochs", "at"),
    [(5, 3, 100, (5, 15, 45)), (5, 3, 45, (5, 15)), (1, 2, 9, (1, 2, 4, 8)), (10, 2, 10, ()), (30, 3, 20, ())],
)
def test_rungs_are_geometric_and_end_before_the_budget(grace: int, factor: int, epochs: int, at: tuple[int, ...]) -> None:
    assert Rungs(grace=grace, factor=factor, epsilon=0.0, epochs=epochs).at == at


@given(POINTS, FACTORS, EPSILONS)
def test_a_verdict_is_the_rule_on_all_that_came_before(points: list[tuple[int, float]], factor: int, epsilon: float) -> None:
    rungs = one_rung(factor, epsilon)
    for i, (size, top1) in enumerate(points):
        verdict = rungs.verdict(1, size, top1)
        assert verdict is not None
        assert verdict.goes_on == goes_on(points[:i], (size, top1), factor, epsilon)
        assert verdict.n_peers == 1 + sum(other <= size for other, _ in points[:i])
        assert verdict.goes_on or top1 < verdict.bar
        rungs.add(1, size, top1)


@given(st.data(), POINTS, FACTORS, EPSILONS)
def test_the_order_of_arrival_of_the_peers_changes_no_verdict(
    data: st.DataObject, points: list[tuple[int, float]], factor: int, epsilon: float
) -> None:
    *peers, (size, top1) = points
    verdicts = []
    for order in (peers, data.draw(st.permutations(peers))):
        rungs = one_rung(factor, epsilon)
        for peer in order:
            rungs.add(1, *peer)
        verdicts.append(rungs.verdict(1, size, top1))
    assert verdicts[0] == verdicts[1]


@given(POINTS, FACTORS, EPSILONS)
def test_what_no_peer_beats_goes_on_so_that_a_whole_front_survives(
    points: list[tuple[int, float]], factor: int, epsilon: float
) -> None:
    rungs = one_rung(factor, epsilon)
    for size, top1 in points:
        rungs.add(1, size, top1)
    for size, top1 in points:
        if all(other <= top1 for peer, other in points if peer <= size):
            verdict = rungs.verdict(1, size, top1)
            assert verdict is not None
            assert verdict.goes_on


@given(POINTS, FACTORS)
def test_larger_trials_are_no_rivals(points: list[tuple[int, float]], factor: int) -> None:
    *peers, (size, top1) = points
    among_all, among_peers = one_rung(factor), one_rung(factor)
    for peer in peers:
        among_all.add(1, *peer)
        if peer[0] <= size:
            among_peers.add(1, *peer)
    assert among_all.verdict(1, size, top1) == among_peers.verdict(1, size, top1)


def test_the_smallest_adapter_is_stopped_if_head_only_is_better() -> None:
    rungs = one_rung()
    assert rungs.verdict(1, 0, 0.7) is not None
    rungs.add(1, 0, 0.7)
    worse, better = rungs.verdict(1, 100, 0.69), rungs.verdict(1, 100, 0.71)
    assert worse is not None
    assert better is not None
    assert not worse.goes_on
    assert better.goes_on
    assert (worse.n_peers, worse.n_better, worse.bar) == (2, 1, 0.7)


def test_epsilon_spares_what_the_noise_could_have_put_behind() -> None:
    for epsilon, spared in ((0.0, False), (0.02, True)):
        rungs = one_rung(epsilon=epsilon)
        rungs.add(1, 0, 0.7)
        verdict = rungs.verdict(1, 100, 0.69)
        assert verdict is not None
        assert verdict.goes_on == spared


def test_between_rungs_nothing_is_said() -> None:
    rungs = Rungs(grace=2, factor=3, epsilon=0.0, epochs=20)
    assert [epoch for epoch in range(1, 21) if rungs.verdict(epoch, 0, 0.5) is not None] == [2, 6, 18]


@given(FACTORS, st.integers(1, 200))
def test_the_worst_so_far_is_stopped_and_of_all_at_a_rung_one_in_factor_would_go_on(factor: int, many: int) -> None:
    rungs, survivors = one_rung(factor), 0
    for i in range(many):
        verdict = rungs.verdict(1, 7, 1.0 - i / many)
        assert verdict is not None
        survivors += verdict.goes_on
        rungs.add(1, 7, 1.0 - i / many)
    assert survivors == 1
    again = [rungs.verdict(1, 7, 1.0 - i / many) for i in range(many)]  # each as a newcomer beside all of them
    assert sum(verdict is not None and verdict.goes_on for verdict in again) == min(many, math.ceil((many + 1) / factor))


def test_with_seconds_a_trial_twice_as_slow_must_be_among_half_as_many_and_a_fast_one_as_without() -> None:
    """Eight peers of one second, accuracies 0.1 to 0.8; factor 2 lets the better half of nine continue, rounded up."""

    def better_allowed(seconds: float | None) -> int:
        rungs = one_rung(2)
        for n in range(1, 9):
            rungs.add(1, 10, n / 10, None if seconds is None else 1.0)
        verdicts = [rungs.verdict(1, 10, n / 10 + 0.05, seconds) for n in range(9)]
        return sum(verdict is not None and verdict.goes_on for verdict in verdicts)

    assert [better_allowed(seconds) for seconds in (None, 0.2, 1.0, 2.0, 4.0, 1000.0)] == [5, 5, 5, 3, 2, 2]
