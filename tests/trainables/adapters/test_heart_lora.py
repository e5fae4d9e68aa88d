"""Heart-LoRA drops the heads that the loss misses least, once, and what it dropped is nowhere any more."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors import safe_open
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.nn import functional as F

from trainables import make, measure
from trainables.adapters import HeartLoRA, adapt, trainable_parameters
from trainables.training.trial import AdapterWorker

from ..short import shortened
from .adapter_laws import TOKEN, Case, images, oracle
from .test_adapters import heart_lora

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
CONFIG: dict[str, Any] = {
    "method": "heart_lora", "heart_lora.rank": 2, "heart_lora.active_head_ratio": 0.5, "heart_lora.warmup_epochs": 2,
    "optim.lr": 3e-3, "optim.weight_decay": 1e-2,
}  # fmt: skip


def trained(method: HeartLoRA) -> VisionTransformer:
    """A small model with all heads, away from the initial values."""
    model, generator = TOKEN.build(), torch.Generator().manual_seed(4)
    adapt(model, method)
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def end_of_epoch(model: VisionTransformer, method: HeartLoRA, epoch: int, n_epochs: int = 100) -> None:
    method.after_epoch(model, epoch, n_epochs, lambda: cast(Any, F.cross_entropy(model(images(6)), LABELS)).backward())


def active(model: VisionTransformer) -> list[list[int]]:
    return [[int(i) for i in cast(Any, block).attn.qkv.b] for block in model.blocks]


def loss_with_gates(model: VisionTransformer, method: HeartLoRA, gates: Tensor) -> Tensor:
    """The loss from the dense equation, with a factor on the update of every head, (blocks, heads)."""

    def gated(of: Any, p: Any, frozen: Any, x: Tensor) -> Tensor:
        if frozen.path.endswith("qkv"):
            block = int(frozen.path.split(".")[1])
            p = p | {f"{frozen.path}.b.{i}": p[f"{frozen.path}.b.{i}"] * gates[block, i] for i in range(3)}
        return heart_lora(of, p, frozen, x)

    logits = oracle(model, TOKEN.build().state_dict(), Case(method, lambda b: 0, gated), images(6))
    return F.cross_entropy(logits, LABELS)


@pytest.mark.parametrize("level", ["global", "layer"])
@pytest.mark.parametrize("criterion", ["abs", "signed"])
@pytest.mark.parametrize("ratio", [0.25, 0.6])
def test_the_heads_that_stay_are_those_whose_gates_the_loss_feels_most(level: str, criterion: str, ratio: float) -> None:
    method = HeartLoRA(rank=2, dropout=0.0, level=level, criterion=criterion, active_head_ratio=ratio, warmup_epochs=2)
    model = trained(method)
    gates = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    [slope] = torch.autograd.grad(loss_with_gates(model, method, gates), gates)  # -slope: what closing a gate adds to the loss
    scores = slope.abs() if criterion == "abs" else -slope
    scores = scores.sum(0).expand(4, 3) if level == "global" else scores
    n_active = {0.25: 1, 0.6: 2}[ratio]
    end_of_epoch(model, method, epoch=1)
    assert active(model) == [[0, 1, 2]] * 4
    end_of_epoch(model, method, epoch=2)
    assert active(model) == [sorted(sorted(range(3), key=lambda i: -row[i])[:n_active]) for row in scores.tolist()]
    end_of_epoch(model, method, epoch=3)
    assert [len(heads) for heads in active(model)] == [n_active] * 4


def test_scores_that_say_nothing_are_an_error() -> None:
    method = HeartLoRA(rank=2, warmup_epochs=1)
    model = TOKEN.build()
    adapt(model, method)
    with pytest.raises(ValueError, match=r"scores that are finite and not all zero; got \[\[0\.0, .* after epoch 1; train longer"):
        end_of_epoch(model, method, epoch=1)


def test_a_ratio_of_one_is_lora_on_q_and_v_for_ever() -> None:
    method = HeartLoRA(rank=2, active_head_ratio=1.0, warmup_epochs=1)
    model = trained(method)
    end_of_epoch(model, method, epoch=1)
    assert active(model) == [[0, 1, 2]] * 4


def test_a_trial_shorter_than_the_warm_up_drops_heads_after_its_last_epoch() -> None:
    method = HeartLoRA(rank=2, warmup_epochs=10)
    model = trained(method)
    end_of_epoch(model, method, epoch=2, n_epochs=3)
    assert active(model) == [[0, 1, 2]] * 4
    end_of_epoch(model, method, epoch=3, n_epochs=3)
    assert [len(heads) for heads in active(model)] == [2] * 4


def worker() -> AdapterWorker:
    backbone = {"name": "test_vit", "weights": "random", "img_size": 32}
    return shortened(make(backbone, {"kind": "digits"}, {"device": "cpu"}))


def saved(folder: Path) -> dict[str, Tensor]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def test_dropped_heads_leave_the_checkpoint_with_their_optimiser_state(tmp_path: Path) -> None:
    trial = worker()
    trial.start(CONFIG, seed=0, epochs=3, folder=tmp_path)
    trial.step()
    before = saved(tmp_path)
    trial.step()
    tensors = saved(tmp_path)
    for kind in ("trainable", "optimiser"):
        heads, all_heads = (
            {name.split("/")[1] for name in of if name.startswith(kind) and ".b." in name} for of in (tensors, before)
        )
        assert heads < all_heads
        assert len(heads) == len(all_heads) / 2
    stored = sum(t.numel() for name, t in tensors.items() if name.startswith("trainable/") and "head." not in name)
    assert stored == measure({"name": "test_vit"}, {"kind": "digits"}).count(CONFIG)[0]
    trial.finish()


@pytest.mark.parametrize("n_before", [1, 2])
@pytest.mark.slow
def test_a_trial_interrupted_before_or_after_the_heads_went_resumes_bit_for_bit(tmp_path: Path, n_before: int) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trial = worker()
    trial.start(CONFIG, seed=5, epochs=4, folder=whole)
    expected = [trial.step()["val/loss"] for _ in range(4)]
    other = worker()
    other.start(CONFIG, seed=5, epochs=4, folder=parts)
    for _ in range(n_before):
        other.step()
    del other  # killed
    assert trial.start(CONFIG, seed=5, epochs=4, folder=parts) == n_before
    assert [trial.step()["val/loss"] for _ in range(4 - n_before)] == expected[n_before:]
    assert saved(whole).keys() == saved(parts).keys()
    assert all(torch.equal(tensor, saved(parts)[name]) for name, tensor in saved(whole).items())
    trial.finish()
