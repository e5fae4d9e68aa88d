"""Precision, batches in parts, compiled steps: what changes the cost of a step and must not change what is learnt."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors import safe_open
from torch.nn import functional as F

from trainables import choose_precision, make
from trainables.adapters import CLoRA, LoRA, adapt, trainable_parameters
from trainables.recipe import compiling
from trainables.recipe.precision import SMALL_WITHOUT_AMX, choice, explicit_attention, fused_attention, try_both, without_trying
from trainables.recipe.recipe import Recipe
from trainables.recipe.step import backward, logits
from trainables.training.trial import AdapterWorker

from .. import small_models
from ..short import shortened
from ..training.test_trial import BACKBONE, CONFIGS, LORA, SHARED, TWO_BATCHES, run, worker

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def full() -> AdapterWorker:
    return worker()


@pytest.fixture(scope="module")
def half() -> AdapterWorker:
    return worker(precision="bfloat16")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["method"])
def test_every_method_learns_the_same_in_bfloat16_and_repeats_bit_for_bit(
    config: dict[str, Any], full: AdapterWorker, half: AdapterWorker
) -> None:
    calm = {key: 0.0 if key.endswith(("dropout", "drop_path")) else value for key, value in config.items()}
    [expected], [found] = run(full, calm, epochs=1), run(half, calm, epochs=1)
    assert found["train/loss"] == pytest.approx(expected["train/loss"], rel=0.01)
    assert found["val/loss"] == pytest.approx(expected["val/loss"], rel=0.01)
    assert found != expected
    assert run(half, calm, epochs=1) == [found]


def test_in_bfloat16_trainables_optimiser_and_checkpoint_are_float32(tmp_path: Path) -> None:
    trial = worker(precision="bfloat16")
    trial.start(LORA, seed=0, epochs=1, folder=tmp_path)
    trial.step()
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        kinds = {file.get_tensor(name).dtype for name in file.keys() if not name.startswith("random/")}  # noqa: SIM118
    assert kinds == {torch.float32}
    assert {p.dtype for p in trial.model.parameters()} == {torch.float32}


def test_the_head_is_float32_and_what_is_in_front_of_it_is_not() -> None:
    model = timm.create_model("test_vit", num_classes=5, img_size=32).eval()
    kinds: dict[str, torch.dtype] = {}
    for name in ("head", "blocks.0.attn.qkv"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, output, name=name: kinds.__setitem__(name, output.dtype))
    logits(model, torch.randn(2, 3, 32, 32), "bfloat16")
    assert kinds == {"head": torch.float32, "blocks.0.attn.qkv": torch.bfloat16}


def test_attention_is_explicit_only_while_a_trial_runs_in_bfloat16_on_a_cpu() -> None:
    trial = worker(precision="bfloat16")
    attention = [module for module in trial.model.modules() if hasattr(module, "fused_attn")]
    assert attention
    assert all(module.fused_attn for module in attention)
    trial.start(LORA, seed=0, epochs=1, folder=None)
    assert not any(module.fused_attn for module in attention)
    trial.finish()
    assert all(module.fused_attn for module in attention)


def test_explicit_attention_changes_only_what_was_fused_and_is_taken_back() -> None:
    model = timm.create_model("test_vit", num_classes=0)
    model.blocks[1].attn.fused_attn = False
    changed = explicit_attention(model)
    assert len(changed) == len(model.blocks) - 1
    fused_attention(changed)
    assert [block.attn.fused_attn for block in model.blocks] == [i != 1 for i in range(len(model.blocks))]


@pytest.mark.parametrize("layers", ["last-1", "last-3"])
def test_activations_kept_in_front_of_the_first_adapted_block_change_no_bit_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch, layers: str
) -> None:
    trial = shortened(make(BACKBONE, {"kind": "digits"}, {"device": "cpu", "precision": "bfloat16"}), n_validation=TWO_BATCHES)
    trial.start({**LORA, "lora.layers": layers}, seed=0, epochs=1, folder=None)
    kept = trial.evaluate("validation")
    monkeypatch.setattr("trainables.training.prefix.PREFIX_BYTES", 0)
    assert kept == trial.evaluate("validation")


# -- the probe -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("speedup", "difference", "chosen"),
    [
        (1.15, 0.0, "bfloat16"),
        (1.149, 0.0, "float32"),
        (4.0, 0.02, "bfloat16"),
        (4.0, 0.0201, "float32"),
        (4.0, math.nan, "float32"),
        (4.0, math.inf, "float32"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_clearly_faster_and_its_loss_that_of_float32(
    speedup: float, difference: float, chosen: str
) -> None:
    assert choice(speedup, difference)["chosen"] == chosen


def test_the_probe_says_what_it_measured_and_chooses_by_it() -> None:
    found = try_both(timm.create_model("test_vit", num_classes=0, img_size=32).eval(), CPU)
    assert found["speedup"] > 0
    assert found["loss_difference"] < 0.02
    assert found["chosen"] == ("bfloat16" if "times as fast" in found["why"] and found["speedup"] >= 1.15 else "float32")


def test_the_probe_does_not_count_the_time_for_which_another_process_has_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that waits stands for one on a busy machine: a study's precision depended on who else was at work."""

    def probe() -> float:
        return float(try_both(timm.create_model("test_vit", num_classes=0, img_size=32).eval(), CPU)["speedup"])

    waited, clock = [0.0], time.perf_counter
    monkeypatch.setattr("trainables.recipe.precision.time.perf_counter", lambda: clock() + waited[0])

    def waiting(model: torch.nn.Module, parts: Any, n_images: int, recipe: Recipe) -> torch.Tensor:
        waited[0] += 100.0 if recipe.precision == "bfloat16" else 0.0
        return backward(model, parts, n_images, recipe)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = probe()
        monkeypatch.setattr("trainables.recipe.precision.backward", waiting)
        assert probe() > alone / 10  # by the clock it is some milliseconds over 100 seconds
    finally:
        torch.set_num_threads(threads)


