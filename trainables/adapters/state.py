"""The trained tensors of an adapted model: which they are, their state, and which of them weight decay leaves as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.adapters.base import adapted_layers


def trainable_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Iterate over the trainable parameters of an adapted model, with the head; a shared tensor appears once."""
    return ((name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad)


def undecayed_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the non-1-D parameters that timm or a layer exempts from weight decay."""
    named = [model.get_parameter(name) for name, _ in model.named_parameters() if name in cast(Any, model).no_weight_decay()]
    return named + [layer.get_parameter(name) for _, layer in adapted_layers(model) for name in layer.undecayed]


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the trained tensors of an adapted model; with the method and the frozen backbone they restore the function.

    Buffers of the head, the statistics of a norm, move while it is trained, and belong to them.
    """
    state = {name: parameter.detach() for name, parameter in trainable_parameters(model)}
    own = {id(buffer) for buffer in cast(Any, model).get_classifier().buffers()}
    return state | {name: buffer for name, buffer in model.named_buffers() if id(buffer) in own}


def load_trainable_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a `trainable_state` into a model adapted by the same method.

    Raises:
        ValueError: If the names or shapes are not the model's.
    """
    for path, layer in adapted_layers(model):
        layer.fit({name.removeprefix(f"{path}.") for name in state if name.startswith(f"{path}.")})
    own = trainable_state(model)
    if mine := own.keys() ^ state.keys():
        raise ValueError(
            f"a state must have exactly the model's trainable tensors; these are in only one of the two: {sorted(mine)}"
        )
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} in the model and {tuple(state[name].shape)} in the state")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
