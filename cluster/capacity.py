"""Room for trials on a cluster whose nodes come and go, and asking its autoscaler for more.

Ray's autoscaler starts nodes for what waits to be placed. A search decides late: it starts no trial for which there is no room
yet. So the room itself is asked for: for each trial more that could run a placement group of what a trial takes, in which nothing
runs, and which is removed once it is placed. What several studies ask for adds up, and is gone with its driver, however that ends.

`ray.autoscaler.sdk.request_resources` would be one standing request of the whole cluster: the next caller replaces it, and that of
a driver that was killed keeps its nodes running.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from cluster.connect import slots
from cluster.nodes import autoscales, labels

T = TypeVar("T")
AT_ONCE = 8  # trials for which an autoscaler is asked for nodes, where nobody says how many
FIRST_REPORT_SECONDS = 10.0  # of Ray's autoscaler, after a cluster's start; one that may start nothing reports, too


class FreeSlots:
    """How many trials run at once on the connected cluster, by its nodes of the moment.

    Args:
        takes: What a trial takes, as `cluster.connect.slots` has it.
        most: Trials at once at most; None for as many as there is room for, where an autoscaler is asked for room for `AT_ONCE`.
        clock: Seconds.

    Attributes:
        n: Trials that there is room for, by the last look.
        grows: Whether an autoscaler may start nodes.

    Raises:
        ValueError: if not even one fits, on a cluster that stays as it is.
    """

    def __init__(self, takes: Mapping[str, Any], most: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._takes, self._most, self._clock = takes, most, clock
        self._asked: list[Any] = []  # placement groups
        self._short: tuple[float, str] | None = None  # since when no trial fits, and why
        self.n = 0
        self.grows = autoscales()
        self.count()
        if self._short is not None and not self.grows:
            self.grows = autoscales(wait=FIRST_REPORT_SECONDS)
            if not self.grows:
                raise ValueError(self._short[1])

    def poll(self, wanted: int) -> int:
        """How many trials may run at once, now. Where that is fewer than wanted, an autoscaler is asked for nodes.

        Args:
            wanted: Trials that could run if there was room for all.
        """
        self.count()
        self.grows = self.grows or autoscales()
        if self.grows:
            self._ask(min(wanted, self.at_most) - self.n)
        if not wanted:
            self._short = None
        return self.n

    def count(self) -> None:
        """Look at the nodes, and ask for none."""
        try:
            found = slots(**self._takes)
        except ValueError as none:
            self._short = (self._clock() if self._short is None else self._short[0], str(none))
            self.n = 0
        else:
            self._short = None
            self.n = found if self._most is None else min(found, self._most)

    @property
    def at_most(self) -> int:
        """Trials at once, once an autoscaler has given all that it is asked for."""
        return self._most or max(AT_ONCE, self.n) if self.grows else self.n

    def waits(self) -> str | None:
        """What is waited for, and how long already; None where trials have room, or want none."""
        if self._short is None:
            return None
        since, why = self._short
        minutes, seconds = divmod(round(self._clock() - since), 60)
        line = f"no node for a trial, for {minutes}:{seconds:02d} now ({why.removesuffix('; ask for less')})"
        return f"{line}; its autoscaler is asked for one: `ray status` on the head" if self.grows else line

    def _ask(self, n: int) -> None:
        """Have `n` trials' room waiting to be placed; what is placed is for trials, and the next look knows of its node."""
        from ray.util import placement_group, placement_group_table, remove_placement_group

        placed = [group for group in self._asked if placement_group_table(group).get("state") == "CREATED"]
        spare = [group for group in self._asked if group not in placed][max(n, 0) :]
        for group in (*placed, *spare):
            remove_placement_group(group)
            self._asked.remove(group)
        if placed:
            return
        bundle, where = bundle_of(**self._takes)
        while len(self._asked) < n:
            self._asked.append(placement_group([bundle], **where))


