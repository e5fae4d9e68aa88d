"""Connecting to Ray: a cluster that runs already (`RAY_ADDRESS`), or one embedded on this machine."""

from __future__ import annotations

import logging
import os
import select
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

# How Ray is told, by environment, before it is imported:
_EMBEDDED = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would try to reach the internet
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "no cluster beyond this machine": all its servers bind to loopback, on Linux too
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leave CUDA_VISIBLE_DEVICES alone for trials without a GPU: Ray's coming default
}


class RayDied(ConnectionError):
    """Ray's own processes have ended while they were needed."""


def connected(*, n_cpus: int | None = None, preload: Sequence[str] = ()) -> AbstractContextManager[None]:
    """The cluster that `RAY_ADDRESS` names (Ray sets it in a job; `auto` is the one on this machine), or else an embedded one.

    Args:
        n_cpus: Of `embedded`.
        preload: Of `embedded`; the workers of a cluster are its own.

    Raises:
        ValueError: if cores are named for a cluster that has its own.
        ConnectionError: out of entering the block, if there is no such cluster.
    """
    address = os.environ.get("RAY_ADDRESS")
    if address is None:
        return embedded(n_cpus=n_cpus, preload=preload)
    if n_cpus is not None:
        raise ValueError(f"the number of cores is for a Ray of one's own; RAY_ADDRESS={address} names a cluster that has its own")
    import ray  # noqa: F401

    return joined(address)


