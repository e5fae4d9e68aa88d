"""Workers that see only the first images of their data set: few laws of a trial depend on how many there are."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from trainables.protocol import Trainable
from trainables.training.trial import AdapterWorker


def shortened(trainable: Trainable, *, n_train: int = 96, n_validation: int = 32) -> AdapterWorker:
    """The worker, with so many images of each split."""
    worker = cast(AdapterWorker, trainable)
    for name, n in (("train", n_train), ("validation", n_validation)):
        split = worker._splits[name]
        worker._splits[name] = replace(split, images=split.images[:n], labels=split.labels[:n])
    return worker
