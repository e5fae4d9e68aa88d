"""Every knob of every method reaches the model: trained alike but for one knob, two models answer differently.

How much a knob moves accuracy is a measurement (benchmarks/results/knobs.md); that it moves anything at all is a law.
"""

from __future__ import annotations

import functools
from typing import Any

import pytest
import timm
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from torch import Tensor
from torch.nn import functional as F

import spaces
import trainables.backbones  # noqa: F401 - registers vit_glyphs
from spaces import Config, Knob
from trainables.adapters import adapt, method_of, regulariser, trainable_parameters

pytestmark = pytest.mark.slow

KNOBS = [knob for space in spaces.SPACES.values() for knob in space.knobs]
# Epochs of one step, where 3 are few: SADE is zero at the start, and SNELL moves slowly.
N_EPOCHS = {"clora.sade_weight": 6, "snell.dropout": 6}
# Where a knob needs another one to be felt. While all heads still lessen the loss, their scores have one sign and both criteria
# keep the same; so the update is made to overshoot, each block ranks its own, and one head of four stays.
OVERSHOT: Config = {"heart_lora.level": "layer", "heart_lora.active_head_ratio": 0.25, "heart_lora.scale": 50.0}
# The default of a warm-up is longer than this training.
SETTINGS: dict[str, Config] = {"heart_lora.criterion": OVERSHOT, "heart_lora.warmup_epochs": {"heart_lora.warmup_epochs": 1}}


def farthest(knob: Knob, default: Any) -> Any:
    """The value of a knob that is farthest from its default; of names, the last that is not the default."""
    values = knob.distribution
    if isinstance(values, CategoricalDistribution):
        return next(choice for choice in reversed(values.choices) if choice != default)
    assert isinstance(values, FloatDistribution | IntDistribution)
    return max((values.low, values.high), key=lambda end: abs(end - default))


@functools.cache
def answers_of_defaults(method: str, settings: tuple[tuple[str, Any], ...], n_epochs: int) -> Tensor:
    return answers(spaces.joint([method]).default(method) | dict(settings), n_epochs)


def answers(config: Config, n_epochs: int = 3) -> Tensor:
    """What a small model says to some images after a short training with long steps, all random numbers the same."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    images, labels = torch.rand(4, 1, 16, 16, generator=generator, dtype=torch.float64), torch.arange(4)
    model = timm.create_model("vit_glyphs", pretrained=True, num_classes=4).double()
    method = method_of(config)
    adapt(model, method, generator=generator)
    for epoch in range(1, n_epochs + 1):
        model.train()
        parameters = [parameter for _, parameter in trainable_parameters(model)]
        loss, kept_apart = F.cross_entropy(model(images), labels), regulariser(model)
        loss = loss if kept_apart is None else loss + kept_apart
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    parameter.sub_(0.05 * gradient / (gradient.norm() + 1e-6))
        model.eval()
        method.after_epoch(model, epoch, n_epochs, lambda: F.cross_entropy(model(images), labels).backward())  # type: ignore[no-untyped-call]
        model.zero_grad()
    with torch.no_grad():
        found: Tensor = model(images)
    return found


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.key)
def test_two_values_of_a_knob_train_two_models(knob: Knob) -> None:
    method, settings, n_epochs = knob.key.partition(".")[0], SETTINGS.get(knob.key, {}), N_EPOCHS.get(knob.key, 3)
    default = spaces.joint([method]).default(method) | settings
    first = answers_of_defaults(method, tuple(sorted(settings.items())), n_epochs)
    second = answers(default | {knob.key: farthest(knob, default[knob.key])}, n_epochs)
    assert (first - second).abs().max() > 1e-4


def test_the_same_values_train_the_same_model() -> None:
    config = spaces.joint(["lora"]).default("lora")
    assert torch.equal(answers(config), answers(config))
