"""The connection to Ray: a running cluster (`RAY_ADDRESS`), or one embedded on this machine."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import select
import signal
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster import scratch
from cluster.ray_address import NO_SECRET, REMEDY, Unreachable, may_hold_secret, refuse_unreachable
from cluster.ray_internals import log_notices, shut_down, without_servers

# environment variables that Ray reads on import:
_EMBEDDED = {
    "RAY_USAGE_STATS_ENABLED": "0",  # it would try to reach the internet
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "no cluster beyond this machine": all servers bind to loopback, also on Linux
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # keep CUDA_VISIBLE_DEVICES for trials without a GPU: Ray's future default
}


_LONGEST_FOLDER = 40  # characters; Ray adds 64 for its session and the names of its sockets


class RayDied(ConnectionError):
    """The error that Ray's own processes have ended while they were needed."""


def connected(*, n_cpus: int | None = None, preload: Sequence[str] = ()) -> AbstractContextManager[None]:
    """Connect to the cluster of `RAY_ADDRESS` (Ray sets it in a job; `auto` is the local one), or else start an embedded one.

    Args:
        n_cpus: Cores of the embedded cluster, see `embedded`.
        preload: Modules for the workers of the embedded cluster, see `embedded`; an existing cluster has its own workers.

    Raises:
        ValueError: If cores are given for an existing cluster.
        ConnectionError: If the cluster does not exist; raised on entering the block.
    """
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return embedded(n_cpus=n_cpus, preload=preload)
    if may_hold_secret(address):
        raise Unreachable(f"RAY_ADDRESS {NO_SECRET}, like head:6379")
    if n_cpus is not None:
        raise ValueError(f"the number of cores is for an embedded Ray; RAY_ADDRESS={address} names a cluster that has its own")
    import ray  # noqa: F401

    return joined(address)


@contextmanager
def joined(address: str) -> Iterator[None]:
    """Connect to a cluster that this machine belongs to and that outlives the block.

    Raises:
        ConnectionError: If it cannot be reached, or expects another token.
    """
    refuse_unreachable(address)
    import ray

    with _own_sigterm():
        try:
            log_notices()
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ray.exceptions.RayError) as error:
            reason = str(error).strip().splitlines()[0]
            if address == "auto":
                raise Unreachable(f"RAY_ADDRESS=auto: no Ray runs on this machine; {REMEDY}") from error
            raise ConnectionError(f"RAY_ADDRESS={address}: {reason}") from error
    try:
        yield
    finally:
        shut_down()


def embedded(*, n_cpus: int | None = None, preload: Sequence[str] = ()) -> AbstractContextManager[None]:
    """Start a private Ray cluster whose servers listen on loopback only, without a dashboard, and that ends with the block.

    The call imports Ray; entering the block starts its processes.

    Args:
        n_cpus: Cores that it may use; None for all of this machine.
        preload: Modules to import early: if there are any, one worker per core starts at once and imports them before its first
            task.

    Raises:
        ConnectionError: If Ray listens on other addresses, because it was imported before, or another Ray took its port.
        RayDied: If Ray died inside the block; raised on leaving it.
    """
    for name, value in _EMBEDDED.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules:  # it reads the mode on import; imported before, it switches tokens on by itself
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    make_token()
    import ray  # noqa: F401

    return _embedded(n_cpus, preload)


def make_token() -> None:
    """Make Ray's token in `~/.ray/auth_token` if it is needed and missing, readable by its user only; Ray's own all may read."""
    if os.environ.get("RAY_AUTH_MODE", "token") != "token" or {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    token = Path.home() / ".ray" / "auth_token"
    with suppress(OSError):  # Ray says what it cannot read or make
        token.parent.mkdir(mode=0o700, exist_ok=True)
        token.parent.chmod(0o700)
        draft = token.with_name(f".{uuid.uuid4().hex}")
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "w") as file:
                file.write(secrets.token_hex(32))
            with suppress(FileExistsError):  # made before, or by another driver just now
                os.link(draft, token)
        finally:
            draft.unlink()
        token.chmod(0o600)


