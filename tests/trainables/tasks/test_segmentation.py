"""Segmentation: metric and loss are those of a naive reading, the head is on every backbone, and every method trains with it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch.nn import functional as F

from trainables import backbones, make, measure
from trainables.adapters import METHODS, trainable_parameters
from trainables.adapters.base import adaptation
from trainables.data.batches import MaskedSplit, Normaliser
from trainables.tasks.quality import measure as measured
from trainables.tasks.segmentation import IGNORED, SEGMENTATION, Head
from trainables.training.prefix import Inputs
from trainables.training.trial import AdapterWorker

from .. import small_models
from .scenes import scenes

assert small_models  # registers its models with timm


def naive_miou(answers: np.ndarray, masks: np.ndarray, n_classes: int) -> float:
    """The mean over the classes that have a pixel, pixel by pixel."""
    shared, either, occurring = [0] * n_classes, [0] * n_classes, set()
    for answer, wanted in zip(answers.flatten().tolist(), masks.flatten().tolist(), strict=True):
        if wanted == IGNORED:
            continue
        occurring.add(wanted)
        for c in range(n_classes):
            shared[c] += answer == c and wanted == c
            either[c] += c in (answer, wanted)
    return sum(shared[c] / either[c] for c in occurring) / len(occurring) if occurring else math.nan


def random_case(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (6, 5, 4, 7) and masks: class 3 is in no mask, and in some cases neither are others; a mask may be ignored whole."""
    rng = np.random.default_rng(seed)
    masks = rng.choice([0, 1, 2, 4, IGNORED][: 2 + seed % 4] if seed % 4 != 3 else [0, 4, IGNORED], size=(6, 4, 7)).astype(np.uint8)
    masks[seed % 6] = IGNORED
    return torch.from_numpy(rng.normal(size=(6, 5, 4, 7)).astype(np.float32)), torch.from_numpy(masks)


@pytest.mark.parametrize("seed", range(8))
def test_the_mean_iou_is_that_of_a_naive_count_over_the_whole_split(seed: int) -> None:
    logits, masks = random_case(seed)
    kept = torch.cat([SEGMENTATION.keep(a, b) for a, b in zip(logits.split(4), masks.split(4), strict=True)])
    expected = naive_miou(logits.argmax(1).numpy(), masks.numpy(), 5)
    assert SEGMENTATION.scores(kept, masks)["miou"] == pytest.approx(expected, abs=1e-12)
    drawn = [0, 3, 3, 5]  # as P(front) draws images again
    answers, true = SEGMENTATION.answers(kept, masks)
    expected = naive_miou(logits.argmax(1).numpy()[drawn], masks.numpy()[drawn], 5)
    assert measured("miou", answers[drawn], true[drawn]) == pytest.approx(expected, abs=1e-12)


def test_a_split_without_a_labelled_pixel_has_no_mean_iou() -> None:
    kept = SEGMENTATION.keep(torch.zeros(2, 3, 4, 4), torch.full((2, 4, 4), IGNORED, dtype=torch.uint8))
    assert math.isnan(SEGMENTATION.scores(kept, torch.zeros(0))["miou"])
    assert SEGMENTATION.scores(kept, torch.zeros(0))["loss"] == 0.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_an_image_is_the_mean_over_its_labelled_pixels(smoothing: float) -> None:
    logits, masks = random_case(1)
    by_hand = 0.0
    for image, mask in zip(logits.double(), masks, strict=True):
        losses = []
        for y, x in (mask != IGNORED).nonzero().tolist():
            aim = torch.full((5,), smoothing / 5, dtype=torch.double)
            aim[int(mask[y, x])] += 1 - smoothing
            losses.append(-float((aim * image[:, y, x].log_softmax(0)).sum()))
        by_hand += sum(losses) / max(len(losses), 1) / 6
    whole = SEGMENTATION.loss(logits, masks, 6, smoothing)
    assert whole.item() == pytest.approx(by_hand, rel=1e-5)
    parts = sum(SEGMENTATION.loss(logits[i], masks[i], 6, smoothing) for i in torch.arange(6).tensor_split(4))
    assert parts == pytest.approx(whole.item(), rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [  # of test_vit3 the plain head pools by attention, of others by a mean
        *("vit_emoji", "test_vit", "test_vit2", "test_vit3"),
        *("small_vit_without_qkv_bias", "small_beit", "small_eva", "small_swin", "small_hybrid"),
    ],
)
def test_the_head_is_a_norm_and_a_convolution_on_the_patches_of_every_family(name: str) -> None:
    model: Any = backbones.create(name, backbones.RANDOM)
    wanted = backbones.preprocessing(model)
    images = torch.randn(2, wanted.channels, *wanted.size, generator=torch.Generator().manual_seed(0))
    before, plain = backbones.fingerprint(model), model(images)
    SEGMENTATION.set_head(model, 5, torch.Generator().manual_seed(1))
    head: Head = model.get_classifier()
    head.norm.running_mean.uniform_()  # type: ignore[union-attr]
    width, (rows, columns) = model.num_features, head.grid
    assert sum(p.numel() for p in head.parameters()) == 2 * width + 5 * width + 5
    with torch.no_grad():
        found, tokens = model.eval()(images), model.forward_features(images)
    patches = tokens if tokens.ndim == 4 else tokens[:, model.num_prefix_tokens :].reshape(2, rows, columns, width)
    patches = getattr(model, "fc_norm", torch.nn.Identity())(patches)
    normed = (patches - head.norm.running_mean) / (1 + head.norm.eps) ** 0.5
    by_hand = (normed @ head.conv.weight[:, :, 0, 0].T + head.conv.bias).permute(0, 3, 1, 2)
    assert found.shape == (2, 5, *wanted.size)
    torch.testing.assert_close(found, F.interpolate(by_hand, wanted.size, mode="bilinear"), rtol=1e-4, atol=1e-5)
    SEGMENTATION.remove_head(model)
    assert backbones.fingerprint(model) == before
    assert torch.equal(model(images), plain)


