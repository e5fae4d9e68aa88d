"""How large an adapter a configuration makes, asked for many candidates: each different answer is counted once."""

from __future__ import annotations

from typing import Protocol

from spaces import Config, JointSpace


class Counts(Protocol):
    """Counts the parameters of one configuration."""

    def count(self, config: Config) -> tuple[int, int]:
        """(adapter_params, head_params); ValueError if the configuration is impossible."""


class CachedSize:
    """Adapter parameters of configurations, remembered by the knobs that the size depends on (`spaces.Knob.sizes`).

    Args:
        sizes: Counts on the real model, which takes milliseconds.
        space: The joint space.
        exact: Whether every configuration has an answer of its own (a recorded table's rows): then all knobs are looked at.
    """

    def __init__(self, sizes: Counts, space: JointSpace, *, exact: bool = False) -> None:
        self._sizes = sizes
        self._keys = {m: tuple(knob.key for knob in space.knobs(m) if knob.sizes or exact) for m in space.methods}
        self._known: dict[tuple[object, ...], int | str] = {}

    def __call__(self, config: Config) -> int:
        """The adapter parameters.

        Raises:
            ValueError: if the configuration is impossible.
        """
        method = str(config["method"])
        key = (method, *(config[knob] for knob in self._keys[method]))
        found = self._known.get(key)
        if found is None:
            try:
                found, _ = self._sizes.count(config)
            except ValueError as error:
                found = str(error)
            self._known[key] = found
        if isinstance(found, str):
            raise ValueError(found)
        return found
