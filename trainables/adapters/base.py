"""What every adapter method shares, written once: where it goes, what is trained, how it merges and how it leaves.

A method is a frozen dataclass of hyperparameters. Its `build` returns one `Layer` for each submodule it adapts; the
layer holds the frozen submodule as `base` and its trainables beside it. `adapt` puts the layers in, `remove` takes
them out, `merge` folds them into the weights: after either the model is plain timm again.

    model = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
    adapt(model, LoRA(rank=8))
    ...                                 # train: only the adapter and the head require gradients
    merge(model)

A method with a term of its own in the loss offers it as `regulariser(model)`, which the training adds.

A tensor that several layers share is the same `nn.Parameter` object in each, so PyTorch counts, trains and stores it
once, under the name of its first owner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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
    """Hyperparameters of an adapter method; the defaults are the paper's.

    Subclasses are frozen dataclasses whose field names are the names of the knobs in a configuration, without the
    prefix `<name>.`.
    """

    name: ClassVar[str]

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        """Makes the layers that adapt `blocks`, by the path of the submodule each replaces; touches nothing.

        Args:
            blocks: At least one: those that the method's own `layers` names, of one stage of the network (a Swin has several, every
                other backbone one). What layers share they share here. A method without `layers` adapts no block and is not asked.
            rng: Where initial values come from.

        Raises:
            ValueError: The hyperparameters do not fit this backbone.
        """
        return {}

    def trains(self, name: str) -> bool:
        """Whether the parameter of this name in the backbone is itself trained."""
        return False

    def regulariser(self, model: nn.Module) -> Tensor | None:
        """What the method adds to the training loss of a model that it adapts, its weight included; None for nothing."""
        return None

    def after_epoch(self, model: nn.Module, epoch: int, n_epochs: int, gradients: Callable[[], None]) -> None:
        """Called at the end of each training epoch, before it is evaluated and saved.

        A method may look at the training split and drop trainables then; it draws no random numbers.

        Args:
            model: Adapted by this method.
            epoch: 1, ..., n_epochs.
            n_epochs: All epochs of this trial.
            gradients: Leaves in the `grad` of every trainable the gradient of the mean loss over the training split, in eval mode.
        """

    def shrink_to_final_size(self, model: nn.Module) -> None:
        """Brings a model just adapted to the size that training ends with, whichever trainables go: for counting."""

    def require(self, holds: bool, field: str, law: str) -> None:
        """Raises a ValueError that names the knob, its value and the law, unless the law holds."""
        if not holds:
            raise ValueError(f"{self.name}.{field} must be {law}; got {getattr(self, field)!r}")


class Layer(nn.Module):
    """A frozen submodule, `base`, and the trainables that adapt it.

    A layer on a linear says what the adapted weight is and inherits its forward and its merge. It may have another
    forward for training, where that is faster or where there is dropout. A layer without an adapted weight writes its
    own forward and, in `unmergeable`, why it cannot be folded into the weights.
    """

    unmergeable: str | None = None
    undecayed: tuple[str, ...] = ()  # names of its parameters that weight decay must spare although they are not 1-D

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base

    def adapted_weight(self) -> Tensor:
        """The weight of the linear that computes what this layer computes, (out, in)."""
        raise NotImplementedError

    def adapted_bias(self) -> Tensor | None:
        """Its bias, (out,)."""
        return self.linear.bias

    def fit(self, names: Collection[str]) -> None:
        """Takes the size of a state of which these are the names in this layer, where the method drops trainables."""

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, in) -> (batch, tokens, out)."""
        return F.linear(x, self.adapted_weight(), self.adapted_bias())

    @property
    def linear(self) -> nn.Linear:
        """The frozen submodule, where it is a linear."""
        return cast(nn.Linear, self.base)


@dataclass(frozen=True)
class Adaptation:
    """What `adapt` leaves on a model, so that it can be taken back."""

    method: Method
    requires_grad: Mapping[str, bool]
    pristine: Mapping[str, Tensor]  # copies of the backbone's own parameters that the method trains
    joined: Sequence[Joined]  # how its blocks stood


