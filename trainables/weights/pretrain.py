"""Reproduce the packaged backbone `vit_glyphs`: `python -m trainables.weights.pretrain`.

A small ViT learns to name letters and symbols (`glyphs.py`, digits left out), which are newly drawn for every step. The result is
the moving average of its weights without the classifier, in float16, and a card with everything needed to reproduce it. It takes
one CPU thread, under three minutes and no downloads; the same seed gives the same file on the same machine and library versions.

The number of steps was chosen on the validation digits, for the purpose of the packaged study: comparing adapters. After 350
steps head-only and LoRA (rank 8) reach 95.1 and 96.4 percent, after 600 96.1 and 98.0, after 800 97.0 and 98.5, after 1,500
98.8 and 99.1: the backbone is better then, but an adapter can win only two or three of 800 images.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from trainables.weights.glyphs import STYLE, Atlas, Style, atlas, render

ARCHITECTURE: dict[str, int | float | bool | str] = {  # arguments of timm's VisionTransformer
    "img_size": 16,
    "patch_size": 4,
    "in_chans": 1,
    "embed_dim": 64,
    "depth": 6,
    "num_heads": 4,
    "mlp_ratio": 3.0,
    "global_pool": "avg",
    "class_token": False,
}
MEAN, STD = 0.3, 0.33  # of the pixels of the glyphs, ink = 1, rounded


@dataclass(frozen=True)
class Recipe:
    """The training settings of the backbone.

    Attributes:
        n_steps: Optimiser steps: Muon on the matrices of the blocks, AdamW on the rest.
        batch_size: Images of a step.
        lr: Peak learning rate of both optimisers; Muon's steps are scaled to the size of AdamW's.
        warmup_fraction: Fraction of steps for the warm-up; half a cosine down to zero follows.
        weight_decay: Weight decay of all parameters.
        label_smoothing: Label smoothing of the cross-entropy.
        average: Decay of the moving average of the weights, which is stored.
        n_eval: Images drawn for each of the two source accuracies.
    """

    n_steps: int = 800
    batch_size: int = 256
    lr: float = 8e-3
    warmup_fraction: float = 0.05
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    average: float = 0.999
    n_eval: int = 4000


RECIPE = Recipe()


def pretrain(folder: Path, glyphs: Atlas, recipe: Recipe = RECIPE, style: Style = STYLE, seed: int = 0) -> dict[str, object]:
    """Train the backbone and write `vit_glyphs.safetensors` and `vit_glyphs.json` into a folder.

    Args:
        folder: Target folder, created if missing.
        glyphs: Atlas of the glyphs.
        recipe: Training settings of the backbone.
        style: Variation of the samples.
        seed: Seed of the initial weights and of the samples.

    Returns:
        The content of the JSON file.

    Raises:
        FloatingPointError: If the training loss is not finite.
    """
    began = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    model = new_model(ARCHITECTURE, len(glyphs.classes), seed)
    known = glyphs.faces(held_out=False)
    train_loss = optimise(model, lambda: _draw(glyphs, known, recipe.batch_size, generator, style), recipe)
    card: dict[str, object] = {
        "name": "vit_glyphs",
        "architecture": ARCHITECTURE,
        "mean": [MEAN],
        "std": [STD],
        "interpolation": "bicubic",
        "source": "letters and symbols of matplotlib's fonts, digits left out (trainables/weights/glyphs.py)",
        "n_classes": len(glyphs.classes),
        "classes": list(glyphs.classes),
        "n_glyphs": len(glyphs.labels),
        "n_params": sum(weight.numel() for name, weight in model.named_parameters() if not name.startswith("head.")),
        "recipe": asdict(recipe),
        "style": asdict(style),
        "seed": seed,
        "source_accuracy": {
            "known_faces": _accuracy(model, glyphs, known, recipe.n_eval, style),
            "held_out_faces": _accuracy(model, glyphs, glyphs.faces(held_out=True), recipe.n_eval, style),
        },
        "train_loss": round(train_loss, 4),
        "versions": {name: version(name) for name in ("torch", "timm", "matplotlib", "numpy", "scipy")},
        "train_minutes": round((time.monotonic() - began) / 60, 1),
    }
    store(model, card, folder)
    return card


def optimise(model: VisionTransformer, draw: Callable[[], tuple[Tensor, Tensor]], recipe: Recipe) -> float:
    """Train a model, and leave in it the moving average of its weights, rounded to float16.

    Args:
        model: Model with a classifier.
        draw: Function that draws the (normalised images, labels) of a step.
        recipe: Training settings of the backbone.

    Returns:
        The mean training loss of the last 200 steps.

    Raises:
        FloatingPointError: If the training loss is not finite.
    """
    model.train()
    matrices = [weight for weight in model.blocks.parameters() if weight.ndim > 1]
    inner = {id(weight) for weight in matrices}
    others = [weight for weight in model.parameters() if id(weight) not in inner]
    decay = recipe.weight_decay
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=recipe.lr, weight_decay=decay, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=recipe.lr, weight_decay=decay, fused=True),
    ]
    averaged = [weight.detach().clone() for weight in model.parameters()]
    began = time.monotonic()
    train_loss = 0.0
    for step in range(recipe.n_steps):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * _schedule(step, recipe)
        images, labels = draw()
        loss = functional.cross_entropy(model(images), labels, label_smoothing=recipe.label_smoothing)
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(f"the training loss must be finite; got {value} at step {step}; lower Recipe.lr")
        model.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
        share = 1 - min(recipe.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(averaged, model.parameters(), strict=True):
                mean.lerp_(weight, share)
        train_loss += (value - train_loss) / min(step + 1, 200)
        if (step + 1) % max(1, recipe.n_steps // 40) == 0:
            minutes = (time.monotonic() - began) / 60
            left = minutes * (recipe.n_steps / (step + 1) - 1)
            print(f"step {step + 1}/{recipe.n_steps}  loss {train_loss:.3f}  {minutes:.1f} min, {left:.1f} min left", flush=True)

    with torch.no_grad():
        for weight, mean in zip(model.parameters(), averaged, strict=True):
            weight.copy_(mean.half().float())  # evaluate exactly the stored weights
    return train_loss


def store(model: VisionTransformer, card: dict[str, object], folder: Path) -> None:
    """Write the weights without the classifier in float16, and the card next to them; the card's name is that of both files."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: weight.half().contiguous() for name, weight in model.state_dict().items() if not name.startswith("head.")}
    save_file(weights, folder / f"{card['name']}.safetensors", metadata={"format": "pt"})
    (folder / f"{card['name']}.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def new_model(architecture: Mapping[str, Any], n_classes: int, seed: int) -> VisionTransformer:
    """Build an untrained model, the same on every call.

    Args:
        architecture: Arguments of timm's VisionTransformer.
        n_classes: Number of outputs of its classifier.
        seed: Seed of its weights; no other random number of the process changes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(num_classes=n_classes, **architecture)
        initialise(model)
    return model


def initialise(model: VisionTransformer) -> None:
    """Set variance-preserving weights and visible positions: timm's 0.02 suits widths near 768 and stalls narrow models."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module is not model.head:
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    nn.init.normal_(model.pos_embed, std=0.3)


def _draw(
    glyphs: Atlas, faces: tuple[Tensor, Tensor], batch: int, generator: torch.Generator, style: Style
) -> tuple[Tensor, Tensor]:
    """Draw (normalised images [batch, 1, size, size], labels [batch]): classes evenly, then the faces of a class evenly."""
    table, n_glyphs = faces
    drawable = n_glyphs.nonzero()[:, 0]
    labels = drawable[torch.randint(len(drawable), (batch,), generator=generator)]
    which = (torch.rand(batch, generator=generator) * n_glyphs[labels]).long()
    images = render(glyphs, table[labels, which], generator, int(ARCHITECTURE["img_size"]), style)
    return (images - MEAN) / STD, labels


def _schedule(step: int, recipe: Recipe) -> float:
    """Return the fraction of the peak learning rate at a step: a linear warm-up, then half a cosine down to zero."""
    warmup = max(1, round(recipe.warmup_fraction * recipe.n_steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, recipe.n_steps - warmup)))


@torch.no_grad()
def _accuracy(model: nn.Module, glyphs: Atlas, faces: tuple[Tensor, Tensor], n_images: int, style: Style) -> float | None:
    """Measure the top-1 accuracy, 0..1, on new samples (equal for every seed); return None if there are no such faces."""
    if not int(faces[1].sum()):
        return None
    generator = torch.Generator().manual_seed(1_000_003)
    model.eval()
    n_right = 0
    for start in range(0, n_images, 100):
        images, labels = _draw(glyphs, faces, min(100, n_images - start), generator, style)
        n_right += int((model(images).argmax(1) == labels).sum())
    return round(n_right / n_images, 4)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Pretrain vit_glyphs on glyphs of matplotlib's fonts.")
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="where the two files are written")
    parser.add_argument("--steps", type=int, default=Recipe.n_steps, help="optimiser steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"drawing the atlas (timm {timm.__version__})", flush=True)
    card = pretrain(arguments.folder, atlas(), Recipe(n_steps=arguments.steps), seed=arguments.seed)
    print(f"source accuracy {card['source_accuracy']}, {card['train_minutes']} min, written to {arguments.folder}")


if __name__ == "__main__":
    main()
