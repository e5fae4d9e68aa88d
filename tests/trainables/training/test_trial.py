"""A trial is a function of its configuration and seed, whatever ran before it, and leaves nothing behind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from trainables import make
from trainables.adapters import METHODS, regulariser
from trainables.backbones import fingerprint
from trainables.protocol import STOP_FLAG, Stopped
from trainables.recipe.recipe import learning_rate_of_epoch
from trainables.tasks.base import EVAL_BATCH
from trainables.training.trial import AdapterWorker

from ..short import shortened

pytestmark = pytest.mark.slow

BACKBONE = {"name": "test_vit", "weights": "random", "img_size": 32}
SHARED = {"optim.lr": 3e-3, "optim.weight_decay": 1e-2, "optim.batch_size": 32, "recipe.drop_path": 0.2}
TWO_BATCHES = EVAL_BATCH + 20  # images of a split that is evaluated in two batches, of unequal sizes
CONFIGS: list[dict[str, Any]] = [
    {"method": "head_only", **SHARED},
    {"method": "lora", "lora.rank": 2, "lora.dropout": 0.2, **SHARED},
    {"method": "arc", "arc.rank": 4, "arc.dropout": 0.2, **SHARED},
    {"method": "lily", "lily.rank": 2, "lily.n_experts": 2, **SHARED},
    {"method": "serial_lora", "serial_lora.rank": 2, "serial_lora.dropout": 0.2, **SHARED},
    {"method": "fact", "fact.rank": 4, "fact.dropout": 0.2, **SHARED},
    {"method": "householder", "householder.dropout": 0.2, **SHARED},
    {"method": "snell", "snell.rank": 4, "snell.targets": "qv", **SHARED},
    {"method": "clora", "clora.rank": 2, "clora.sade_weight": 1.0, **SHARED},
    {"method": "adapter", "adapter.rank": 4, "adapter.dropout": 0.2, **SHARED},
    {"method": "adaptformer", "adaptformer.rank": 4, "adaptformer.dropout": 0.2, **SHARED},
    {"method": "randlora", "randlora.rank": 16, **SHARED},
    {"method": "heart_lora", "heart_lora.rank": 2, "heart_lora.active_head_ratio": 0.5, "heart_lora.warmup_epochs": 1, **SHARED},
    {"method": "ssf", **SHARED},
    {"method": "layer_norm", **SHARED},
    {"method": "bitfit", **SHARED},
    {"method": "full", **SHARED},
    {"method": "difffit", **SHARED},
    {"method": "rep_adapter", "rep_adapter.rank": 4, "rep_adapter.dropout": 0.2, **SHARED},
    {"method": "adapter_plus", "adapter_plus.rank": 4, "adapter_plus.drop_path": 0.2, **SHARED},
    {"method": "vpt", "vpt.length": 3, "vpt.dropout": 0.2, **SHARED},
    {"method": "convpass", "convpass.rank": 4, "convpass.dropout": 0.2, **SHARED},
]
LORA = CONFIGS[1]


def worker(**recipe: Any) -> AdapterWorker:
    """One that trains on 96 images, three batches, and evaluates 32."""
    return shortened(make(BACKBONE, {"kind": "digits"}, {"device": "cpu", "clip_norm": 1.0, **recipe}))


@pytest.fixture(scope="module")
def shared_worker() -> AdapterWorker:
    return worker()


@pytest.fixture(scope="module")
def second_worker() -> AdapterWorker:
    """Another process, which never ends a trial."""
    return worker()


@pytest.fixture
def warm(shared_worker: AdapterWorker) -> Iterator[AdapterWorker]:
    """One worker for many tests, as in a search."""
    yield shared_worker
    shared_worker.finish()


def without_costs(metrics: Mapping[str, float] | None) -> dict[str, float]:
    assert metrics is not None
    return {name: value for name, value in metrics.items() if not name.startswith("cost/")}


def run(trial: AdapterWorker, config: Mapping[str, Any], epochs: int = 2, seed: int = 0) -> list[dict[str, float]]:
    assert trial.start(config, seed=seed, epochs=epochs, folder=None) == 0
    metrics = [without_costs(trial.step()) for _ in range(epochs)]
    trial.finish()
    return metrics


@pytest.fixture(scope="module")
def first_results() -> list[list[dict[str, float]]]:
    """The first configurations, each on a worker of its own."""
    return [run(worker(), config) for config in CONFIGS[:4]]


def test_every_method_is_tried_here() -> None:
    assert {config["method"] for config in CONFIGS} == set(METHODS)


def test_metrics_do_not_depend_on_which_trials_the_worker_ran_before(
    warm: AdapterWorker, first_results: list[list[dict[str, float]]]
) -> None:
    for order in ((3, 2, 1, 0), (1, 1, 2)):
        for i in order:
            torch.manual_seed(i)  # nor on the process's random numbers
            assert run(warm, CONFIGS[i]) == first_results[i], CONFIGS[i]["method"]


def test_a_trial_leaves_the_processs_random_numbers_alone(warm: AdapterWorker) -> None:
    before = torch.get_rng_state()
    run(warm, LORA, epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_is_another_trial(warm: AdapterWorker, first_results: list[list[dict[str, float]]]) -> None:
    assert run(warm, LORA, seed=1) != first_results[1]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["method"])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    warm: AdapterWorker, second_worker: AdapterWorker, config: dict[str, Any], tmp_path: Path
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    warm.start(config, seed=5, epochs=2, folder=whole)
    expected = [without_costs(warm.step()) for _ in range(2)]

    assert second_worker.start(config, seed=5, epochs=2, folder=parts) == 0
    assert second_worker.replay() is None
    first = without_costs(second_worker.step())  # and is killed

    run(warm, CONFIGS[2], epochs=1)
    assert warm.start(config, seed=5, epochs=2, folder=parts) == 1
    assert without_costs(warm.replay()) == first == expected[0]
    assert without_costs(warm.step()) == expected[1]
    assert tensors(whole) == tensors(parts)


def tensors(folder: Path) -> dict[str, list[Any]]:
    with safe_open(folder / "checkpoint.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name).tolist() for name in file.keys()}  # noqa: SIM118


def test_a_trial_stops_at_its_next_batch_when_told_and_goes_on_from_its_checkpoint(warm: AdapterWorker, tmp_path: Path) -> None:
    expected = run(warm, LORA, epochs=3)
    warm.start(LORA, seed=0, epochs=3, folder=tmp_path)
    warm.step()
    normalise, n_batches = warm._prefixes._normalise, 0

    def normalise_and_count(images: torch.Tensor) -> torch.Tensor:
        nonlocal n_batches
        n_batches += 1
        if n_batches == 2:
            (tmp_path / STOP_FLAG).touch()
        return normalise(images)

    warm._prefixes._normalise = normalise_and_count  # type: ignore[assignment]
    try:
        with pytest.raises(Stopped):
            warm.step()
    finally:
        warm._prefixes._normalise = normalise
    assert n_batches == 2
    warm.finish()
    (tmp_path / STOP_FLAG).unlink()
    assert warm.start(LORA, seed=0, epochs=3, folder=tmp_path) == 1
    assert [without_costs(warm.step()) for _ in range(2)] == expected[1:]


def test_by_epochs_all_steps_of_an_epoch_have_its_learning_rate(warm: AdapterWorker) -> None:
    warm.start(LORA | {"recipe.schedule": "epoch", "recipe.warmup_fraction": 0.5}, seed=0, epochs=4, folder=None)
    run = warm._running()
    for epoch in range(3):
        warm.step()
        rate = learning_rate_of_epoch(epoch, 4, run.plan.recipe)
        assert {group["lr"] for group in run.optimiser.param_groups} == {rate}
        assert (rate == 1e-6) is (epoch < 2)


def test_sgd_resumes_from_its_checkpoint_with_its_momentum(warm: AdapterWorker, tmp_path: Path) -> None:
    sgd = LORA | {"recipe.optimizer": "sgd", "recipe.decay": "all", "recipe.head_init": "kaiming", "optim.lr": 0.05}
    warm.start(sgd, seed=0, epochs=2, folder=None)
    whole = [without_costs(warm.step()) for _ in range(2)]
    warm.start(sgd, seed=0, epochs=2, folder=tmp_path)
    assert without_costs(warm.step()) == whole[0]
    warm.finish()
    assert warm.start(sgd, seed=0, epochs=2, folder=tmp_path) == 1
    assert without_costs(warm.step()) == whole[1]


def test_a_finished_trial_is_replayed_and_can_be_given_more_epochs(warm: AdapterWorker, tmp_path: Path) -> None:
    warm.start(LORA, seed=0, epochs=1, folder=tmp_path)
    done = warm.step()
    with pytest.raises(RuntimeError, match="has already trained all of its 1 epochs"):
        warm.step()
    assert warm.start(LORA, seed=0, epochs=1, folder=tmp_path) == 1
    assert warm.replay() == done
    assert warm.start(LORA, seed=0, epochs=2, folder=tmp_path) == 1
    warm.step()


def test_a_checkpoint_holds_the_trainable_set_and_nothing_of_the_backbone(warm: AdapterWorker, tmp_path: Path) -> None:
    warm.start(LORA, seed=0, epochs=1, folder=tmp_path)
    warm.step()
    trained = {name for name, parameter in warm.model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in warm.model.named_parameters() if not parameter.requires_grad}
    with safe_open(tmp_path / "checkpoint.safetensors", framework="pt") as file:
        names, facts = set(file.keys()), json.loads(file.metadata()["facts"])
    moments = {f"optimiser/{name}/{key}" for name in trained for key in ("step", "exp_avg", "exp_avg_sq")}
    assert names == {f"trainable/{name}" for name in trained} | moments | {"random/cpu"}
    assert frozen
    assert (facts["config"], facts["seed"], facts["epoch"]) == (LORA, 0, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.safetensors"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": {**LORA, "lora.rank": 3}}, "a trial resumes from its own checkpoint"),
        ({"seed": 1}, "a trial resumes from its own checkpoint"),
        ({"epochs": 1}, "a trial has at least the epochs of its checkpoint"),
    ],
)
def test_the_checkpoint_of_another_trial_is_refused(
    warm: AdapterWorker, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan: dict[str, Any] = {"config": LORA, "seed": 0, "epochs": 2, "folder": tmp_path}
    warm.start(**plan)
    warm.step()
    warm.step()
    with pytest.raises(ValueError, match=message):
        warm.start(**{**plan, **change})


def test_finish_gives_the_backbone_back_as_it_was_loaded() -> None:
    trial = worker()
    modules, flags = dict(trial.model.named_modules()), [p.requires_grad for p in trial.model.parameters()]
    before = fingerprint(trial.model)
    trial.start(LORA, seed=0, epochs=1, folder=None)
    trial.step()
    trial.finish()
    assert {n: type(m) for n, m in trial.model.named_modules()} == {n: type(m) for n, m in modules.items()}
    assert [p.requires_grad for p in trial.model.parameters()] == flags
    assert all(p.grad is None for p in trial.model.parameters())
    assert not trial.model.training
    assert fingerprint(trial.model) == before


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("full", "pos_embed"),
        ("full", "blocks.2.mlp.fc1.weight"),
        ("bitfit", "norm.bias"),
        ("layer_norm", "blocks.2.norm1.weight"),
        ("difffit", "blocks.2.attn.qkv.bias"),
    ],
)
def test_what_was_trained_of_the_backbone_itself_is_given_back(
    warm: AdapterWorker, first_results: list[list[dict[str, float]]], method: str, name: str
) -> None:
    before = warm.model.get_parameter(name).detach().clone()
    warm.start({"method": method, **SHARED}, seed=0, epochs=1, folder=None)
    warm.step()
    assert not torch.equal(warm.model.get_parameter(name), before)
    warm.finish()
    assert torch.equal(warm.model.get_parameter(name), before)
    assert run(warm, LORA) == first_results[1]


def test_weight_decay_spares_what_timm_spares_when_the_backbone_itself_is_trained(warm: AdapterWorker) -> None:
    warm.start({"method": "full", **SHARED}, seed=0, epochs=1, folder=None)
    decayed, spared = (group["params"] for group in warm._running().optimiser.param_groups)
    matrices = {id(p) for _, p in warm.model.named_parameters() if p.ndim > 1}
    embeddings = {id(warm.model.pos_embed), id(warm.model.cls_token)}
    assert {id(p) for p in decayed} == matrices - embeddings
    assert embeddings <= {id(p) for p in spared}


@pytest.mark.parametrize("name", ["blocks.3.attn.qkv.weight", "pos_embed", "norm.bias"])
def test_a_frozen_weight_that_changed_by_one_bit_is_found_and_named(name: str) -> None:
    trial = worker()
    trial.start(LORA, seed=0, epochs=1, folder=None)
    tensor = dict(trial.model.named_parameters())[name if "qkv" not in name else "blocks.3.attn.qkv.base.weight"]
    tensor.data.view(torch.int32).view(-1)[0] ^= 1
    with pytest.raises(RuntimeError, match=f"changed: {name}; replace this worker"):
        trial.finish()


def test_a_loss_that_is_not_finite_ends_the_trial_and_names_the_step(warm: AdapterWorker) -> None:
    law = r"the (training|validation) loss is not finite \((nan|inf)\) (at step \d+ of 12|after epoch \d of 4).*; lower optim\.lr"
    with pytest.raises(FloatingPointError, match=law):
        run(warm, {**LORA, "optim.lr": 1e30}, epochs=4)
    warm.finish()  # and the worker is good for the next trial
    assert all(math.isfinite(value) for value in run(warm, LORA, epochs=1)[0].values())


def test_an_impossible_configuration_leaves_the_worker_ready(
    warm: AdapterWorker, first_results: list[list[dict[str, float]]]
) -> None:
    with pytest.raises(ValueError, match=r"lora\.rank must be at most 64"):
        warm.start({**LORA, "lora.rank": 65}, seed=0, epochs=1, folder=None)
    assert run(warm, LORA) == first_results[1]


def test_a_trial_that_was_not_finished_is_left_when_the_next_one_starts(
    warm: AdapterWorker, first_results: list[list[dict[str, float]]]
) -> None:
    warm.start(CONFIGS[3], seed=0, epochs=2, folder=None)
    warm.step()
    assert run(warm, LORA) == first_results[1]


def test_no_step_without_a_trial(warm: AdapterWorker) -> None:
    with pytest.raises(RuntimeError, match="no trial is running; start one"):
        warm.step()


def test_metrics_are_fractions_losses_and_costs(warm: AdapterWorker) -> None:
    warm.start(LORA, seed=0, epochs=1, folder=None)
    metrics = warm.step()
    assert set(metrics) == {
        "val/top1", "val/loss", "train/loss", "cost/train_seconds", "cost/eval_seconds", "cost/images_per_second",
        "cost/step_seconds", "cost/peak_memory_bytes", "cost/gflops"
    }  # fmt: skip
    assert (metrics["val/top1"] * 32) == pytest.approx(round(metrics["val/top1"] * 32))
    assert metrics["cost/images_per_second"] == pytest.approx(96 / metrics["cost/train_seconds"])  # 3 batches of 32
    assert metrics["cost/step_seconds"] == pytest.approx(metrics["cost/train_seconds"] / 3)
    assert 2**26 < metrics["cost/peak_memory_bytes"] < 2**36


def test_a_regulariser_enters_the_training_loss_with_its_weight(warm: AdapterWorker) -> None:
    losses, after_one_step = {}, {}
    for weight in (0.0, 1e3):
        config = {"method": "clora", "clora.sade_weight": weight, **SHARED, "optim.lr": 0.1, "optim.batch_size": 96}
        warm.start(config, seed=0, epochs=2, folder=None)
        first = warm.step()["train/loss"]  # the only step of an epoch of 96 images, taken where SADE and its gradient are zero
        after_one_step[weight] = regulariser(warm.model)
        losses[weight] = (first, warm.step()["train/loss"])
    assert losses[0.0][0] == losses[1e3][0]
    assert after_one_step[0.0] is None
    assert after_one_step[1e3] > 1
    assert losses[1e3][1] - losses[0.0][1] == pytest.approx(after_one_step[1e3].item(), rel=1e-4)


def test_evaluation_is_the_mean_over_the_split() -> None:
    trial = shortened(make(BACKBONE, {"kind": "digits"}, {"device": "cpu"}), n_validation=TWO_BATCHES)
    trial.start(CONFIGS[0], seed=0, epochs=1, folder=None)
    images, labels = trial._splits["validation"].images, trial._splits["validation"].labels
    with torch.inference_mode():
        logits = torch.cat([trial.model(trial._normalise(image[None])) for image in images]).double()
    correct = sum(int(row.argmax()) == int(label) for row, label in zip(logits, labels, strict=True))
    loss = -sum(float(row.log_softmax(0)[label]) for row, label in zip(logits, labels, strict=True)) / TWO_BATCHES
    assert trial.evaluate("validation") == {"top1": pytest.approx(correct / TWO_BATCHES), "loss": pytest.approx(loss, rel=1e-5)}


@pytest.mark.parametrize(
    ("name", "layers"),
    [  # in front of the patches none, a class token, registers; attention pooling
        *(("vit_glyphs", layers) for layers in ("last-1", "last-3", "none")),
        *((name, "last-3") for name in ("test_vit", "test_vit2", "test_vit3")),
    ],
)
def test_activations_kept_in_front_of_the_first_adapted_block_change_no_bit(
    monkeypatch: pytest.MonkeyPatch, name: str, layers: str
) -> None:
    config = CONFIGS[0] if layers == "none" else {**LORA, "lora.layers": layers}
    trial = shortened(make({**BACKBONE, "name": name}, {"kind": "digits"}, {"device": "cpu"}), n_validation=TWO_BATCHES)
    trial.start(config, seed=0, epochs=1, folder=None)
    kept = [trial.evaluate("validation") for _ in range(2)]
    monkeypatch.setattr("trainables.training.prefix.PREFIX_BYTES", 0)
    assert kept == [trial.evaluate("validation")] * 2


def test_the_packaged_backbone_learns_digits_that_it_has_never_seen() -> None:
    trial = shortened(make({"name": "vit_glyphs"}, {"kind": "digits"}, {"device": "cpu"}), n_train=200, n_validation=200)
    trial.start({"method": "lora", "lora.rank": 4, "optim.lr": 5e-3, "optim.batch_size": 16}, seed=0, epochs=6, folder=None)
    for _ in range(6):
        metrics = trial.step()
    assert metrics["val/top1"] > 0.9
    trial.finish()
