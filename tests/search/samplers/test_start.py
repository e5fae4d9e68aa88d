"""The start of `auto`: what it promises to every method, in every budget from 20 trials up."""

from hypothesis import given
from hypothesis import strategies as st

from search.samplers.start import EVERY, SUITS, Kind, Start, n_start
from spaces import Config

RATES = st.sampled_from([1e-4, 1e-3, 1e-2])


@given(n_methods=st.integers(1, 19), n_trials=st.integers(20, 200), data=st.data())
def test_every_method_is_tried_small_then_by_default_and_then_at_a_rate_that_suits(
    n_methods: int, n_trials: int, data: st.DataObject
) -> None:
    """Whichever methods the free trials choose, whichever rate is best, and whichever trials rungs stop."""
    methods = [f"m{i}" for i in range(n_methods)]
    start, kinds, defaults, best = Start(methods, n_trials), dict[str, list[Kind]](), set[str](), None
    for ticket in range(n_trials - 1):  # head-only is one of the trials
        turns = start.turns(lambda method: method not in defaults, ())
        method, kind = turns[0] if turns else (data.draw(st.sampled_from(methods)), Kind.DRAW)
        rate = best if kind is Kind.RATE and best is not None else data.draw(RATES)
        kinds.setdefault(method, []).append(kind)
        if kind is Kind.DEFAULT:
            defaults.add(method)
        start.add(ticket, Config({"method": method, "optim.lr": rate}), best_rate=best)
        best = data.draw(RATES) if best is None else best
        if data.draw(st.booleans()):
            start.complete(ticket, method)
        if ticket + 1 >= max(n_methods, 0.75 * n_trials):
            assert kinds.keys() == set(methods)
        if ticket + 2 >= 0.75 * n_trials >= n_start(n_methods):
            assert defaults == set(methods)
    first = {method: mine[0] for method, mine in kinds.items()}
    assert set(first.values()) <= {Kind.SMALL, Kind.DRAW}
    assert max(mine.count(Kind.RATE) for mine in kinds.values()) <= 1
    if n_trials >= (4 / 3) * (n_start(n_methods) + n_methods):
        assert not [turn for turn in start.turns(lambda method: False, ()) if turn.kind is Kind.RATE]


@given(n_methods=st.integers(1, 19))
def test_the_start_takes_as_long_as_it_says(n_methods: int) -> None:
    methods = [f"m{i}" for i in range(n_methods)]
    start, defaults, n = Start(methods, None), set[str](), 0
    while len(defaults) < n_methods:
        turns = start.turns(lambda method: method not in defaults, methods)
        method, kind = turns[0] if turns else (methods[0], Kind.DRAW)
        if kind is Kind.DEFAULT:
            defaults.add(method)
        start.add(n, Config({"method": method}), best_rate=None)
        n += 1
    assert 1 + n == n_start(n_methods) <= 2 + EVERY * (1.5 * n_methods + 1)


def test_a_method_is_given_up_only_after_a_trial_that_was_trained_to_the_end_or_had_a_rate_that_suits() -> None:
    start = Start(["a", "b"], None)
    for ticket, (method, rate) in enumerate([("a", 1e-2), ("b", 1e-3), ("a", 1e-2), ("b", 1e-3)]):
        start.add(ticket, {"method": method, "optim.lr": rate}, best_rate=1e-2 if ticket else None)
    assert start.turns(lambda _: False, ()) == [("b", Kind.RATE)]
    assert start.turns(lambda _: False, ["b"]) == []  # it may still be trained to the end
    start.add(4, {"method": "b", "optim.lr": 1e-2 / SUITS}, best_rate=1e-2)
    assert start.turns(lambda _: False, ()) == []
    start.reject(4, "b")
    assert start.turns(lambda _: False, ()) == [("b", Kind.RATE)]
    start.complete(1, "b")
    assert start.turns(lambda _: False, ()) == []
