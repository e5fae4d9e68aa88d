"""The nodes of the cluster during a search on Ray: those that leave, those that join, and those that a network outage cut off."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from typing import Any, Final

from cluster import nodes
from search.backends import tune_internals
from search.backends.draining import Draining
from search.errors import RequestError
from search.study.study import Study

_CHECK_SECONDS: Final = 2.0
_PING_SECONDS: Final = 20.0


class NodeWatch:
    """A watch for trials that must leave their nodes, for nodes that join without protection, and for connections that have died.

    Every worker is pinged, because after a network outage a reply can be lost and the connection half-open; only sending something
    reveals that, and Ray would otherwise wait forever.

    Args:
        study: Study whose trials Tune runs.
    """

    def __init__(self, study: Study) -> None:
        self._live: dict[str, Any] = {}
        self._since: dict[str, float] = {}  # time when each trial was first seen
        self._checked = self._pinged = -math.inf
        self._gate = nodes.Gate()
        self._draining = Draining(nodes.draining, self._node_of, lambda name: study.request_stop(self._live[name].config["trial"]))

    def poll(self, trials: Iterable[Any]) -> None:
        """Check the nodes, unless that was done a moment ago."""
        if (now := time.time()) - self._checked < _CHECK_SECONDS:
            return
        self._checked = now
        try:
            self._gate.refuse_open()
        except ValueError as error:
            raise RequestError(str(error)) from error
        self._live = {trial.trial_id: trial for trial in trials if trial.status == "RUNNING" and tune_internals.actor_of(trial)}
        self._since = {name: self._since.get(name, now) for name in self._live}
        if now - self._pinged >= _PING_SECONDS:
            self._pinged = now
            for trial in self._live.values():
                tune_internals.actor_of(trial).hear.remote()
        self._draining.poll(self._since, now)

    def leaving(self, trial: Any) -> str | None:
        """Return the node that a trial must leave; see `Draining.leaving`."""
        return self._draining.leaving(trial.trial_id)

    def _node_of(self, name: str) -> str | None:
        return nodes.node_of(tune_internals.actor_id(self._live[name]))
