"""The capacity for trials on a cluster whose nodes come and go, and requests to its autoscaler for more.

Ray's autoscaler starts nodes for work that waits to be placed. A search decides late: it starts no trial before there is capacity.
So it requests the capacity itself: for each additional trial that could run, an empty placement group of a trial's resources, which
is removed once it is placed. Requests of several studies add up, and each disappears with its driver, however the driver ends.

`ray.autoscaler.sdk.request_resources` would be a single standing request for the whole cluster: the next caller replaces it,
and the request of a killed driver keeps its nodes running.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from cluster.connect import slots
from cluster.nodes import autoscales, labels

T = TypeVar("T")
AT_ONCE = 8  # trials for which nodes are requested from an autoscaler if no number is configured
FIRST_REPORT_SECONDS = 10.0  # time until Ray's autoscaler first reports after a cluster's start, even if it cannot start nodes


class FreeSlots:
    """The number of trials that the connected cluster can run at once, updated from its current nodes.

    Args:
        takes: Resources of a trial, as keyword arguments of `cluster.connect.slots`.
        most: Maximum number of trials at once; None for no limit, in which case an autoscaler is asked for `AT_ONCE`.
        clock: Clock in seconds.

    Attributes:
        n: Number of trials that had room at the last poll.
        grows: True if an autoscaler may start nodes.

    Raises:
        ValueError: If not even one trial fits on a cluster that cannot grow.
    """

    def __init__(self, takes: Mapping[str, Any], most: int | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._takes, self._most, self._clock = takes, most, clock
        self._asked: list[Any] = []  # placement groups
        self._short: tuple[float, str] | None = None  # time since no trial fits, and the reason
        self.n = 0
        self.grows = autoscales()
        self.count()
        if self._short is not None and not self.grows:
            self.grows = autoscales(wait=FIRST_REPORT_SECONDS)
            if not self.grows:
                raise ValueError(self._short[1])

    def poll(self, wanted: int) -> int:
        """Return how many trials may run at once; if that is fewer than wanted, request nodes from an autoscaler.

        Args:
            wanted: Number of trials that could run if there was room for all.
        """
        self.count()
        self.grows = self.grows or autoscales()
        if self.grows:
            self._ask(min(wanted, self.at_most) - self.n)
        if not wanted:
            self._short = None
        return self.n

    def count(self) -> None:
        """Update the number of trials from the nodes, without requesting any."""
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
        """The number of trials at once after an autoscaler has granted every request."""
        return self._most or max(AT_ONCE, self.n) if self.grows else self.n

    def waits(self) -> str | None:
        """Return what is missing, and for how long; None if trials have room or none is wanted."""
        if self._short is None:
            return None
        since, why = self._short
        minutes, seconds = divmod(round(self._clock() - since), 60)
        line = f"no node for a trial, for {minutes}:{seconds:02d} now ({why.removesuffix('; ask for less')})"
        return f"{line}; its autoscaler is asked for one: `ray status` on the head" if self.grows else line

    def _ask(self, n: int) -> None:
        """Keep capacity for `n` trials pending; placed groups are removed, because the next poll counts their node."""
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
    """Describe how many trials run at once."""
    n = n_slots if isinstance(n_slots, int) else n_slots.at_most
    words = f"{n} {'trials' if n > 1 else 'trial'} at a time"
    if isinstance(n_slots, int) or n == n_slots.n:
        return words
    return f"up to {words} (room for {n_slots.n} now, more is requested from the cluster)"


def bundle_of(
    *, cpus_per_trial: int, gpus_per_trial: float, accelerator_type: str | None = None, memory_per_trial: int = 0
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the resources of a trial as a bundle of Ray's placement groups, and the node selection as their keywords."""
    wanted = {"CPU": float(cpus_per_trial), "GPU": float(gpus_per_trial), "memory": float(memory_per_trial)}
    where = {} if (selected := labels(accelerator_type)) is None else {"bundle_label_selector": [selected]}
    return {name: much for name, much in wanted.items() if much > 0}, where


class Returned(NamedTuple, Generic[T]):
    """The return value of a function that ran on a node.

    Attributes:
        value: Return value.
        node: Id of the node, in hexadecimal.
        seconds: Duration of the call on the node.
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
    """Call a function once with the resources of a trial, in a process of its own that ends afterwards.

    Args:
        function: Function of a module that the node can import.
        arguments: Arguments of the function.
        takes: Resources of a trial, see `FreeSlots`. The waiting call is itself a demand that makes an autoscaler start a node.
        say: Callback that receives a line about the wait, once a minute.
        patience: Seconds to wait for a node.

    Raises:
        ValueError: If no node fits and none is started in time, or the function raised an exception.
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
    """Call the function on the node and time it."""
    import ray

    begun = time.monotonic()
    value = function(*arguments)
    return Returned(value, ray.get_runtime_context().get_node_id(), time.monotonic() - begun)


def gpus_of(asked: float | str, accelerator_type: str | None) -> float:
    """Return the number of GPUs for a measurement: the configured number, or for `auto` one if a node has or will have a GPU.

    Raises:
        ValueError: If `auto` needs a node that an autoscaler has yet to start, and its accelerator type is not configured.
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
            "resources.gpus_per_trial: auto is measured on a node for trials, and the cluster has no node with a GPU yet; set "
            "resources.accelerator_type, so that the autoscaler starts one, or give a number of GPUs"
        )
    return 1.0
