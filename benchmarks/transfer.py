"""Is the transfer of the packaged backbones real? `python benchmarks/transfer.py` prints a table and writes results/transfer.md.

Ways to learn who drew an emoji from 1,200 images: logistic regression on the pixels, the same ViT from random weights trained
whole, and on the packaged backbone the head alone and LoRA. Each network has the same epochs, batches and schedule. Rates are
chosen on the validation split by the mean over the seeds; the test split is met only by what was chosen. `--question digits` asks
the same of `vit_glyphs` and 200 handwritten digits.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from trainables import backbones, data
from trainables.adapters import HeadOnly, LoRA, adapt
from trainables.recipe.recipe import Recipe, learning_rate, optimiser
from trainables.weights.pretrain import initialise

RESULTS = Path(__file__).parent / "results"
BATCH = 32
LEARNING_RATES = {
    "random ViT, timm's first weights, trained whole": (1e-3, 3e-3),
    "random ViT, our first weights, trained whole": (3e-4, 5e-4, 1e-3),
    "head only": (3e-3, 1e-2, 3e-2),
    "LoRA r=8 on q, v": (2e-3, 5e-3, 1e-2),
}
LOGISTIC = "logistic regression on pixels"


@dataclass(frozen=True)
class Question:
    """What is learned.

    Attributes:
        title: Title of the table.
        backbone: Name of the packaged backbone.
        data: Kind of the packaged data.
        raw: The images as they are.
        epochs: Epochs of every network.
        inverse_penalties: Values among which the logistic regression chooses.
        result: Name of the file.
    """

    title: str
    backbone: str
    data: str
    raw: backbones.Preprocessing
    epochs: int
    inverse_penalties: np.ndarray
    result: str


def _pixels(channels: int, side: int) -> backbones.Preprocessing:
    return backbones.Preprocessing(channels, (side, side), (0.0,) * channels, (1.0,) * channels, "bicubic")


QUESTIONS = {
    "emoji": Question(
        "`vit_emoji` to who drew an emoji", "vit_emoji", "emoji", _pixels(3, 32), 20, np.logspace(-4, 0, 5), "transfer.md"
    ),
    "digits": Question(
        "`vit_glyphs` to handwritten digits",
        "vit_glyphs",
        "digits",
        _pixels(1, 8),
        50,
        np.logspace(-3, 3, 13),
        "transfer-digits.md",
    ),
}


@dataclass(frozen=True)
class Row:
    """One method: what was chosen on validation, how many parameters it trains, and its accuracy for each seed, 0..1."""

    method: str
    chosen: str
    n_trained: int
    validation: tuple[float, ...]
    test: tuple[float, ...]
    train_seconds: float


def logistic_regression(question: Question, splits: dict[str, data.Split], seeds: Sequence[int]) -> Row:
    """The penalty is chosen by five-fold cross-validation on the training split; a seed shuffles the folds."""
    pixels = {name: split.images.flatten(1).numpy() / 255 for name, split in splits.items()}
    labels = {name: split.labels.numpy() for name, split in splits.items()}
    begun = time.perf_counter()
    fits = []
    for seed in seeds:
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        search = GridSearchCV(LogisticRegression(max_iter=5000), {"C": question.inverse_penalties}, cv=folds)
        fits.append(search.fit(pixels["train"], labels["train"]))
    seconds = (time.perf_counter() - begun) / len(seeds)
    validation, test = (tuple(float(fit.score(pixels[name], labels[name])) for fit in fits) for name in ("validation", "test"))
    chosen = "C = " + ", ".join(sorted({f"{fit.best_params_['C']:.2g}" for fit in fits}))
    n_classes = len(set(labels["train"].tolist()))
    return Row(LOGISTIC, chosen, n_classes * (pixels["train"].shape[1] + 1), validation, test, seconds)


def network(question: Question, method: str, splits: dict[str, data.Split], seeds: Sequence[int], epochs: int) -> Row:
    """All learning rates and seeds of a method; only the models of the best rate meet the test split."""
    trained: dict[float, list[tuple[VisionTransformer, float]]] = {}
    for lr in LEARNING_RATES[method]:
        trained[lr] = [train(question, method, splits["train"], lr=lr, seed=seed, epochs=epochs) for seed in seeds]
    validation = {lr: tuple(accuracy(model, splits["validation"]) for model, _ in models) for lr, models in trained.items()}
    for lr, values in validation.items():
        print(f"  {method}: lr {lr:g}: validation {100 * statistics.mean(values):.2f}", flush=True)
    best = max(validation, key=lambda lr: statistics.mean(validation[lr]))
    test = tuple(accuracy(model, splits["test"]) for model, _ in trained[best])
    n_trained = sum(parameter.numel() for parameter in trained[best][0][0].parameters() if parameter.requires_grad)
    seconds = statistics.mean(seconds for _, seconds in trained[best])
    return Row(method, f"lr = {best:g}", n_trained, validation[best], test, seconds)


def train(
    question: Question, method: str, split: data.Split, *, lr: float, seed: int, epochs: int
) -> tuple[VisionTransformer, float]:
    """(trained model, seconds). The same loop for every method: AdamW, a tenth of warm-up, cosine, no augmentation, no drop-out."""
    generator = torch.Generator().manual_seed(seed)
    model = backbones.create(question.backbone)
    normalise = data.Normaliser(backbones.preprocessing(model), torch.device("cpu"))
    if method.startswith("random"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = backbones.create(question.backbone, weights=backbones.RANDOM)
            model.init_weights()
            model.patch_embed.proj.reset_parameters()
            if "our" in method:
                initialise(model)
    backbones.set_head(model, data.n_classes({"kind": question.data}), generator)
    if method.startswith("head"):
        adapt(model, HeadOnly(), generator=generator)
    elif method.startswith("LoRA"):
        adapt(model, LoRA(rank=8, targets="qv", dropout=0.0), generator=generator)
    else:
        model.requires_grad_(True)
    recipe = Recipe(lr=lr, batch_size=BATCH, drop_path=0.0)
    steps = optimiser([parameter for parameter in model.parameters() if parameter.requires_grad], recipe)
    n_steps, step = epochs * math.ceil(len(split) / BATCH), 0
    images = normalise(split.images)
    begun = time.perf_counter()
    model.train()
    for _ in range(epochs):
        for index in torch.randperm(len(split), generator=generator).split(BATCH):
            F.cross_entropy(model(images[index]), split.labels[index]).backward()
            for group in steps.param_groups:
                group["lr"] = learning_rate(step, n_steps, recipe)
            steps.step()
            steps.zero_grad()
            step += 1
    return model.eval(), time.perf_counter() - begun


@torch.inference_mode()
def accuracy(model: VisionTransformer, split: data.Split) -> float:
    normalise = data.Normaliser(backbones.preprocessing(model), torch.device("cpu"))
    logits: Tensor = torch.cat([model(normalise(part)) for part in split.images.split(200)])
    return float((logits.argmax(1) == split.labels).double().mean())


def spread(values: Sequence[float]) -> str:
    """Mean and standard error, in points."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{100 * statistics.mean(values):.2f} ± {100 * error:.2f}"


