"""How large a configuration is, asked for many candidates: each different answer is counted once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from spaces import Config, JointSpace

Size = TypeVar("Size", bound=float | dict[str, float])  # one, or each by its name


class CachedSize(Generic[Size]):
    """Sizes of configurations, remembered by the knobs that they depend on (`spaces.Knob.sizes`).

    Args:
        size: Counts on the real model, which takes milliseconds.
        space: The joint space.
        exact: Whether every configuration has an answer of its own (a recorded table's rows): then all knobs are looked at.
        operations: Whether the answer depends on what a model does, not on its parameters alone: then every knob of the method is
            looked at that is no factor or fraction.
    """

    def __init__(self, size: Callable[[Config], Size], space: JointSpace, *, exact: bool = False, operations: bool = False) -> None:
        self._size, self._operations = size, operations
        self._sized = {m: tuple(knob.key for knob in space.knobs(m) if knob.sizes or exact) for m in space.methods}
        self._own = {m: tuple(k.key for k in space.knobs(m) if k.key.startswith(f"{m}.")) for m in space.methods}
        self._known: dict[tuple[object, ...], Size | str] = {}

    def __call__(self, config: Config) -> Size:
        """The size.

        Raises:
            ValueError: if the configuration is impossible.
        """
        method = str(config["method"])
        key: tuple[object, ...] = (method, *(config[knob] for knob in self._sized[method]))
        if self._operations:
            key += tuple(value for knob in self._own[method] if not isinstance(value := config[knob], float))
        found = self._known.get(key)
        if found is None:
            try:
                found = self._size(config)
            except ValueError as error:
                found = str(error)
            self._known[key] = found
        if isinstance(found, str):
            raise ValueError(found)
        return found
