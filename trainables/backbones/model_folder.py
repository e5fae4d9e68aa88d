"""The folder of a model as `save_pretrained` leaves it, or as timm's models are published: configuration, tensors, processor.

    config.json                  architecture: compared with the timm model, because heads and activation are not in the tensors
    model.safetensors            tensors; also pytorch_model.bin, and either of them in pieces with an index
    preprocessor_config.json     normalisation and size of images

Only JSON and tensors are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

import torch
import torch.nn.functional as F
from timm.layers import Mlp
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

CONFIG: Final = "config.json"
TENSORS: Final = ("model.safetensors", "pytorch_model.bin")
PROCESSORS: Final = ("preprocessor_config.json", "processor_config.json")
ACTIVATIONS: Final[Mapping[str, Callable[[Tensor], Tensor]]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "silu": F.silu,
}
_RESAMPLE: Final = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# keys of config.json -> the same value of a timm model
_VIT: Final[Mapping[str, Callable[[Any], Any]]] = {
    "num_hidden_layers": lambda model: len(model.blocks),
    "hidden_size": lambda model: model.embed_dim,
    "num_attention_heads": lambda model: model.blocks[0].attn.num_heads,
    "patch_size": lambda model: model.patch_embed.patch_size[0],
    "num_channels": lambda model: model.patch_embed.proj.in_channels,
}
_SWIN: Final[Mapping[str, Callable[[Any], Any]]] = {
    "depths": lambda model: [len(stage.blocks) for stage in model.layers],
    "embed_dim": lambda model: model.patch_embed.proj.out_channels,
    "num_heads": lambda model: [stage.blocks[0].attn.num_heads for stage in model.layers],
    "window_size": lambda model: model.layers[0].blocks[0].window_size[0],  # the largest grid has windows of full size
    "patch_size": lambda model: model.patch_embed.patch_size[0],
    "num_channels": lambda model: model.patch_embed.proj.in_channels,
}
FACTS: Final[Mapping[type[nn.Module], Mapping[str, Callable[[Any], Any]]]] = {
    VisionTransformer: _VIT,
    Beit: _VIT,
    Eva: _VIT,
    SwinTransformer: _SWIN,
}


@dataclass(frozen=True)
class ModelFolder:
    """The description of a model in a folder.

    Attributes:
        path: Folder.
        config: Content of config.json; of a model of text and images, the part about images.
        processor: Content of the processor's file; of a timm model, `pretrained_cfg` of config.json. Empty if there is none.
        source: Name of the file that holds `processor`.
    """

    path: Path
    config: Mapping[str, Any]
    processor: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""

    @property
    def size(self) -> int | None:
        """Height and width of the images: the processor's, else those of the configuration; None if neither has them.

        Raises:
            ValueError: If the images are not square.
        """
        wanted = self.processor.get("input_size")  # timm's
        if wanted is None and self.processor.get("do_center_crop", "size" not in self.processor):
            wanted = self.processor.get("crop_size")
        if wanted is None:
            wanted = self.processor.get("size", self.config.get("image_size"))
        if isinstance(wanted, Mapping):
            wanted = [wanted[key] for key in ("height", "width", "shortest_edge") if key in wanted]
        sides = wanted[-2:] if isinstance(wanted, list) else [] if wanted is None else [wanted]
        if any(type(side) is not int or side < 1 or side != sides[0] for side in sides):
            raise ValueError(f"{self.path}: images must be square, of whole pixels; got {wanted}; set backbone.img_size")
        return sides[0] if sides else None

    def preprocessing(self, channels: int) -> dict[str, Any]:
        """Return `mean`, `std` and `interpolation` as in a timm configuration, for pixels in [0, 1]; empty without a processor.

        Raises:
            ValueError: If these are not numbers, one for each channel.
        """
        if not self.processor:
            return {}
        own = self.source == CONFIG  # timm's, with timm's keys
        mean, std = (self.processor.get(key if own else f"image_{key}") for key in ("mean", "std"))
        if self.processor.get("do_normalize") is False:
            mean, std = [0.0] * channels, [1.0] * channels
        # transformers normalises factor * (255 * pixel)
        factor = 1.0 if self.processor.get("do_rescale") is False else self.processor.get("rescale_factor", 1 / 255)
        if not (_numbers(mean, channels) and _numbers(std, channels) and _numbers([factor], 1) and min(*std, factor) > 0):
            raise ValueError(
                f"{self.path / self.source}: mean and std must be {channels} numbers each, and std and rescale_factor positive; "
                f"got {mean}, {std} and {factor}"
            )
        found: dict[str, Any] = {"mean": tuple(v / (255 * factor) for v in mean), "std": tuple(v / (255 * factor) for v in std)}
        interpolation = self.processor.get("interpolation") if own else _RESAMPLE.get(self.processor.get("resample", -1))
        return found | ({"interpolation": interpolation} if interpolation in _RESAMPLE.values() else {})

    def refuse_other(self, model: nn.Module, architecture: str) -> None:
        """Refuse a timm model that computes something else with these tensors.

        Args:
            model: The model.
            architecture: Name of the model in timm, without a tag.

        Raises:
            ValueError: If the configuration says so; the message has each difference.
        """
        facts = next((facts for kind, facts in FACTS.items() if isinstance(model, kind)), {})
        has = {"architecture": architecture} | {key: read(model) for key, read in facts.items()}
        told = [f"{key} {self.config[key]}, the model's {own}" for key, own in has.items() if self.config.get(key, own) != own]
        mlp: Any = next((module for module in model.modules() if type(module) is Mlp), None)
        named = ACTIVATIONS.get(str(self.config.get("hidden_act")))
        if facts and mlp is not None and named is not None:
            at = torch.linspace(-4, 4, 101)
            if (mlp.act(at) - named(at)).abs().max() > 1e-3:  # the two forms of GELU differ by 5e-4
                told.append(f"hidden_act {self.config['hidden_act']}, the model's {type(mlp.act).__name__}")
        if told:
            raise ValueError(f"{self.path / CONFIG} is not of {architecture}: {'; '.join(told)}")

    def files(self) -> list[Path]:
        """Return the files of the tensors.

        Raises:
            ValueError: If there are none, or an index names something outside of the folder.
        """
        for name in TENSORS:
            if (self.path / name).is_file():
                return [self.path / name]
            if (index := self.path / f"{name}.index.json").is_file():
                pieces = sorted(set(map(str, _mapping(_json(index).get("weight_map"), index).values())))
                if not pieces or any(Path(piece).name != piece for piece in pieces):
                    raise ValueError(f"{index} must name files of its own folder; got {', '.join(pieces[:3])}")
                return [self.path / piece for piece in pieces]
        raise ValueError(f"{self.path} must hold {' or '.join(TENSORS)}, whole or with an index")


def read_folder(path: Path) -> ModelFolder:
    """Read the description of a model.

    Args:
        path: Folder.

    Raises:
        ValueError: If the folder has no config.json, or a file cannot be read.
    """
    if not (path / CONFIG).is_file():
        raise ValueError(
            f"backbone.weights: the folder {path} has no {CONFIG}; name a folder as save_pretrained leaves it, or a file"
        )
    whole = _json(path / CONFIG)
    config = whole | _mapping(whole.get("vision_config", {}), path / CONFIG)
    for name in PROCESSORS:
        if (path / name).is_file():
            content = _json(path / name)
            content = content if name == PROCESSORS[0] else _mapping(content.get("image_processor", {}), path / name)
            if content:
                return ModelFolder(path, config, content, name)
    if "pretrained_cfg" in whole:
        return ModelFolder(path, config, _mapping(whole["pretrained_cfg"], path / CONFIG), CONFIG)
    return ModelFolder(path, config)


def _numbers(value: Any, n: int) -> TypeGuard[list[float]]:
    return isinstance(value, list) and len(value) == n and all(isinstance(v, int | float) and math.isfinite(v) for v in value)


def _json(path: Path) -> dict[str, Any]:
    try:
        return _mapping(json.loads(path.read_text(encoding="utf-8")), path)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _mapping(value: Any, path: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{path} must hold a mapping; got {type(value).__name__}")
    return value
