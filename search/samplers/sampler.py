"""The sampler of a study: seeded draw by draw, replayable, and restricted to a pool if there is one.

Every draw is seeded from (root seed, number of the draw). So a study that is rebuilt from its ledger by the same calls in the same
order continues exactly as the first one would have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from search.samplers.auto import Auto
from search.samplers.base import Answer, NewConfig, Promote, Result, Sampler, SamplerContext
from search.samplers.finite_pool import FinitePool
from search.samplers.optuna_sampler import OptunaSampler
from search.samplers.random_sampler import RandomSampler
from search.seeds import seed_for
from spaces import Config

SAMPLERS: Mapping[str, Callable[[SamplerContext], Sampler]] = {
    "auto": Auto.make,
    "tpe": lambda context: OptunaSampler(context.space, "tpe"),
    "nsga2": lambda context: OptunaSampler(context.space, "nsga2"),
    "gp": lambda context: OptunaSampler(context.space, "gp"),
    "random": lambda context: RandomSampler(context.space),
    "grid": lambda context: OptunaSampler(context.space, "grid"),
}


class SeededSampler:
    """One sampler with its seeds, its count of draws and its pool.

    Args:
        sampler: Rule that proposes configurations.
        context: Context with which the rule was created.
        seed: Root seed of the study.
    """

    def __init__(self, sampler: Sampler, context: SamplerContext, seed: int = 0) -> None:
        self.rule = sampler
        self._space, self._seed, self._n_draws = context.space, seed, 0
        self._pool = None if context.pool is None else FinitePool(context.space, context.pool)

    @classmethod
    def make(cls, name: str, context: SamplerContext, *, seed: int = 0) -> SeededSampler:
        """Create the sampler that a study file names (`search.sampler`)."""
        return cls(SAMPLERS[name](context), context, seed)

    def draw(self) -> Answer:
        """Propose the next action. A new configuration comes with its ticket; a promotion is already recorded in the sampler."""
        answer = self.rule.ask(seed_for(self._seed, "ask", self._n_draws))
        if isinstance(answer, Promote):
            self.promote(answer.ticket)
        if not isinstance(answer, NewConfig):
            return answer
        config = answer.config if self._pool is None else self._pool.nearest(answer.config)
        ticket = self.add(config, drawn=True)
        if ticket is None:
            raise RuntimeError(f"the sampler drew a point outside its own space: {config}")
        return replace(answer, config=config, ticket=ticket)

    def draws(self, n: int) -> Iterator[Config]:
        """Draw at most `n` configurations one after the other, without recording any results."""
        return (answer.config for _ in range(n) if isinstance(answer := self.draw(), NewConfig))

    def add(self, config: Config, *, drawn: bool) -> int | None:
        """Register a configuration that is already known: from the ledger, or a paper's default.

        Args:
            config: Configuration to register.
            drawn: True if `draw` created it when it was new; then it counts as a draw, so that the next draw has the same seed.

        Returns:
            Its ticket; None for a point outside the space (an anchor, or one from before the space was changed), which the sampler
            does not record.
        """
        self._n_draws += drawn
        if self._pool is not None:
            self._pool.take(config)
        return self.rule.add(config, drawn=drawn) if self._space.holds(config) else None

    def report(self, ticket: int, epoch: int, top1: float, size: float | None = None, seconds: float | None = None) -> None:
        """Record one epoch; see `Sampler.report`."""
        self.rule.report(ticket, epoch, top1, size, seconds)

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        """Record the result of a configuration; see `Sampler.tell`."""
        self.rule.tell(ticket, result, top1=top1, size=size)

    def revise(self, ticket: int, top1: float, n_runs: int) -> None:
        """Record the score of a complete trial after a further run; see `Sampler.revise`."""
        self.rule.revise(ticket, top1, n_runs)

    def promote(self, ticket: int) -> None:
        """Record that a stopped trial resumes; it counts as a draw."""
        self._n_draws += 1
        self.rule.promote(ticket)