def table(question: Question, n_images: dict[str, int], rows: Sequence[Row], epochs: int) -> str:
    lora, n_seeds = rows[-1], len(rows[0].test)
    lines = [
        f"""# Transfer of {question.title}

Top-1 accuracy in percent, mean ± standard error over {n_seeds} seeds; {n_images["train"]:,} training images, {epochs} epochs
of batches of {BATCH} for every network. Learning rates are chosen on validation, the penalty of the
logistic regression by cross-validation; the test split is met only by what was chosen. The random
ViT starts from timm's weights (standard deviation 0.02) and, the harder rival, from the
variance-keeping ones that the pretraining starts from. Seconds are of a shared machine. Made by
`python benchmarks/transfer.py --question {question.data}`.
""",
        "| method | trained parameters | chosen "
        f"| validation ({n_images['validation']:,}) | test ({n_images['test']:,}) | seconds |",
        "|---|---:|---|---:|---:|---:|",
    ]
    lines += [
        f"| {row.method} | {row.n_trained:,} | {row.chosen} | {spread(row.validation)} | {spread(row.test)} "
        f"| {row.train_seconds:.1f} |"
        for row in rows
    ]
    lines += ["\nHow far LoRA is ahead, in points, paired by seed:\n", "| of | validation | test |", "|---|---:|---:|"]
    for row in rows[:-1]:
        ahead = (
            spread([ours - theirs for ours, theirs in zip(getattr(lora, split), getattr(row, split), strict=True)])
            for split in ("validation", "test")
        )
        lines.append(f"| {row.method} | " + " | ".join(ahead) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Show that the transfer of a packaged backbone is real.")
    parser.add_argument("--question", choices=tuple(QUESTIONS), default="emoji")
    parser.add_argument("--epochs", type=int, help="of every network; the question's own unless given")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    question = QUESTIONS[arguments.question]
    wanted = backbones.preprocessing(backbones.create(question.backbone, device="meta"))
    names, seeds, epochs = ("train", "validation", "test"), range(arguments.seeds), arguments.epochs or question.epochs
    rows = [logistic_regression(question, data.load({"kind": question.data}, question.raw, names), seeds)]
    splits = data.load({"kind": question.data}, wanted, names)
    rows += [network(question, method, splits, seeds, epochs) for method in LEARNING_RATES]
    text = table(question, {name: len(split) for name, split in splits.items()}, rows, epochs)
    print(text)
    (RESULTS / question.result).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
