"""Nodes that are about to leave the cluster.

A spot machine that its cloud takes back, a node that the autoscaler gives back, or `ray drain-node`: Ray marks such a node and
places nothing new on it. Neither that mark nor the node of an actor is part of Ray's public interface (2.60); both are read here as
Ray's own libraries read them, and where they cannot be read no node ever drains: its trials then go on elsewhere once it is lost.
"""

from __future__ import annotations

import math
import time


def draining() -> dict[str, float]:
    """The connected cluster's nodes that are told to leave: id to seconds left, infinite without a deadline."""
    from ray._private.state import state

    if (ask := getattr(state, "get_draining_nodes", None)) is None:
        return {}
    return {node: at / 1000 - time.time() if at > 0 else math.inf for node, at in ask().items()}


def node_of(actor_id: str) -> str | None:
    """The node that an actor is on, None if that is not known (yet).

    Args:
        actor_id: In hexadecimal.
    """
    from ray._private import state

    found = state.actors(actor_id) if hasattr(state, "actors") else {}
    return (found.get("Address") or {}).get("NodeID") or None
