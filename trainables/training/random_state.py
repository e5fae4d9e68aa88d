"""The random state of a trial, kept apart from the process's."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class RandomState:
    """The random state of a trial, active inside a `with` block; the process's own state is restored afterwards."""

    def __init__(self, generator: torch.Generator, device: torch.device) -> None:
        self.state: dict[str, Tensor] = {"cpu": generator.get_state()}
        self._device = device
        if device.type == "cuda":
            self.state["cuda"] = torch.Generator(device).manual_seed(generator.initial_seed()).get_state()

    def __enter__(self) -> None:
        self._outside = self._get()
        self._set(self.state)

    def __exit__(self, *_: object) -> None:
        self.state = self._get()
        self._set(self._outside)

    def _get(self) -> dict[str, Tensor]:
        state = {"cpu": torch.get_rng_state()}
        return state if self._device.type != "cuda" else {**state, "cuda": torch.cuda.get_rng_state(self._device)}

    def _set(self, state: Mapping[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"], self._device)
