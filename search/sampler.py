"""Choosing what to try next: Optuna's multi-objective samplers, made replayable.

The Optuna study lives in memory only. Every draw uses a sampler seeded from (root seed, number of the draw), so a study that is
rebuilt from the ledger by the same calls in the same order goes on exactly where the first one stopped.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import optuna
from optuna.trial import TrialState

from search.seeds import seed_for
from spaces import Config, JointSpace

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

KINDS = ("auto", "tpe", "random")


class Sampler:
    """Draws configurations from a joint space and learns from what became of them.

    Args:
        space: The joint space.
        kind: `tpe` (Optuna's multi-objective TPE, multivariate within each method's group of knobs), `random`, or `auto` (TPE).
        seed: The study's root seed.
    """

    def __init__(self, space: JointSpace, *, kind: str = "auto", seed: int = 0) -> None:
        self._space = space
        self._kind = kind
        self._seed = seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(directions=["maximize", "minimize"])
        self._n_draws = 0

    def draw(self) -> tuple[int, Config]:
        """A new configuration, and the ticket under which to tell what became of it."""
        self._study.sampler = self._sampler(seed_for(self._seed, "ask", self._n_draws))
        trial = self._study.ask()
        config = self._space.suggest(trial)
        # Optuna keeps notes on a trial that it was asked for (what it would have chosen for the other methods' knobs) and counts
        # them while the trial runs; the ledger does not have them. So the draw is given up, and its configuration taken up anew.
        self._study.tell(trial, state=TrialState.FAIL)
        ticket = self.add(config, drawn=True)
        if ticket is None:
            raise RuntimeError(f"Optuna drew a point outside its own space: {config}")
        return ticket, config

    def draws(self, n: int) -> Iterator[Config]:
        """`n` configurations one after the other; nobody tells what becomes of them."""
        return (self.draw()[1] for _ in range(n))

    def add(self, config: Config, *, drawn: bool) -> int | None:
        """Take up a configuration that is known already: from the ledger, or the paper's default.

        Args:
            config: One point; knobs outside the space are refused by returning None (the sampler then never hears of it).
            drawn: Whether `draw` made it when it was new: then it counts as a draw, and the next one is seeded as it was then.

        Returns:
            Its ticket.
        """
        self._n_draws += drawn
        method = str(config["method"])
        if method not in self._space.methods:
            return None
        distributions = self._space.distributions(method)
        try:
            params = {key: config[key] for key in distributions}
            trial = optuna.trial.create_trial(state=TrialState.RUNNING, params=params, distributions=distributions)
        except (KeyError, ValueError):  # an anchor, or a point from before the space was changed
            return None
        self._study.add_trial(trial)
        return len(self._study.get_trials(deepcopy=False)) - 1

    def complete(self, ticket: int, top1: float, size: int) -> None:
        """The configuration was trained to the end."""
        self._study.tell(ticket, (top1, size))

    def prune(self, ticket: int) -> None:
        """The configuration was stopped because others were better."""
        self._study.tell(ticket, state=TrialState.PRUNED)

    def fail(self, ticket: int) -> None:
        """The configuration ended by its own fault."""
        self._study.tell(ticket, state=TrialState.FAIL)

    def reject(self, ticket: int) -> None:
        """The configuration was refused before training: told as PRUNED and infeasible, so that the sampler avoids its like."""
        optuna.trial.Trial(self._study, ticket).set_constraint("feasible", 1.0)
        self._study.tell(ticket, state=TrialState.PRUNED)

    def _sampler(self, seed: int) -> BaseSampler:
        if self._kind == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `multivariate` and `group`: long in use
            return optuna.samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
