"""What a trainable is, and how a worker is told to stop."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainables import folder as folders
from trainables.folder import Folder
from trainables.imports import large_imports

STOP_FLAG = "stop"  # a file of this name in a trial's folder tells its worker to stop


class Stopped(Exception):
    """The trial was told to stop, and did so between two batches. What its checkpoint holds is what there is of it."""


def raise_if_stopped(folder: Path | Folder | None) -> None:
    """To be called between two batches.

    Raises:
        Stopped: the trial of this folder was told to stop.
    """
    if folder is not None and folders.exists(folder, STOP_FLAG):
        raise Stopped


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU (`torch.OutOfMemoryError`) or the host has no memory left."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)


def limit_gpu_memory(share: float) -> None:
    """Let this process take no more of its GPU's memory than its share, so that it runs out of memory before its neighbours do."""
    if 0.0 < share < 1.0:
        with large_imports():
            import torch
        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(share)


class Trainable(Protocol):
    """One object per worker, reused from trial to trial."""

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None) -> int:
        """Becomes the trial of `config` and `seed`, or takes it up where the checkpoint in `folder` left it.

        Returns:
            The number of epochs already done; 0 for a fresh trial.
        """

    def replay(self) -> dict[str, float] | None:
        """The metrics of the restored epoch, which the checkpoint keeps; None when fresh."""

    def step(self) -> dict[str, float]:
        """Trains one epoch, evaluates on the validation split, writes the checkpoint (if there is a folder).

        Returns:
            `val/top1` (fraction in [0, 1]), `val/loss` (cross-entropy), `train/loss` (what was minimised: cross-entropy plus the
            method's regulariser, where it has one), `cost/train_seconds`, `cost/eval_seconds`, `cost/images_per_second`,
            `cost/step_seconds`, `cost/peak_memory_bytes` (see `trainables.costs.memory`), `cost/gflops` (see
            `trainables.costs.counting`), and, where the recipe asks for it, `cost/latency_ms` and `cost/latency_merged_ms` (see
            `trainables.costs.latency`).

        Raises:
            FloatingPointError: The loss is not finite; the message names the step.
            Stopped: The trial was told to stop by the flag in its folder. It can only be finished then.
        """

    def finish(self) -> None:
        """Leaves the trial: the backbone is again as it was loaded.

        Raises:
            RuntimeError: It is not: a frozen weight has changed.
        """


class Audit(Protocol):
    """What a data set holds for a search."""

    @property
    def n_images(self) -> Mapping[str, int]:
        """Images of each split that a search sees."""

    @property
    def n_classes(self) -> int:
        """Classes."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was left out, a line each."""


class Sizes(Protocol):
    """What can be known of every configuration before training."""

    @property
    def n_classes(self) -> int:
        """Classes of the data set; chance level is 1 / n_classes."""

    @property
    def n_validation(self) -> int | None:
        """Images that `val/top1` is measured on; None where it is not measured on images."""

    @property
    def backbone_params(self) -> int:
        """Parameters of the frozen backbone, without a head."""

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Parameters that `config` would train: (adapter, head), exact.

        Raises:
            ValueError: The configuration is impossible; the message names the law, the value and the remedy.
        """

    def gflops(self, config: Mapping[str, Any]) -> float:
        """10^9 operations of one image's forward pass, as trials report them under `cost/gflops`; raises as `count`."""

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """Bytes that a worker takes to train it, beside libraries and images: by arithmetic, with room. Raises as `count`."""

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """Why the adapter cannot be folded into the weights; None if it can, or if only training can tell. Raises as `count`."""