def test_a_backbone_that_drops_patches_has_no_grid_and_is_refused() -> None:
    model = timm.create_model("test_vit", num_classes=0, patch_drop_rate=0.5)
    with pytest.raises(ValueError, match="have no fixed grid"):
        SEGMENTATION.set_head(model, 5, torch.Generator())


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_images_and_masks_are_mirrored_and_cropped_alike_with_or_without_kept_tokens(augment: str) -> None:
    side = 10 if augment == "crop" else 8
    images = torch.randint(256, (9, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = MaskedSplit(images, images[:, 1], (8, 8), augment)
    index = torch.arange(9).repeat(4)
    torch.manual_seed(3)
    taken, masks = split.pairs(index)
    torch.manual_seed(3)
    assert torch.equal(taken, split.take(index))
    assert torch.equal(taken[:, 1], masks)
    assert augment == "none" or len(masks[::9].unique(dim=0)) > 1  # an image is seen in several ways
    for batch, own in zip(split.batches(4), split.targets.split(4), strict=True):
        assert torch.equal(batch[:, 1], own)
    if augment == "flip":
        normalise = Normaliser(backbones.Preprocessing(3, (8, 8), (0.0,) * 3, (1.0,) * 3, "bicubic"), torch.device("cpu"))
        tokens = torch.cat([normalise(batch) for mirrored in (False, True) for batch in split.batches(4, mirrored=mirrored)])
        torch.manual_seed(3)
        kept, of_tokens = Inputs(split, 1, normalise, tokens).take(index)
        assert torch.equal(kept, normalise(taken))
        assert torch.equal(of_tokens, masks)


# -- training ------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scenes(tmp_path_factory.mktemp("scenes"), {"train": 24, "val": 8, "test": 8})


def worker(root: Path, monkeypatch: pytest.MonkeyPatch, name: str = "vit_emoji", **recipe: Any) -> AdapterWorker:
    monkeypatch.setenv("PARETUNE_CACHE", str(root / "cache"))
    weights = None if name == "vit_emoji" else backbones.RANDOM
    data = {"kind": "masks", "path": str(root), "augment": "flip"}
    made = make({"name": name, "weights": weights}, data, {"device": "cpu", "metric": "miou", **recipe})
    assert isinstance(made, AdapterWorker)
    return made


def config(method: str, **more: Any) -> dict[str, Any]:
    return {"method": method, "optim.lr": 1e-2, "optim.batch_size": 8, **more}


def test_every_method_trains_with_the_counted_parameters_and_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial, data = worker(root, monkeypatch, "small_vit"), {"kind": "masks", "path": str(root)}
    sizes = measure({"name": "small_vit"}, data)
    assert (sizes.task, sizes.n_classes) == ("segmentation", 3)
    for method in METHODS:
        trial.start(config(method), seed=0, epochs=1, folder=None)
        metrics = trial.step()
        present = adaptation(trial.model)
        assert present is not None
        trained = sum(p.numel() for _, p in trainable_parameters(trial.model))
        assert sum(sizes.count(config(method))) == trained, method
        assert sizes.count(config(method))[1] == 2 * 64 + 64 * 3 + 3
        assert 0 < metrics["val/miou"] < 1
        assert math.isfinite(metrics["val/loss"])
        assert "val/top1" not in metrics
        trial.finish()  # verifies that the frozen backbone is as it was


def test_an_adapter_is_clearly_better_than_the_head_alone_and_kept_tokens_change_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {}
    for name, recipe in (("head_only", {}), ("head_only", {"prefix_cuts": [5]}), ("lora", {})):
        trial = worker(root, monkeypatch, **recipe)
        without_depth = {"recipe.drop_path": 0.0}  # which does not act in blocks whose tokens are kept
        trial.start(config(name, **without_depth), seed=0, epochs=6, folder=None)
        assert (trial._inputs("train").cut > 0) == bool(recipe)
        for _ in range(6):
            metrics = trial.step()
        found[name, bool(recipe)] = metrics
        trial.finish()
    plain, kept = found["head_only", False], found["head_only", True]
    assert found["lora", False]["val/miou"] > plain["val/miou"] + 0.1
    assert kept["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-4)


@pytest.mark.parametrize("method", ["head_only", "heart_lora"])
def test_a_trial_resumes_from_its_checkpoint_to_the_bit_on_another_worker(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    def epochs(folder: Path, n: int, trial: AdapterWorker) -> dict[str, float]:
        for _ in range(trial.start(config(method), seed=1, epochs=3, folder=folder), n):
            trial.step()
        own = trial.replay()
        assert own is not None
        return {key: value for key, value in own.items() if not key.startswith("cost/")}

    whole = epochs(tmp_path / "whole", 3, worker(root, monkeypatch))
    epochs(tmp_path / "killed", 1, worker(root, monkeypatch))  # nothing of this worker is left but its checkpoint
    assert epochs(tmp_path / "killed", 3, worker(root, monkeypatch)) == whole