def adapt(model: nn.Module, method: Method, *, generator: torch.Generator | None = None) -> None:
    """Freezes `model` and puts the method's layers in, in place; the adapter and the head are left to train.

    Of what a method trains in the backbone itself, as full fine-tuning does, a copy is kept, so that `remove` can give it back.

    Args:
        model: A timm model of one of the families in `families`.
        method: For example `LoRA(rank=8)`.
        generator: Where the initial values come from (a CPU generator); a new one with seed 0 by default.

    Raises:
        ValueError: The backbone is not supported, is adapted already, or the method does not fit it. The model is then
            untouched.
    """
    if (present := adaptation(model)) is not None:
        raise ValueError(f"a model carries one adapter at a time, this one has {present.method.name}; merge or remove it first")
    blocks = chosen_blocks(method, supported_blocks(model))
    requires_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    rng = generator or torch.Generator().manual_seed(0)
    joined = join(model, blocks)
    layers: dict[str, Layer] = {}
    try:
        for stage in stages(blocks):
            layers |= method.build(stage, rng)
    except BaseException:
        split(joined)
        restore_flags(model, requires_grad)
        raise
    head = cast(VisionTransformer, model).get_classifier()
    in_head = {id(p) for p in head.parameters()}
    own = {name: p for name, p in model.named_parameters() if method.trains(name) and id(p) not in in_head}
    pristine = {name: p.detach().clone() for name, p in own.items()}
    vars(model)["adaptation"] = Adaptation(method, requires_grad, pristine, joined)
    model.requires_grad_(False)
    for parameter in (*head.parameters(), *own.values()):
        parameter.requires_grad_(True)
    for path, layer in layers.items():
        model.set_submodule(path, layer.train(layer.base.training))


def adaptation(model: nn.Module) -> Adaptation | None:
    """What the model is adapted with, None if it is not."""
    return cast("Adaptation | None", vars(model).get("adaptation"))


def adapted_layers(model: nn.Module) -> list[tuple[str, Layer]]:
    """The layers in the model with their paths, inner ones first."""
    return [(path, module) for path, module in reversed(list(model.named_modules())) if isinstance(module, Layer)]


def regulariser(model: nn.Module) -> Tensor | None:
    """What is added to the loss when the model is trained: its method's own term, None where it has none."""
    present = adaptation(model)
    return None if present is None else present.method.regulariser(model)


def transformer_blocks(model: nn.Module) -> list[Block]:
    """The blocks of a model in order, each without the layer that an adapter may have put around it."""
    parents = cast(Any, model.layers) if isinstance(model, SwinTransformer) else [cast(Any, model)]
    return [block.base if isinstance(block, Layer) else block for parent in parents for block in parent.blocks]


def remove(model: nn.Module) -> None:
    """Takes the adapter out: the model is again what it was before `adapt`, its head as trained."""
    for path, layer in adapted_layers(model):
        model.set_submodule(path, layer.base)
    with torch.no_grad():
        for name, tensor in cast(Adaptation, adaptation(model)).pristine.items():
            model.get_parameter(name).copy_(tensor)
    _forget(model)


