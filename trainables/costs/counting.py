"""The costs of a configuration that can be counted before training: parameters, operations, memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from trainables import backbones, data
from trainables.adapters import Method, PeftMethod, adapt, method_of, remove, sequence_growth, supported_blocks, unmergeable
from trainables.adapters.own import own_methods
from trainables.costs.memory import PREFIX_BYTES
from trainables.recipe.cut import bytes_at, deepest_cut
from trainables.recipe.precision import explicit_attention, fused_attention
from trainables.recipe.recipe import recipe_of
from trainables.tasks.base import Task
from trainables.tasks.classification import ONE_LABEL
from trainables.torch_internals import meta_kernels

_FLOAT_BYTES = 4
_OVER = 2  # memory of a step over what it keeps: kernel buffers, gradients in flight, fragmentation; measured: 1.05 to 1.45


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """Count the trainable parameters of an adapted model: (adapter, head). A shared tensor counts once."""
    head = {id(p) for p in cast(VisionTransformer, model).get_classifier().parameters()}
    trained = [p for p in model.parameters() if p.requires_grad]
    n_head = sum(p.numel() for p in trained if id(p) in head)
    return sum(p.numel() for p in trained) - n_head, n_head


class KernelCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A mode that counts what torch runs while it is active, also on the meta device.

    Attributes:
        operations: Floating-point operations of matrix products, convolutions and attention, by torch's own formulas.
        bytes: Bytes that kernels read and write.
        calls: Number of kernels.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations, self.bytes, self.calls = 0, 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise the first call would import torch's compiler (`trainables.torch_internals`)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torch.utils.flop_counter import flop_registry

        found = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        self.operations += 0 if count is None else count(*args, **(kwargs or {}), out_val=found)
        self.bytes += 0 if func.is_view else sum(map(_n_bytes, _tensors((args, found))))
        self.calls += 1
        return found


def _n_bytes(tensor: Tensor) -> int:
    return tensor.nbytes if tensor.layout is torch.strided else 0  # a sparse tensor does not say


def _tensors(values: Any) -> Iterator[Tensor]:
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _tensors(value)


def forward_gflops(model: nn.Module) -> float:
    """Count 10^9 floating-point operations of one image's forward pass, with adapter and head.

    A multiplication and an addition count as two operations (ViT-B/16: 35.1; papers that say 17.6 count the pair as one). Matrix
    products, convolutions and attention are counted, elementwise operations are not. Also works on the meta device.
    """
    wanted = backbones.preprocessing(model)
    image = torch.zeros(1, wanted.channels, *wanted.size, device=next(model.parameters()).device)
    was_training, explicit = model.training, explicit_attention(model)
    try:
        with KernelCounter() as counter, torch.no_grad(), meta_kernels():
            model.eval()(image)
    finally:
        fused_attention(explicit)
        model.train(was_training)
    return float(counter.operations) / 1e9


def kept_bytes(model: nn.Module, n_images: int, task: Task = ONE_LABEL) -> int:
    """Count the bytes that a training step's forward pass keeps for the backward pass, without parameters.

    Also works on the meta device.

    Args:
        model: Adapted model; its mode is restored.
        n_images: Number of images of the step.
        task: The task.
    """
    was_training = model.training
    wanted = backbones.preprocessing(model)
    images = torch.zeros(n_images, wanted.channels, *wanted.size, device=next(model.parameters()).device)
    labels = task.no_labels(n_images, wanted.size, images.device)
    own = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    # Storages, because views share one; held until they are summed, so that no address is reused.
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    try:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), meta_kernels():
            task.loss(model.train()(images), labels, n_images)
    finally:
        model.train(was_training)
    return sum(storage.nbytes() for storage in kept.values())


def structure(method: Method) -> tuple[str, ...]:
    """Return the hyperparameters that determine a model's operations: all of a method's except factors and fractions."""
    values = [getattr(method, field.name) for field in dataclasses.fields(method)]
    return (method.name, *(repr(value) for value in values if not isinstance(value, float)))


class MetaSizes:
    """The exact counts of a configuration, from the real model built once on torch's meta device: shapes without memory.

    Raises:
        ValueError: If the backbone or data set is unknown, or adapters do not support the backbone.
    """

    def __init__(self, backbone: Mapping[str, Any], data_set: Mapping[str, Any], methods: Sequence[Mapping[str, Any]] = ()) -> None:
        self._own = own_methods(methods)
        self.n_classes = data.n_classes(data_set)
        self._task = data.task_of(data_set)
        self.task = self._task.name
        self.n_validation = data.n_images(data_set, "validation")
        self._n_inputs = data.n_fixed_inputs(data_set)
        self._model = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"), "meta")
        self.backbone_params = sum(p.numel() for p in self._model.parameters())
        supported_blocks(self._model)
        self._task.set_head(self._model, self.n_classes, torch.Generator())

    def count(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """See `trainables.protocol.Sizes.count`."""
        with self._adapted(config) as model:
            return count_parameters(model)

    def gflops(self, config: Mapping[str, Any]) -> float:
        """See `trainables.protocol.Sizes.gflops`."""
        with self._adapted(config) as model:
            try:
                return forward_gflops(model)
            except (NotImplementedError, RuntimeError) as error:  # some of PEFT's tuners read values, which do not exist here
                name, reason = method_of(config, self._own).name, str(error).splitlines()[0]
                raise ValueError(
                    f"the operations of {name} cannot be counted before training ({reason:.80}...); leave the method out"
                ) from error

    def training_bytes(self, config: Mapping[str, Any], batch_size: int) -> int:
        """See `trainables.protocol.Sizes.training_bytes`."""
        with self._adapted(config) as model:
            n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            try:
                kept = kept_bytes(model, batch_size, self._task)
            except (NotImplementedError, RuntimeError):  # see `gflops`
                kept = None
            longer = sequence_growth(model)
        kept = self._kept_by_full(batch_size) if kept is None else kept
        lasting = _FLOAT_BYTES * (self.backbone_params + 3 * n_trained) + PREFIX_BYTES  # gradients and Adam's two moments
        return lasting + max(_OVER * kept, int(longer * self._evaluation_bytes))

    def frozen(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """See `trainables.protocol.Sizes.frozen`."""
        with self._adapted(config) as model:
            cut = deepest_cut(model) if self._n_inputs else 0
            return cut, self._n_inputs * bytes_at(model, cut) if cut else 0

    @cached_property
    def _evaluation_bytes(self) -> int:
        """The bytes of an evaluation batch without added tokens: nothing is kept, so only one block's tensors exist at a time."""
        return _OVER * self._kept_by_full(self._task.eval_batch) // len(supported_blocks(self._model))

    def _kept_by_full(self, n_images: int) -> int:
        with self._adapted({"method": "full"}) as model:
            return kept_bytes(model, n_images, self._task)

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        """See `trainables.protocol.Sizes.unmergeable`."""
        if isinstance(method_of(config, self._own), PeftMethod):
            return None  # determined from the outputs of its layers, which are not computed here
        with self._adapted(config) as model:
            return unmergeable(model)

    @contextmanager
    def _adapted(self, config: Mapping[str, Any]) -> Iterator[nn.Module]:
        """Yield the model at the size that training ends with; its parameters have no values."""
        recipe_of({}, config)
        method = method_of(config, self._own)
        adapt(self._model, method)
        try:
            method.shrink_to_final_size(self._model)
            yield self._model
        finally:
            remove(self._model)
