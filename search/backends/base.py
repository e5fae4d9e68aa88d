"""What a back end is: the protocol that Ray, this process and the simulator share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from search.storage.checkpoints import Folder


@dataclass(frozen=True)
class Order:
    """One model to retrain: what a worker is told."""

    number: int
    config: dict[str, Any]
    seed: int
    epochs: int
    folder: Folder


@dataclass(frozen=True)
class Outcome:
    """What came of an order: metrics and the test images that it gets right, or why it failed."""

    number: int
    metrics: dict[str, float]
    correct: NDArray[np.bool_] | None
    failure: str | None = None


Retrain = Callable[[Iterable[Order]], Iterator[Outcome]]  # a back end: outcomes as they come
BackEnd = Literal["ray", "in-process"]
