"""The choice of trials that must leave their nodes, because the nodes are about to leave the cluster, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping

LAST_SECONDS = 10.0  # before a node's deadline: epochs that are not finished by then are interrupted


class Draining:
    """The removal of trials from draining nodes, with the checkpoint of their last epoch.

    A trial leaves at the end of its current epoch, where nothing is lost, or shortly before the deadline. A trial that arrived
    on the node after the notice leaves at once.

    Args:
        nodes: Function that returns the draining nodes: id to seconds left.
        node_of: Function that returns the node of a trial, by the back end's name of it; None if it is unknown.
        stop: Function that asks the worker of a trial to stop at its next batch.
    """

    def __init__(
        self, nodes: Callable[[], Mapping[str, float]], node_of: Callable[[str], str | None], stop: Callable[[str], None]
    ) -> None:
        self._nodes, self._node_of, self._stop = nodes, node_of, stop
        self._noticed: dict[str, float] = {}  # node -> time of its notice
        self._stopped: set[str] = set()
        self._leaving: dict[str, str] = {}  # trial -> node

    def poll(self, running: Mapping[str, float], now: float) -> None:
        """Check the nodes and stop trials that must leave; call it regularly.

        Args:
            running: Trials with workers, and their starting times.
            now: Current time by the same clock.
        """
        left = self._nodes()
        self._noticed = {node: self._noticed.get(node, now) for node in left}
        if not left:
            return
        for trial, since in running.items():
            if (node := self._leaving.get(trial) or self._node_of(trial)) not in left or node is None:
                continue
            self._leaving[trial] = node
            late = left[node] < LAST_SECONDS or since > self._noticed[node]
            if late and trial not in self._stopped:
                self._stopped.add(trial)
                self._stop(trial)

    def leaving(self, trial: str) -> str | None:
        """Return the node that a trial must leave before another epoch, without reuse of its worker; None if it may stay."""
        return self._leaving.get(trial)
