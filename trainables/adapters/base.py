"""The common parts of all adapter methods: inserting layers, choosing what is trained, merging and removing.

A method is a frozen dataclass of hyperparameters. Its `build` returns one `Layer` for each submodule that it adapts. The layer
holds the frozen submodule as `base`, and the trainable parameters. `adapt` inserts the layers, `remove` takes them out, and `merge`
folds them into the weights: after either the model is plain timm again.

    model = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
    adapt(model, LoRA(rank=8))
    ...                                 # train: only the adapter and the head require gradients
    merge(model)

A method with an additional loss term returns it from `regulariser(model)`, and the training adds it.

A tensor shared by several layers is the same `nn.Parameter` object in each, so PyTorch counts, trains and stores it once, under
the name of its first owner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.adapters.families import Blocks, Joined, join, split, stages, supported_blocks


@dataclass(frozen=True)
class Method:
    """The hyperparameters of an adapter method; the defaults are the paper's.

    Subclasses are frozen dataclasses whose field names are the names of the knobs in a configuration, without the
    prefix `<name>.`.
    """

    name: ClassVar[str]
    joins: ClassVar[bool] = True  # False keeps timm's own modules and names in the adapted blocks, for a method that trains these
    starts_pretrained: ClassVar[bool] = True  # claims that a newly adapted model computes the function of the pretrained one

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build the layers that adapt `blocks`, keyed by the path of the replaced submodule; the model is not changed.

        Args:
            blocks: Blocks named by the method's `layers`, at least one, all in one stage of the network (a Swin has several stages,
                every other backbone has one). Layers share parameters only within this call. A method without `layers` adapts no
                block, and its `build` is not called.
            rng: Generator of the initial values.

        Raises:
            ValueError: If the hyperparameters do not fit this backbone.
        """
        return {}

    def build_in(self, model: nn.Module, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Build the layers of `build`; a method that needs more of the model than these blocks overrides this one."""
        return self.build(blocks, rng)

    def build_outside(self, model: nn.Module, rng: torch.Generator) -> dict[str, Layer]:
        """Build the layers on submodules outside of the blocks, keyed by path, after those of the blocks; by default none."""
        return {}

    def trains(self, name: str) -> bool:
        """Return whether the backbone's own parameter of this name is trained."""
        return False

    def own_parameters(self, model: nn.Module) -> set[str]:
        """Return the names of the backbone's own parameters that are trained; by default those that `trains` accepts.

        A method that decides by the type of a module overrides this; a head in the set does no harm.

        Raises:
            ValueError: If the backbone has no parameter that the method needs.
        """
        return {name for name, _ in model.named_parameters() if self.trains(name)}

    def regulariser(self, model: nn.Module) -> Tensor | None:
        """Return the weighted loss term that the method adds for a model that it adapts; None for no term."""
        return None

    def after_epoch(self, model: nn.Module, epoch: int, n_epochs: int, gradients: Callable[[], None]) -> None:
        """Update the method at the end of each training epoch, before evaluation and checkpoint.

        A method may use the training split and drop trainable parameters here; it draws no random numbers.

        Args:
            model: Model adapted by this method.
            epoch: Number of the finished epoch: 1, ..., n_epochs.
            n_epochs: Number of epochs of this trial.
            gradients: Callback that sets the `grad` of every trainable parameter to the gradient of the mean loss over the training
                split, in eval mode.
        """

    def shrink_to_final_size(self, model: nn.Module) -> None:
        """Shrink a newly adapted model to its size at the end of training, for counting; which parameters go does not matter."""

    def require(self, holds: bool, field: str, law: str) -> None:
        """Raise a ValueError that names the knob, its value and the law, unless the law holds."""
        if not holds:
            raise ValueError(f"{self.name}.{field} must be {law}; got {getattr(self, field)!r}")


class Layer(nn.Module):
    """A frozen submodule, `base`, and the trainable parameters that adapt it.

    A layer on a linear defines the adapted weight and inherits `forward` and merging. It may define another `forward` for training,
    for speed or for dropout. A layer without an adapted weight defines its own `forward` and, in `unmergeable`, the reason why it
    cannot be merged into the weights.
    """

    unmergeable: str | None = None
    undecayed: tuple[str, ...] = ()  # parameters that are not 1-D and yet exempt from weight decay, by name

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def adapted_weight(self) -> Tensor:
        """Return the weight of the linear that computes the same function as this layer, (out, in)."""
        raise NotImplementedError

    def adapted_bias(self) -> Tensor | None:
        """Return the bias of that linear, (out,)."""
        return self.linear.bias

    def fit(self, names: Collection[str]) -> None:
        """Resize the layer for a state with these parameter names, if the method drops parameters."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, tokens, in) to (batch, tokens, out)."""
        return F.linear(x, self.adapted_weight(), self.adapted_bias())

    @property
    def linear(self) -> nn.Linear:
        """The frozen submodule, if it is a linear."""
        return cast(nn.Linear, self.base)


@dataclass(frozen=True)
class Adaptation:
    """The record that `adapt` stores on a model, so that it can be undone."""

    method: Method
    requires_grad: Mapping[str, bool]
    pristine: Mapping[str, Tensor]  # copies of the backbone's own parameters that the method trains
    joined: Sequence[Joined]  # the original parts of its blocks


def adapt(model: nn.Module, method: Method, *, generator: torch.Generator | None = None) -> None:
    """Freeze `model` and insert the method's layers in place; the adapter and the head remain trainable.

    If a method trains parameters of the backbone itself, as full fine-tuning does, a copy is kept so that `remove` can restore
    them.

    Args:
        model: A timm model of one of the families in `families`.
        method: Method to insert, for example `LoRA(rank=8)`.
        generator: CPU generator of the initial values; by default a new one with seed 0.

    Raises:
        ValueError: If the backbone is unsupported or already adapted, or the method does not fit it. The model is unchanged in
            that case.
    """
    if (present := adaptation(model)) is not None:
        raise ValueError(f"a model can have one adapter at a time; this one has {present.method.name}; merge or remove it first")
    blocks = chosen_blocks(method, supported_blocks(model))
    requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    rng = generator or torch.Generator().manual_seed(0)
    joined = join(model, blocks) if method.joins else []
    layers: dict[str, Layer] = {}
    try:
        for stage in stages(blocks):
            layers |= method.build_in(model, stage, rng)
        layers |= method.build_outside(model, rng)
        trained = method.own_parameters(model)
    except BaseException:
        split(joined)
        restore_flags(model, requires_grad)
        raise
    head = cast(VisionTransformer, model).get_classifier()
    in_head = {id(p) for p in head.parameters()}
    own = {name: p for name, p in model.named_parameters() if name in trained and id(p) not in in_head}
    pristine = {name: p.detach().clone() for name, p in own.items()}
    vars(model)["adaptation"] = Adaptation(method, requires_grad, pristine, joined)
    model.requires_grad_(False)
    for parameter in (*head.parameters(), *own.values()):
        parameter.requires_grad_(True)
    for path, layer in layers.items():
        model.set_submodule(path, layer.train(layer.base.training))


def adaptation(model: nn.Module) -> Adaptation | None:
    """Return the record of the model's adaptation, None if it is not adapted."""
    return cast("Adaptation | None", vars(model).get("adaptation"))


def adapted_layers(model: nn.Module) -> list[tuple[str, Layer]]:
    """Return the adapter layers of the model with their paths, inner ones first."""
    return [(path, module) for path, module in reversed(list(model.named_modules())) if isinstance(module, Layer)]


def regulariser(model: nn.Module) -> Tensor | None:
    """Return the method's own term in the training loss, None if it has none."""
    present = adaptation(model)
    return None if present is None else present.method.regulariser(model)


def transformer_blocks(model: nn.Module) -> list[Block]:
    """Return the blocks of a model in order, each without the adapter layer that may wrap it."""
    parents = cast(Any, model.layers) if isinstance(model, SwinTransformer) else [cast(Any, model)]
    return [block.base if isinstance(block, Layer) else block for parent in parents for block in parent.blocks]


def remove(model: nn.Module) -> None:
    """Remove the adapter: the model is as before `adapt`, except for its trained head."""
    for path, layer in adapted_layers(model):
        model.set_submodule(path, layer.base)
    with torch.no_grad():
        for name, tensor in cast(Adaptation, adaptation(model)).pristine.items():
            model.get_parameter(name).copy_(tensor)
    _forget(model)


def merge(model: nn.Module) -> None:
    """Fold the adapter into the weights: the result is a plain timm model that computes the same function.

    The adapted weights are new tensors; tensors that shared memory with the old ones are unaffected.

    Raises:
        ValueError: If a layer cannot be merged, with the reason. The model is unchanged in that case.
    """
    if (reason := unmergeable(model)) is not None:
        raise ValueError(reason)
    layers = adapted_layers(model)
    with torch.no_grad():
        folded = [(path, layer.linear, layer.adapted_weight(), layer.adapted_bias()) for path, layer in layers]
        for path, linear, weight, bias in folded:
            linear.weight = nn.Parameter(weight.detach().clone())
            linear.bias = None if bias is None else nn.Parameter(bias.detach().clone())  # type: ignore[assignment]
            model.set_submodule(path, linear)
    _forget(model)


def unmergeable(model: nn.Module) -> str | None:
    """Return which layer cannot be merged into the weights, and why; None if all can."""
    reasons = ((path, layer.unmergeable) for path, layer in adapted_layers(model))
    return next((f"{path} cannot be merged: {reason}" for path, reason in reasons if reason is not None), None)


def _forget(model: nn.Module) -> None:
    present = cast(Adaptation, vars(model).pop("adaptation"))
    split(present.joined)
    restore_flags(model, present.requires_grad)


def restore_flags(model: nn.Module, requires_grad: Mapping[str, bool]) -> None:
    """Restore which parameters are trainable; a new parameter is trainable."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(requires_grad.get(name, True))


# The choice of blocks


def check_layers(method: Method, layers: str) -> None:
    """Raise a ValueError unless `layers` reads "all", "first-K" or "last-K"."""
    method.require(re.fullmatch(r"all|(first|last)-[1-9]\d*", layers) is not None, "layers", '"all", "first-K" or "last-K", K >= 1')


def chosen_blocks(method: Method, blocks: Blocks) -> dict[str, Block]:
    """Return the blocks named by the method's `layers`, in order over the whole network; none for a method without layers."""
    layers: str | None = getattr(method, "layers", None)
    if layers is None:
        return {}
    if layers == "all":
        return dict(blocks)
    end, k = layers.split("-")
    method.require(int(k) <= len(blocks), "layers", f"at most the backbone's {len(blocks)} blocks")
    chosen = list(blocks.items())
    return dict(chosen[: int(k)] if end == "first" else chosen[-int(k) :])


def check_rank(method: Method, path: str, *sides: int) -> None:
    """Raise a ValueError if the rank exceeds the smaller side of the adapted matrix, where it cannot change the function."""
    rank: int = cast(Any, method).rank
    method.require(rank <= min(sides), "rank", f"at most {min(sides)}, the smaller side of {path} on this backbone; lower it")


def into_slices(parts: Sequence[Tensor] | Tensor, chosen: Sequence[int], n_slices: int, dim: int) -> Tensor:
    """Place each part along `dim` in its slice of the full tensor, as `chosen` says, with zeros in the other slices."""
    slices = [torch.zeros_like(parts[0])] * n_slices
    for i, part in zip(chosen, parts, strict=True):
        slices[i] = part
    return slices[0] if n_slices == 1 else torch.cat(slices, dim)


# Initial values; parameters on the meta device have none.


def zeros(*shape: int, like: Tensor) -> nn.Parameter:
    """Return a trainable tensor of zeros with the device and type of `like`."""
    return nn.Parameter(torch.zeros(shape, device=like.device, dtype=like.dtype))


def uniform(*shape: int, bound: float, rng: torch.Generator, like: Tensor) -> nn.Parameter:
    """Return a trainable tensor drawn from U(-bound, bound), with the device and type of `like`.

    It is drawn in float32 on the CPU, so that a seed gives the same adapter on every device.
    """
    if like.is_meta:
        return nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=rng).to(like))


