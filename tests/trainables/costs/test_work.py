"""The work of a step against counts by hand, and constants that are found again from the steps that they made."""

from __future__ import annotations

from typing import Any, cast

import pytest
import timm
import torch
from torch import nn

import spaces
from trainables import count_epochs, make, measure_speed
from trainables.adapters import adapt, method_of, remove
from trainables.costs.counting import forward_gflops
from trainables.costs.speed import REFERENCES, fit
from trainables.costs.work import EpochWork, Work, count, evaluation_work, step_work
from trainables.recipe.cut import after, deepest_cut, last_cut
from trainables.recipe.recipe import Recipe
from trainables.training.trial import AdapterWorker

PLAIN = Recipe(drop_path=0.0)
DIGITS: Any = ({"name": "vit_glyphs"}, {"kind": "digits"}, {"n_threads": 1})


def test_a_matrix_product_is_counted_by_hand_and_a_view_moves_nothing() -> None:
    left, right = torch.zeros(3, 5, device="meta"), torch.zeros(7, 5, device="meta")
    found = count(lambda: left @ right.t())
    assert found == Work(operations=2 * 3 * 5 * 7, bytes=4 * (15 + 35 + 21), calls=2)


@pytest.fixture
def tiny() -> nn.Module:
    return timm.create_model("test_vit", num_classes=7, img_size=64, device="meta")


def operations(model: nn.Module, config: dict[str, Any], n_images: int = 4) -> float:
    adapt(model, method_of(config))
    try:
        return step_work(model, n_images, PLAIN).operations
    finally:
        remove(model)


def test_the_backward_pass_reaches_down_to_the_first_trained_parameter_only(tiny: nn.Module) -> None:
    """Backwards, a frozen matrix costs one product (the gradient of its input) and a trained one two."""
    forward = 4 * 1e9 * forward_gflops(tiny)
    full, head = operations(tiny, {"method": "full"}), operations(tiny, {"method": "head_only"})
    assert head == pytest.approx(forward, rel=0.01)
    assert 2.8 * forward < full < 3 * forward  # images need no gradient
    lora = {"method": "lora", "lora.rank": 1, "lora.targets": "qv"}
    everywhere, last = operations(tiny, lora), operations(tiny, lora | {"lora.layers": "last-1"})
    assert 1.8 * forward < everywhere < 2.2 * forward
    assert head < last < (everywhere + head) / 2


def test_a_batch_in_parts_is_the_same_work_but_for_more_kernels(tiny: nn.Module) -> None:
    adapt(tiny, method_of({"method": "adapter"}))
    whole, parts = step_work(tiny, 8, PLAIN), step_work(tiny, 8, Recipe(drop_path=0.0, accumulate=4))
    assert parts.operations == whole.operations
    assert parts.calls > 3 * whole.calls


def test_what_is_in_front_of_a_cut_is_no_work(tiny: nn.Module) -> None:
    adapt(tiny, method_of({"method": "lora", "lora.layers": "last-1"}))
    whole = 300e9 * forward_gflops(tiny)
    assert evaluation_work(tiny, 300).operations == pytest.approx(whole, rel=0.05)  # a delta of the weight is made once a batch
    kept = [evaluation_work(tiny, 300, cut).operations for cut in range(1, last_cut(tiny) + 1)]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 0.01 * whole
    cut = deepest_cut(tiny)
    assert step_work(tiny, 8, PLAIN, cut).operations < 0.5 * step_work(tiny, 8, PLAIN).operations


