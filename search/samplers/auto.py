"""The sampler `auto`: it proposes the candidate with the largest expected gain for the front, among many of known size.

Size is known before training for every candidate, so only accuracy is modelled (`search.samplers.gaussian_process`), as
-log(error). The promise of a candidate is its expected hypervolume improvement, exact up to a quadrature over one normal
variable: the area between its accuracy and the front to the right of its size. If accuracy is weighed against a cost that only
training can measure (time, memory, latency), that cost is modelled too (`search.samplers.cost_model`), and the promise is the
mean over its predicted values.

- Effort: candidates and stopped trials are compared by their promise for each epoch that is left. If the budget is in hours, they
  are compared by their promise for each second (`search.samplers.epoch_seconds`).
- Fairness: before promise decides, every method gets a start (`search.samplers.start`). A study that began before that was written
  continues as it began: with `N_FAIR` sampled configurations of each method, the most promising of its candidates.
- Free checks: candidates that are too large, invalid or already known are dropped before they are evaluated.
- All trials count: a trial that runs, or was stopped at a rung, counts with the accuracy predicted for its end, from a regression
  over the complete trials. The earlier the epoch, the larger the uncertainty.
- Divergence: accuracies far below the others are clipped, so that they do not set the scale; failed trials make their like less
  likely.
- Reproducibility: the state depends only on the reported results, in their order, so a study rebuilt from the ledger continues
  exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from search.pareto import Axis, Front
from search.samplers.base import ALL_PARTS, Answer, NewConfig, Part, Promote, Result, SamplerContext
from search.samplers.candidates import N_STRUCTURES, CandidateGenerator, Candidates
from search.samplers.cost_model import PredictedCost
from search.samplers.encoding import Coding
from search.samplers.epoch_seconds import EpochSeconds
from search.samplers.gaussian_process import Surrogate
from search.samplers.learning_curve import expected_gain, goodness
from search.samplers.observations import Observations, Tickets
from search.samplers.predicted_accuracy import PredictedAccuracy, likely
from search.samplers.shared_columns import RATE, STEP, SharedColumns
from search.samplers.start import Kind, Start, Turn, suits
from spaces import Config, JointSpace, key_of

Array = NDArray[np.float64]
N_FAIR = 3  # sampled configurations of each method before promise decides
N_PARENTS = 24  # good trials whose neighbours are candidates
N_STOPPED = 64  # stopped trials that are considered for promotion
EXPECTED = 0.5  # share of its epochs that a new trial is expected to train before a rung stops it; chosen on the recorded table
# Squared inverse length scales (as in `predicted_accuracy`) for predicting whether a trial keeps a measured limit: size matters
# most; knobs that no cost depends on are ignored.
COST_WEIGHTS = {"size": 128.0, "method": 2.0, "shared lr": 0.0, "shared weight_decay": 0.0, "scale": 0.0, "dropout": 0.0}
COST_WEIGHTS |= {STEP: 0.0}
COST_WEIGHT_OF_OTHERS = 0.3
LIKELY = 0.5  # candidates that are less likely to keep a limit come after all others


class Auto:
    """A sampler that chooses configurations by their expected gain for a front.

    Args:
        space: The joint space.
        size: Function that returns what is known before training: the second objective, or adapter parameters if that is measured;
            it raises ValueError for an invalid configuration.
        max_size: Largest allowed size.
        front: Front of the complete trials, updated by the study.
        measured: True if only training can measure the second objective.
        n_epochs: Number of epochs of a complete trial.
        pool: The only available configurations; None for the whole space.
        by_seconds: True to weigh gain against seconds, False against epochs.
        fair: True to give each method its share first.
        n_trials: Number of trials of the budget, which the start fits; None if only hours limit it.
        n_images: Number of images that accuracies are measured on; None if they count as exact.
        folds: True if each run of a trial is measured on other images.
        parts: Parts with which the study began.
        elsewhere: Configurations of studies with other data, and the standardised goodness of each.
        of_prior: Keys of the configurations with which a prior begins.
        n_structures: Number of different sizes among the points drawn for one method: few where counting is slow.
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
        by_seconds: bool = False,
        fair: bool = True,
        n_trials: int | None = None,
        n_images: int | None = None,
        folds: bool = False,
        parts: frozenset[Part] = ALL_PARTS,
        elsewhere: Sequence[tuple[Config, float]] = (),
        of_prior: frozenset[str] = frozenset(),
        n_structures: int = N_STRUCTURES,
    ) -> None:
        self._front, self._n_epochs, self._fair, self._parts, self._of_prior = front, n_epochs, fair, parts, of_prior
        axis = Axis(max_size) if measured else front.axis
        self._coding = SharedColumns(space) if Part.SHARED in parts else Coding(space)
        self._choice = CandidateGenerator(
            self._coding, size=size, max_size=max_size, axis=axis, pool=pool, n_structures=n_structures
        )
        self._start = Start(space.methods, n_trials)
        self._defaults = {method: space.default(method) for method in space.methods}
        self._cost = PredictedCost(self._coding) if measured else None
        self._seconds = EpochSeconds(self._coding) if by_seconds else None
        self._known = Observations(len(self._coding.groups))
        self._n_sampled = dict.fromkeys(self._coding.methods, 0)
        self._sampled: set[int] = set()
        others = [(self._choice.point(config).features, standing) for config, standing in elsewhere if space.holds(config)]
        self._accuracy = PredictedAccuracy(self._coding, parts, n_images, others, folds=folds)
        self._nearness = np.sqrt([COST_WEIGHTS.get(name, COST_WEIGHT_OF_OTHERS) for name in self._coding.names])[
            self._coding.groups
        ]

    @classmethod
    def make(cls, context: SamplerContext) -> Auto:
        """Create the sampler for a study.

        Raises:
            ValueError: If the sizes of configurations, their limit or the front is missing.
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
            by_seconds=context.by_seconds,
            n_trials=context.n_trials,
            n_images=context.n_images,
            folds=context.folds,
            parts=context.parts,
            elsewhere=context.elsewhere,
            of_prior=context.of_prior,
        )

    # -- results -------------------------------------------------------------------------------------------------------------------

    def add(self, config: Config, *, drawn: bool) -> int:
        """Register a configuration of the space; return its ticket."""
        point = self._choice.point(config)
        self._choice.take(config)
        position = math.nan if self._cost is not None else self._front.axis(point.size)
        ticket = self._known.add(point.method, point.code, position, point.features)
        if drawn or (self._of_prior and key_of(config) in self._of_prior):
            self._sampled.add(ticket)
            self._n_sampled[point.method] += 1
            self._start.add(ticket, config, best_rate=self._best_rate())
        return ticket

    def report(self, ticket: int, epoch: int, top1: float, size: float | None = None, seconds: float | None = None) -> None:
        """Record one epoch of a trial; `size` is given if the second objective was measured, `seconds` if they were."""
        self._known.report(ticket, top1)
        self._measured(ticket, size)
        if self._seconds is not None and seconds is not None:
            self._seconds.report(ticket, self._known.features(np.array([ticket]))[0], epoch, seconds)

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Record the result of a configuration.

        The reports of a stopped trial stay known. The accuracy of one that exceeded a limit stays known too, and similar ones
        promise less. Nothing is known of the accuracy of one that failed. A rejected one is never a candidate again.
        """
        if result is Result.COMPLETE:
            assert top1 is not None  # noqa: S101 - guaranteed by the protocol
            self._known.complete(ticket, top1)
            self._start.complete(ticket, self._known.methods[ticket])
        elif result in (Result.PRUNED, Result.STOPPED):
            self._known.stop(ticket, for_good=result is Result.PRUNED)
        elif result is Result.OVER_LIMIT:
            self._known.exceed(ticket)
        else:
            self._known.drop(ticket, failed=result is Result.FAILED)
            if result is Result.REJECTED and ticket in self._sampled:
                self._n_sampled[self._known.methods[ticket]] -= 1
                self._start.reject(ticket, self._known.methods[ticket])
            return
        self._measured(ticket, size)
        if self._accuracy.ended(self._known) and self._cost is not None:
            placed = self._known.positioned()
            self._cost.fit_to(self._known.features(placed), self._known.axis_positions(placed))

    def promote(self, ticket: int) -> None:
        """Record that a stopped trial resumes."""
        self._known.revive(ticket)

    def revise(self, ticket: int, top1: float, n_runs: int) -> None:
        """Record the mean score of a complete trial after a further run."""
        self._known.revise(ticket, top1, n_runs)

    def _measured(self, ticket: int, size: float | None) -> None:
        if self._cost is not None and size is not None:
            self._known.set_axis_position(ticket, self._front.axis(size))

    # -- choosing ------------------------------------------------------------------------------------------------------------------

    def ask(self, seed: int) -> Answer:
        """Propose the configuration that promises most, or a stopped trial that promises more."""
        random = np.random.default_rng(seed)
        observed = self._known.observed()
        ends = self._known.ends(observed)[0]
        if self._cost is not None:
            placed = self._known.positioned()
            predicts = self._cost.learn(self._known.features(placed), self._known.axis_positions(placed))
        else:
            predicts = True
        below = self._below(self._positions(observed), ends) if predicts else -ends
        surrogate = self._accuracy.learn(self._known, observed, below) if predicts else None
        parents = observed[np.argsort(below, kind="stable")[:N_PARENTS]]
        near = [(self._known.methods[ticket], self._known.codes[ticket]) for ticket in parents]
        due = self._due()
        blocked = bool(due) and Part.START not in self._parts  # an old study promotes nothing while a method is due
        for turn in [*due, None]:
            if turn is not None and turn.kind is Kind.DEFAULT:
                return NewConfig(self._defaults[turn.method])
            found = self._candidates(turn, near, random)
            if found is None:
                continue
            if surrogate is None:
                promise = random.random(len(found.sizes)) * self._within_limits(found.features)
            elif turn is not None and turn.kind is Kind.SMALL:
                promise = surrogate.predict(found.features)[0]
            else:
                promise = self._promise(surrogate, found.features, found.sizes)
            rate = promise / self._effort(found.features)
            order = np.argsort(-(promise if self._seconds is None else rate), kind="stable")
            for i in order:
                config = found.config(int(i), self._coding)
                if self._choice.is_taken(config):
                    continue
                if surrogate is not None and turn is None and not blocked:
                    ticket, gain = self._best_stopped(surrogate, below, observed)
                    if ticket is not None and gain > rate[i]:
                        return Promote(ticket)
                return NewConfig(config)
        if surrogate is not None and (ticket := self._best_stopped(surrogate, below, observed)[0]) is not None:
            return Promote(ticket)
        # Nothing can be trained any more. The study rejects the proposal, and counts up to the end of the space.
        return NewConfig(self._choice.anything(random))

    def _candidates(self, turn: Turn | None, near: Sequence[tuple[str, Array]], random: np.random.Generator) -> Candidates | None:
        """Return the candidates of a turn; None if there is none."""
        if turn is None:
            return self._choice.among(self._coding.methods, near, random)
        if turn.kind is Kind.SMALL and not self._start.is_refused(turn.method):
            return self._choice.smallest(turn.method, self._defaults[turn.method], random)
        found = self._choice.among([turn.method], near, random)
        if turn.kind is not Kind.RATE or found is None:
            return found
        best = self._best_rate()
        rates = (found.config(i, self._coding).get(RATE) for i in range(len(found.sizes)))
        return found.where(np.array([best is None or suits(rate, best) for rate in rates]))

    def _promise(self, surrogate: Surrogate, features: Array, sizes: Array) -> Array:
        """Return the expected hypervolume improvement (n,) of untried points."""
        if self._cost is None:
            return self._gain(surrogate, features, self._front.axis.positions(sizes)[None, :], np.ones(1))
        return self._gain(surrogate, features, *self._cost.nodes(features))

    def _gain(self, surrogate: Surrogate, features: Array, positions: Array, weights: Array) -> Array:
        """Return the same for sizes at (m, n) positions of (m,) weights; if nothing can be improved, prefer likely good points."""
        mean, std = surrogate.predict(features)
        gain = weights @ np.stack([expected_gain(self._front, mean, std, row) for row in positions])
        promise: Array = (gain + 1e-12 * (mean + std)) * self._within_limits(features) * self._accuracy.works(features, self._known)
        return promise

    def _effort(self, features: Array) -> Array | float:
        """Return what it takes (n,) to train untried points: epochs, or seconds if the budget is in hours."""
        if self._seconds is None:
            return float(self._n_epochs)
        return EXPECTED * self._n_epochs * self._seconds.of(features)

    def _positions(self, tickets: Tickets) -> Array:
        """Return the positions (n,) of trials' sizes: known, measured, or else predicted."""
        positions = self._known.axis_positions(tickets)
        if self._cost is not None and (unknown := np.isnan(positions)).any():
            shares, weights = self._cost.nodes(self._known.features(tickets[unknown]))
            positions[unknown] = np.exp(weights @ np.log(shares))
        return positions

    def _within_limits(self, features: Array) -> Array:
        """Return the probability (n,) that points keep the measured limits, from nearby trials that did or did not."""
        over, within = self._known.over(), self._known.within()
        if not len(over):
            return np.ones(len(features))
        found = likely(features, self._known.features(over), self._known.features(within), self._nearness)
        return np.where(found < LIKELY, 1e-12 * found, found)

    def _best_stopped(self, surrogate: Surrogate, below: Array, observed: Tickets) -> tuple[int | None, float]:
        """Return the stopped trial with the largest promise per remaining epoch or second, and that promise."""
        stopped = self._known.stopped()
        if not len(stopped):
            return None, 0.0
        if len(stopped) > N_STOPPED:
            nearness = np.full(len(self._known), np.inf)
            nearness[observed] = below
            stopped = stopped[np.argsort(nearness[stopped], kind="stable")[:N_STOPPED]]
        gain = self._gain(surrogate, self._known.features(stopped), self._positions(stopped)[None, :], np.ones(1))
        gain /= np.maximum(1, self._n_epochs - self._known.n_epochs(stopped))
        if self._seconds is not None:
            gain /= self._seconds.of_trials(stopped, self._known.features(stopped))
        return int(stopped[gain.argmax()]), float(gain.max())

    def _due(self) -> list[Turn]:
        """Return the trials that methods are due, the most urgent first."""
        if not self._fair:
            return []
        if Part.START in self._parts:
            return self._start.turns(lambda m: self._choice.is_available(self._defaults[m]), self._known.running_methods())
        n = self._n_sampled
        return [Turn(m, Kind.DRAW) for m in sorted((m for m in n if n[m] < N_FAIR), key=lambda m: n[m])]

    def _best_rate(self) -> float | None:
        """Return the learning rate of the trial that is expected to end best; None if there is none."""
        observed = self._known.observed()
        if not len(observed):
            return None
        best = int(observed[self._known.ends(observed)[0].argmax()])
        rate = self._coding.config(self._known.methods[best], self._known.codes[best]).get(RATE)
        return float(rate) if isinstance(rate, int | float) else None

    def _below(self, positions: Array, ends: Array) -> Array:
        """Return how far (n,) the predicted ends are below the front, in goodness."""
        edges, levels = self._front.strips()
        strip = np.clip(np.searchsorted(edges, positions, side="right") - 1, 0, len(levels) - 1)
        found: Array = np.array([goodness(top1) for top1 in levels])[strip] - ends
        return found
