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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.coding import Coding
from search.extrapolation import SPREAD, Extrapolation, expected_gain, goodness
from search.pareto import Front
from search.surrogate import Hyperparameters, Kernel, Surrogate, fit
from spaces import Config, JointSpace

Array = NDArray[np.float64]
N_FAIR = 3  # sampled configurations of each method before promise decides
N_DRAWN, N_CHANGED = 320, 192  # candidates of one ask: drawn from the space, and changed from good trials
N_PARENTS = 24  # good trials whose neighbours are candidates
N_STRUCTURES = 8  # different sizes among the drawn of one method, so that counting stays cheap
N_KNOWN, N_RUNNING = 256, 48  # trials that the surrogate is given: at most so many that have told something, so many that have not
N_LEAST = 4  # observations without which nothing is predicted
N_FIT_FIRST, N_FIT = 12, 192  # observations that hyperparameters are first fitted to, and at most

# Squared inverse length scales that a fit begins with, by group; the unit is a knob's whole range, and four decades of size.
PRIOR_WEIGHTS = {"size": 8.0, "shared lr": 12.0, "method": 1.0, "rank": 1.0, "scale": 3.0, "layers": 1.0}
PRIOR_WEIGHT_OF_OTHERS = 0.3


@dataclass
class _Seen:
    """What is known of one configuration.

    Attributes:
        method: Its method.
        code: Its code.
        size: Its adapter parameters.
        features: (F,) its features.
        curve: What it has reported, epoch by epoch, as -log(error).
        end: The last value of a complete trial.
        sampled: Whether it was drawn, not given.
        gone: Whether it was refused or failed: nothing is learnt of its accuracy.
        refused: Whether it was refused before training.
    """

    method: str
    code: Array
    size: int
    features: Array
    sampled: bool
    curve: list[float] = field(default_factory=list)
    end: float | None = None
    ended: bool = False
    gone: bool = False
    refused: bool = False


class _Observation(NamedTuple):
    """What a trial's accuracy comes to at its end, as -log(error), and how uncertain that is."""

    ticket: int
    value: float
    variance: float


class _Row(NamedTuple):
    """A configuration of a pool."""

    key: str
    method: str
    code: Array
    size: int
    features: Array


