"""When trials leave nodes that are about to leave the cluster."""

from __future__ import annotations

import math

from search.backends.draining import LAST_SECONDS, Draining

PLACES = {"a": "node-1", "b": "node-2", "c": None}  # of c nothing is known yet


class Cluster:
    """Two nodes and three trials on a clock that the test turns."""

    def __init__(self) -> None:
        self.nodes: dict[str, float] = {}
        self.stopped: list[str] = []
        self.draining = Draining(lambda: self.nodes, PLACES.get, self.stopped.append)

    def look(self, now: float, **since: float) -> dict[str, str | None]:
        self.draining.poll({"a": 0.0, "b": 0.0, "c": 0.0} | since, now)
        return {trial: self.draining.leaving(trial) for trial in PLACES}


def test_while_no_node_drains_no_trial_leaves() -> None:
    cluster = Cluster()
    assert set(cluster.look(1.0).values()) == {None}
    assert cluster.stopped == []


def test_a_trial_on_a_draining_node_leaves_at_the_end_of_its_epoch_and_the_others_stay() -> None:
    cluster = Cluster()
    cluster.nodes = {"node-1": math.inf}
    assert cluster.look(1.0) == {"a": "node-1", "b": None, "c": None}
    assert cluster.look(1e6)["a"] == "node-1"
    assert cluster.stopped == []


def test_shortly_before_the_deadline_it_is_stopped_in_the_middle_of_the_epoch_once() -> None:
    cluster = Cluster()
    cluster.nodes = {"node-1": LAST_SECONDS + 0.1}
    cluster.look(1.0)
    assert cluster.stopped == []
    cluster.nodes = {"node-1": LAST_SECONDS - 0.1}
    cluster.look(2.0)
    cluster.look(3.0)
    assert cluster.stopped == ["a"]


def test_one_that_was_placed_there_after_the_notice_leaves_at_once() -> None:
    cluster = Cluster()
    cluster.nodes = {"node-1": math.inf, "node-2": math.inf}
    cluster.look(1.0)
    cluster.look(4.0, b=3.0)
    assert cluster.stopped == ["b"]


def test_a_trial_that_leaves_a_node_that_is_gone_still_leaves() -> None:
    cluster = Cluster()
    cluster.nodes = {"node-1": math.inf}
    cluster.look(1.0)
    cluster.nodes = {}
    assert cluster.look(2.0)["a"] == "node-1"
