"""The answer of an export to images: the probability of each class. An ONNX model needs no torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import UnidentifiedImageError

from trainables.export.card import Card, read_card
from trainables.imports import large_imports
from trainables.pixels import Transform, transform_of

if TYPE_CHECKING:
    from torch import nn

Array = np.ndarray[Any, Any]
_AT_ONCE = 32  # images in a batch
_PACKAGED = ("digits", "emoji")  # kinds of data whose images are taken whole


@dataclass(frozen=True)
class Answer:
    """The answer to one image.

    Attributes:
        path: The image.
        probabilities: Probability of each class, by its name, in the order of the model's outputs. They sum to one, unless an image
            has any number of labels.
    """

    path: Path
    probabilities: Mapping[str, float]

    def best(self, n: int) -> list[tuple[str, float]]:
        """Return the n most probable classes."""
        return sorted(self.probabilities.items(), key=lambda one: -one[1])[:n]


def predict(folder: str | Path, images: Sequence[Path]) -> list[Answer]:
    """Answer images with an export, whose form may be any.

    Args:
        folder: Folder of an export with its card.
        images: Image files, decoded as the study decoded its own.

    Raises:
        ValueError: If the export cannot be loaded, or an image cannot be decoded; the message names all of these.
    """
    card = read_card(folder)
    if card.answers_pixels:
        raise ValueError(
            f"{folder} holds a model that answers with a class of each pixel, and predict answers with classes of images; "
            f"in Python its logits are (n, {card.n_classes}, height, width):\n{card.lines(Path(folder))}"
        )
    pixels = _decoded(card, images)
    logits_of = _onnx(card, Path(folder)) if card.form == "onnx" else _torch(card, Path(folder))
    logits = np.concatenate([logits_of(part) for part in _batches(pixels)]).astype(np.float64)
    if card.data.get("many_labels", False):
        found = 1 / (1 + np.exp(-logits))
    else:
        raised = np.exp(logits - logits.max(-1, keepdims=True))
        found = raised / raised.sum(-1, keepdims=True)
    names = card.class_names or [str(number) for number in range(card.n_classes)]
    return [Answer(path, dict(zip(names, map(float, row), strict=True))) for path, row in zip(images, found, strict=True)]


def _decoded(card: Card, images: Sequence[Path]) -> list[Array]:
    size = (int(card.preprocessing["size"][0]), int(card.preprocessing["size"][1]))
    channels, interpolation = int(card.preprocessing["channels"]), str(card.preprocessing["interpolation"])
    if card.data["kind"] in _PACKAGED:
        transform = Transform(channels, size, None, interpolation)
    else:
        transform = transform_of(card.data, channels=channels, size=size, interpolation=interpolation)
    found, problems = [], []
    for path in images:
        try:
            values = transform(path.read_bytes()).values
        except UnidentifiedImageError:
            problems.append(f"{path}: not an image that Pillow can read")
        except (OSError, SyntaxError, ValueError) as error:
            problems.append(f"{path}: {error}")
        else:
            top, left = ((have - want) // 2 for have, want in zip(values.shape[-2:], size, strict=True))
            found.append(values[:, top : top + size[0], left : left + size[1]])
    if problems:
        raise ValueError("\n  ".join(["images that cannot be read:", *problems]))
    return found


def _batches(pixels: Sequence[Array]) -> Iterator[Array]:
    for first in range(0, len(pixels), _AT_ONCE):
        yield np.stack(pixels[first : first + _AT_ONCE])


def _normalised(card: Card, pixels: Array) -> Array:
    mean, std = (np.array(card.preprocessing[key], np.float32).reshape(-1, 1, 1) for key in ("mean", "std"))
    values: Array = (pixels.astype(np.float32) / 255 - mean) / std
    return values


def _onnx(card: Card, folder: Path) -> Callable[[Array], Array]:
    """Return the logits of pixels by ONNX Runtime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{folder} holds an ONNX model, which needs the library onnxruntime ({error}): pip install onnxruntime"
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(folder / card.file), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ValueError(f"{folder / card.file} must hold an ONNX model; ONNX Runtime says: {error}") from error
    inside = card.conversion["normalize_inside"]

    def logits(pixels: Array) -> Array:
        found: Array = session.run(["logits"], {"images": pixels if inside else _normalised(card, pixels)})[0]
        return found

    return logits


def _torch(card: Card, folder: Path) -> Callable[[Array], Array]:
    """Return the logits of pixels by PyTorch."""
    with large_imports():
        import torch

        model = _model(card, folder)

    def logits(pixels: Array) -> Array:
        with torch.inference_mode():
            found: Array = model(torch.from_numpy(_normalised(card, pixels))).numpy()
        return found

    return logits


def _model(card: Card, folder: Path) -> nn.Module:
    """Build the model of an export in eval mode."""
    from trainables import backbones

    name, weights, size = str(card.backbone["name"]), card.backbone["weights"], card.backbone["img_size"]
    if weights is not None and (folder / weights).exists():  # a folder for the Hub names a file next to its card
        weights = str(folder / weights)
    if card.form == "merged":
        import timm
        from safetensors import SafetensorError

        size = size or card.preprocessing["size"][0]
        try:
            return timm.create_model(  # type: ignore[no-any-return]
                name, num_classes=card.n_classes, img_size=size, checkpoint_path=str(folder / card.file)
            ).eval()
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder / card.file} must hold the tensors of its card; it cannot be read: {error}") from error
    model = backbones.create(name, weights, size)
    if card.form == "adapter":
        from trainables.export.adapter import load_adapter

        load_adapter(model, folder)
        return model.eval()
    import torch

    if backbones.digest(model) != card.backbone["digest"]:
        raise ValueError(f"the adapter in {folder} was trained on other weights of {name} than those that are here")
    backbones.set_head(model, card.n_classes, torch.Generator().manual_seed(0))
    if "rank" in card.conversion:
        from trainables.export.peft_format import load_lora

        load_lora(model, folder)
        return model.eval()
    from trainables.adapters.peft_bridge import load_native

    return load_native(model, folder).eval()