class _Candidates(NamedTuple):
    """Points to choose among: codes by method, and for all of them together sizes and features."""

    points: list[tuple[str, Array]]
    sizes: NDArray[np.int64]
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
        size: The adapter parameters of a configuration; ValueError if it is impossible.
        max_params: Largest adapter that is wanted.
        front: The front of the complete trials, kept by the study.
        pool: The only configurations that there are; None for the whole space.
        fair: Whether each method gets its share first.
    """

    def __init__(
        self,
        space: JointSpace,
        *,
        size: Callable[[Config], int],
        max_params: int,
        front: Front,
        pool: Sequence[Config] | None = None,
        fair: bool = True,
    ) -> None:
        self._coding, self._size, self._max_params, self._front = Coding(space), size, max_params, front
        self._kernel = Kernel(self._coding.groups, self._coding.shared)
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, PRIOR_WEIGHT_OF_OTHERS) for name in self._coding.names])
        self._fair = fair
        self._seen: list[_Seen] = []
        self._known: set[str] = set()
        self._observed: list[int] = []  # tickets in the order of their first report
        self._extrapolation = Extrapolation()
        self._fitted: tuple[int, Hyperparameters] = (0, self._prior)
        self._pool = None if pool is None else [self._of_pool(config) for config in pool]

    # -- what became of it ---------------------------------------------------------------------------------------------------------

    def add(self, config: Config, *, drawn: bool) -> int:
        """Take up a configuration of the space; returns its ticket."""
        method, code = str(config["method"]), self._coding.code(config)
        try:
            size = self._size(config)
        except ValueError:
            size = 0  # it will be refused
        features = self._coding.features(method, code[None, :], np.array([size]))[0]
        self._seen.append(_Seen(method, code, size, features, sampled=drawn))
        self._known.add(_key(config))
        return len(self._seen) - 1

    def report(self, ticket: int, epoch: int, top1: float) -> None:
        """One epoch of a trial."""
        seen = self._seen[ticket]
        if not seen.curve:
            self._observed.append(ticket)
        seen.curve.append(goodness(top1))

    def complete(self, ticket: int, top1: float, size: int) -> None:
        """The trial was trained to the end."""
        seen = self._seen[ticket]
        if not seen.curve:
            self._observed.append(ticket)
        seen.end, seen.ended = goodness(top1), True
        self._extrapolation.add(seen.curve)

    def prune(self, ticket: int) -> None:
        """The trial was stopped because others were better; what it reported stays known."""
        self._seen[ticket].ended = True

    def fail(self, ticket: int) -> None:
        """The configuration ended by its own fault: nothing is known of its accuracy."""
        self._seen[ticket].gone = True

    def reject(self, ticket: int) -> None:
        """The configuration was refused before training; it is never a candidate again."""
        self._seen[ticket].gone = self._seen[ticket].refused = True

    # -- choosing ------------------------------------------------------------------------------------------------------------------

    def choose(self, seed: int) -> Config:
        """The next configuration. The same history and seed choose the same."""
        random = np.random.default_rng(seed)
        observed = self._observations()
        for candidates in self._candidates(observed, random):
            for i in np.argsort(-self._promise(candidates, observed, random), kind="stable"):
                config = candidates.config(int(i), self._coding)
                if _key(config) not in self._known:
                    return config
        # Nothing is left that could be trained: whoever asked refuses it, and knows why.
        method = self._coding.methods[int(random.integers(len(self._coding.methods)))]
        return self._coding.config(method, self._coding.draw(method, 1, random)[0])

    def _promise(self, candidates: _Candidates, observed: list[_Observation], random: np.random.Generator) -> Array:
        """(n,) expected hypervolume improvement; where nothing can be improved, what is likeliest to be good."""
        surrogate = self._surrogate(observed)
        if surrogate is None:
            return random.random(len(candidates.sizes))
        mean, std = surrogate.predict(candidates.features)
        return expected_gain(self._front, mean, std, np.log10(1.0 + candidates.sizes)) + 1e-12 * (mean + std)

    def _due(self) -> list[str]:
        """The methods that still have a share to get, the poorest first."""
        n = dict.fromkeys(self._coding.methods, 0)
        for seen in self._seen:
            n[seen.method] += seen.sampled and not seen.refused
        return sorted((m for m in n if n[m] < N_FAIR), key=lambda m: n[m]) if self._fair else []

    def _candidates(self, observed: list[_Observation], random: np.random.Generator) -> Iterator[_Candidates]:
        """Candidates of the method that is due, if one is, then those of all."""
        groups = [[method] for method in self._due()] + [list(self._coding.methods)]
        if self._pool is not None:
            self._pool = [row for row in self._pool if row.key not in self._known]
        for methods in groups:
            if self._pool is not None:
                found = _of_rows([row for row in self._pool if row.method in methods and row.size <= self._max_params])
            else:
                drawn = [(m, self._drawn(m, max(N_STRUCTURES, N_DRAWN // len(methods)), random)) for m in methods]
                found = self._allowed(drawn + self._changed(observed, methods, random))
            if found is not None:
                yield found

    def _drawn(self, method: str, n: int, random: np.random.Generator) -> Array:
        """Codes of a method: few different settings of the knobs that move its size, many of the others."""
        codes = self._coding.draw(method, n, random)
        sized = self._coding.sized[method]
        codes[:, sized] = codes[random.integers(min(n, N_STRUCTURES), size=n)][:, sized]
        return codes

    def _changed(
        self, observed: list[_Observation], methods: Sequence[str], random: np.random.Generator
    ) -> list[tuple[str, Array]]:
        """Neighbours of the trials that lie highest above, or least below, the front."""
        parents = [self._seen[o.ticket] for o in self._best(observed, N_PARENTS)]
        found = []
        for method in methods:
            if codes := [seen.code for seen in parents if seen.method == method]:
                share = max(1, round(N_CHANGED * len(codes) / len(parents)))
                found.append((method, self._coding.change(method, np.stack(codes)[np.arange(share) % len(codes)], random)))
        return found

    def _best(self, observed: list[_Observation], n: int) -> list[_Observation]:
        """The observations that lie highest above, or least below, the front at their size."""
        edges, levels = self._front.strips()
        decades = np.log10(1.0 + np.array([self._seen[o.ticket].size for o in observed]))
        strip = np.clip(np.searchsorted(edges, decades, side="right") - 1, 0, len(levels) - 1)
        below = np.array([goodness(top1) for top1 in levels])[strip] - np.array([o.value for o in observed])
        return [observed[i] for i in np.argsort(below, kind="stable")[:n]]

    def _allowed(self, points: list[tuple[str, Array]]) -> _Candidates | None:
        """Those that are possible and small enough, with their sizes and features; each different size is counted once."""
        kept, sizes, features = [], [], []
        for method, codes in points:
            _, first, same = np.unique(codes[:, self._coding.sized[method]], axis=0, return_index=True, return_inverse=True)
            counted = np.array([self._count(self._coding.config(method, codes[i])) for i in first])[same.ravel()]
            good = counted <= self._max_params
            if good.any():
                kept.append((method, codes[good]))
                sizes.append(counted[good])
                features.append(self._coding.features(method, codes[good], counted[good]))
        return _Candidates(kept, np.concatenate(sizes), np.concatenate(features)) if kept else None

    def _count(self, config: Config) -> int:
        """The size of a configuration; beyond every limit if it is impossible."""
        try:
            return self._size(config)
        except ValueError:
            return self._max_params + 1

    # -- learning ------------------------------------------------------------------------------------------------------------------

    def _observations(self) -> list[_Observation]:
        """What the accuracy of each trial that has told something comes to at its end."""
        found = []
        for ticket in self._observed:
            seen = self._seen[ticket]
            if seen.end is not None:
                found.append(_Observation(ticket, seen.end, 0.0))
            elif not seen.gone:
                found.append(_Observation(ticket, *self._extrapolation(seen.curve)))
        return found

    def _surrogate(self, observed: list[_Observation]) -> Surrogate | None:
        """What is known now; None while that is too little."""
        if len(observed) < N_LEAST:
            return None
        by = self._hyperparameters(observed)
        if len(observed) > N_KNOWN:
            near = self._best(observed, N_KNOWN // 2)
            tickets = {o.ticket for o in near}
            others = [o for o in observed if o.ticket not in tickets]
            step = len(others) / (N_KNOWN - len(near))
            observed = near + [others[int(i * step)] for i in range(N_KNOWN - len(near))]
        x, y, extra = self._arrays(observed)
        surrogate = Surrogate(self._kernel, by, x, y, extra)
        running = [seen for seen in self._seen[-4 * N_RUNNING :] if not (seen.curve or seen.ended or seen.gone)][-N_RUNNING:]
        if running:  # nobody tries the same twice: what runs counts with what is expected of it
            more = np.stack([seen.features for seen in running])
            expected, _ = surrogate.predict(more)
            spread = np.full(len(running), SPREAD**2)
            x, y, extra = np.concatenate([x, more]), np.concatenate([y, expected]), np.concatenate([extra, spread])
            surrogate = Surrogate(self._kernel, by, x, y, extra)
        return surrogate

    def _hyperparameters(self, observed: list[_Observation]) -> Hyperparameters:
        """Fitted anew whenever half as many observations again are there, up to `N_FIT`, and to the first of them only."""
        n = N_FIT_FIRST
        while n * 3 // 2 <= min(len(observed), N_FIT):
            n = n * 3 // 2
        if len(observed) < n:
            return self._prior
        if self._fitted[0] != n:
            self._fitted = (n, fit(self._kernel, self._prior, *self._arrays(observed[:n])))
        return self._fitted[1]

    def _arrays(self, observed: list[_Observation]) -> tuple[Array, Array, Array]:
        """Features, values and variances."""
        x = np.stack([self._seen[o.ticket].features for o in observed])
        return x, np.array([o.value for o in observed]), np.array([o.variance for o in observed])

    def _of_pool(self, config: Config) -> _Row:
        method, code, size = str(config["method"]), self._coding.code(config), self._size(config)
        return _Row(_key(config), method, code, size, self._coding.features(method, code[None, :], np.array([size]))[0])


def _of_rows(rows: list[_Row]) -> _Candidates | None:
    if not rows:
        return None
    points = [(row.method, row.code[None, :]) for row in rows]
    return _Candidates(points, np.array([row.size for row in rows]), np.stack([row.features for row in rows]))


def _key(config: Mapping[str, object]) -> str:
    return json.dumps(config, sort_keys=True)
