"""A cache of configuration sizes: each different size is counted once, however many candidates ask for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from spaces import Config, JointSpace

Size = TypeVar("Size", bound=float | dict[str, float])  # one size, or sizes by name


class CachedSize(Generic[Size]):
    """The sizes of configurations, cached by the knobs that they depend on (`spaces.Knob.sizes`).

    Args:
        size: Function that counts on the real model, which takes milliseconds.
        space: The joint space.
        exact: True if every configuration has its own answer (rows of a recorded table); then all knobs are part of the key.
        operations: True if the answer depends on the model's operations, not on its parameters alone; then all knobs of the method
            except factors and fractions are part of the key.
    """

    def __init__(self, size: Callable[[Config], Size], space: JointSpace, *, exact: bool = False, operations: bool = False) -> None:
        self._size, self._operations = size, operations
        self._sized = {m: tuple(knob.key for knob in space.knobs(m) if knob.sizes or exact) for m in space.methods}
        self._own = {m: tuple(k.key for k in space.knobs(m) if k.key.startswith(f"{m}.")) for m in space.methods}
        self._known: dict[tuple[object, ...], Size | str] = {}

    def __call__(self, config: Config) -> Size:
        """Return the size.

        Raises:
            ValueError: If the configuration is invalid.
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
