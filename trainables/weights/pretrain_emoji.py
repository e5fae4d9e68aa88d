"""Reproduce the packaged backbone `vit_emoji`: `python -m trainables.weights.pretrain_emoji FOLDER`.

FOLDER holds the four files that `npm pack` writes (`emoji_sets.SOURCES`). A small ViT learns to name emoji: the drawings of one
emoji in up to four sets are one class, turned, scaled and recoloured for every step. None of these emoji is in the
packaged question, which asks for what the backbone was trained to ignore: who drew an emoji. So head-only is weak on it, and
what an adapter changes can be seen. One CPU thread takes about ten minutes.

The number of steps was chosen on the validation split of the question with single runs (1,200 images, 8 epochs; head-only, LoRA of
rank 16, full fine-tuning): after 1,600 steps 46.0, 56.0 and 56.2 percent, after 4,000 41.0, 56.7 and 57.9.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional

from trainables.weights.emoji_sets import SIDE, SOURCES, Emoji, canvas, halves, read
from trainables.weights.pretrain import Recipe, new_model, optimise, store

ARCHITECTURE: dict[str, int | float | bool | str] = {  # arguments of timm's VisionTransformer
    "img_size": SIDE,
    "patch_size": 8,
    "in_chans": 3,
    "embed_dim": 96,
    "depth": 4,
    "num_heads": 4,
    "mlp_ratio": 3.0,
    "global_pool": "avg",
    "class_token": False,
}
MEAN, STD = 0.5, 0.35  # of the pixels, near those of the samples
RECIPE = Recipe(n_steps=4000, batch_size=128, lr=5e-3, average=0.998, n_eval=4000)


def pretrain(folder: Path, emoji: list[Emoji], recipe: Recipe = RECIPE, seed: int = 0) -> dict[str, object]:
    """Train the backbone and write `vit_emoji.safetensors` and `vit_emoji.json` into a folder.

    Args:
        folder: Target folder, created if missing.
        emoji: Emoji to name: a class each, with their drawings.
        recipe: Training settings of the backbone.
        seed: Seed of the initial weights and of the samples.

    Returns:
        The content of the JSON file.

    Raises:
        FloatingPointError: If the training loss is not finite.
    """
    began = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    model = new_model(ARCHITECTURE, len(emoji), seed)
    labels = torch.tensor([label for label, one in enumerate(emoji) for _ in one.drawings])
    drawings = torch.from_numpy(np.stack([canvas(drawing) for one in emoji for drawing in one.drawings.values()]))
    train_loss = optimise(model, lambda: _draw(drawings, labels, recipe.batch_size, generator), recipe)
    card: dict[str, object] = {
        "name": "vit_emoji",
        "architecture": ARCHITECTURE,
        "mean": [MEAN] * 3,
        "std": [STD] * 3,
        "interpolation": "bicubic",
        "source": "emoji of four sets that are not in the packaged question (trainables/weights/emoji_sets.py)",
        "files": {source.file: source.digest for source in SOURCES.values()},
        "drawings": {name: source.drawings for name, source in SOURCES.items()},
        "n_classes": len(emoji),
        "classes": [one.code for one in emoji],
        "n_drawings": len(labels),
        "n_params": sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("head.")),
        "recipe": asdict(recipe),
        "seed": seed,
        "source_accuracy": _accuracy(model, drawings, labels, recipe.n_eval),
        "train_loss": round(train_loss, 4),
        "versions": {name: version(name) for name in ("torch", "timm", "numpy", "pillow")},
        "train_minutes": round((time.monotonic() - began) / 60, 1),
    }
    store(model, card, folder)
    return card


def _draw(drawings: Tensor, labels: Tensor, batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw (normalised images [batch, 3, SIDE, SIDE], labels [batch]), each drawing equally often."""
    which = torch.randint(len(labels), (batch,), generator=generator)
    return (vary(drawings[which], generator) - MEAN) / STD, labels[which]


def vary(drawings: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, scale, mirror and recolour drawings on random backgrounds.

    Args:
        drawings: Colours multiplied by the opacity, and the opacity, [batch, 4, CANVAS, CANVAS].
        generator: CPU generator, the only source of randomness.

    Returns:
        [batch, 3, SIDE, SIDE] in 0..1.
    """
    batch = len(drawings)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    def often(share: float) -> Tensor:
        return torch.rand(batch, 1, 1, 1, generator=generator) < share

    # 1. geometry: up to 20 degrees, 0.75 to 1.25 of the size, a little off the middle
    angle, stretch = uniform(-0.35, 0.35, batch), torch.exp(0.15 * torch.randn(batch, generator=generator))
    scale, mirror = torch.exp(uniform(-math.log(1.25), math.log(1.33), batch)), 1 - 2 * often(0.5).view(-1).float()
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    across = torch.stack([cosine * mirror * stretch, -sine, uniform(-0.2, 0.2, batch)], 1)
    down = torch.stack([sine * mirror * stretch, cosine / stretch, uniform(-0.2, 0.2, batch)], 1)
    grid = functional.affine_grid(torch.stack([across, down], 1), [batch, 4, SIDE, SIDE], align_corners=False)
    placed = functional.grid_sample(drawings, grid, align_corners=False)

    # 2. background: white, one colour, or a few colours that run into each other
    colours = functional.interpolate(uniform(0, 1, batch, 3, 3, 3), size=SIDE, mode="bilinear", align_corners=True)
    plain = torch.where(often(0.5), torch.ones(batch, 3, 1, 1), uniform(0, 1, batch, 3, 1, 1))
    images = placed[:, :3] + (1 - placed[:, 3:]) * torch.where(often(0.7), plain, colours)

    # 3. colour: brightness of each channel, saturation, and half of the time the channels in another order
    images = (images * uniform(0.6, 1.4, batch, 3, 1, 1)).clamp(0, 1)
    grey = images.mean(1, keepdim=True)
    images = (grey + (images - grey) * uniform(0, 1.5, batch, 1, 1, 1)).clamp(0, 1)
    order = torch.rand(batch, 3, generator=generator).argsort(1)[:, :, None, None].expand_as(images)
    images = torch.where(often(0.5), images.gather(1, order), images)

    # 4. sharpness: the look of an outline tells who drew it
    coarse = functional.interpolate(functional.avg_pool2d(images, 2), size=SIDE, mode="bilinear")
    return torch.where(often(0.4), coarse, images)


@torch.no_grad()
def _accuracy(model: VisionTransformer, drawings: Tensor, labels: Tensor, n_images: int) -> float:
    """Measure the top-1 accuracy, 0..1, on new samples (equal for every seed)."""
    generator = torch.Generator().manual_seed(1_000_003)
    model.eval()
    n_right = 0
    for start in range(0, n_images, 100):
        images, wanted = _draw(drawings, labels, min(100, n_images - start), generator)
        n_right += int((model(images).argmax(1) == wanted).sum())
    return round(n_right / n_images, 4)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Pretrain vit_emoji on emoji of four sets.")
    parser.add_argument("packages", type=Path, help="the folder with the files of npm pack")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the two files are written")
    parser.add_argument("--steps", type=int, default=RECIPE.n_steps, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(**asdict(RECIPE) | {"n_steps": arguments.steps})
    card = pretrain(arguments.folder, halves(read(arguments.packages))[1], recipe, arguments.seed)
    print(f"source accuracy {card['source_accuracy']}, {card['train_minutes']} min, written to {arguments.folder}")


if __name__ == "__main__":
    main()