def test_the_packaged_backbone_is_probed_on_cpus_with_amx_only() -> None:
    packaged, large = 300_000, SMALL_WITHOUT_AMX
    amx, avx = torch.cpu._is_amx_tile_supported(), torch.cpu._is_avx512_bf16_supported()
    assert (without_trying(CPU, packaged) is None) == amx
    assert (without_trying(CPU, large) is None) == (amx or avx)


def test_a_synthetic_surface_is_float32_whatever_the_machine() -> None:
    assert choose_precision({}, {"kind": "synthetic"}, {}, backbone_params=0)["chosen"] == "float32"


# -- batches in parts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_parts", [2, 3, 16])
def test_the_gradient_of_a_batch_in_parts_is_that_of_the_whole_batch(n_parts: int) -> None:
    model = timm.create_model("test_vit", num_classes=5, img_size=32).double().eval()
    adapt(model, CLoRA(rank=2, sade_weight=1.0), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for _, parameter in trainable_parameters(model):
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    images = torch.randn(16, 3, 32, 32, dtype=torch.float64, generator=generator)
    labels = torch.randint(5, (16,), generator=generator)
    recipe = Recipe(label_smoothing=0.1)

    def gradients(n: int) -> tuple[float, list[torch.Tensor]]:
        model.zero_grad()
        loss = backward(model, zip(images.tensor_split(n), labels.tensor_split(n), strict=True), 16, recipe)
        return loss.item(), [p.grad.clone() for _, p in trainable_parameters(model) if p.grad is not None]

    loss, whole = gradients(1)
    again, parts = gradients(n_parts)
    assert again == pytest.approx(loss, rel=1e-12)
    assert len(whole) == len(parts) == len(dict(trainable_parameters(model)))
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(whole, parts, strict=True))


def test_the_loss_of_a_batch_is_its_mean_cross_entropy() -> None:
    model = timm.create_model("test_vit", num_classes=5, img_size=32).double().eval()
    adapt(model, LoRA(rank=2), generator=torch.Generator().manual_seed(0))
    images, labels = torch.randn(6, 3, 32, 32, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    parts = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    expected = F.cross_entropy(model(images), labels).item()
    assert backward(model, parts, 6, Recipe()).item() == pytest.approx(expected, rel=1e-12)


def test_a_trial_with_batches_in_parts_learns_what_one_with_whole_batches_does() -> None:
    calm = {**LORA, "lora.dropout": 0.0, "recipe.drop_path": 0.0}
    [whole], [parts] = run(worker(), calm, epochs=1), run(worker(accumulate=3), calm, epochs=1)
    assert parts == pytest.approx(whole, rel=1e-4)
    assert parts != whole


# -- compiled ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_compiled_trial_learns_what_a_plain_one_does_and_leaves_a_plain_model() -> None:
    calm = {"method": "head_only", **SHARED, "recipe.drop_path": 0.0}
    backbone = {"name": small_models.small_vit.__name__, "weights": "random"}  # of few blocks, which take long to compile
    plain, trial = (
        shortened(make(backbone, {"kind": "digits"}, {"device": "cpu", "compile": compiled})) for compiled in (False, True)
    )
    compilations = torch._dynamo.utils.counters["stats"]  # of the whole process
    begun = compilations["unique_graphs"]
    [expected], [found] = run(plain, calm, epochs=1), run(trial, calm, epochs=1)
    assert found == pytest.approx(expected, rel=1e-4)
    assert "forward_features" not in vars(trial.model)
    before = compilations["unique_graphs"]
    assert before > begun
    assert run(trial, calm | {"optim.lr": 0.5 * calm["optim.lr"]}, epochs=1) != [found]  # another rate
    assert run(trial, calm, epochs=1) == [found]
    assert compilations["unique_graphs"] == before
    compiling.forget()
    assert run(trial, calm, epochs=1) == [found]
    assert compilations["unique_graphs"] - before == before - begun
