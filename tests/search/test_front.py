"""Laws of a study's front: only COMPLETE trials compete, and the order in which they are listed is no matter."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from search.front import front, hypervolume
from search.trial import State, Trial

_REFERENCE = (0.1, 9_999.0)


def trial(number: int, top1: float, size: int, state: State = State.COMPLETE) -> Trial:
    config = {"method": "lora", "lora.rank": 1}
    return Trial(number, state, config, seed=0, adapter_params=size, head_params=10, epochs=1, metrics={"val/top1": top1})


_STATES = st.sampled_from([State.COMPLETE, State.COMPLETE, State.RUNNING, State.PRUNED, State.FAILED])
_TRIALS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 6), _STATES), max_size=25).map(
    lambda rows: [trial(n, top1 / 8, 100 * size, state) for n, (top1, size, state) in enumerate(rows)]
)


def beats(a: Trial, b: Trial) -> bool:
    (accuracy, size), (other_accuracy, other_size) = a.objectives, b.objectives
    return accuracy >= other_accuracy and size <= other_size and a.objectives != b.objectives


@given(_TRIALS)
def test_the_front_is_the_complete_trials_that_no_complete_trial_beats(trials: list[Trial]) -> None:
    complete = [t for t in trials if t.state is State.COMPLETE]
    expected = {t.number for t in complete if not any(beats(other, t) for other in complete)}
    assert {t.number for t in front(trials)} == expected


@given(_TRIALS)
def test_members_come_smallest_first_and_accuracy_rises_with_size(trials: list[Trial]) -> None:
    members = front(trials)
    assert members == sorted(members, key=lambda t: (t.adapter_params, t.number))
    assert [t.objectives[0] for t in members] == sorted(t.objectives[0] for t in members)


@given(_TRIALS, st.randoms(use_true_random=False))
def test_the_order_of_the_trials_does_not_matter(trials: list[Trial], random: Random) -> None:
    shuffled = random.sample(trials, len(trials))
    assert front(shuffled) == front(trials)
    assert hypervolume(shuffled, _REFERENCE) == hypervolume(trials, _REFERENCE)


@given(_TRIALS)
def test_the_front_alone_has_the_hypervolume_of_the_study(trials: list[Trial]) -> None:
    assert abs(hypervolume(front(trials), _REFERENCE) - hypervolume(trials, _REFERENCE)) < 1e-12


def test_trials_that_are_not_complete_count_for_nothing() -> None:
    others = [trial(n, 1.0, 0, state) for n, state in enumerate(State) if state is not State.COMPLETE]
    assert front(others) == []
    assert hypervolume(others, _REFERENCE) == 0.0
    member = trial(9, 0.5, 99)
    assert front([*others, member]) == [member]


def test_trials_with_equal_objectives_share_the_front_in_the_order_of_their_numbers() -> None:
    twins = [trial(2, 0.5, 10), trial(1, 0.5, 10)]
    assert [t.number for t in front(twins)] == [1, 2]
