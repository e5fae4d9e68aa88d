"""What the sampler `auto` knows of every configuration it has heard of, in columns: many trials are looked at in one ask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.samplers.learning_curve import Extrapolation, goodness

Array = NDArray[np.float64]
Tickets = NDArray[np.int64]


class Observations:
    """One row for each ticket, in the order of taking them up.

    Args:
        n_features: F, columns of a configuration's features.

    Attributes:
        methods: Of each ticket.
        codes: Of each ticket, (knobs,) as in `search.samplers.encoding`.
    """

    def __init__(self, n_features: int) -> None:
        self.methods: list[str] = []
        self.codes: list[Array] = []
        self._features = np.empty((64, n_features))
        self._rows = np.zeros(64, dtype=_ROW)
        self._curves: list[list[float]] = []
        self._extrapolation = Extrapolation()

    def __len__(self) -> int:
        return len(self.methods)

    def add(self, method: str, code: Array, place: float, features: Array) -> int:
        """Take up a configuration whose size lies at `place` (`pareto.Axis`), NaN while it is not known; returns its ticket."""
        ticket = len(self.methods)
        if ticket == len(self._rows):
            self._features = np.concatenate([self._features, np.empty_like(self._features)])
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self.methods.append(method)
        self.codes.append(code)
        self._curves.append([])
        self._features[ticket] = features
        self._rows[ticket]["place"] = place
        self._rows[ticket]["running"] = True
        return ticket

    # -- what became of it ---------------------------------------------------------------------------------------------------------

    def report(self, ticket: int, top1: float) -> None:
        """One more epoch."""
        curve = self._curves[ticket]
        curve.append(goodness(top1))
        self._rows[ticket]["last"], self._rows[ticket]["n_epochs"] = curve[-1], len(curve)

    def set_axis_position(self, ticket: int, place: float) -> None:
        """Its size was measured, maybe not for the first time."""
        self._rows[ticket]["place"] = place

    def complete(self, ticket: int, top1: float) -> None:
        """It was trained to the end."""
        row = self._rows[ticket]
        row["last"], row["complete"], row["running"] = goodness(top1), True, False
        row["n_epochs"] = max(1, row["n_epochs"])
        self._extrapolation.add(self._curves[ticket])

    def stop(self, ticket: int, *, for_good: bool) -> None:
        """It was stopped early; unless for good, it may go on one day."""
        self._rows[ticket]["running"], self._rows[ticket]["stopped"] = False, not for_good

    def exceed(self, ticket: int) -> None:
        """It was stopped because it costs too much."""
        self._rows[ticket]["running"], self._rows[ticket]["over"] = False, True

    def revive(self, ticket: int) -> None:
        """It goes on from where it was stopped."""
        self._rows[ticket]["running"], self._rows[ticket]["stopped"] = True, False

    def drop(self, ticket: int) -> None:
        """It was refused, or has failed: nothing is learnt of its accuracy."""
        self._rows[ticket]["gone"], self._rows[ticket]["running"] = True, False

    # -- looking -------------------------------------------------------------------------------------------------------------------

    def observed(self) -> Tickets:
        """All that have told something."""
        rows = self._rows[: len(self)]
        return np.flatnonzero((rows["n_epochs"] > 0) & ~rows["gone"])

    def silent(self) -> Tickets:
        """All that run and have told nothing yet."""
        rows = self._rows[: len(self)]
        return np.flatnonzero(rows["running"] & (rows["n_epochs"] == 0))

    def stopped(self) -> Tickets:
        """All that were stopped and may go on."""
        return np.flatnonzero(self._rows["stopped"][: len(self)])

    def over(self) -> Tickets:
        """All that cost too much."""
        return np.flatnonzero(self._rows["over"][: len(self)])

    def within(self) -> Tickets:
        """All that have told something and do not cost too much."""
        rows = self._rows[: len(self)]
        return np.flatnonzero((rows["n_epochs"] > 0) & ~rows["gone"] & ~rows["over"])

    def positioned(self) -> Tickets:
        """All of whose sizes are known, whatever became of them."""
        return np.flatnonzero(~np.isnan(self._rows["place"][: len(self)]))

    def features(self, tickets: Tickets) -> Array:
        """(n, F)."""
        return self._features[tickets]

    def axis_positions(self, tickets: Tickets) -> Array:
        """(n,) where their sizes lie; NaN where that is not known."""
        return self._rows["place"][tickets]

    def n_epochs(self, tickets: Tickets) -> NDArray[np.int64]:
        """(n,) epochs that were reported."""
        return self._rows["n_epochs"][tickets]

    def ends(self, tickets: Tickets) -> tuple[Array, Array]:
        """What the goodness of observed trials comes to at the end, and the variance of that: 0 for complete ones."""
        rows = self._rows[tickets]
        value, variance = self._extrapolation(rows["last"], rows["n_epochs"])
        return np.where(rows["complete"], rows["last"], value), np.where(rows["complete"], 0.0, variance)


_ROW = np.dtype(
    [("place", float), ("last", float), ("n_epochs", np.int64)]
    + [(flag, bool) for flag in ("running", "complete", "stopped", "over", "gone")]
)
