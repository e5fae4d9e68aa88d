"""The private parts of Ray that we use, all of them, as read in Ray 2.60. Each has a way to do without.

Neither the draining mark of a node, nor the node of an actor, nor the port of a node's agent, nor the autoscaler's report is part
of Ray's public interface, `ray.init` cannot leave out servers, and `ray.shutdown` resets signals. Where Ray has renamed something,
the functions below behave as their docstrings say.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

_log = logging.getLogger(__name__)
LOGGERS = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk", "ray._private.runtime_env.packaging")
NO_AGENT = "No available agent"  # the answer of a dashboard, after ten seconds, to a job while its head has no job agent
_SERVERS = ("start_monitor", "start_log_monitor", "start_api_server")


def log_notices() -> None:
    """Send Ray's notices (a node has died) to the log instead of standard output, where a command may print JSON.

    If Ray renames the patched function, they are printed as usual.
    """
    from ray._private import worker

    worker.print_to_stdstream = _log_notice


def _log_notice(notice: Mapping[str, Any], **_: Any) -> None:
    _log.info("Ray: %s", " ".join(notice["lines"]))


def draining_nodes() -> Mapping[str, int]:
    """Return the draining nodes: id to Unix milliseconds of the deadline, 0 for none. Empty if Ray cannot be asked."""
    from ray._private.state import state

    ask = getattr(state, "get_draining_nodes", None)
    return {} if ask is None else ask()


def node_of_actor(actor_id: str) -> str | None:
    """Return the id of an actor's node; None if it is not known (yet), or Ray cannot be asked."""
    from ray._private import state

    found = state.actors(actor_id) if hasattr(state, "actors") else {}
    return (found.get("Address") or {}).get("NodeID") or None


def newer_autoscaler_runs() -> bool:
    """Return True if the newer autoscaler runs, which leaves a mark; False if that cannot be read."""
    return _internal_kv("__autoscaler_v2_enabled", "__autoscaler") == b"1"


def older_autoscaler_types() -> Mapping[str, str]:
    """Return node id to node type, as the older autoscaler reports it; empty before its first report."""
    told = json.loads(_internal_kv("__autoscaling_status") or b"{}")
    return (told.get("autoscaler_report") or {}).get("node_type_mapping") or {}


def head_has_no_agent(client: JobSubmissionClient) -> bool:
    """Return True if a cluster's head has no job agent, which could not open its port; False if it has, or that cannot be read."""
    ask = getattr(client, "_do_request", None)
    if ask is None:
        return False
    try:
        told = ask("GET", "/nodes?view=summary", timeout=5).json()["data"]["summary"]
        raylets = [node["raylet"] for node in told]
        return any(raylet.get("isHeadNode") and raylet.get("dashboardAgentListenPort") == -1 for raylet in raylets)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        return False


def _internal_kv(key: str, namespace: str | None = None) -> bytes | None:
    from ray.experimental.internal_kv import _internal_kv_get

    value: bytes | None = _internal_kv_get(key, namespace=namespace)
    return value


@contextmanager
def without_servers() -> Iterator[None]:
    """Keep a Ray that starts inside the block from starting servers for clouds, for other machines' logs and for web pages.

    Each would import Ray once more, on the cores on which a search is about to start. The agent of a node, without which Ray does
    not run, is started as where the packages of its servers are not installed: it then has none. If Ray renames the patched
    methods, the servers start as usual.
    """
    from ray._private import utils
    from ray._private.node import Node

    unused: dict[str, Any] = {name: getattr(Node, name) for name in _SERVERS if hasattr(Node, name)}
    missing = getattr(utils, "get_dashboard_dependency_error", None)
    for name in unused:
        setattr(Node, name, lambda node, **asked: None)
    if missing is not None:
        utils.get_dashboard_dependency_error = lambda: ImportError("a search on one machine has no use for them")
    try:
        yield
    finally:
        for name, method in unused.items():
            setattr(Node, name, method)
        if missing is not None:
            utils.get_dashboard_dependency_error = missing


def shut_down() -> None:
    """Shut Ray down, with the process's own SIGTERM handler in place.

    Ray resets the signal to its default, unseen by Python, and then ends its processes for a second or two. A signal at that time
    would end this process without a word. If Ray renames the patched method, it does.
    """
    import ray
    from ray._private import worker

    handler, node = signal.getsignal(signal.SIGTERM), worker._global_node
    end = getattr(node, "kill_all_processes", None)

    def end_processes(*arguments: Any, **named: Any) -> None:
        _restore(handler)
        if end is not None:
            end(*arguments, **named)

    if end is not None:
        node.kill_all_processes = end_processes
    ray.shutdown()
    _restore(handler)


def _restore(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)
