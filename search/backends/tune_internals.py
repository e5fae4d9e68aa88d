"""The private parts of Ray Tune that we use, all of them, as read in Ray 2.60.

Tune has no public way to reach the actor of a trial, to end an actor that waits for its next trial, to start workers without an
environment of their own, or to count no callbacks.
"""

from __future__ import annotations

from typing import Any

from ray.air._internal import usage
from ray.tune.execution import class_cache


def start_workers_without_environment() -> None:
    """Clear the environment variables that Tune gives its workers (for Lightning): Ray reuses no waiting worker with any."""
    class_cache.DEFAULT_ENV_VARS.clear()


def count_no_callbacks() -> None:
    """Keep Tune from counting callbacks for its usage report: to tell their kinds, it would import MLflow and other trackers."""
    usage.tag_callbacks = lambda callbacks: False


def actor_of(trial: Any) -> Any:
    """Return the handle of a trial's actor; None while it has none."""
    return trial.temporary_state.ray_actor


def actor_id(trial: Any) -> str:
    """Return the id of a trial's actor, in hexadecimal."""
    return id_of(actor_of(trial))


def id_of(actor: Any) -> str:
    """Return the id of an actor, in hexadecimal."""
    found: str = actor._actor_id.hex()
    return found


def end_idle_actors(controller: Any) -> None:
    """End the actors that wait for a trial. Does nothing if Tune has renamed what it takes; they end with the search then."""
    inner = getattr(controller, "_tune_controller", None)
    if (end := getattr(inner, "_cleanup_cached_actors", None)) is not None:
        end(force_all=True)
