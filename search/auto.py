"""The sampler `auto`: among many candidates of known size, the one that promises to add most to the front at its size.

Size is known of every candidate before training, so only accuracy is modelled (`search.surrogate`), as -log(error). A candidate's
promise is its expected hypervolume improvement, exact up to a quadrature over one normal variable: the area between its accuracy
and the front to the right of its size.

- Fair: before promise decides, every method has `N_FAIR` sampled configurations (of its candidates, the most promising).
- Free: candidates that are too large, impossible or known already are dropped before they are looked at.
- Everybody teaches: a trial that runs, or was stopped at a rung, counts with what its accuracy came to in trials that went on from
  there (a regression over the complete trials), the less certain the earlier it is.
- Nothing is remembered but what was told, in its order: a study rebuilt from the ledger goes on exactly.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.coding import Coding
from search.extrapolation import SPREAD, expected_gain, goodness
from search.known import Known, Tickets
from search.pareto import Front
from search.surrogate import Hyperparameters, Kernel, Surrogate, fit, squared
from spaces import Config, JointSpace

Array = NDArray[np.float64]
N_FAIR = 3  # sampled configurations of each method before promise decides
N_DRAWN, N_CHANGED = 320, 192  # candidates of one ask: drawn from the space, and changed from good trials
N_PARENTS = 24  # good trials whose neighbours are candidates
N_STRUCTURES = 8  # different sizes among the drawn of one method, so that counting stays cheap
N_KNOWN, N_RUNNING = 256, 48  # trials that the surrogate is given: at most so many that have told something, so many that have not
N_STOPPED = 64  # stopped trials that are looked at
N_LEAST = 4  # observations without which nothing is predicted
N_FIT_FIRST, N_FIT = 12, 192  # observations that hyperparameters are first fitted to, and at most

# Squared inverse length scales that a fit begins with, by group; the unit is a knob's whole range, and four decades of size.
PRIOR_WEIGHTS = {"size": 8.0, "shared lr": 12.0, "method": 1.0, "rank": 1.0, "scale": 3.0, "layers": 1.0}
PRIOR_WEIGHT_OF_OTHERS = 0.3
# The same for whether a trial tells of another if it keeps a measured limit: its size does most, what no cost depends on nothing.
COST_WEIGHTS = {"size": 128.0, "method": 2.0, "shared lr": 0.0, "shared weight_decay": 0.0, "scale": 0.0, "dropout": 0.0}
COST_WEIGHT_OF_OTHERS = 0.3
LIKELY = 0.5  # what keeps a limit less likely than this comes after everything else


class _Row(NamedTuple):
    """A configuration of a pool."""

    key: str
    method: str
    code: Array
    size: float
    features: Array


class _Candidates(NamedTuple):
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


class Auto:
    """Chooses configurations by what they promise to add to a front.

    Args:
        space: The joint space.
        size: Of a configuration, the second objective; ValueError if it is impossible.
        max_size: Largest that is wanted.
        front: The front of the complete trials, kept by the study.
        n_epochs: Epochs of a whole trial.
        pool: The only configurations that there are; None for the whole space.
        fair: Whether each method gets its share first.
    """

    def __init__(
        self,
        space: JointSpace,
        *,
        size: Callable[[Config], float],
        max_size: float,
        front: Front,
        n_epochs: int,
        pool: Sequence[Config] | None = None,
        fair: bool = True,
    ) -> None:
        self._coding, self._size, self._max_size, self._front = Coding(space), size, max_size, front
        self._n_epochs, self._fair = n_epochs, fair
        self._known = Known(len(self._coding.groups))
        self._keys: set[str] = set()
        self._n_sampled = dict.fromkeys(self._coding.methods, 0)
        self._sampled: set[int] = set()
        self._counted: dict[tuple[str, bytes], float] = {}  # sizes by method and the codes of the knobs that move them
        self._kernel = Kernel(self._coding.groups, self._coding.shared)
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, PRIOR_WEIGHT_OF_OTHERS) for name in self._coding.names])
        self._by = self._prior
        self._nearness = np.sqrt([COST_WEIGHTS.get(name, COST_WEIGHT_OF_OTHERS) for name in self._coding.names])[
            self._coding.groups
        ]
        self._n_ended, self._next_fit = 0, N_FIT_FIRST
        self._to_fit: tuple[Array, Array, Array] | None = None  # features, values and variances when so many had ended
        self._pool = None if pool is None else [self._of_pool(config) for config in pool]

    # -- what became of it ---------------------------------------------------------------------------------------------------------

    def add(self, config: Config, *, drawn: bool) -> int:
        """Take up a configuration of the space; returns its ticket."""
        method, code = str(config["method"]), self._coding.code(config)
        try:
            size = self._size(config)
        except ValueError:
            size = 0  # it will be refused
        self._keys.add(_key(config))
        [place] = self._front.axis.places(np.array([size]))
        ticket = self._known.add(method, code, place, self._features(method, code[None, :], np.array([size]))[0])
        if drawn:
            self._sampled.add(ticket)
            self._n_sampled[method] += 1
        return ticket

    def report(self, ticket: int, epoch: int, top1: float) -> None:
        """One epoch of a trial."""
        self._known.report(ticket, top1)

    def complete(self, ticket: int, top1: float, size: float) -> None:
        """The trial was trained to the end."""
        self._known.complete(ticket, top1)
        self._ended()

    def prune(self, ticket: int, *, for_good: bool) -> None:
        """The trial was stopped early; what it reported stays known, and unless it was for good, it may be revived."""
        self._known.stop(ticket, for_good=for_good)
        self._ended()

    def revive(self, ticket: int) -> None:
        """The trial goes on from where it was stopped."""
        self._known.revive(ticket)

    def exceed(self, ticket: int) -> None:
        """The trial was stopped because it costs too much; its accuracy stays known, and its like promise less."""
        self._known.exceed(ticket)
        self._ended()

    def fail(self, ticket: int) -> None:
        """The configuration ended by its own fault: nothing is known of its accuracy."""
        self._known.drop(ticket)

    def reject(self, ticket: int) -> None:
        """The configuration was refused before training; it is never a candidate again."""
        self._known.drop(ticket)
        if ticket in self._sampled:
            self._n_sampled[self._known.methods[ticket]] -= 1

    def _ended(self) -> None:
        """Hyperparameters are fitted anew whenever half as many trials again have ended: to what is known at that moment."""
        self._n_ended += 1
        if self._n_ended == self._next_fit:
            self._next_fit = self._next_fit * 3 // 2 if self._next_fit * 3 // 2 <= N_FIT else 0
            observed = self._known.observed()[-N_FIT:]
            if len(observed) >= N_LEAST:
                self._to_fit = self._known.features(observed), *self._known.ends(observed)

    # -- choosing ------------------------------------------------------------------------------------------------------------------

    def choose(self, seed: int) -> Config | int:
        """The next configuration, or the ticket of a stopped trial that promises more; the same for the same history and seed."""
        random = np.random.default_rng(seed)
        observed = self._known.observed()
        ends, variances = self._known.ends(observed)
        below = self._below(self._known.places(observed), ends)
        surrogate = self._surrogate(observed, ends, variances, below)
        due = self._due()
        if self._pool is not None:
            self._pool = [row for row in self._pool if row.key not in self._keys]
        for methods in [[method] for method in due] + [list(self._coding.methods)]:
            found = self._candidates(methods, observed[np.argsort(below, kind="stable")[:N_PARENTS]], random)
            if found is None:
                continue
            if surrogate is None:
                promise = random.random(len(found.sizes)) * self._within_limits(found.features)
            else:
                promise = self._promise(surrogate, found.features, self._front.axis.places(found.sizes))
            order = np.argsort(-promise, kind="stable")
            for i in order:
                config = found.config(int(i), self._coding)
                if _key(config) in self._keys:
                    continue
                if surrogate is not None and not due:
                    ticket, gain = self._best_stopped(surrogate, below, observed)
                    if ticket is not None and gain > promise[i] / self._n_epochs:
                        return ticket
                return config
        if surrogate is not None and (ticket := self._best_stopped(surrogate, below, observed)[0]) is not None:
            return ticket
        # Nothing is left that could be trained: whoever asked refuses it, and knows why.
        method = self._coding.methods[int(random.integers(len(self._coding.methods)))]
        return self._coding.config(method, self._coding.draw(method, 1, random)[0])

    def _promise(self, surrogate: Surrogate, features: Array, places: Array) -> Array:
        """(n,) expected hypervolume improvement; where nothing can be improved, what is likeliest to be good."""
        mean, std = surrogate.predict(features)
        return (expected_gain(self._front, mean, std, places) + 1e-12 * (mean + std)) * self._within_limits(features)

    def _within_limits(self, features: Array) -> Array:
        """(n,) how likely points keep the limits that only training can tell: by the trials near them, which did or did not."""
        over, within = self._known.over(), self._known.within()
        if not len(over):
            return np.ones(len(features))
        scaled = features * self._nearness
        near = [np.exp(-squared(scaled, self._known.features(tickets) * self._nearness)).sum(1) for tickets in (over, within)]
        likely: Array = (0.5 + near[1]) / (0.5 + near[0] + near[1])
        return np.where(likely < LIKELY, 1e-12 * likely, likely)

    def _best_stopped(self, surrogate: Surrogate, below: Array, observed: Tickets) -> tuple[int | None, float]:
        """The stopped trial that promises most for each epoch that it has left, and how much."""
        stopped = self._known.stopped()
        if not len(stopped):
            return None, 0.0
        if len(stopped) > N_STOPPED:
            nearness = np.full(len(self._known), np.inf)
            nearness[observed] = below
            stopped = stopped[np.argsort(nearness[stopped], kind="stable")[:N_STOPPED]]
        gain = self._promise(surrogate, self._known.features(stopped), self._known.places(stopped))
        gain /= np.maximum(1, self._n_epochs - self._known.n_epochs(stopped))
        return int(stopped[gain.argmax()]), float(gain.max())

    def _due(self) -> list[str]:
        """The methods that still have a share to get, the poorest first."""
        n = self._n_sampled
        return sorted((m for m in n if n[m] < N_FAIR), key=lambda m: n[m]) if self._fair else []

    def _below(self, places: Array, ends: Array) -> Array:
        """(n,) how far below the front the ends lie, in goodness."""
        edges, levels = self._front.strips()
        strip = np.clip(np.searchsorted(edges, places, side="right") - 1, 0, len(levels) - 1)
        found: Array = np.array([goodness(top1) for top1 in levels])[strip] - ends
        return found

    def _candidates(self, methods: Sequence[str], parents: Tickets, random: np.random.Generator) -> _Candidates | None:
        """Candidates of some methods: what is left of the pool, or points drawn and neighbours of good trials."""
        if self._pool is not None:
            left = [row for row in self._pool if row.method in methods and row.size <= self._max_size]
            part = random.choice(len(left), size=(len(left) + 1) // 2, replace=False)  # as a space is never seen whole either
            return _of_rows([left[i] for i in np.sort(part)])
        drawn = [(m, self._drawn(m, max(N_STRUCTURES, N_DRAWN // len(methods)), random)) for m in methods]
        return self._allowed(drawn + self._changed(parents, methods, random))

    def _drawn(self, method: str, n: int, random: np.random.Generator) -> Array:
        """Codes of a method: few different settings of the knobs that move its size, many of the others."""
        codes = self._coding.draw(method, n, random)
        sized = self._coding.sized[method]
        codes[:, sized] = codes[random.integers(min(n, N_STRUCTURES), size=n)][:, sized]
        return codes

    def _changed(self, parents: Tickets, methods: Sequence[str], random: np.random.Generator) -> list[tuple[str, Array]]:
        """Neighbours of the trials that lie highest above, or least below, the front."""
        found = []
        for method in methods:
            if codes := [self._known.codes[ticket] for ticket in parents if self._known.methods[ticket] == method]:
                share = max(1, round(N_CHANGED * len(codes) / len(parents)))
                found.append((method, self._coding.change(method, np.stack(codes)[np.arange(share) % len(codes)], random)))
        return found

    def _allowed(self, points: list[tuple[str, Array]]) -> _Candidates | None:
        """Those that are possible and small enough, with their sizes and features; each different size is counted once."""
        kept, sizes, features = [], [], []
        for method, codes in points:
            keys = [(method, row.tobytes()) for row in np.ascontiguousarray(codes[:, self._coding.sized[method]])]
            for key, code in zip(keys, codes, strict=True):
                if key not in self._counted:
                    self._counted[key] = self._count(self._coding.config(method, code))
            counted = np.array([self._counted[key] for key in keys])
            good = counted <= self._max_size
            if good.any():
                kept.append((method, codes[good]))
                sizes.append(counted[good])
                features.append(self._features(method, codes[good], counted[good]))
        return _Candidates(kept, np.concatenate(sizes), np.concatenate(features)) if kept else None

    def _count(self, config: Config) -> float:
        """The size of a configuration; beyond every limit if it is impossible."""
        try:
            return self._size(config)
        except ValueError:
            return self._max_size + 1

    def _features(self, method: str, codes: Array, sizes: NDArray[Any]) -> Array:
        """(n, F); a unit of size is four decades, or the largest that is wanted."""
        axis = self._front.axis
        return self._coding.features(method, codes, axis.places(sizes) / (1.0 if axis.linear else 4.0))

    # -- learning ------------------------------------------------------------------------------------------------------------------

    def _surrogate(self, observed: Tickets, ends: Array, variances: Array, below: Array) -> Surrogate | None:
        """What is known now; None while that is too little."""
        if len(observed) < N_LEAST:
            return None
        if self._to_fit is not None:
            self._by, self._to_fit = fit(self._kernel, self._prior, *self._to_fit), None
        if len(observed) > N_KNOWN:  # those nearest to the front, and an even part of the others
            order = np.argsort(below, kind="stable")
            near, others = order[: N_KNOWN // 2], np.sort(order[N_KNOWN // 2 :])
            part = others[np.linspace(0, len(others) - 1, N_KNOWN - len(near)).astype(np.int64)]
            taken = np.concatenate([near, part])
            observed, ends, variances = observed[taken], ends[taken], variances[taken]
        silent = self._known.features(self._known.silent()[-N_RUNNING:])
        return Surrogate(
            self._kernel, self._by, self._known.features(observed), ends, variances, pending=silent, pending_extra=SPREAD**2
        )

    def _of_pool(self, config: Config) -> _Row:
        method, code, size = str(config["method"]), self._coding.code(config), self._count(config)
        return _Row(_key(config), method, code, size, self._features(method, code[None, :], np.array([size]))[0])


def _of_rows(rows: list[_Row]) -> _Candidates | None:
    if not rows:
        return None
    points = [(row.method, row.code[None, :]) for row in rows]
    return _Candidates(points, np.array([row.size for row in rows]), np.stack([row.features for row in rows]))


def _key(config: Mapping[str, object]) -> str:
    return json.dumps(config, sort_keys=True)