@contextmanager
def joined(address: str) -> Iterator[None]:
    """A cluster that this machine belongs to and that outlives the block.

    Raises:
        ConnectionError: if it is not there, or knows another token.
    """
    import ray

    with _own_sigterm():
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConnectionError(f"RAY_ADDRESS={address}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


def embedded(*, n_cpus: int | None = None, preload: Sequence[str] = ()) -> AbstractContextManager[None]:
    """A private Ray cluster whose servers listen on loopback only, without dashboard, that ends with the block.

    Ray is imported by the call, its processes start when the block is entered.

    Args:
        n_cpus: Cores that it may use; None for all of this machine.
        preload: Modules; if there are any, a worker for every core starts at once and imports them before it is asked for anything.

    Raises:
        RuntimeError: if Ray was imported before and therefore listens on other addresses too.
        RayDied: out of the block, if Ray dies inside it.
    """
    for name, value in _EMBEDDED.items():
        os.environ.setdefault(name, value)
    import ray  # noqa: F401

    return _embedded(n_cpus, preload)


@contextmanager
def _embedded(n_cpus: int | None, preload: Sequence[str]) -> Iterator[None]:
    import ray

    early = {
        "RAY_prestart_worker_first_driver": str(int(bool(preload))),
        "RAY_preload_python_modules": ",".join(preload),
        "RAY_idle_worker_killing_time_threshold_ms": "60000",  # not while the placement groups of their trials are made
    }
    os.environ.update(early)
    with _own_sigterm(), _only_what_is_needed():
        ray.init("local", num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    died = threading.Event()
    ended = _watched(died)
    try:
        address = ray.nodes()[0]["NodeManagerAddress"]
        if address not in ("127.0.0.1", "::1"):
            raise RuntimeError(
                f"the embedded Ray listens on {address}: Ray was imported before Paretune could keep it on loopback; "
                f"start Python with RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, or run the study before importing ray"
            )
        yield
    except KeyboardInterrupt:
        if died.is_set():
            raise RayDied("Ray's process on this machine (raylet) has died, and with it all workers") from None
        raise
    finally:
        ended.set()
        ray.shutdown()


@contextmanager
def _only_what_is_needed() -> Iterator[None]:
    """A Ray that starts inside the block starts no servers for clouds, for other machines' logs and for web pages.

    Each would import Ray once more, on the cores on which a search is about to start. `ray.init` has no words for this; a Ray whose
    own methods are called differently starts them as ever.
    """
    from ray._private.node import Node

    unused = {
        name: getattr(Node, name) for name in ("start_monitor", "start_log_monitor", "start_api_server") if hasattr(Node, name)
    }
    for name in unused:
        setattr(Node, name, lambda node, **asked: None)
    try:
        yield
    finally:
        for name, method in unused.items():
            setattr(Node, name, method)


def _watched(died: threading.Event) -> threading.Event:
    """Interrupt the main thread when Ray's raylet dies: nothing that waits for Ray ever comes back then.

    Returns:
        What ends the watch when it is set.
    """
    ended = threading.Event()
    raylets = [pid for pid, name in _children(os.getpid()) if name == "raylet"]
    if not raylets or not hasattr(os, "pidfd_open"):
        return ended  # not Linux
    handle = os.pidfd_open(raylets[0])  # readable once the process has ended

    def watch() -> None:
        while not ended.is_set():
            if select.select([handle], [], [], 0.5)[0]:
                if not ended.is_set():
                    died.set()
                    os.kill(os.getpid(), signal.SIGINT)
                break
        os.close(handle)

    threading.Thread(target=watch, name="paretune-raylet", daemon=True).start()
    return ended


def _children(pid: int) -> Iterator[tuple[int, str]]:
    """(number, name) of the processes that a process has started; none where there is no `/proc`."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            start, _, rest = stat.read_text().rpartition(")")
            number, _, name = start.partition(" (")
            if int(rest.split()[1]) == pid:
                yield int(number), name


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts a handler of its own in the place of ours, which would exit in the middle of anything."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def slots(
    *,
    cpus_per_trial: int,
    gpus_per_trial: float,
    accelerator_type: str | None = None,
    memory_per_trial: int = 0,
    node: str | None = None,
) -> int:
    """How many trials the connected cluster runs at once, now: those that fit on its living nodes, but those about to leave.

    Args:
        cpus_per_trial: Cores of one.
        gpus_per_trial: Share of a GPU of one.
        accelerator_type: Of the nodes; None for any.
        memory_per_trial: Bytes of a node's memory that one is reserved; 0 for none.
        node: Count those of this one (its id in hexadecimal); None for all.

    Raises:
        ValueError: if not even one fits.
    """
    from cluster.nodes import ACCELERATOR, draining

    leaving = draining()
    living = [one for one in _living() if one["NodeID"] not in leaving and node in (None, one["NodeID"])]
    kinds = {one.get("Labels", {}).get(ACCELERATOR) for one in living}
    if accelerator_type is not None and living and accelerator_type not in kinds:
        there = ", ".join(sorted(filter(None, kinds))) or "none"
        raise ValueError(f"resources.accelerator_type: no node has {accelerator_type}; they have {there}")
    nodes = _of_kind(living, accelerator_type)
    n_slots = sum(_fit(one, cpus_per_trial, gpus_per_trial, memory_per_trial) for one in nodes)
    if n_slots < 1:
        memory = f" and {memory_per_trial / 2**30:.1f} GiB of memory" if memory_per_trial else ""
        have = sorted(f"{one.get('CPU', 0):g}, {one.get('GPU', 0):g} and {one.get('memory', 0) / 2**30:.1f} GiB" for one in nodes)
        raise ValueError(
            f"resources: a trial asks for {cpus_per_trial} CPUs, {gpus_per_trial:g} GPUs{memory} of one node, "
            f"the nodes have {', '.join(have) or 'none'}; ask for less"
        )
    return n_slots


def largest_memory(
    *, cpus_per_trial: int, gpus_per_trial: float, accelerator_type: str | None = None, memory_per_trial: int = 0
) -> int | None:
    """Bytes that the largest of the nodes on which a trial fits has for its workers; None if there is no such node (yet)."""
    chosen = _of_kind(_living(), accelerator_type)
    with_room = [int(node.get("memory", 0)) for node in chosen if _fit(node, cpus_per_trial, gpus_per_trial, memory_per_trial)]
    return max(with_room, default=None)


def _living() -> list[dict[str, Any]]:
    """The connected cluster's nodes, as Ray tells of them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _of_kind(nodes: Iterable[Mapping[str, Any]], accelerator_type: str | None) -> list[Mapping[str, float]]:
    """What the nodes with one kind of accelerator have; None for any."""
    from cluster.nodes import ACCELERATOR

    return [node["Resources"] for node in nodes if accelerator_type in (None, node.get("Labels", {}).get(ACCELERATOR))]


def _fit(node: Mapping[str, float], cpus: int, gpus: float, memory: int) -> int:
    """Trials that fit on a node: its cores, its GPUs, its memory."""
    fit = int(node.get("CPU", 0) // cpus)
    if gpus > 0:
        fit = min(fit, int(node.get("GPU", 0) / gpus + 1e-9))
    return fit if memory == 0 else min(fit, int(node.get("memory", 0) // memory))
