"""The interface between a search and its workers: the `Trainable` protocol, and the stop flag."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from trainables import folder as folders
from trainables.folder import Folder
from trainables.imports import large_imports

DATA_RULES = 2  # version of the rules of docs/data.md which say what is a split, a class, or neither
STOP_FLAG = "stop"  # name of the file in a trial's folder that requests its worker to stop


class Changed(ValueError):
    """The error that the data set, the weights or the methods' code of a study are not those with which it began."""


class Stopped(Exception):
    """The signal that a trial was requested to stop and did so between two batches; only its checkpoint remains."""


def raise_if_stopped(folder: Path | Folder | None) -> None:
    """Raise `Stopped` if the folder has a stop flag; call it between two batches.

    Raises:
        Stopped: If the trial of this folder was requested to stop.
    """
    if folder is not None and folders.exists(folder, STOP_FLAG):
        raise Stopped


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that a GPU (`torch.OutOfMemoryError`) or the host is out of memory."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)


def limit_gpu_memory(share: float) -> None:
    """Cap this process's GPU memory at its share, so that it runs out of memory before it can affect its neighbours."""
    if 0.0 < share < 1.0:
        with large_imports():
            import torch
        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(share)


class Trainable(Protocol):
    """The training loop of one worker; a single object, reused for all its trials."""

    def start(self, config: Mapping[str, Any], *, seed: int, epochs: int, folder: Path | Folder | None, fold: int = 0) -> int:
        """Set up the trial of `config` and `seed`, or resume it from the checkpoint in `folder`.

        With folds, part `fold` of the pool is the validation split.

        Returns:
            The number of epochs already done; 0 for a fresh trial.
        """

    def replay(self) -> dict[str, float] | None:
        """Return the metrics of the restored epoch, which the checkpoint holds; None for a fresh trial."""

    def step(self) -> dict[str, float]:
        """Train one epoch, evaluate on the validation split, and write the checkpoint if the trial has a folder.

        Returns:
            `val/top1` (fraction in [0, 1]; not if an image has any number of labels), the study's metric (`val/NAME`, see
            `trainables.tasks.quality`), the same of each watched data set after the last epoch (`watch/NAME/top1` and so on, see
            `trainables.data.watched`), `val/loss` (cross-entropy), `train/loss` (the training objective: cross-entropy,
            weighted if the recipe says so, plus the method's regulariser, if it has one), `cost/train_seconds`,
            `cost/eval_seconds`, `cost/images_per_second`, `cost/step_seconds`, `cost/peak_memory_bytes` (see
            `trainables.costs.memory`), `cost/gflops` (see `trainables.costs.counting`), and, if the recipe asks for them,
            `cost/latency_ms` and `cost/latency_merged_ms` (see `trainables.costs.latency`).

        Raises:
            FloatingPointError: If the loss is not finite; the message names the step.
            Stopped: If the flag in the trial's folder requests a stop; after that, only `finish` may be called.
        """

    def finish(self) -> None:
        """End the trial and restore the backbone to the state in which it was loaded.

        Raises:
            RuntimeError: If a frozen weight has changed.
        """


class Audit(Protocol):
    """The contents of a data set, as far as a search needs them."""

    @property
    def n_images(self) -> Mapping[str, int]:
        """The number of images of each split that a search uses."""

    @property
    def n_classes(self) -> int:
        """The number of classes."""

    @property
    def skipped(self) -> tuple[str, ...]:
        """The skipped files, one line each."""

    @property
    def classes(self) -> Mapping[str, Mapping[str, int]]:
        """The number of images of each class by split, in the order of the labels."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The files and folders that the layout's rules left out, one line each with the reason."""

    @property
    def n_turned(self) -> int:
        """The number of images with an EXIF orientation."""

    @property
    def n_transparent(self) -> int:
        """The number of images with transparent pixels."""

    @property
    def data_digest(self) -> str | None:
        """The digest of names, sizes and labels of all images; None for a packaged data set."""

    @property
    def watched(self) -> Mapping[str, tuple[int, str]]:
        """The number of images of each watched data set, and the digest of its names, sizes and labels."""

    @property
    def weights_digest(self) -> str:
        """The digest of the backbone's weights."""

    @property
    def normalisation(self) -> str:
        """The normalisation of the images and where it comes from, in words."""


class Sizes(Protocol):
    """The properties of a configuration that are known before training."""

    @property
    def n_classes(self) -> int:
        """The number of classes of the data set; chance level is 1 / n_classes."""

    @property
    def task(self) -> str:
        """The name of the task (`trainables.tasks`)."""

    @property
    def n_validation(self) -> int | None:
        """The number of images that metrics are measured on; None if it is not measured on images."""

    @property
    def backbone_params(self) -> int:
        """The number of parameters of the frozen backbone, without a head."""

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Count exactly the parameters that `config` would train: (adapter, head).

        Raises:
            ValueError: If the configuration is invalid; the message names the law, the value and the remedy.
        """

    def gflops(self, config: Mapping[str, Any]) -> float:
        """Return 10^9 operations of one image's forward pass, as trials report them in `cost/gflops`; raises as `count`."""

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """Estimate, with a margin, the bytes that training takes in addition to libraries and images. Raises as `count`."""

    def frozen(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return the cut in front of everything that a configuration trains, and the bytes of all images' tokens at it.

        See `trainables.recipe.cut`. (0, 0) if nothing can be kept. Raises as `count`.
        """

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """Return why the adapter cannot be merged into the weights; None if it can or only training can tell. Raises as `count`."""
