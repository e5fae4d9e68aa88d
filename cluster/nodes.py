"""The nodes of the connected cluster: what each says, which leave, whether more may come, whether anyone may give them orders.

A spot machine that its cloud takes back, a node that the autoscaler gives back, or `ray drain-node`: Ray marks such a node and
places nothing new on it. Neither that mark nor the node of an actor is part of Ray's public interface (2.60); both are read here as
Ray's own libraries read them, and where they cannot be read no node ever drains: its trials then go on elsewhere once it is lost.
Nor is it public whether an autoscaler starts nodes; where that cannot be read, a cluster is taken to stay as it is.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
ACCELERATOR = "ray.io/accelerator-type"  # Ray's own label
MEND_OPEN = "start every node with RAY_AUTH_MODE=token and one token (docs/cluster.md)"


def on_each(function: Callable[..., T], *arguments: Any, with_gpus: bool = False) -> dict[str, T | str]:
    """What a function returns on each living node, or why it could not be asked; by the node's address.

    A node that dies meanwhile, or had died when Ray did not know it yet, is left out.

    Args:
        function: Of a module that is there, too.
        arguments: Its own.
        with_gpus: Ask only nodes that have GPUs.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in ray.nodes():
        if node["Alive"] and (node["Resources"].get("GPU", 0) > 0 or not with_gpus):
            fixed = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_retries=0)(function).options(scheduling_strategy=fixed)
            asked[_name(node)] = task.remote(*arguments)
    found: dict[str, T | str] = {}
    for name, answer in asked.items():
        try:
            found[name] = ray.get(answer, timeout=120)
        except (ray.exceptions.RayError, TimeoutError) as error:
            found[name] = str(error).strip().splitlines()[-1]
    alive = {_name(node) for node in ray.nodes() if node["Alive"]}
    return {name: told for name, told in found.items() if name in alive}


def name_and_memory(node_id: str) -> tuple[str, float]:
    """A node's name, as in `on_each`, and the bytes that it has for its workers.

    Args:
        node_id: In hexadecimal.

    Raises:
        ValueError: There is no such node.
    """
    import ray

    [node] = [one for one in ray.nodes() if one["NodeID"] == node_id]
    return _name(node), float(node["Resources"].get("memory", 0.0))


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"


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


def labels(accelerator_type: str | None) -> dict[str, str] | None:
    """What selects the nodes with one kind of accelerator; None where any will do. Ray finds out, and labels, by itself."""
    return None if accelerator_type is None else {ACCELERATOR: accelerator_type}


def autoscales(*, wait: float = 0.0) -> bool:
    """Whether the cluster has an autoscaler that starts nodes. A Ray of our own has none.

    The newer autoscaler leaves a mark where it runs. The older one runs on every cluster, and `ray status` shows what it reports;
    where it may start nothing, it calls each node a type of its own, after the node's id.

    Args:
        wait: Seconds to wait for its first report, where there is none yet.
    """
    from ray.experimental.internal_kv import _internal_kv_get

    if "RAY_ADDRESS" not in os.environ:
        return False
    if _internal_kv_get("__autoscaler_v2_enabled", namespace="__autoscaler") == b"1":
        return True
    end = time.monotonic() + wait
    while True:
        told = json.loads(_internal_kv_get("__autoscaling_status") or b"{}")
        types = (told.get("autoscaler_report") or {}).get("node_type_mapping") or {}
        if types or time.monotonic() >= end:
            return any(kind != f"node_{node}" for node, kind in types.items())
        time.sleep(0.2)


def refuse_open() -> None:
    """A cluster of several machines that takes orders from anyone is not joined, unless `PARETUNE_UNPROTECTED` is set.

    Raises:
        ValueError: It is one; the message has the remedy.
    """
    if not os.environ.get("PARETUNE_UNPROTECTED") and (found := open_to_anyone()) is not None:
        raise ValueError(f"{found}; {MEND_OPEN}, or set PARETUNE_UNPROTECTED=1 if its network is private")


def open_to_anyone() -> str | None:
    """What is wrong with the connected cluster's protection; None for one with a token, or on one machine only."""
    import grpc
    import ray

    machines = {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    if len(machines) < 2:
        return None
    address = ray.get_runtime_context().gcs_address
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=10)  # as one who has no token
        except grpc.RpcError:
            return None
    return (
        f"the cluster at {address}, of {len(machines)} machines, takes orders from anyone who reaches it, and they may do anything"
    )