@pytest.mark.parametrize("cuts", [None, [5]])
def test_the_work_is_that_of_a_worker_which_keeps_tokens(cuts: list[int] | None) -> None:
    backbone, data_set, recipe = DIGITS
    of_study = (backbone, data_set, {**recipe, "prefix_cuts": cuts, "prefix_bytes": 2**30})
    worker = cast(AdapterWorker, make(*of_study))
    config = spaces.joint(["lora"]).default("lora") | {"lora.layers": "last-1"}
    worker.start(config, seed=0, epochs=1, folder=None)
    predicted = EpochWork(*of_study)
    step, evaluation = predicted._passes(config)
    found = {}
    with torch.no_grad():  # in inference mode kernels are not told apart
        for name in ("train", "validation"):
            inputs = worker._prefixes.inputs(name, worker._splits[name], "float32", lambda: None)
            assert (inputs.cut > 0) is (name == "validation" or cuts is not None)
            batch = next(inputs.batches(32 if name == "train" else 200))
            forward = after(worker.model, inputs.cut)
            found[name] = count(lambda batch=batch, forward=forward: forward.head(forward.features(batch)))  # type: ignore[misc]
    assert evaluation.operations == pytest.approx(800 / 200 * found["validation"].operations)
    assert step.operations == pytest.approx(2 * found["train"].operations, rel=0.5)  # forward, and what is behind the adapter back
    assert predicted.epoch(config).operations == pytest.approx(step.operations * (200 // 32) + evaluation.operations)
    worker.finish()


def test_a_structure_is_counted_once_and_leaves_the_model_ready_for_the_next() -> None:
    work, space = count_epochs(*DIGITS), spaces.joint(["lora", "arc"])
    lora = space.default("lora")
    first = work.epoch(lora)
    assert work.epoch(lora | {"optim.lr": 0.5}) is not first
    assert work.epoch(lora | {"optim.lr": 0.5}) == first
    assert len(work._known) == 1
    assert work.epoch(space.default("arc")) != first
    with pytest.raises(ValueError, match=r"lora\.rank must be at most"):
        work.epoch(lora | {"lora.rank": 10_000})
    assert work.epoch(lora | {"optim.batch_size": 64}).calls < first.calls


def test_what_has_no_images_has_no_epoch() -> None:
    with pytest.raises(ValueError, match="there is no cost to plan"):
        count_epochs({"name": "vit_glyphs"}, {"kind": "synthetic"}, {})
    with pytest.raises(ValueError, match="there is no epoch to predict"):
        count_epochs({"name": "vit_glyphs"}, {"kind": "none", "n_classes": 3}, {})


# -- speed -------------------------------------------------------------------------------------------------------------------------

WORKS = [Work(1e9, 1e8, 300), Work(3e9, 4e8, 900), Work(3e9, 5e8, 2600)]


@pytest.mark.parametrize("truth", [(1e-11, 5e-11, 5e-6), (1e-13, 1e-12, 2e-5), (3e-11, 2e-10, 1e-7)])
def test_steps_that_follow_the_model_are_predicted_within_a_few_percent(truth: tuple[float, float, float]) -> None:
    def seconds(work: Work, constants: tuple[float, float, float]) -> float:
        return sum(value * one for value, one in zip((work.operations, work.bytes, work.calls), constants, strict=True))

    found, error = fit(WORKS, [seconds(work, truth) for work in WORKS])
    assert min(found) >= 0
    assert error < 1.15
    other = Work(2e9, 3e8, 1500)
    assert seconds(other, found) == pytest.approx(seconds(other, truth), rel=0.15)


def test_a_machine_is_measured_with_a_few_steps_on_noise() -> None:
    told: list[tuple[int, int, str]] = []
    speed = measure_speed({"name": "vit_glyphs"}, {"n_threads": 1}, lambda *what: told.append(what))
    assert told == [*((i, 3, name) for i, name in enumerate(REFERENCES)), (3, 3, "")]
    assert speed.n_images >= 1
    assert speed.peak_bytes >= speed.base_bytes > 0
    assert 0 < speed.setup_seconds < 5
    work, space = count_epochs(*DIGITS), spaces.joint(["head_only", "lora", "householder"])
    head, lora, householder = (speed.seconds(work.epoch(space.default(name))) for name in REFERENCES)
    assert 0 < head < lora < householder
