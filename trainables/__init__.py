"""What one trial runs: adapters on a frozen Vision Transformer, in plain PyTorch and timm.

Three verbs are all that a search needs: `audit` looks at every image and decodes it once per machine, `measure` tells the driver,
before anything is trained, exactly how many parameters a configuration would train, and `make` gives a worker its trainable (frozen
backbone and decoded data, loaded once, reused from trial to trial).

Importing this package does not import torch.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from trainables import folder as folders
from trainables.folder import Folder

if TYPE_CHECKING:
    from trainables.training.probe import Probe

__all__ = [
    "STOP_FLAG",
    "Audit",
    "Sizes",
    "Stopped",
    "Trainable",
    "audit",
    "choose_precision",
    "keep_to_share",
    "large_imports",
    "look_at_flag",
    "make",
    "measure",
    "measure_latency",
    "out_of_memory",
    "probed_epochs",
    "probed_memory",
]

STOP_FLAG = "stop"  # a file of this name in a trial's folder tells its worker to stop


class Stopped(Exception):
    """The trial was told to stop, and did so between two batches. What its checkpoint holds is what there is of it."""


def look_at_flag(folder: Path | Folder | None) -> None:
    """To be called between two batches.

    Raises:
        Stopped: the trial of this folder was told to stop.
    """
    if folder is not None and folders.seen(folder, STOP_FLAG):
        raise Stopped


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU (`torch.OutOfMemoryError`) or the host has no memory left."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and of_torch)


def keep_to_share(share: float) -> None:
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


def make(backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any]) -> Trainable:
    """Loads the frozen backbone and the decoded data, once per worker.

    Args:
        backbone: `name`, `weights` (null: its own; "random"; or a local safetensors file), `img_size` (null: its own).
        data: `kind` and what that kind needs, see `trainables.data`.
        recipe: What is not searched, see `trainables.recipe.recipe.Recipe`; every key is optional.
    """
    if data.get("kind") == "synthetic":
        from trainables.simulated import plain

        return plain.make(backbone, data, recipe)
    with large_imports():
        from trainables.training import trial

        return trial.AdapterTrial(backbone, data, recipe)


def measure(backbone: Mapping[str, Any], data: Mapping[str, Any]) -> Sizes:
    """Builds the real model on torch's meta device, where parameters have shapes and no memory, and counts on it.

    `data` may be `{"kind": "none", "n_classes": C}` where only counts are wanted.
    """
    if data.get("kind") == "synthetic":
        from trainables.simulated import plain

        return plain.measure(backbone, data)
    with large_imports():
        from trainables.costs import counting

        return counting.MetaSizes(backbone, data)


def measure_latency(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], config: Mapping[str, Any], *, n_classes: int
) -> dict[str, Any]:
    """How long a configuration takes to answer for one image, on this machine, now.

    Args:
        backbone: As of `make`.
        data: As of `make`; only its kind counts.
        recipe: As of `make`; precision, device and threads count.
        config: The configuration.
        n_classes: Outputs of the head.

    Returns:
        The metrics `cost/latency_ms` and `cost/latency_merged_ms` (absent where it cannot be merged), and how they were measured:
        `unmergeable`, `repeats`, `spread_ms`, `device`, `threads`, `precision`; see `trainables.costs.latency`.

    Raises:
        ValueError: Nothing is computed, or the backbone or the configuration is impossible.
    """
    if data.get("kind") == "synthetic":
        raise ValueError("a synthetic surface computes nothing: there is no latency to measure")
    with large_imports():
        from trainables.costs.latency import measure as measured

        return measured(backbone, recipe, n_classes, config)


def measure_epochs(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], *, configs: Iterable[Mapping[str, Any]]
) -> Iterator[Probe]:
    """What an epoch of each configuration takes on this machine, from a few of its batches; see `trainables.training.probe`.

    Args:
        backbone: As of `make`.
        data: As of `make`.
        recipe: As of `make`.
        configs: Possible ones.

    Raises:
        ValueError: Nothing is computed, or backbone or data are not to be had.
    """
    if data.get("kind") == "synthetic":
        raise ValueError("a synthetic surface computes nothing: there is no cost to plan")
    with large_imports():
        from trainables.training.probe import probe
    return probe(backbone, data, recipe, configs)


def probed_epochs(worker: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> list[Probe]:
    """All that `measure_epochs` finds. A function of its own, for Ray."""
    return list(measure_epochs(**worker, configs=configs))


def probed_memory(worker: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a few steps of configurations take of memory; see `trainables.training.probe.memory`. A function of its own, for Ray."""
    with large_imports():
        from trainables.training.probe import memory
    return memory(**worker, configs=configs)


def choose_precision(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], *, backbone_params: int, gpu: bool = False
) -> dict[str, Any]:
    """Which precision pays on this machine. A few training steps where bfloat16 may pay, no time elsewhere.

    Args:
        backbone: As of `make`.
        data: As of `make`.
        recipe: As of `make`; its threads count.
        backbone_params: As `measure` counts them.
        gpu: Whether trials have a GPU.

    Returns:
        `chosen`, "float32" or "bfloat16", `why`, and what was measured; see `trainables.recipe.precision.probe`.
    """
    if data.get("kind") == "synthetic":
        return {"chosen": "float32", "why": "nothing is computed"}
    with large_imports():
        from trainables.recipe.precision import probe

        return probe(backbone, backbone_params=backbone_params, n_threads=recipe.get("n_threads", 1), gpu=gpu)


def audit(
    backbone: Mapping[str, Any], data: Mapping[str, Any], *, progress: Callable[[int, int], None] | None = None
) -> Audit | None:
    """Looks at everything that a search needs, before it begins.

    The backbone's weights are downloaded if need be, and every image is decoded for this machine unless that has been done.

    Args:
        backbone: As of `make`.
        data: As of `make`.
        progress: Told how many images of a split are decoded, and of how many.

    Returns:
        What there is, and what was skipped; None for a kind of data without images.

    Raises:
        ValueError: The weights cannot be had, or the data set cannot be used; the message lists what is wrong with it.
    """
    if data.get("kind") in ("synthetic", "none"):
        return None
    with large_imports():
        from trainables import backbones
        from trainables import data as images

        model = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"))
        wanted = backbones.preprocessing(model)
        return images.audit(data, wanted, progress=progress)


@contextmanager
def large_imports() -> Iterator[None]:
    """No garbage collection inside, and what was made inside is never looked at again.

    Importing torch, timm and Ray makes a million objects that stay. Collecting among them again and again is a third of the time
    of the import, and looking through them at every full collection later on costs a training step half a second.
    """
    if not gc.isenabled():  # an outer block, or the user, has it off
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # triton complains about objects that are left over when the interpreter ends
        gc.enable()
