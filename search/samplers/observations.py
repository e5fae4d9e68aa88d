"""The observations of the sampler `auto`, in columns, because one ask uses many trials at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from search.samplers.learning_curve import Extrapolation, goodness

Array = NDArray[np.float64]
Tickets = NDArray[np.int64]


class Observations:
    """The table of observations: one row for each ticket, in order.

    Args:
        n_features: Number F of feature columns of a configuration.

    Attributes:
        methods: Method of each ticket.
        codes: Code (knobs,) of each ticket, see `search.samplers.encoding`.
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

    def add(self, method: str, code: Array, position: float, features: Array) -> int:
        """Add a configuration whose size has position `position` (`pareto.Axis`), NaN if it is unknown; return its ticket."""
        ticket = len(self.methods)
        if ticket == len(self._rows):
            self._features = np.concatenate([self._features, np.empty_like(self._features)])
            self._rows = np.concatenate([self._rows, np.zeros_like(self._rows)])
        self.methods.append(method)
        self.codes.append(code)
        self._curves.append([])
        self._features[ticket] = features
        self._rows[ticket]["position"] = position
        self._rows[ticket]["running"], self._rows[ticket]["n_runs"] = True, 1
        return ticket

    # -- results -------------------------------------------------------------------------------------------------------------------

    def report(self, ticket: int, top1: float) -> None:
        """Record one more epoch."""
        curve = self._curves[ticket]
        curve.append(goodness(top1))
        self._rows[ticket]["last"], self._rows[ticket]["n_epochs"] = curve[-1], len(curve)

    def set_axis_position(self, ticket: int, position: float) -> None:
        """Record a measured size, which may replace an earlier one."""
        self._rows[ticket]["position"] = position

    def complete(self, ticket: int, top1: float) -> None:
        """Record that the trial was trained to the end."""
        row = self._rows[ticket]
        row["last"], row["complete"], row["running"] = goodness(top1), True, False
        row["n_epochs"] = max(1, row["n_epochs"])
        self._extrapolation.add(self._curves[ticket])

    def revise(self, ticket: int, top1: float, n_runs: int) -> None:
        """Replace the accuracy of a complete trial by the mean of so many runs."""
        self._rows[ticket]["last"], self._rows[ticket]["n_runs"] = goodness(top1), n_runs

    def stop(self, ticket: int, *, for_good: bool) -> None:
        """Record that the trial was stopped early; unless `for_good`, it may resume."""
        self._rows[ticket]["running"], self._rows[ticket]["stopped"] = False, not for_good

    def exceed(self, ticket: int) -> None:
        """Record that the trial was stopped because it exceeded a limit."""
        self._rows[ticket]["running"], self._rows[ticket]["over"] = False, True

    def revive(self, ticket: int) -> None:
        """Record that the trial resumes."""
        self._rows[ticket]["running"], self._rows[ticket]["stopped"] = True, False

    def drop(self, ticket: int, *, failed: bool) -> None:
        """Record that the configuration has failed or was rejected, so that its accuracy stays unknown."""
        row = self._rows[ticket]
        row["gone"], row["running"], row["failed"] = True, False, failed

    # -- queries -------------------------------------------------------------------------------------------------------------------

    def observed(self) -> Tickets:
        """Return the tickets with at least one epoch."""
        rows = self._rows[: len(self)]
        return np.flatnonzero((rows["n_epochs"] > 0) & ~rows["gone"])

    def silent(self) -> Tickets:
        """Return the tickets of running trials without any epoch."""
        rows = self._rows[: len(self)]
        return np.flatnonzero(rows["running"] & (rows["n_epochs"] == 0))

    def running_methods(self) -> set[str]:
        """Return the methods of running trials."""
        return {self.methods[ticket] for ticket in np.flatnonzero(self._rows["running"][: len(self)])}

    def failed(self) -> Tickets:
        """Return the tickets of trials that have failed."""
        return np.flatnonzero(self._rows["failed"][: len(self)])

    def stopped(self) -> Tickets:
        """Return the tickets of stopped trials that may resume."""
        return np.flatnonzero(self._rows["stopped"][: len(self)])

    def over(self) -> Tickets:
        """Return the tickets of trials that exceeded a limit."""
        return np.flatnonzero(self._rows["over"][: len(self)])

    def within(self) -> Tickets:
        """Return the tickets with at least one epoch that have not exceeded a limit."""
        rows = self._rows[: len(self)]
        return np.flatnonzero((rows["n_epochs"] > 0) & ~rows["gone"] & ~rows["over"])

    def positioned(self) -> Tickets:
        """Return the tickets with a known size, in any state."""
        return np.flatnonzero(~np.isnan(self._rows["position"][: len(self)]))

    def features(self, tickets: Tickets) -> Array:
        """Return the features (n, F)."""
        return self._features[tickets]

    def axis_positions(self, tickets: Tickets) -> Array:
        """Return the positions (n,) of the sizes; NaN if unknown."""
        return self._rows["position"][tickets]

    def n_epochs(self, tickets: Tickets) -> NDArray[np.int64]:
        """Return the number (n,) of reported epochs."""
        return self._rows["n_epochs"][tickets]

    def n_runs(self, tickets: Tickets) -> NDArray[np.int64]:
        """Return the number (n,) of runs whose mean a result is."""
        return self._rows["n_runs"][tickets]

    def ends(self, tickets: Tickets) -> tuple[Array, Array]:
        """Return the predicted goodness at the end of observed trials, and its variance: 0 for complete ones."""
        rows = self._rows[tickets]
        value, variance = self._extrapolation(rows["last"], rows["n_epochs"])
        return np.where(rows["complete"], rows["last"], value), np.where(rows["complete"], 0.0, variance)


_ROW = np.dtype(
    [("position", float), ("last", float), ("n_epochs", np.int64), ("n_runs", np.int64)]
    + [(flag, bool) for flag in ("running", "complete", "stopped", "over", "gone", "failed")]
)
