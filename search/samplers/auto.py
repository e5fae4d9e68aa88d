"""The sampler `auto`: among many candidates of known size, the one that promises to add most to the front at its size.

Size is known of every candidate before training, so only accuracy is modelled (`search.samplers.gaussian_process`), as -log(error).
A candidate's promise is its expected hypervolume improvement, exact up to a quadrature over one normal variable: the area between
its accuracy and the front to the right of its size. Where accuracy is weighed against a cost that only training tells (time,
memory, latency), that cost is modelled too (`search.samplers.cost_model`), and the promise is the mean over where it may lie.

- Fair: before promise decides, every method has `N_FAIR` sampled configurations (of its candidates, the most promising).
- Free: candidates that are too large, impossible or known already are dropped before they are looked at.
- Everybody teaches: a trial that runs, or was stopped at a rung, counts with what its accuracy came to in trials that went on from
  there (a regression over the complete trials), the less certain the earlier it is.
- Nothing is remembered but what was told, in its order: a study rebuilt from the ledger goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.pareto import Axis, Front
from search.samplers.base import Answer, NewConfig, Promote, Result, SamplerContext
from search.samplers.candidates import CandidateGenerator
from search.samplers.cost_model import PredictedCost
from search.samplers.gaussian_process import Hyperparameters, Kernel, Surrogate, fit, squared
from search.samplers.learning_curve import SPREAD, expected_gain, goodness
from search.samplers.observations import Observations, Tickets
from spaces import Config, JointSpace

Array = NDArray[np.float64]
N_FAIR = 3  # sampled configurations of each method before promise decides
N_PARENTS = 24  # good trials whose neighbours are candidates
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


class Auto:
    """Chooses configurations by what they promise to add to a front.

    Args:
        space: The joint space.
        size: Of a configuration, known before training: the second objective, or adapter parameters where that is measured;
            ValueError if it is impossible.
        max_size: Largest that is wanted.
        front: The front of the complete trials, kept by the study.
        measured: Whether only training tells the second objective.
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
        measured: bool = False,
        pool: Sequence[Config] | None = None,
        fair: bool = True,
    ) -> None:
        self._front, self._n_epochs, self._fair = front, n_epochs, fair
        axis = Axis(max_size) if measured else front.axis
        self._choice = CandidateGenerator(space, size=size, max_size=max_size, axis=axis, pool=pool)
        self._coding = self._choice.coding
        self._cost = PredictedCost(self._coding) if measured else None
        self._known = Observations(len(self._coding.groups))
        self._n_sampled = dict.fromkeys(self._coding.methods, 0)
        self._sampled: set[int] = set()
        self._kernel = Kernel(self._coding.groups, self._coding.shared)
        self._prior = Hyperparameters.prior([PRIOR_WEIGHTS.get(name, PRIOR_WEIGHT_OF_OTHERS) for name in self._coding.names])
        self._hyperparameters = self._prior
        self._nearness = np.sqrt([COST_WEIGHTS.get(name, COST_WEIGHT_OF_OTHERS) for name in self._coding.names])[
            self._coding.groups
        ]
        self._n_ended, self._next_fit = 0, N_FIT_FIRST
        self._to_fit: tuple[Array, Array, Array] | None = None  # features, values and variances when so many had ended

    @classmethod
    def make(cls, context: SamplerContext) -> Auto:
        """Make the sampler for a study.

        Raises:
            ValueError: The sizes of configurations, their limit or the front is missing.
        """
        if context.size is None or context.max_size is None or context.front is None:
            raise ValueError("the sampler auto needs the sizes of configurations, their limit, and the front")
        return cls(
            context.space,
            size=context.size,
            max_size=context.max_size,
            front=context.front,
            n_epochs=context.n_epochs,
            measured=context.measured,
            pool=context.pool,
        )

    # -- what became of it ---------------------------------------------------------------------------------------------------------

    def add(self, config: Config, *, drawn: bool) -> int:
        """Take up a configuration of the space; returns its ticket."""
        point = self._choice.point(config)
        self._choice.take(config)
        place = math.nan if self._cost is not None else self._front.axis(point.size)
        ticket = self._known.add(point.method, point.code, place, point.features)
        if drawn:
            self._sampled.add(ticket)
            self._n_sampled[point.method] += 1
        return ticket

    def report(self, ticket: int, epoch: int, top1: float, size: float | None = None) -> None:
        """One epoch of a trial; `size` where the second objective was measured."""
        self._known.report(ticket, top1)
        self._measured(ticket, size)

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Take in what became of a configuration.

        What a stopped trial has reported stays known. The accuracy of one that was too dear stays known too, and similar ones
        promise less. Nothing is known of the accuracy of one that failed. A rejected one is never a candidate again.
        """
        if result is Result.COMPLETE:
            assert top1 is not None  # noqa: S101 - the protocol says so
            self._known.complete(ticket, top1)
        elif result in (Result.PRUNED, Result.STOPPED):
            self._known.stop(ticket, for_good=result is Result.PRUNED)
        elif result is Result.OVER_LIMIT:
            self._known.exceed(ticket)
        else:
            self._known.drop(ticket)
            if result is Result.REJECTED and ticket in self._sampled:
                self._n_sampled[self._known.methods[ticket]] -= 1
            return
        self._measured(ticket, size)
        self._ended()

    def promote(self, ticket: int) -> None:
        """Take in that a stopped trial resumes."""
        self._known.revive(ticket)

    def _measured(self, ticket: int, size: float | None) -> None:
        if self._cost is not None and size is not None:
            self._known.set_axis_position(ticket, self._front.axis(size))

    def _ended(self) -> None:
        """Hyperparameters are fitted anew whenever half as many trials again have ended: to what is known at that moment."""
        self._n_ended += 1
        if self._n_ended == self._next_fit:
            self._next_fit = self._next_fit * 3 // 2 if self._next_fit * 3 // 2 <= N_FIT else 0
            observed = self._known.observed()[-N_FIT:]
            if len(observed) >= N_LEAST:
                self._to_fit = self._known.features(observed), *self._known.ends(observed)
            if self._cost is not None:
                placed = self._known.positioned()
                self._cost.fit_to(self._known.features(placed), self._known.axis_positions(placed))

    # -- choosing ------------------------------------------------------------------------------------------------------------------

    def ask(self, seed: int) -> Answer:
        """Propose the configuration that promises most, or a stopped trial that promises more."""
        random = np.random.default_rng(seed)
        observed = self._known.observed()
        ends, variances = self._known.ends(observed)
        if self._cost is not None:
            placed = self._known.positioned()
            predicts = self._cost.learn(self._known.features(placed), self._known.axis_positions(placed))
        else:
            predicts = True
        below = self._below(self._places(observed), ends) if predicts else -ends
        surrogate = self._surrogate(observed, ends, variances, below) if predicts else None
        parents = observed[np.argsort(below, kind="stable")[:N_PARENTS]]
        near = [(self._known.methods[ticket], self._known.codes[ticket]) for ticket in parents]
        due = self._due()
        for methods in [[method] for method in due] + [list(self._coding.methods)]:
            found = self._choice.among(methods, near, random)
            if found is None:
                continue
            if surrogate is None:
                promise = random.random(len(found.sizes)) * self._within_limits(found.features)
            else:
                promise = self._promise(surrogate, found.features, found.sizes)
            order = np.argsort(-promise, kind="stable")
            for i in order:
                config = found.config(int(i), self._coding)
                if self._choice.is_taken(config):
                    continue
                if surrogate is not None and not due:
                    ticket, gain = self._best_stopped(surrogate, below, observed)
                    if ticket is not None and gain > promise[i] / self._n_epochs:
                        return Promote(ticket)
                return NewConfig(config)
        if surrogate is not None and (ticket := self._best_stopped(surrogate, below, observed)[0]) is not None:
            return Promote(ticket)
        # Nothing is left that could be trained. The study refuses what is proposed, and counts up to the end of the space.
        return NewConfig(self._choice.anything(random))

    def _promise(self, surrogate: Surrogate, features: Array, sizes: Array) -> Array:
        """(n,) expected hypervolume improvement of points that were never tried."""
        if self._cost is None:
            return self._gain(surrogate, features, self._front.axis.positions(sizes)[None, :], np.ones(1))
        return self._gain(surrogate, features, *self._cost.nodes(features))

    def _gain(self, surrogate: Surrogate, features: Array, places: Array, weights: Array) -> Array:
        """(n,) the same for sizes at (m, n) places of (m,) weights; where nothing can be improved, what is likeliest to be good."""
        mean, std = surrogate.predict(features)
        gain = weights @ np.stack([expected_gain(self._front, mean, std, row) for row in places])
        promise: Array = (gain + 1e-12 * (mean + std)) * self._within_limits(features)
        return promise

    def _places(self, tickets: Tickets) -> Array:
        """(n,) where the sizes of trials lie: as they are known, measured, or else predicted."""
        places = self._known.axis_positions(tickets)
        if self._cost is not None and (unknown := np.isnan(places)).any():
            shares, weights = self._cost.nodes(self._known.features(tickets[unknown]))
            places[unknown] = np.exp(weights @ np.log(shares))
        return places

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
        gain = self._gain(surrogate, self._known.features(stopped), self._places(stopped)[None, :], np.ones(1))
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

    # -- learning ------------------------------------------------------------------------------------------------------------------

    def _surrogate(self, observed: Tickets, ends: Array, variances: Array, below: Array) -> Surrogate | None:
        """What is known now; None while that is too little."""
        if len(observed) < N_LEAST:
            return None
        if self._to_fit is not None:
            self._hyperparameters, self._to_fit = fit(self._kernel, self._prior, *self._to_fit), None
        if len(observed) > N_KNOWN:  # those nearest to the front, and an even part of the others
            order = np.argsort(below, kind="stable")
            near, others = order[: N_KNOWN // 2], np.sort(order[N_KNOWN // 2 :])
            part = others[np.linspace(0, len(others) - 1, N_KNOWN - len(near)).astype(np.int64)]
            taken = np.concatenate([near, part])
            observed, ends, variances = observed[taken], ends[taken], variances[taken]
        silent = self._known.features(self._known.silent()[-N_RUNNING:])
        return Surrogate(
            self._kernel,
            self._hyperparameters,
            self._known.features(observed),
            ends,
            variances,
            pending=silent,
            pending_extra=SPREAD**2,
        )
