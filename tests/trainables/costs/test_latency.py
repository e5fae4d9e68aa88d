"""Inference latency: both forms of a model are timed, and nothing about it changes."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from torch import Tensor, nn

from trainables import make, measure, measure_latency
from trainables.adapters import METHODS, Adapter, HeadOnly, Layer, LoRA, Method, adapt, adapted_layers, method_of
from trainables.adapters.families import Blocks
from trainables.costs.counting import forward_gflops
from trainables.costs.latency import MIN_REPEATS, latency

from ..short import shortened

pytestmark = pytest.mark.slow

SLOW_MS = 1.0
GLYPHS = {"name": "vit_glyphs"}


class SlowLayer(Layer):
    """Computes what its base computes, and takes its time; folded into the weight it takes none."""

    def adapted_weight(self) -> Tensor:
        return self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        begun = time.perf_counter()
        while time.perf_counter() - begun < SLOW_MS / 1e3:
            pass
        y: Tensor = self.base(x)
        return y


@dataclass(frozen=True)
class Slow(Method):
    """One slow layer in every block."""

    name: ClassVar[str] = "slow"
    layers: str = "all"

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        return {f"{path}.mlp.fc1": SlowLayer(block.mlp.fc1) for path, block in blocks.items()}


def tiny() -> nn.Module:
    model: nn.Module = timm.create_model("test_vit", num_classes=3, img_size=32)
    return model


def test_the_unmerged_form_pays_for_its_layers_and_the_merged_one_does_not() -> None:
    model = tiny()
    adapt(model, Slow())
    n_layers = len(adapted_layers(model))
    found = latency(model, precision="float32", seconds=0.0)
    assert found.merged_ms is not None
    assert found.n == MIN_REPEATS
    assert found.unmerged_ms > SLOW_MS * n_layers
    assert found.unmerged_ms - found.merged_ms > SLOW_MS * n_layers / 2


def test_a_model_is_left_as_it_was() -> None:
    model = tiny().train()
    adapt(model, LoRA(rank=2))
    names, images = [name for name, _ in model.named_modules()], torch.rand(2, 3, 32, 32)
    before = model(images)
    latency(model, precision="float32", seconds=0.0)
    assert [name for name, _ in model.named_modules()] == names
    assert model.training
    assert torch.equal(model(images), before)


def test_what_cannot_be_merged_says_why_and_has_no_merged_latency() -> None:
    model = tiny()
    adapt(model, Adapter(rank=2))
    found = latency(model, precision="float32", seconds=0.0)
    assert found.merged_ms is None
    assert found.unmergeable is not None
    assert "mlp cannot be merged: its activation makes the update non-linear" in found.unmergeable
    assert found.metrics.keys() == {"cost/latency_ms"}


def test_where_nothing_is_to_be_folded_both_forms_are_one() -> None:
    model = tiny()
    adapt(model, HeadOnly())
    found = latency(model, precision="float32", seconds=0.0)
    assert found.merged_ms == found.unmerged_ms


def test_a_configuration_is_measured_without_weights_or_data_and_with_what_it_drops() -> None:
    found = measure_latency(GLYPHS, {"kind": "digits"}, {"n_threads": 1}, {"method": "heart_lora"}, n_classes=10)
    assert found["cost/latency_merged_ms"] > 0.0
    assert (found["device"], found["threads"], found["precision"], found["unmergeable"]) == ("cpu", 1, "float32", None)
    with pytest.raises(ValueError, match="a synthetic surface computes nothing"):
        measure_latency({}, {"kind": "synthetic"}, {}, {"method": "lora"}, n_classes=10)


CONFIG: dict[str, Any] = {"method": "lora", "lora.rank": 1, "lora.layers": "last-1", "optim.lr": 1e-3}


def test_a_trial_measures_it_once_after_its_first_epoch_and_keeps_it_over_a_restart(tmp_path: Path) -> None:
    trainable = shortened(make(GLYPHS, {"kind": "digits"}, {"latency": True}))
    trainable.start(CONFIG, seed=0, epochs=3, folder=tmp_path)
    first, second = trainable.step(), trainable.step()
    assert first["cost/latency_ms"] == second["cost/latency_ms"]
    trainable.start(CONFIG, seed=0, epochs=3, folder=tmp_path)
    third = trainable.step()
    for key in ("cost/latency_ms", "cost/latency_merged_ms", "cost/gflops"):
        assert third[key] == first[key] > 0.0
    trainable.finish()


def test_a_trial_measures_no_latency_unless_it_is_asked_for() -> None:
    trainable = shortened(make(GLYPHS, {"kind": "digits"}, {}))
    trainable.start(CONFIG, seed=0, epochs=1, folder=None)
    assert not [key for key in trainable.step() if "latency" in key]
    trainable.finish()


@pytest.fixture(scope="module")
def sizes() -> Any:
    return measure({"name": "test_vit", "img_size": 32}, {"kind": "none", "n_classes": 3})


@pytest.mark.parametrize("method", METHODS)
def test_operations_known_before_training_are_those_of_the_real_model(sizes: Any, method: str) -> None:
    config = {"method": method}
    model = tiny()
    of_method = method_of(config)
    adapt(model, of_method)
    of_method.shrink_to_final_size(model)
    assert sizes.gflops(config) == forward_gflops(model) > 0.0


def test_whether_an_adapter_can_be_merged_is_known_before_training() -> None:
    sizes = measure({"name": "test_vit"}, {"kind": "none", "n_classes": 3})
    assert sizes.unmergeable({"method": "lora"}) is None
    assert "cannot be merged: its activation" in str(sizes.unmergeable({"method": "adapter"}))
