"""Pretrained weights from local files. Only tensors are read; no code in a file is ever executed.

.safetensors       timm's names, or those of the libraries whose checkpoints timm translates (DINOv2, CLIP, MAE, BEiT, EVA, Swin)
.pth .pt .bin      the same names, read with torch's `weights_only`; also nested under `model`, `state_dict`, ...
.npz               the original ViT releases of Google Research (augreg and in21k), with JAX's names
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


def load_weights(model: nn.Module, name: str, path: Path) -> None:
    """Load the weights of a file into a timm model without a classifier; position embeddings are resampled to its input size.

    Args:
        model: Model on the CPU.
        name: Name of the model, used in messages.
        path: File of the weights.

    Raises:
        ValueError: If the file cannot be read, contains more than tensors, or does not contain exactly this model's weights.
    """
    if path.suffix not in ENDINGS or not path.is_file():
        raise ValueError(f'backbone.weights must be null, "random" or an existing {", ".join(ENDINGS)} file; got {str(path)!r}')
    try:
        state = {".safetensors": load_file, ".npz": lambda file: _of_jax(model, name, file)}.get(path.suffix, _unpickled)(path)
        for kind, translated in FILTERS.items():
            if isinstance(model, kind):
                state = translated(state, model)
        wrong = model.load_state_dict({key: t for key, t in state.items() if not key.startswith(_HEADS)}, strict=False)
    except (SafetensorError, RuntimeError, KeyError, OSError, AssertionError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} does not hold weights of {name}: {str(error) or type(error).__name__}") from error
    if wrong.missing_keys or wrong.unexpected_keys:
        told = [f"{what} {_some(keys)}" for what, keys in wrong._asdict().items() if keys]
        raise ValueError(f"{path} does not hold weights of {name}: {'; '.join(told).replace('_keys', '')}")


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


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
