"""The nodes of the connected cluster: calls to each, draining nodes, the autoscaler, and protection against open access.

A node drains when a cloud reclaims a spot machine, when the autoscaler removes it, or after `ray drain-node`: Ray marks it and
places nothing new on it. `cluster.ray_internals` reads the mark, the node of an actor and the autoscaler's report. If they cannot
be read, no node ever counts as draining, its trials resume elsewhere after it is lost, and the cluster is assumed not to grow.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from cluster import ray_internals

T = TypeVar("T")
ACCELERATOR = "ray.io/accelerator-type"  # Ray's own label
MEND_OPEN = "start every node with RAY_AUTH_MODE=token and one token (docs/cluster.md)"


def on_each(function: Callable[..., T], *arguments: Any, with_gpus: bool = False) -> dict[str, T | str]:
    """Call a function on each living node; return its result, or the reason why the call failed, by the node's name.

    A node that dies during the calls, or whose death Ray has not noticed yet, is left out.

    Args:
        function: Function of a module that the nodes can import.
        arguments: Arguments of the function.
        with_gpus: True to call only nodes that have GPUs.
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
    """Return a node's name, as in `on_each`, and the bytes of memory for its workers.

    Args:
        node_id: Id of the node, in hexadecimal.

    Raises:
        ValueError: If the node does not exist.
    """
    import ray

    [node] = [one for one in ray.nodes() if one["NodeID"] == node_id]
    return _name(node), float(node["Resources"].get("memory", 0.0))


def _name(node: Mapping[str, Any]) -> str:
    return f"{node['NodeManagerAddress']}/{node['NodeID'][:6]}"


def draining() -> dict[str, float]:
    """Return the draining nodes of the connected cluster: id to seconds left, infinite without a deadline."""
    ends = ray_internals.draining_nodes()
    return {node: at / 1000 - time.time() if at > 0 else math.inf for node, at in ends.items()}


def node_of(actor_id: str) -> str | None:
    """Return the node of an actor, None if it is not known (yet).

    Args:
        actor_id: Id of the actor, in hexadecimal.
    """
    return ray_internals.node_of_actor(actor_id)


def labels(accelerator_type: str | None) -> dict[str, str] | None:
    """Return the label selector of an accelerator type; None if any will do. Ray detects and labels accelerators itself."""
    return None if accelerator_type is None else {ACCELERATOR: accelerator_type}


def autoscales(*, wait: float = 0.0) -> bool:
    """Return whether the cluster has an autoscaler that starts nodes. An embedded Ray has none.

    The newer autoscaler leaves a mark if it runs. The older one runs on every cluster, and `ray status` shows its report; if it
    cannot start nodes, it reports one node type per node, named after the node's id.

    Args:
        wait: Seconds to wait for its first report, if there is none yet.
    """
    if "RAY_ADDRESS" not in os.environ:
        return False
    if ray_internals.newer_autoscaler_runs():
        return True
    end = time.monotonic() + wait
    while True:
        types = ray_internals.older_autoscaler_types()
        if types or time.monotonic() >= end:
            return any(kind != f"node_{node}" for node, kind in types.items())
        time.sleep(0.2)


def refuse_open() -> None:
    """Refuse a cluster of several machines that accepts commands from anyone, unless `PARETUNE_UNPROTECTED` is set.

    Raises:
        ValueError: If the cluster is open, or does not say within ten seconds whether it is; the message has the remedy.
    """
    if not os.environ.get("PARETUNE_UNPROTECTED") and (found := open_to_anyone()) is not None:
        raise ValueError(f"{found}; {MEND_OPEN}, or set PARETUNE_UNPROTECTED=1 if its network is private")


class Gate:
    """The check of every machine that joins the cluster while a study runs: a head that is alone at first may be open."""

    def __init__(self) -> None:
        self._known = _machines()

    def refuse_open(self) -> None:
        """Check the cluster again if a machine has joined; see `refuse_open`."""
        if not (machines := _machines()) <= self._known:
            refuse_open()
            self._known |= machines


def open_to_anyone() -> str | None:
    """Return the flaw in the connected cluster's protection; None if it has a token or is on one machine only."""
    import grpc
    import ray

    if (n_machines := len(_machines())) < 2:
        return None
    address = ray.get_runtime_context().gcs_address
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=10)  # as a client without a token
        except grpc.RpcError as error:
            if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
                return None
            return f"the cluster at {address} does not say whether it asks for a token ({error.code().name})"
    return f"the cluster at {address}, of {n_machines} machines, accepts commands from anyone who can reach it"


def _machines() -> set[str]:
    import ray

    return {node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