def at_a_time(n_slots: int | FreeSlots) -> str:
    """How many trials run at once, for people."""
    n = n_slots if isinstance(n_slots, int) else n_slots.at_most
    words = f"{n} {'trials' if n > 1 else 'trial'} at a time"
    if isinstance(n_slots, int) or n == n_slots.n:
        return words
    return f"up to {words} (room for {n_slots.n} now, the cluster is asked for more)"


def bundle_of(
    *, cpus_per_trial: int, gpus_per_trial: float, accelerator_type: str | None = None, memory_per_trial: int = 0
) -> tuple[dict[str, float], dict[str, Any]]:
    """What a trial takes of one node, as Ray's placement groups have it, and which nodes they may choose, as their keywords."""
    wanted = {"CPU": float(cpus_per_trial), "GPU": float(gpus_per_trial), "memory": float(memory_per_trial)}
    where = {} if (selected := labels(accelerator_type)) is None else {"bundle_label_selector": [selected]}
    return {name: much for name, much in wanted.items() if much > 0}, where


class Returned(NamedTuple, Generic[T]):
    """What a function has returned on a node.

    Attributes:
        value: It.
        node: The node's id, in hexadecimal.
        seconds: That it took there.
    """

    value: T
    node: str
    seconds: float


def in_a_slot(
    function: Callable[..., T],
    *arguments: Any,
    takes: Mapping[str, Any],
    say: Callable[[str], object],
    patience: float = math.inf,
) -> Returned[T]:
    """Call a function once where a trial would run, in a process that has what a trial takes, and ends with it.

    Args:
        function: Of a module that is there, too.
        arguments: Its own.
        takes: As of `Room`. What waits for it is a demand of its own: an autoscaler starts a node for it.
        say: Is told what is waited for, once a minute.
        patience: Seconds to wait for a node.

    Raises:
        ValueError: if no node fits and none comes, or whatever the function raised.
    """
    import ray

    room, begun = FreeSlots(takes), time.monotonic()
    needs, where = bundle_of(**takes)
    selector = where["bundle_label_selector"][0] if where else None
    kinds = {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0), "memory": needs.get("memory"), "label_selector": selector}
    answer = ray.remote(**kinds, max_calls=1)(_there).remote(function, arguments)
    while not ray.wait([answer], timeout=0 if room.waits() else 60)[0]:
        room.count()
        if (waiting := room.waits()) is None:
            continue
        if time.monotonic() - begun > patience:
            ray.cancel(answer)
            raise ValueError(waiting)
        say(waiting)
        ray.wait([answer], timeout=60)
    try:
        found: Returned[T] = ray.get(answer)
    except ray.exceptions.RayTaskError as error:
        raise ValueError(str(error.cause)) from error
    return found


def _there(function: Callable[..., T], arguments: tuple[Any, ...]) -> Returned[T]:
    """Runs on the node."""
    import ray

    begun = time.monotonic()
    value = function(*arguments)
    return Returned(value, ray.get_runtime_context().get_node_id(), time.monotonic() - begun)


def gpus_of(asked: float | str, accelerator_type: str | None) -> float:
    """With how many GPUs something is measured: as is asked for, and for `auto` with one, where a node has one or will.

    Raises:
        ValueError: nobody knows which node an autoscaler should start for it.
    """
    import ray

    if not isinstance(asked, str):
        return asked
    if any(node["Resources"].get("GPU", 0) >= 1 for node in ray.nodes() if node["Alive"]):
        return 1.0
    if not autoscales(wait=FIRST_REPORT_SECONDS):
        return 0.0
    if accelerator_type is None:
        raise ValueError(
            "resources.gpus_per_trial: auto is measured on a node for trials, and the cluster has none with a GPU yet; name its "
            "kind in resources.accelerator_type, so that the autoscaler starts one, or give a number of GPUs"
        )
    return 1.0
