"""What becomes of a trial after an epoch: it goes on, is complete, is pruned by a limit or a rung, or has failed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from search.study.state import SearchState
from search.trial import Metrics, State, Trial


@dataclass(frozen=True)
class EpochOutcome:
    """Of one epoch.

    Attributes:
        state: RUNNING for a trial that goes on.
        counts: Whether the epoch is compared with others': all its numbers are finite and it is within the limits.
        why: What the ledger keeps of the reason: `reason`, and `rung` or `limit`.
    """

    state: State
    counts: bool
    why: dict[str, Any] = field(default_factory=dict)


def judge_epoch(state: SearchState, trial: Trial, epoch: int, metrics: Metrics, *, objective: str, last: bool) -> EpochOutcome:
    """Decide about a trial that is RUNNING; `known` does not hold the epoch yet.

    Args:
        state: What the study knows.
        trial: The one that reports.
        epoch: Which it has ended.
        metrics: Of the epoch.
        objective: What is maximised.
        last: Whether it was the trial's last epoch.
    """
    broken = next((f"{key} is {value} at epoch {epoch}" for key, value in metrics.items() if not math.isfinite(value)), None)
    if broken is None and (key := state.costs.missing(metrics)) is not None:
        broken = f"{key} is not known of it, and the study names it"
    if broken is not None:
        return EpochOutcome(State.FAILED, False, {"reason": broken})
    if (dear := state.costs.broken(epoch, metrics)) is not None:
        limit, reason = dear
        return EpochOutcome(State.PRUNED, False, {"reason": reason, "limit": limit})
    if last:
        return EpochOutcome(State.COMPLETE, True)
    if state.rungs is not None and trial.extends is None:
        verdict = state.rungs.verdict(epoch, replace(trial, metrics=metrics).size, metrics[objective])
        if verdict is not None and not verdict.goes_on:
            reason = (
                f"{objective} {metrics[objective]:.4f} at epoch {epoch} is below {verdict.bar:.4f}, "
                f"the bar among the {verdict.n_peers} trials of its size or smaller"
            )
            return EpochOutcome(State.PRUNED, True, {"reason": reason, "rung": epoch})
    return EpochOutcome(State.RUNNING, True)