def normal(n: int, mean: float, std: float, *, rng: torch.Generator, like: Tensor) -> nn.Parameter:
    """Return n trainable values drawn from N(mean, std^2) in the way of `uniform`."""
    if like.is_meta:
        return nn.Parameter(torch.empty(n, device=like.device, dtype=like.dtype))
    return nn.Parameter(torch.empty(n).normal_(mean, std, generator=rng).to(like))


def truncated_normal(*shape: int, std: float, rng: torch.Generator, like: Tensor) -> nn.Parameter:
    """Return a trainable tensor drawn from N(0, std^2) within two standard deviations, in the way of `uniform`."""
    if like.is_meta:
        return nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std, generator=rng).to(like))


def directions(n: int, d: int, *, rng: torch.Generator, like: Tensor) -> nn.Parameter:
    """Return n trainable unit vectors, (n, d), drawn uniformly from the sphere in the way of `uniform`."""
    if like.is_meta:
        return nn.Parameter(torch.empty(n, d, device=like.device, dtype=like.dtype))
    return nn.Parameter(F.normalize(torch.empty(n, d).normal_(generator=rng), dim=1).to(like))


def linear_bound(n_in: int) -> float:
    """Return the bound of PyTorch's default for a linear without bias, Kaiming-uniform with a = sqrt(5): 1 / sqrt(n_in)."""
    return 1.0 / math.sqrt(n_in)


def xavier_bound(n_in: int, n_out: int) -> float:
    """Return the bound of Xavier-uniform: sqrt(6 / (n_in + n_out))."""
    return math.sqrt(6.0 / (n_in + n_out))
