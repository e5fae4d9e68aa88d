"""Which trials must leave their nodes, because those are about to leave the cluster, and when."""

from __future__ import annotations

from collections.abc import Callable, Mapping

LAST_SECONDS = 10.0  # before a node's deadline: what has not come to the end of its epoch then is stopped in the middle of it


class Draining:
    """Trials leave a draining node with the checkpoint of their last epoch.

    They do so at the end of the epoch that they are in, where nothing is lost, or shortly before the deadline. One that got
    there after the notice leaves at once.

    Args:
        nodes: Asks for the nodes that drain: id to seconds left.
        node_of: Asks where a trial is, by the back end's name of it; None if that is not known.
        stop: Tells the worker of a trial to stop at its next batch.
    """

    def __init__(
        self, nodes: Callable[[], Mapping[str, float]], node_of: Callable[[str], str | None], stop: Callable[[str], None]
    ) -> None:
        self._nodes, self._node_of, self._stop = nodes, node_of, stop
        self._noticed: dict[str, float] = {}  # node -> when
        self._stopped: set[str] = set()
        self._leaving: dict[str, str] = {}  # trial -> node

    def poll(self, running: Mapping[str, float], now: float) -> None:
        """To be called every now and then.

        Args:
            running: Trials that have workers, and since when.
            now: By the same clock.
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
        """The node that a trial must leave before it trains another epoch, and whose worker must not be used again."""
        return self._leaving.get(trial)