@contextmanager
def _embedded(n_cpus: int | None, preload: Sequence[str]) -> Iterator[None]:
    import ray

    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "RAY_TMPDIR")
    base = os.environ.get(variable, "/tmp")  # noqa: S108 - where Ray keeps its sockets
    if len(base) > _LONGEST_FOLDER:
        raise Unreachable(
            f"{variable}={base} is too long for the sockets of Ray (their paths have at most 107 characters); set RAY_TMPDIR to a "
            f"folder of at most {_LONGEST_FOLDER} characters, such as /tmp"
        )
    _refuse_unwritable(variable, base)
    early = {
        "RAY_prestart_worker_first_driver": str(int(bool(preload))),
        "RAY_preload_python_modules": ",".join(preload),
        "RAY_idle_worker_killing_time_threshold_ms": "60000",  # keep them while the placement groups of their trials are created
    }
    os.environ.update(early)
    with _own_sigterm(), without_servers():
        log_notices()
        scratch.remove_leftovers(Path(base) / "ray", "session_*")
        context = ray.init("local", num_cpus=n_cpus, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    session = Path(context.address_info["session_dir"])
    session.chmod(0o700)  # Ray lets everybody write in it
    died = threading.Event()
    ended = _watched(died)
    with scratch.kept_while_alive(session):  # Ray itself leaves them for ever
        try:
            address = ray.nodes()[0]["NodeManagerAddress"]
            if address not in ("127.0.0.1", "::1"):
                raise ConnectionError(
                    f"the Ray that answers listens on {address} instead of loopback: another Ray of this user has started on the "
                    "same port at the same moment (run the command again), or Python had imported ray before (set "
                    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0)"
                )
            yield
        except KeyboardInterrupt:
            if died.is_set():
                raise RayDied("Ray's process on this machine (raylet) has died, and with it all workers") from None
            raise
        finally:
            ended.set()
            shut_down()


def _refuse_unwritable(variable: str, base: str) -> None:
    """Refuse a folder in which Ray cannot keep its files and sockets.

    Raises:
        Unreachable: If there is none, and none can be made, or it cannot be written.
    """
    try:
        if not Path(base).is_absolute():
            raise OSError("it is no absolute path")
        folder = Path(base) / "ray"
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise Unreachable(
            f"{variable}={base} cannot hold the files of Ray ({error.strerror or error}); set RAY_TMPDIR to a folder that can be "
            "written, such as /tmp"
        ) from error


def _watched(died: threading.Event) -> threading.Event:
    """Interrupt the main thread when Ray's raylet dies, because every call that waits for Ray would then wait forever.

    Returns:
        An event; setting it ends the watch.
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
    """Yield (pid, name) of the child processes of a process; none on a system without `/proc`."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has just ended
            start, _, rest = stat.read_text().rpartition(")")
            number, _, name = start.partition(" (")
            if int(rest.split()[1]) == pid:
                yield int(number), name


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Restore our SIGTERM handler after the block: Ray installs its own, which would exit in the middle of anything."""
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
    """Count the trials that fit at once on the connected cluster's living nodes, without those that are draining.

    Args:
        cpus_per_trial: Cores of a trial.
        gpus_per_trial: Number of GPUs, or share of one, of a trial.
        accelerator_type: Accelerator type of the nodes; None for any.
        memory_per_trial: Bytes of a node's memory reserved for a trial; 0 for none.
        node: Id (in hexadecimal) of the only node to count; None for all.

    Raises:
        ValueError: If not even one trial fits.
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
    """Return the worker memory, in bytes, of the largest node on which a trial fits; None if there is no such node (yet)."""
    chosen = _of_kind(_living(), accelerator_type)
    with_room = [int(node.get("memory", 0)) for node in chosen if _fit(node, cpus_per_trial, gpus_per_trial, memory_per_trial)]
    return max(with_room, default=None)


def _living() -> list[dict[str, Any]]:
    """Return the connected cluster's living nodes, as Ray describes them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def _of_kind(nodes: Iterable[Mapping[str, Any]], accelerator_type: str | None) -> list[Mapping[str, float]]:
    """Return the resources of the nodes with one accelerator type; None for any."""
    from cluster.nodes import ACCELERATOR

    return [node["Resources"] for node in nodes if accelerator_type in (None, node.get("Labels", {}).get(ACCELERATOR))]


def _fit(node: Mapping[str, float], cpus: int, gpus: float, memory: int) -> int:
    """Count the trials that fit on a node's cores, GPUs and memory."""
    fit = int(node.get("CPU", 0) // cpus)
    if gpus > 0:
        fit = min(fit, int(node.get("GPU", 0) / gpus + 1e-9))
    return fit if memory == 0 else min(fit, int(node.get("memory", 0) // memory))
