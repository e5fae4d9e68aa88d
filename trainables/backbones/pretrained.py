"""Pretrained weights from local files. Only tensors are read; no code in a file is ever executed.

.safetensors       timm's names, those of the libraries whose checkpoints timm translates (DINOv2, CLIP, MAE, BEiT, EVA, Swin), or
                   those of Hugging Face's transformers (`trainables.backbones.hugging_face`)
.pth .pt .bin      the same names, read with torch's `weights_only`; also nested under `model`, `state_dict`, ...
.npz               the original ViT releases of Google Research (augreg and in21k), with JAX's names
a folder           as `save_pretrained` leaves it (`trainables.backbones.model_folder`)
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import beit, eva, swin_transformer
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from trainables.backbones.hugging_face import some, translated
from trainables.backbones.model_folder import ModelFolder

ENDINGS: Final = (".safetensors", ".pth", ".pt", ".bin", ".npz")
# translate the names of other libraries, and resample position embeddings and tables
FILTERS: Final[dict[type[nn.Module], Callable[..., dict[str, Tensor]]]] = {
    VisionTransformer: checkpoint_filter_fn,
    beit.Beit: beit.checkpoint_filter_fn,
    eva.Eva: eva.checkpoint_filter_fn,
    swin_transformer.SwinTransformer: swin_transformer.checkpoint_filter_fn,
}
_NESTED: Final = ("state_dict_ema", "model_ema", "state_dict", "model", "module", "teacher")
_HEADS: Final = ("head.", "head_dist.", "pre_logits.", "classifier.")


def load_weights(model: nn.Module, name: str, source: Path | ModelFolder) -> None:
    """Load pretrained weights into a timm model without a classifier; position embeddings are resampled to its input size.

    Args:
        model: Model on the CPU.
        name: Name of the model, used in messages.
        source: File or folder of the weights.

    Raises:
        ValueError: If a file cannot be read, contains more than tensors, or does not contain exactly this model's weights.
    """
    path = source if isinstance(source, Path) else source.path
    if isinstance(source, Path) and (path.suffix not in ENDINGS or not path.is_file()):
        raise ValueError(
            f'backbone.weights must be null, "random", a folder with a config.json, or an existing {", ".join(ENDINGS)} file; '
            f"got {str(path)!r}"
        )
    others = f"{path} does not hold weights of {name}"
    state: Mapping[str, Tensor] = {}
    readers: Mapping[str, Callable[[Path], dict[str, Tensor]]] = {
        ".safetensors": load_file,
        ".npz": lambda file: _of_jax(model, name, file),
    }
    try:
        for file in [source] if isinstance(source, Path) else source.files():
            state = {**state, **readers.get(file.suffix, _unpickled)(file)}
    except (SafetensorError, RuntimeError, KeyError, OSError, AssertionError, zipfile.BadZipFile) as error:
        raise ValueError(f"{others}: {str(error) or type(error).__name__}") from error
    try:
        state = translated(state, model)
        for kind, filtered in FILTERS.items():
            if isinstance(model, kind):
                state = filtered(state, model)
        state = {key: tensor for key, tensor in state.items() if not key.startswith(_HEADS)}
        _refuse_others(state, model.state_dict())
        model.load_state_dict(state)
    except (ValueError, RuntimeError, LookupError, AssertionError) as error:
        raise ValueError(f"{others}: {str(error) or type(error).__name__}") from error


def _refuse_others(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Refuse tensors with other names or shapes than the model's; the message has the first ones."""
    told = {
        "missing": [name for name in wanted if name not in state],
        "unexpected": [name for name in state if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensor.shape)}, the model's {tuple(wanted[name].shape)}"
            for name, tensor in state.items()
            if name in wanted and tensor.shape != wanted[name].shape
        ],
    }
    if any(told.values()):
        raise ValueError("; ".join(f"{what} {some(names)}" for what, names in told.items() if names))


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a torch file; any other content is rejected and never executed."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, which is not run here; save its state dict alone, best as .safetensors"
        ) from error
    while isinstance(content, Mapping) and (inner := next((key for key in _NESTED if isinstance(content.get(key), Mapping)), None)):
        content = content[inner]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} must hold a state dict, a mapping from names to tensors; save the model's state_dict()")
    return {key.removeprefix("module.").removeprefix("backbone."): value for key, value in content.items()}


def _of_jax(model: nn.Module, name: str, path: Path) -> dict[str, Tensor]:
    """Read the state dict of an original ViT release; timm converts it into a model of its own input size."""
    if type(model) is not VisionTransformer or not isinstance(model.blocks, nn.Sequential):
        raise ValueError(f"{path}: .npz files hold plain Vision Transformers; {type(model).__name__} is not one")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .npz file (a zip archive of arrays); name the file as it was downloaded")
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            blocks = {found.group(1) for key in file.files if (found := re.search(r"encoderblock_(\d+)/", key))}
            if blocks and len(blocks) != len(model.blocks):
                raise ValueError(f"it has {len(blocks)} blocks, the model {len(model.blocks)}")
        native = timm.create_model(name, num_classes=0)
        native.load_pretrained(str(path))
    except ValueError as error:
        raise ValueError(f"{path} does not hold weights of {name}: {error}") from error
    return dict(native.state_dict())
