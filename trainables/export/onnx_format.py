"""A model as an ONNX graph, checked with ONNX Runtime on real images before it counts as written.

    DIR/model.onnx     input `images` (n, channels, height, width), output `logits` (n, classes); n is free

The adapter is merged first, where it can be. `images` are normalised float32 images or, with normalisation inside the graph, uint8
pixels.

The card's `conversion` has `opset`, `merged`, `normalize_inside`, `input` (`name`, `type`, `shape`), `output`, and `checked`: the
number of images, and the largest difference of a logit between ONNX Runtime and PyTorch.

torch's exporter by TorchScript is used: it needs `onnx` alone, and traces a Vision Transformer in a second.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainables.export.card import FILES
from trainables.export.validation import Validation

OPSET: Final = 17
N_CHECKED: Final = 32  # validation images
WITHIN: Final = 1e-3  # largest difference of a logit


class OnPixels(nn.Module):
    """A model with its normalisation in front.

    Args:
        model: Model of normalised images.
        scale: Factor per channel, (channels, 1, 1).
        shift: Summand per channel.
    """

    def __init__(self, model: nn.Module, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.model = model
        self.scale, self.shift = nn.Buffer(scale), nn.Buffer(shift)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map uint8 pixels (n, channels, height, width) to logits."""
        logits: Tensor = self.model(pixels.float() * self.scale + self.shift)
        return logits


def write(model: nn.Module, folder: Path, *, on: Validation, merged: bool, normalize_inside: bool) -> dict[str, Any]:
    """Write a model in eval mode, and compare ONNX Runtime's logits of validation images with PyTorch's.

    Args:
        model: Model, plain or adapted.
        folder: Folder for the file.
        on: Validation images.
        merged: True if its adapter is merged; for the card.
        normalize_inside: True to take uint8 pixels and normalise them in the graph.

    Returns:
        The card's `conversion`.

    Raises:
        ValueError: If a library is missing, torch cannot express the model in ONNX, or ONNX Runtime computes something else.
    """
    try:
        import onnx  # noqa: F401 - torch imports it later
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"the format onnx needs the libraries onnx and onnxruntime ({error}); install them: pip install onnx onnxruntime"
        ) from error
    pixels = on.pixels(N_CHECKED)
    images = pixels if normalize_inside else on.normalise(pixels)
    whole = OnPixels(model, on.normalise.scale, on.normalise.shift).eval() if normalize_inside else model
    path = folder / FILES["onnx"]
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of tracing, whose result is checked below with other batches
            torch.onnx.export(
                whole,
                (images[:2],),
                str(path),
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "n"}, "logits": {0: "n"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise ValueError(f"torch cannot write this model as ONNX of opset {OPSET}: {str(error).splitlines()[-1]}") from error
    with torch.inference_mode():
        wanted = torch.cat([whole(images[:1]), whole(images[1:])])
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    parts = [session.run(["logits"], {"images": part.numpy()})[0] for part in (images[:1], images[1:])]
    found = torch.cat([torch.from_numpy(part) for part in parts])
    largest = float((found - wanted).abs().max())
    if not largest <= WITHIN or not torch.equal(found.argmax(-1), wanted.argmax(-1)):
        raise ValueError(
            f"ONNX Runtime and PyTorch must agree within {WITHIN:g} and in the first class of {len(images)} validation images; "
            f"their logits differ by up to {largest:.2g}; choose another format"
        )
    return {
        "opset": OPSET,
        "merged": merged,
        "normalize_inside": normalize_inside,
        "input": {"name": "images", "type": str(images.dtype).removeprefix("torch."), "shape": ["n", *images.shape[1:]]},
        "output": "logits",
        "checked": {"n_images": len(images), "largest_difference": largest},
        "n_bytes": path.stat().st_size,
    }
