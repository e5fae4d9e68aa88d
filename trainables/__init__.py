"""What one trial runs: adapters on a frozen Vision Transformer, in plain PyTorch and timm.

Three verbs are all that a search needs: `audit` looks at every image and decodes it once per machine, `measure` tells the driver,
before anything is trained, exactly how many parameters a configuration would train, and `make` gives a worker its trainable (frozen
backbone and decoded data, loaded once, reused from trial to trial).

Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainables.imports import large_imports
from trainables.protocol import Audit, Sizes, Trainable

if TYPE_CHECKING:
    from trainables.training.probe import Probe

__all__ = [
    "audit",
    "choose_precision",
    "make",
    "measure",
    "measure_epochs",
    "measure_latency",
    "probed_epochs",
    "probed_memory",
]


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

        return trial.AdapterWorker(backbone, data, recipe)


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