def merge(model: nn.Module) -> None:
    """Folds the adapter into the weights: a plain timm model that computes the same function.

    The adapted weights are new tensors; what shared memory with the old ones is unaffected.

    Raises:
        ValueError: A layer cannot be folded, with its reason. The model is then untouched.
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
    """Which layer cannot be folded into the weights, and why; None where all can."""
    reasons = ((path, layer.unmergeable) for path, layer in adapted_layers(model))
    return next((f"{path} cannot be merged: {reason}" for path, reason in reasons if reason is not None), None)


def _forget(model: nn.Module) -> None:
    present = cast(Adaptation, vars(model).pop("adaptation"))
    split(present.joined)
    restore_flags(model, present.requires_grad)


def restore_flags(model: nn.Module, requires_grad: Mapping[str, bool]) -> None:
    """Makes each parameter trainable or not as it was; a new one is trainable."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(requires_grad.get(name, True))


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The trainables of an adapted model, head included; a shared tensor once, under the name of its first owner."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def undecayed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that weight decay must spare by their nature, besides all that are 1-D: what timm and what layers say."""
    named = [model.get_parameter(name) for name, _ in model.named_parameters() if name in cast(Any, model).no_weight_decay()]
    return named + [layer.get_parameter(name) for _, layer in adapted_layers(model) for name in layer.undecayed]


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained part of an adapted model: with the method and the frozen backbone it restores the function."""
    return {name: parameter.detach() for name, parameter in trainable_parameters(model)}


def load_trainable_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copies a `trainable_state` into a model adapted by the same method.

    Raises:
        ValueError: The names or shapes are not the model's.
    """
    for path, layer in adapted_layers(model):
        layer.fit({name.removeprefix(f"{path}.") for name in state if name.startswith(f"{path}.")})
    own = trainable_state(model)
    if mine := own.keys() ^ state.keys():
        raise ValueError(f"a state must hold exactly the model's trainables; these are in one of the two only: {sorted(mine)}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} in the model and {tuple(state[name].shape)} in the state")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


# Which blocks


def check_layers(method: Method, layers: str) -> None:
    """Raises a ValueError unless `layers` reads "all", "first-K" or "last-K"."""
    method.require(re.fullmatch(r"all|(first|last)-[1-9]\d*", layers) is not None, "layers", '"all", "first-K" or "last-K", K >= 1')


def chosen_blocks(method: Method, blocks: Blocks) -> dict[str, Block]:
    """The blocks that the method's `layers` names, over the whole network in order; none for a method that puts in no layers."""
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
    """Raises a ValueError if the rank is above the smaller side of what it adapts: more cannot change the function."""
    rank: int = cast(Any, method).rank
    method.require(rank <= min(sides), "rank", f"at most {min(sides)}, the smaller side of {path} on this backbone; lower it")


def into_slices(parts: Sequence[Tensor] | Tensor, chosen: Sequence[int], n_slices: int, dim: int) -> Tensor:
    """The parts along `dim`, each in the slice of the whole that `chosen` names for it, and zeros in the other slices."""
    slices = [torch.zeros_like(parts[0])] * n_slices
    for i, part in zip(chosen, parts, strict=True):
        slices[i] = part
    return slices[0] if n_slices == 1 else torch.cat(slices, dim)


# Initial values. On the meta device there are none.


def zeros(*shape: int, like: Tensor) -> nn.Parameter:
    """A trainable of zeros, on the device and of the type of `like`."""
    return nn.Parameter(torch.zeros(shape, device=like.device, dtype=like.dtype))


def uniform(*shape: int, bound: float, rng: torch.Generator, like: Tensor) -> nn.Parameter:
    """A trainable drawn from U(-bound, bound), on the device and of the type of `like`.

    It is drawn in float32 on the CPU, so that a seed gives the same adapter on every device.
    """
    if like.is_meta:
        return nn.Parameter(torch.empty(shape, device=like.device, dtype=like.dtype))
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound, generator=rng).to(like))


def directions(n: int, d: int, *, rng: torch.Generator, like: Tensor) -> nn.Parameter:
    """A trainable of n unit vectors, (n, d), drawn uniformly from the sphere as `uniform` draws."""
    if like.is_meta:
        return nn.Parameter(torch.empty(n, d, device=like.device, dtype=like.dtype))
    return nn.Parameter(F.normalize(torch.empty(n, d).normal_(generator=rng), dim=1).to(like))


def linear_bound(n_in: int) -> float:
    """The bound of PyTorch's default for a linear without bias, Kaiming-uniform with a = sqrt(5): 1 / sqrt(n_in)."""
    return 1.0 / math.sqrt(n_in)


def xavier_bound(n_in: int, n_out: int) -> float:
    """The bound of Xavier-uniform: sqrt(6 / (n_in + n_out))."""
    return math.sqrt(6.0 / (n_in + n_out))
