"""The workload of one trial: training adapters on a frozen Vision Transformer, in plain PyTorch and timm.

A search needs three functions. `audit` checks every image and decodes it once per machine. `measure` counts, before any training,
exactly how many parameters a configuration would train. `make` builds a worker's trainable: the frozen backbone and the decoded
data, loaded once and reused for every trial.

Importing this package does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.imports import large_imports
from trainables.method_files import of_argument
from trainables.protocol import Audit, Sizes, Trainable

if TYPE_CHECKING:
    from trainables.adapters import Method
    from trainables.adapters.laws import Verdict
    from trainables.costs.speed import Speed
    from trainables.costs.work import EpochWork

__all__ = [
    "audit",
    "check_method",
    "choose_precision",
    "count_epochs",
    "make",
    "measure",
    "measure_latency",
    "measure_speed",
    "probed_memory",
    "refuse_changed",
    "refuse_unlawful",
    "refuse_untestable",
    "rehearse",
    "save_listing",
]


def make(
    backbone: Mapping[str, Any],
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]] = (),
) -> Trainable:
    """Load the frozen backbone and the decoded data, once per worker.

    Args:
        backbone: Mapping with `name`, `weights` (null for the pretrained ones, "random", or the path of a local safetensors
            file) and `img_size` (null for the backbone's own).
        data: Mapping with `kind` and the keys that this kind needs, see `trainables.data`.
        recipe: Training settings that are not searched, see `trainables.recipe.recipe.Recipe`; every key is optional.
        methods: Methods that the user brought, each a mapping with `name`, `source`, `text` and `digest`, see
            `trainables.method_files`.
    """
    if data.get("kind") == "synthetic":
        from trainables.simulated import plain

        return plain.make(backbone, data, recipe)
    with large_imports():
        from trainables.training import trial

        return trial.AdapterWorker(backbone, data, recipe, methods)


def measure(backbone: Mapping[str, Any], data: Mapping[str, Any], methods: Sequence[Mapping[str, Any]] = ()) -> Sizes:
    """Build the real model on torch's meta device, where parameters have shapes but no memory, and count its parameters.

    If only counts are wanted, `data` may be `{"kind": "none", "n_classes": C}`.
    """
    if data.get("kind") == "synthetic":
        from trainables.simulated import plain

        return plain.measure(backbone, data)
    with large_imports():
        from trainables.costs import counting

        return counting.MetaSizes(backbone, data, methods)


def measure_latency(
    backbone: Mapping[str, Any],
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    config: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]] = (),
    *,
    n_classes: int,
) -> dict[str, Any]:
    """Measure the inference latency of a configuration for one image, on this machine.

    Args:
        backbone: The `backbone` argument of `make`.
        data: The `data` argument of `make`; only its kind is used.
        recipe: The `recipe` argument of `make`; only precision, device and threads are used.
        config: The configuration.
        methods: The `methods` argument of `make`.
        n_classes: Number of outputs of the head.

    Returns:
        The metrics `cost/latency_ms` and `cost/latency_merged_ms` (not if it cannot be merged), and `unmergeable`, `repeats`,
        `spread_ms`, `device`, `threads`, `precision`; see `trainables.costs.latency`.

    Raises:
        ValueError: If the data are a synthetic surface, or the backbone or the configuration is invalid.
    """
    if data.get("kind") == "synthetic":
        raise ValueError("a synthetic surface computes nothing: there is no latency to measure")
    with large_imports():
        from trainables.costs.latency import measure as measured
        from trainables.data import task_of_kind

        return measured(backbone, recipe, n_classes, config, methods, task=task_of_kind(data["kind"]))


def count_epochs(
    backbone: Mapping[str, Any],
    data: Mapping[str, Any],
    recipe: Mapping[str, Any],
    methods: Sequence[Mapping[str, Any]] = (),
) -> EpochWork:
    """Return a counter of the work of configurations' epochs, on torch's meta device; see `trainables.costs.work`.

    Args:
        backbone: The `backbone` argument of `make`.
        data: The `data` argument of `make`.
        recipe: The `recipe` argument of `make`.
        methods: The `methods` argument of `make`.

    Raises:
        ValueError: If the data are a synthetic surface or have no images, or the backbone is unknown.
    """
    if data.get("kind") == "synthetic":
        raise ValueError("a synthetic surface computes nothing: there is no cost to plan")
    with large_imports():
        from trainables.costs.work import EpochWork
    return EpochWork(backbone, data, recipe, methods)


def measure_speed(
    backbone: Mapping[str, Any],
    recipe: Mapping[str, Any],
    on_done: Callable[[int, int, str], None] = lambda done, of, method: None,
) -> Speed:
    """Measure this machine's seconds per operation, byte and kernel with a few steps on noise; see `trainables.costs.speed`.

    Args:
        backbone: The `backbone` argument of `make`.
        recipe: The `recipe` argument of `make`.
        on_done: Callback that receives the number of measured methods, of all, and the name of the next.

    Raises:
        ValueError: If the backbone is unknown.
    """
    with large_imports():
        from trainables.costs.speed import measure
    return measure(backbone, recipe, on_done)


def probed_memory(worker: Mapping[str, Any], configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Measure the memory of a few steps, also on a node of Ray's; see `trainables.training.probe.memory`."""
    with large_imports():
        from trainables.training.probe import memory
    return memory(**worker, configs=configs)


def choose_precision(
    backbone: Mapping[str, Any], data: Mapping[str, Any], recipe: Mapping[str, Any], *, backbone_params: int, gpu: bool = False
) -> dict[str, Any]:
    """Choose the faster precision for this machine.

    A few training steps are timed where bfloat16 may be faster; otherwise the choice takes no time.

    Args:
        backbone: The `backbone` argument of `make`.
        data: The `data` argument of `make`.
        recipe: The `recipe` argument of `make`; only its number of threads is used.
        backbone_params: Number of backbone parameters, as `measure` counts them.
        gpu: True if trials have a GPU.

    Returns:
        `chosen` ("float32" or "bfloat16"), `why`, and the measurements; see `trainables.recipe.precision.probe`.
    """
    if data.get("kind") == "synthetic":
        return {"chosen": "float32", "why": "nothing is computed"}
    with large_imports():
        from trainables.recipe.precision import probe

        return probe(backbone, backbone_params=backbone_params, n_threads=recipe.get("n_threads", 1), gpu=gpu)


def audit(
    backbone: Mapping[str, Any], data: Mapping[str, Any], *, progress: Callable[[int, int], None] | None = None
) -> Audit | None:
    """Check everything that a search needs before it begins.

    Missing backbone weights are downloaded. Images that are not decoded on this machine yet are decoded.

    Args:
        backbone: The `backbone` argument of `make`.
        data: The `data` argument of `make`.
        progress: Callback that receives the number of decoded images of a split and the split's total.

    Returns:
        The contents of the data set and the files that were skipped; None for a kind of data without images.

    Raises:
        ValueError: If the weights are unavailable or the data set is unusable; the message lists its defects.
    """
    if data.get("kind") in ("synthetic", "none"):
        return None
    with large_imports():
        from trainables import backbones
        from trainables import data as images
        from trainables.data import watched

        model = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"))
        normalize = data.get("normalize", "backbone")
        wanted = backbones.preprocessing(model, normalize)
        found = images.audit(data, wanted, progress=progress)
        seen = watched.load(data, wanted, progress=progress)
        problems = (*found.skipped, *(problem for one in seen.values() for problem in one.skipped))
        facts = {name: (one.n_images, one.digest) for name, one in seen.items()}
        digest = backbones.digest(model)
        backbones.refuse_changed(backbone, digest)
        normalisation = backbones.describe_normalisation(model, backbone.get("weights"), normalize)
        return replace(found, skipped=problems, watched=facts, weights_digest=digest, normalisation=normalisation)


def rehearse(
    backbone: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]] = (),
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Pass one image through the backbone, plain and with each configuration's adapter; see `trainables.training.rehearsal`.

    Args:
        backbone: The `backbone` argument of `make`.
        configs: Configurations to try.
        methods: The `methods` argument of `make`.
        progress: Callback that receives (tried models, all models).

    Raises:
        ValueError: If the backbone or one of the adapters cannot be computed with.
    """
    with large_imports():
        from trainables.training.rehearsal import rehearse as run

    run(backbone, configs, methods, on_done=progress)


def check_method(kind: type[Method], backbone: str) -> list[Verdict]:
    """Check the laws of a method on a random backbone; see `trainables.adapters.laws`.

    Args:
        kind: The method, with defaults for all hyperparameters.
        backbone: Name of the backbone.

    Raises:
        ValueError: If the backbone is unknown, or the method does not fit it.
    """
    with large_imports():
        from trainables.training.rehearsal import check_laws

    return check_laws(kind, backbone)


def refuse_unlawful(methods: Sequence[Mapping[str, Any]]) -> None:
    """Refuse methods that the user brought and that break a law; see `trainables.training.rehearsal.refuse_unlawful`.

    Args:
        methods: The `methods` argument of `make`.

    Raises:
        ValueError: If one breaks a law; the message names it.
    """
    if not methods:
        return
    with large_imports():
        from trainables.training.rehearsal import refuse_unlawful as refuse

    refuse(methods)


def refuse_changed(backbone: Mapping[str, Any], data: Mapping[str, Any], methods: Sequence[Mapping[str, Any]] = ()) -> None:
    """Refuse a data set, weights or code of methods other than those with which a study began.

    Args:
        backbone: The `backbone` argument of `make`; without a `digest` its weights are not loaded.
        data: The `data` argument of `make`; without a `digest` its files are not listed.
        methods: The `methods` argument of `make`.

    Raises:
        Changed: If one of them is another; a ValueError. The message names what has changed.
        ValueError: If one of them is unavailable.
    """
    for argument in methods:
        of_argument(argument)
    with large_imports():
        from trainables import backbones
        from trainables import data as images
        from trainables.data import watched

        if data.get("digest") is not None:
            images.look_again()
            images.n_classes(data)
            watched.refuse_changed(data)
        if backbone.get("digest") is not None:
            model = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"))
            backbones.refuse_changed(backbone, backbones.digest(model))


def refuse_untestable(data: Mapping[str, Any]) -> None:
    """Refuse data without a test split, where no final training can be tested.

    Args:
        data: The `data` argument of `make`.

    Raises:
        ValueError: If there is none.
    """
    if data.get("kind") == "synthetic":
        raise ValueError("a synthetic surface has no test split; there is nothing to retrain")
    with large_imports():
        from trainables.data import refuse_untestable as refuse

        refuse(data)


def save_listing(data: Mapping[str, Any], path: Path) -> None:
    """Write the names, sizes and labels of a data set's images to a Parquet file; does nothing for data without files.

    Args:
        data: The `data` argument of `make`.
        path: The file.
    """
    if data.get("kind") in ("synthetic", "none"):
        return
    from trainables.data import save_listing

    save_listing(data, path)
