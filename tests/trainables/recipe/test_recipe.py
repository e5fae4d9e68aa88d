"""The recipe: schedule, weight decay, stochastic depth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import timm
import torch
from sklearn.utils.class_weight import compute_class_weight
from timm.layers import DropPath
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.nn import functional as F

from trainables.adapters import Householder, adapt, trainable_parameters, undecayed_parameters
from trainables.recipe.recipe import (
    Recipe,
    learning_rate,
    learning_rate_of_epoch,
    optimiser,
    recipe_of,
    restore,
    set_drop_path,
)
from trainables.tasks.classification import MANY_LABELS, ONE_LABEL


def test_the_learning_rate_rises_linearly_then_follows_a_half_cosine() -> None:
    recipe = Recipe(lr=2.0, warmup_fraction=0.2, final_lr_fraction=0.1)
    rates = [learning_rate(step, 50, recipe) for step in range(50)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([2.0 * (0.1 + 0.9 * (1 + math.cos(math.pi * t / 40)) / 2) for t in range(1, 41)])
    assert max(rates) == rates[9] == pytest.approx(2.0)
    assert rates[-1] == pytest.approx(0.2)


@pytest.mark.parametrize(("fraction", "n_steps"), [(0.0, 1), (0.0, 7), (1.0, 7), (0.1, 3)])
def test_the_learning_rate_is_positive_and_at_most_its_peak_whatever_the_length(fraction: float, n_steps: int) -> None:
    recipe = Recipe(lr=0.5, warmup_fraction=fraction)
    assert all(0 < learning_rate(step, n_steps, recipe) <= 0.5 for step in range(n_steps))


@pytest.mark.parametrize(("lr", "n_epochs", "n_warmup"), [(1e-3, 100, 10), (5e-4, 50, 0), (2e-3, 7, 3)])
def test_by_epochs_the_learning_rate_is_that_of_timms_scheduler_as_released_scripts_step_it(
    lr: float, n_epochs: int, n_warmup: int
) -> None:
    adamw = torch.optim.AdamW([nn.Parameter(torch.ones(1))], lr=lr)
    timms = CosineLRScheduler(adamw, t_initial=n_epochs, warmup_t=n_warmup, lr_min=0.01 * lr, warmup_lr_init=1e-6)
    rates = []
    for epoch in range(n_epochs):
        rates.append(adamw.param_groups[0]["lr"])
        timms.step(epoch)
    recipe = Recipe(lr=lr, schedule="epoch", warmup_fraction=n_warmup / n_epochs)
    assert [learning_rate_of_epoch(epoch, n_epochs, recipe) for epoch in range(n_epochs)] == pytest.approx(rates, rel=1e-14)
    if n_epochs == 100:
        assert rates[:2] == [1e-6, 1e-6]
        assert max(rates) == pytest.approx(9.76e-4, rel=1e-3)


@pytest.mark.parametrize(("n_epochs", "n_warmup"), [(100, 10), (5, 0), (7, 3)])
def test_by_epochs_the_learning_rate_is_that_of_vpts_scheduler(n_epochs: int, n_warmup: int) -> None:
    sgd = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.5)

    def factor(step: int) -> float:
        if step < n_warmup:
            return step / n_warmup
        return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / (n_epochs - n_warmup)))

    theirs = torch.optim.lr_scheduler.LambdaLR(sgd, factor)
    rates = []
    for _ in range(n_epochs):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        theirs.step()
    recipe = Recipe(lr=0.5, schedule="epoch_transformers", warmup_fraction=n_warmup / n_epochs, final_lr=0.0)
    assert [learning_rate_of_epoch(epoch, n_epochs, recipe) for epoch in range(n_epochs)] == pytest.approx(rates, rel=1e-14)


def test_by_epochs_the_learning_rate_is_that_of_adapter_plus() -> None:
    """Lightning steps it with the number of the epoch that has ended; between, it is linear, then a half cosine."""
    recipe = Recipe(lr=1e-3, schedule="epoch_lightning", final_lr_fraction=1e-3)
    rates = [learning_rate_of_epoch(epoch, 100, recipe) for epoch in range(100)]
    assert rates[:2] == [1e-5, 1e-5]
    assert rates[2] == pytest.approx(1e-5 + 0.99e-3 / 9)
    assert rates[10] == rates[11] == pytest.approx(1e-3)  # epoch 9 of the scheduler, and epoch 10
    assert rates[56] == pytest.approx((1e-3 + 1e-6) / 2)
    assert rates[99] == pytest.approx(1e-6 + 0.5 * (1e-3 - 1e-6) * (1 + math.cos(math.pi * 88 / 90)))


def test_a_last_learning_rate_of_its_own_ends_every_schedule() -> None:
    assert learning_rate(49, 50, Recipe(lr=2.0, final_lr=1e-8)) == pytest.approx(1e-8)
    assert learning_rate_of_epoch(99, 100, Recipe(lr=1.0, schedule="epoch", final_lr=0.5)) == pytest.approx(0.5, rel=1e-3)


def test_sgd_decays_all_parameters_where_the_recipe_says_so() -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    sgd = optimiser([matrix, vector], Recipe(lr=0.1, weight_decay=0.5, optimizer="sgd", decay="all"), undecayed=[matrix])
    for _ in range(2):
        (matrix.sum() * 0 + vector.sum() * 0).backward()
        sgd.step()
    expected, momentum = 1.0, 0.0
    for _ in range(2):
        momentum = 0.9 * momentum + 0.5 * expected
        expected -= 0.1 * momentum
    assert torch.allclose(matrix, torch.full((2, 3), expected))
    assert torch.allclose(vector, torch.full((3,), expected))


def test_the_gradient_is_clipped_for_the_methods_that_say_so() -> None:
    fixed = {"clip_norm": {"arc": 1.0}}
    assert recipe_of(fixed, {"method": "arc"}).clip_norm == 1.0
    assert recipe_of(fixed, {"method": "lora"}).clip_norm is None
    assert recipe_of(fixed, {}).clip_norm is None


def test_weight_decay_pulls_matrices_and_leaves_vectors_alone() -> None:
    matrix, vector = nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(3))
    adamw = optimiser([matrix, vector], Recipe(lr=0.1, weight_decay=0.5))
    (matrix.sum() * 0 + vector.sum() * 0).backward()
    adamw.step()
    assert torch.allclose(matrix, torch.full((2, 3), 1 - 0.1 * 0.5))  # no gradient: AdamW's step is its decay
    assert torch.equal(vector, torch.ones(3))


def test_weight_decay_spares_what_a_method_names() -> None:
    model = timm.create_model("test_vit", num_classes=2)
    adapt(model, Householder())
    trained = dict(trainable_parameters(model))
    adamw = optimiser(trained.values(), Recipe(weight_decay=0.5), undecayed_parameters(model))
    decays = {id(p): group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert len(decays) == len(trained)
    for name, parameter in trained.items():
        spared = name.endswith(("v_left", "v_right", "delta", "bias"))
        assert decays[id(parameter)] == (0.0 if spared else 0.5), name


def test_stochastic_depth_rises_linearly_over_the_blocks_and_can_be_taken_back() -> None:
    model = timm.create_model("test_vit", num_classes=0)
    modules = dict(model.named_modules())
    before = set_drop_path(model.blocks, 0.5)
    rates = [block.drop_path1.drop_prob if isinstance(block.drop_path1, DropPath) else 0.0 for block in model.blocks]
    assert rates == pytest.approx([0.1 * i for i in range(6)])
    assert type(model.blocks[5].drop_path2) is DropPath
    restore(before)
    assert dict(model.named_modules()) == modules


def test_a_configuration_overrides_what_the_study_fixes() -> None:
    recipe = recipe_of(
        {"warmup_fraction": 0.3, "lr": 1.0}, {"method": "lora", "lora.rank": 4, "optim.lr": 0.5, "recipe.drop_path": 0}
    )
    assert recipe == Recipe(lr=0.5, warmup_fraction=0.3, drop_path=0)


@pytest.mark.parametrize(
    ("fixed", "config", "message"),
    [
        ({}, {"optim.lr": 0.0}, r"optim\.lr must be positive and finite; got 0\.0"),
        ({}, {"optim.lr": math.nan}, r"optim\.lr must be positive and finite; got nan"),
        ({}, {"optim.batch_size": 0}, r"optim\.batch_size must be at least 1; got 0"),
        ({}, {"optim.weight_decay": -0.1}, r"optim\.weight_decay must be at least 0"),
        ({}, {"recipe.drop_path": 1.0}, r"recipe\.drop_path must be in \[0, 1\); got 1\.0"),
        ({"label_smoothing": 1.0}, {}, r"recipe\.label_smoothing must be in \[0, 1\)"),
        ({"clip_norm": 0.0}, {}, r"recipe\.clip_norm must be positive, or null for none"),
        ({"n_threads": 0}, {}, r"recipe\.n_threads must be at least 1"),
        ({"warmup": 0.1}, {}, r"'warmup' is not part of a recipe; its keys are .*; did you mean warmup_fraction\?"),
        ({}, {"optim.rl": 0.1}, r"optim\.rl is not a training knob; the knobs are .*; did you mean optim\.lr"),
        ({}, {"recipe.lr": 0.1}, r"recipe\.lr is not a training knob; the knobs are optim\.lr"),
    ],
)
def test_a_bad_recipe_is_refused_with_the_law_and_the_value(fixed: dict[str, Any], config: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe_of(fixed, config)


# -- class weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_balanced_weights_are_scikit_learns_and_a_class_without_images_has_none(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (40,), generator=generator) ** 2 % 7  # 0, 1, 2, 4: never 3, 5 or 6
    found = ONE_LABEL.class_weights(labels, 7)
    occurring = labels.unique()
    expected = compute_class_weight("balanced", classes=occurring.numpy(), y=labels.numpy())
    assert found[occurring].tolist() == pytest.approx(expected.tolist())
    assert found[[3, 5, 6]].tolist() == [0, 0, 0]
    assert found[labels].sum().item() == pytest.approx(len(labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_weighted_loss_is_the_sum_of_each_images_own_over_the_images(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(12, 4, generator=generator), torch.randint(0, 4, (12,), generator=generator)
    weights = torch.tensor([0.5, 1.0, 2.0, 4.0])
    by_hand = 0.0
    for row, label in zip(logits.double(), labels.tolist(), strict=True):
        aim = torch.full((4,), smoothing / 4, dtype=torch.double)
        aim[label] += 1 - smoothing
        by_hand -= float(weights[label] * (aim * row.log_softmax(0)).sum()) / 12
    assert ONE_LABEL.loss(logits, labels, 12, smoothing, weights).item() == pytest.approx(by_hand, rel=1e-5)
    if not smoothing:  # PyTorch divides by the weights of the batch, which depend on its other images
        torchs = F.cross_entropy(logits, labels, weight=weights) * weights[labels].sum() / 12
        assert ONE_LABEL.loss(logits, labels, 12, 0.0, weights).item() == pytest.approx(torchs.item(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_parts_of_a_batch_have_the_loss_of_the_whole(smoothing: float, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(13, 3, generator=generator), torch.randint(0, 3, (13,), generator=generator)
    weights = ONE_LABEL.class_weights(labels, 3) if weighted else None
    whole = ONE_LABEL.loss(logits, labels, 13, smoothing, weights)
    parts = sum(ONE_LABEL.loss(logits[i], labels[i], 13, smoothing, weights) for i in torch.arange(13).tensor_split(4))
    assert parts == pytest.approx(whole.item(), rel=1e-5)
    other = ONE_LABEL.loss(logits.flip(0), labels.flip(0), 13, smoothing, weights)  # no image's loss depends on the others
    assert other.item() == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_of_images_with_many_labels_is_the_binary_one_and_that_of_its_parts(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(2)
    logits, labels = torch.randn(7, 3, generator=generator), torch.randint(0, 2, (7, 3), generator=generator).float()
    by_hand = 0.0
    for found, label in zip(logits.double().flatten().tolist(), labels.flatten().tolist(), strict=True):
        aim, p = label * (1 - smoothing) + smoothing / 2, 1 / (1 + math.exp(-found))
        by_hand -= (aim * math.log(p) + (1 - aim) * math.log(1 - p)) / 21
    whole = MANY_LABELS.loss(logits, labels, 7, smoothing)
    assert whole.item() == pytest.approx(by_hand, rel=1e-5)
    parts = sum(MANY_LABELS.loss(logits[i], labels[i], 7, smoothing) for i in torch.arange(7).tensor_split(3))
    assert parts == pytest.approx(whole.item(), rel=1e-5)
