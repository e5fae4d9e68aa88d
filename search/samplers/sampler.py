"""Choosing what to try next: one face for all samplers, made replayable.

Every draw is seeded from (root seed, number of the draw) and depends on nothing else but what was told, so that a study rebuilt
from the ledger by the same calls in the same order goes on exactly where the first one stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from search.pareto import Front
from search.samplers.auto import Auto
from search.samplers.finite_pool import FinitePool
from search.samplers.optuna_sampler import OptunaSampler
from search.samplers.random_sampler import _Random
from search.seeds import seed_for
from spaces import Config, JointSpace

KINDS = ("auto", "tpe", "nsga2", "gp", "random", "grid")


class Sampler:
    """Draws configurations from a joint space and learns from what became of them.

    Args:
        space: The joint space.
        kind: `auto` (see `search.samplers.auto`), Optuna's `tpe`, `nsga2`, `gp` or `grid` (see `search.samplers.optuna_sampler`),
            or `random`.
        seed: The study's root seed.
        size: Of a configuration, as far as it is known before training, ValueError if it is impossible; only `auto` asks.
        max_size: Largest that is wanted; only `auto` asks.
        measured: Whether only training tells what accuracy is weighed against; only `auto` asks.
        front: The front of the complete trials, kept up to date by the study; only `auto` asks.
        n_epochs: Epochs of a whole trial; only `auto` asks.
        pool: The only configurations that there are: what is drawn is moved to the nearest of them that is left. None for all.
    """

    def __init__(
        self,
        space: JointSpace,
        *,
        kind: str = "random",
        seed: int = 0,
        size: Callable[[Config], float] | None = None,
        max_size: float | None = None,
        measured: bool = False,
        front: Front | None = None,
        n_epochs: int = 1,
        pool: Sequence[Config] | None = None,
    ) -> None:
        self._space, self._seed, self._n_draws = space, seed, 0
        self._pool = None if pool is None else FinitePool(space, pool)
        self._engine: _Engine
        if kind == "auto":
            if size is None or max_size is None or front is None:
                raise ValueError("the sampler auto needs the sizes of configurations, their limit, and the front")
            self._engine = Auto(space, size=size, max_size=max_size, front=front, n_epochs=n_epochs, measured=measured, pool=pool)
        elif kind == "random":
            self._engine = _Random(space)
        else:
            self._engine = OptunaSampler(space, kind)

    def draw(self) -> tuple[int, Config | None]:
        """A new configuration, and the ticket under which to tell what became of it; None: the ticket's stopped trial goes on."""
        config = self._engine.choose(seed_for(self._seed, "ask", self._n_draws))
        if isinstance(config, int):
            self.revive(config)
            return config, None
        if self._pool is not None:
            config = self._pool.nearest(config)
        ticket = self.add(config, drawn=True)
        if ticket is None:
            raise RuntimeError(f"the sampler drew a point outside its own space: {config}")
        return ticket, config

    def draws(self, n: int) -> Iterator[Config]:
        """`n` configurations one after the other; nobody tells what becomes of them."""
        return (config for _ in range(n) if (config := self.draw()[1]) is not None)

    def revive(self, ticket: int) -> None:
        """A trial that was stopped goes on: a draw too."""
        self._n_draws += 1
        self._engine.revive(ticket)

    def add(self, config: Config, *, drawn: bool) -> int | None:
        """Take up a configuration that is known already: from the ledger, or the paper's default.

        Args:
            config: One point; knobs outside the space are refused by returning None (the sampler then never hears of it).
            drawn: Whether `draw` made it when it was new: then it counts as a draw, and the next one is seeded as it was then.

        Returns:
            Its ticket.
        """
        self._n_draws += drawn
        if self._pool is not None:
            self._pool.take(config)
        if not self._space.holds(config):  # an anchor, or a point from before the space was changed
            return None
        return self._engine.add(config, drawn=drawn)

    def report(self, ticket: int, epoch: int, top1: float, size: float | None = None) -> None:
        """The configuration has been trained for so many epochs; `size` where that has measured the second objective."""
        self._engine.report(ticket, epoch, top1, size)

    def complete(self, ticket: int, top1: float, size: float) -> None:
        """The configuration was trained to the end."""
        self._engine.complete(ticket, top1, size)

    def prune(self, ticket: int, *, for_good: bool = True) -> None:
        """The configuration was stopped because others were better; unless for good, `draw` may let it go on."""
        self._engine.prune(ticket, for_good=for_good)

    def exceed(self, ticket: int, size: float | None = None) -> None:
        """The configuration was stopped because it costs more than a limit allows; `size` as of `report`."""
        self._engine.exceed(ticket, size)

    def fail(self, ticket: int) -> None:
        """The configuration ended by its own fault."""
        self._engine.fail(ticket)

    def reject(self, ticket: int) -> None:
        """The configuration was refused before training."""
        self._engine.reject(ticket)


class _Engine(Protocol):
    """What is different from sampler to sampler."""

    def choose(self, seed: int) -> Config | int: ...
    def add(self, config: Config, *, drawn: bool) -> int: ...
    def report(self, ticket: int, epoch: int, top1: float, size: float | None) -> None: ...
    def complete(self, ticket: int, top1: float, size: float) -> None: ...
    def prune(self, ticket: int, *, for_good: bool) -> None: ...
    def revive(self, ticket: int) -> None: ...
    def exceed(self, ticket: int, size: float | None) -> None: ...
    def fail(self, ticket: int) -> None: ...
    def reject(self, ticket: int) -> None: ...
