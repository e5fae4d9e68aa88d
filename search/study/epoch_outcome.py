"""The decision about a trial after an epoch: it continues, is complete, is pruned by a limit or a rung, or has failed."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from search.study.state import SearchState
from search.trial import Metrics, State, Trial


@dataclass(frozen=True)
class EpochOutcome:
    """The decision after one epoch.

    Attributes:
        state: New state; RUNNING for a trial that continues.
        counts: True if the epoch is compared with others': all its numbers are finite and within the limits.
        why: Reason for the ledger: `reason`, and `rung` or `limit`.
    """

    state: State
    counts: bool
    why: dict[str, Any] = field(default_factory=dict)


def judge_epoch(state: SearchState, trial: Trial, epoch: int, metrics: Metrics, *, last: bool) -> EpochOutcome:
    """Decide about a RUNNING trial; `state` does not include the epoch yet.

    Args:
        state: State of the search.
        trial: Trial that reports.
        epoch: Number of the finished epoch.
        metrics: Metrics of the epoch.
        last: True if it was the trial's last epoch.
    """
    if (broken := why_broken(state, epoch, metrics)) is not None:
        return EpochOutcome(State.FAILED, False, {"reason": broken})
    if (dear := state.costs.broken(epoch, metrics)) is not None:
        limit, reason = dear
        return EpochOutcome(State.PRUNED, False, {"reason": reason, "limit": limit})
    if last:
        return EpochOutcome(State.COMPLETE, True)
    if state.rungs is not None and trial.extends is None:
        verdict = state.rungs.verdict(epoch, replace(trial, metrics=metrics).size, state.score(metrics), state.pace(metrics))
        if verdict is not None and not verdict.goes_on:
            metric = state.metric
            reason = (
                f"{metric.key} {metric.words(metrics[metric.key])} at epoch {epoch} is "
                f"{'below' if metric.larger_is_better else 'above'} {metric.words(metric.score(verdict.bar))}, "
                f"the bar among the {verdict.n_peers} trials of its size or smaller"
            )
            return EpochOutcome(State.PRUNED, True, {"reason": reason, "rung": epoch})
    return EpochOutcome(State.RUNNING, True)


def why_broken(state: SearchState, epoch: int, metrics: Metrics) -> str | None:
    """Return why an epoch cannot be compared: a number is not finite, or a cost is missing; None if it can."""
    broken = next((f"{key} is {value} at epoch {epoch}" for key, value in metrics.items() if not math.isfinite(value)), None)
    if broken is None and (key := state.costs.missing(metrics)) is not None:
        broken = f"the epoch does not report {key}, which the study uses"
    return broken
