"""The first trials of each method: what `auto` promises every method, whatever it has learnt.

1. Every method is tried, smallest sensible size first: the paper's default with its ranks and counts at their smallest values,
   because the small end is most of the hypervolume. As soon as there are results of other methods, the knobs that do not change
   the size are those that the surrogate expects most of.
2. Every method's default is tried next, as long as the start fits into `LARGEST_SHARE` of the budget.
3. A method is not given up before one of its trials was trained to the end, or had a learning rate that suits the budget: within
   a factor of `SUITS` of the rate of the best trial at that time. Rungs compare trials early, and a short training favours large
   rates, in which the papers' defaults differ by a factor of ten.

One in `EVERY` trials of the first round is free already, and one in `EVERY` trials afterwards is a default: in between, promise
decides. Whatever else a method gets follows from what the surrogate cannot yet tell, because the expected improvement counts its
uncertainty, which is soon small for a method of few knobs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Container, Sequence
from typing import NamedTuple

from search.samplers.shared_columns import RATE
from spaces import Config

EVERY = 3  # chosen on seeds 100 to 107 of the recorded digits and of a synthetic family
N_FIRST = 4  # trials of methods before the first free one: so many results a prediction needs
LARGEST_SHARE = 0.75  # of the budget, which the start may take
SUITS = 3.0  # largest ratio of two learning rates that suit the same budget
N_REFUSED = 8  # refused configurations of a method after which they count as tried


class Kind(enum.Enum):
    """The trial that a method is due."""

    DRAW = "one of its configurations"
    SMALL = "its smallest sensible size"
    DEFAULT = "its paper's default"
    RATE = "a learning rate that suits the budget"


class Turn(NamedTuple):
    """A trial that a method is due.

    Attributes:
        method: The method.
        kind: The kind of trial.
    """

    method: str
    kind: Kind


class Start:
    """The trials that methods are still due.

    Args:
        methods: Names of the methods.
        n_trials: Number of trials of the budget, head-only among them; None if only hours limit it.
    """

    def __init__(self, methods: Sequence[str], n_trials: int | None) -> None:
        self._n_tried = dict.fromkeys(methods, 0)
        self._n_refused = dict.fromkeys(methods, 0)
        self._settled_by: dict[str, set[int]] = {method: set() for method in methods}  # tickets of trials
        self._length = math.inf if n_trials is None else max(len(methods), math.floor(LARGEST_SHARE * n_trials) - 1)

    def add(self, ticket: int, config: Config, *, best_rate: float | None) -> None:
        """Count a proposed configuration; `best_rate` is the learning rate of the best trial, None if there is none."""
        method = str(config["method"])
        self._n_tried[method] += 1
        if best_rate is not None and suits(config.get(RATE), best_rate):
            self._settled_by[method].add(ticket)

    def complete(self, ticket: int, method: str) -> None:
        """Record that a trial of a method was trained to the end."""
        self._settled_by[method].add(ticket)

    def reject(self, ticket: int, method: str) -> None:
        """Take back a configuration that was refused before training; after `N_REFUSED` of a method they count as tried."""
        self._n_refused[method] += 1
        if self._n_refused[method] <= N_REFUSED:
            self._n_tried[method] -= 1
            self._settled_by[method].discard(ticket)

    def is_refused(self, method: str) -> bool:
        """Return whether a configuration of a method was refused."""
        return self._n_refused[method] > 0

    def turns(self, has_default: Callable[[str], bool], running: Container[str]) -> list[Turn]:
        """Return the trials that are due now, the most urgent first.

        Args:
            has_default: Function that returns whether a method's default can be tried, and has not been.
            running: Methods with running trials, which are not given up yet.
        """
        n = sum(self._n_tried.values())
        if small := [Turn(method, Kind.SMALL) for method, tried in self._n_tried.items() if not tried]:
            is_free = n >= N_FIRST and n % EVERY == EVERY - 1 and n + len(small) < self._length
            return [] if is_free else small
        if n < self._length and n % EVERY == 0:
            defaults = [Turn(method, Kind.DEFAULT) for method in self._n_tried if has_default(method)]
            if defaults:
                return defaults
        return [Turn(method, Kind.RATE) for method, by in self._settled_by.items() if not by and method not in running]


def n_start(n_methods: int) -> int:
    """Return the number of trials in which so many methods have had their smallest size and default, head-only among them."""
    n_small, n_free = 0, 0
    while n_small < n_methods:
        n = n_small + n_free
        is_free = n >= N_FIRST and n % EVERY == EVERY - 1
        n_small, n_free = n_small + (not is_free), n_free + is_free
    first = math.ceil((n_small + n_free) / EVERY) * EVERY  # the first default comes after so many
    return 1 + first + (n_methods - 1) * EVERY + 1


def suits(rate: object, best_rate: float) -> bool:
    """Return whether a learning rate suits the budget in which the best trial has another one; one that is not known does."""
    return not isinstance(rate, int | float) or best_rate / SUITS <= rate <= best_rate * SUITS
