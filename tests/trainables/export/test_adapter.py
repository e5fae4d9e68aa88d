"""An adapter taken home computes what its trial computed, in plain timm; what does not fit is refused and changes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from torch import Tensor, nn
from transformers import ViTImageProcessor

from trainables import make
from trainables.adapters import METHODS, adapt, adaptation, method_of, trainable_state
from trainables.backbones import create, fingerprint, set_head
from trainables.costs.counting import MetaSizes
from trainables.export.adapter import Card, Exporter, Form, load_adapter, read_card
from trainables.training import checkpoint

from ..backbones.published import published
from ..short import shortened
from ..small_models import small_vit_without_qkv_bias

pytestmark = pytest.mark.slow

BACKBONE = {"name": "vit_glyphs"}
DIGITS = {"kind": "digits"}
OPTIM = {"optim.lr": 1e-2}
CONFIGS: dict[str, dict[str, Any]] = {
    name: {"method": name, **({f"{name}.rank": 2} if "rank" in (f.name for f in dataclasses.fields(method)) else {}), **OPTIM}
    for name, method in METHODS.items()
}
CONFIGS["heart_lora"] |= {"heart_lora.active_head_ratio": 0.5, "heart_lora.warmup_epochs": 1}
CONFIGS["arc"] |= {"arc.rank": 5}
UNMERGEABLE = {
    "adapter": "its activation makes the update non-linear",
    "adapter_plus": "its activation makes the update non-linear",
    "adaptformer": "its activation makes the update non-linear",
    "convpass": "its activations make the update non-linear",
    "vpt": "it adds tokens to the sequence",
    "lily": "its router makes the weight a function of the input",
}
SEED = 3


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trial of one epoch: where its checkpoint lies, and the logits of its own model for `images`."""

    config: dict[str, Any]
    folder: Path
    logits: Tensor

    def export(self, to: Path, *, merged: bool = False, **other: Any) -> Card:
        known: dict[str, Any] = {"config": self.config, "seed": SEED, "origin": {"trial": 0}}
        exporter = Exporter(other.pop("backbone", BACKBONE), other.pop("data_set", DIGITS), other.pop("methods", ()))
        return exporter.write(self.folder, to, **{**known, **other}, form=Form("merged" if merged else "adapter"))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(16, 1, *create("vit_glyphs").patch_embed.img_size, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, misc]


@pytest.fixture(scope="module")
def trained(images: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Every method, trained for one epoch on some digits."""
    worker = shortened(make(BACKBONE, DIGITS, {"device": "cpu"}))
    found = {}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(name)
        worker.start(config, seed=SEED, epochs=1, folder=folder)
        worker.step()
        found[name] = Trained(config, folder, logits(worker.model, images))
    worker.finish()
    return found


def logits(model: nn.Module, images: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        found: Tensor = model(images)
    return found


def run_lines(card: Card, folder: Path) -> nn.Module:
    """What the card's own lines make, run as a user would."""
    names: dict[str, Any] = {}
    exec(card.lines(folder), names)  # noqa: S102
    model = names["model"]
    assert isinstance(model, nn.Module)
    return model


def plain(n_classes: int = 10, **kwargs: Any) -> nn.Module:
    model: nn.Module = timm.create_model("vit_glyphs", num_classes=n_classes, **{"pretrained": True, **kwargs})
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_an_exported_adapter_computes_what_its_trial_computed(
    name: str, trained: dict[str, Trained], images: Tensor, tmp_path: Path
) -> None:
    own = trained[name]
    card = own.export(tmp_path / "out")
    torch.testing.assert_close(logits(run_lines(card, tmp_path / "out"), images), own.logits, rtol=0, atol=1e-6)
    stored = load_file(tmp_path / "out" / "adapter.safetensors")
    saved = checkpoint.read(own.folder)
    assert saved is not None
    assert stored.keys() == saved.group("trainable").keys()  # neither optimiser nor random state
    assert (card.params["adapter"], card.params["head"]) == MetaSizes(BACKBONE, DIGITS).count(own.config)
    assert sum(tensor.numel() for tensor in stored.values()) == card.params["adapter"] + card.params["head"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter.safetensors", "card.json"]


@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in UNMERGEABLE])
def test_a_merged_model_is_plain_timm_and_computes_the_same(
    name: str, trained: dict[str, Trained], images: Tensor, tmp_path: Path
) -> None:
    card = trained[name].export(tmp_path / "out", merged=True)
    model = run_lines(card, tmp_path / "out")
    assert adaptation(model) is None
    assert model.state_dict().keys() == plain().state_dict().keys()
    torch.testing.assert_close(logits(model, images), trained[name].logits, rtol=1e-5, atol=1e-5)


def test_the_normalisation_of_a_study_travels_with_what_it_exports(tmp_path: Path) -> None:
    losses = {}
    for name, normalize in (("own", "backbone"), ("given", {"mean": [0.3], "std": [0.2]})):
        data = DIGITS | {"normalize": normalize}
        worker = shortened(make(BACKBONE, data, {"device": "cpu"}))
        worker.start(CONFIGS["lora"], seed=SEED, epochs=1, folder=tmp_path / name)
        losses[name] = worker.step()["val/loss"]
    assert losses["own"] != losses["given"]
    pixels = torch.randint(256, (8, 1, *worker._splits["validation"].images.shape[-2:]), dtype=torch.uint8)
    torch.testing.assert_close(worker._normalise(pixels), (pixels / 255 - 0.3) / 0.2)
    wanted = logits(worker.model, worker._normalise(pixels))
    own = Trained(CONFIGS["lora"], tmp_path / "given", wanted)
    for form in ("adapter", "merged"):
        card = own.export(tmp_path / form, merged=form == "merged", data_set=data)
        model = run_lines(card, tmp_path / form)
        timms = resolve_model_data_config(model)  # which timm's own transforms follow
        assert (tuple(timms["mean"]), tuple(timms["std"])) == ((0.3,), (0.2,))
        assert (tuple(card.preprocessing["mean"]), tuple(card.preprocessing["std"])) == ((0.3,), (0.2,))
        mean, std = (torch.tensor(timms[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
        torch.testing.assert_close(logits(model, (pixels / 255 - mean) / std), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "reason"), UNMERGEABLE.items())
def test_what_cannot_be_merged_says_why_and_writes_nothing(
    name: str, reason: str, trained: dict[str, Trained], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"cannot be merged: {reason}"):
        trained[name].export(tmp_path / "out", merged=True)
    assert list(tmp_path.iterdir()) == []


def test_a_merged_weight_that_plain_timm_has_no_place_for_is_refused(tmp_path: Path) -> None:
    name = small_vit_without_qkv_bias.__name__  # and ARC adds one
    backbone, config = {"name": name, "weights": "random"}, {"method": "arc", "arc.rank": 2}
    model = create(name, "random")
    set_head(model, 10, torch.Generator().manual_seed(0))
    adapt(model, method_of(config))
    tensors = {f"trainable/{name}": tensor for name, tensor in trainable_state(model).items()}
    facts = {"config": config, "seed": SEED, "epoch": 1, "epochs": 1, "metrics": {}}
    checkpoint.write(tmp_path / "trial", checkpoint.Checkpoint(tensors, facts))
    own = Trained(config, tmp_path / "trial", torch.empty(0))
    with pytest.raises(ValueError, match=r"arc cannot be merged on small_vit.* no place.*blocks\.0\.attn\.qkv\.bias"):
        own.export(tmp_path / "out", merged=True, backbone=backbone)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["trial"]


def test_the_card_says_everything_and_is_read_back_as_it_was_written(trained: dict[str, Trained], tmp_path: Path) -> None:
    own = trained["lora"]
    card = own.export(tmp_path / "a" / "out", origin={"study": "s", "trial": 4, "state": "COMPLETE"})
    saved = checkpoint.read(own.folder)
    assert saved is not None
    assert read_card(tmp_path / "a" / "out") == card
    assert card.metrics == saved.facts["metrics"]
    assert (card.method, card.config, card.seed, card.n_classes) == ("lora", own.config, SEED, 10)
    assert card.class_names == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
    assert card.epochs == {"done": 1, "planned": 1}
    assert card.origin == {"study": "s", "trial": 4, "state": "COMPLETE"}
    assert card.preprocessing.keys() == {"channels", "size", "mean", "std", "interpolation"}
    assert card.packages.keys() == {"python", "paretune", "torch", "timm", "safetensors"}


def test_a_backbone_of_other_weights_and_size_is_created_as_the_card_says(tmp_path: Path) -> None:
    backbone, config = {"name": "test_vit", "weights": "random", "img_size": 32}, {"method": "lora", "lora.rank": 2, **OPTIM}
    worker = shortened(make(backbone, DIGITS, {"device": "cpu"}))
    worker.start(config, seed=SEED, epochs=1, folder=tmp_path / "trial")
    worker.step()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    own = Trained(config, tmp_path / "trial", logits(worker.model, x))
    for merged in (False, True):
        card = own.export(tmp_path / f"out-{merged}", merged=merged, backbone=backbone)
        torch.testing.assert_close(logits(run_lines(card, tmp_path / f"out-{merged}"), x), own.logits, rtol=1e-5, atol=1e-5)


def test_the_image_format_of_a_folder_of_weights_travels_with_what_it_exports(tmp_path: Path) -> None:
    published("test_vit").save_pretrained(tmp_path / "published")
    processor = ViTImageProcessor(image_mean=[0.3] * 3, image_std=[0.2] * 3, size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path / "published")
    backbone, config = {"name": "test_vit", "weights": str(tmp_path / "published")}, {"method": "lora", "lora.rank": 2, **OPTIM}
    worker = shortened(make(backbone, DIGITS, {"device": "cpu"}))
    assert worker._splits["validation"].images.shape[-2:] == (32, 32)
    pixels = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(worker._normalise(pixels), (pixels / 255 - 0.3) / 0.2)
    worker.start(config, seed=SEED, epochs=1, folder=tmp_path / "trial")
    worker.step()
    own = Trained(config, tmp_path / "trial", logits(worker.model, worker._normalise(pixels)))
    for merged in (False, True):
        card = own.export(tmp_path / f"out-{merged}", merged=merged, backbone=backbone)
        model = run_lines(card, tmp_path / f"out-{merged}")
        timms = resolve_model_data_config(model)
        assert (timms["mean"], timms["std"]) == ((0.3, 0.3, 0.3), (0.2, 0.2, 0.2))
        torch.testing.assert_close(logits(model, (pixels / 255 - 0.3) / 0.2), own.logits, rtol=1e-5, atol=1e-5)


def test_a_model_that_does_not_fit_is_refused_and_untouched(trained: dict[str, Trained], tmp_path: Path) -> None:
    trained["lora"].export(tmp_path / "lora")
    trained["lora"].export(tmp_path / "merged", merged=True)
    for model, folder, message in (
        (timm.create_model("test_vit", num_classes=10), "lora", "is for the backbone vit_glyphs; got test_vit"),
        (plain(pretrained=False), "lora", "was trained on other weights of vit_glyphs"),
        (plain(7), "lora", "has 10 classes, the model 7"),
        (plain(), "merged", "holds the form merged, which needs no `load_adapter`"),
        (plain(), "nowhere", "must be the card of an exported adapter"),
    ):
        before = fingerprint(model)
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path / folder)
        assert fingerprint(model) == before
        assert adaptation(model) is None


def test_a_damaged_file_or_card_is_refused_and_the_model_untouched(trained: dict[str, Trained], tmp_path: Path) -> None:
    trained["lora"].export(tmp_path / "lora")
    trained["arc"].export(tmp_path / "arc")
    card, tensors = tmp_path / "lora" / "card.json", tmp_path / "lora" / "adapter.safetensors"
    good, values = tensors.read_bytes(), json.loads(card.read_text())
    model = create("vit_glyphs")
    before = fingerprint(model)
    for content, message in (
        (good[: len(good) // 2], "it cannot be read"),
        ((tmp_path / "arc" / "adapter.safetensors").read_bytes(), "a state must have exactly the model's trainable tensors"),
    ):
        tensors.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path / "lora")
        assert fingerprint(model) == before
    tensors.write_bytes(good)
    for change, message in (
        ({"version": 2}, "must be a card of version 1; got 2"),
        ({"n_classes": "10"}, "n_classes must be of type int; got '10'"),
        ({"form": "zip"}, "form must be one of adapter, merged, peft, onnx"),
        ({"method": "arc"}, "method must be the configuration's"),
        ({"extra": 1}, "missing or unknown: extra"),
        ({"backbone": {}}, "backbone must have name"),
    ):
        card.write_text(json.dumps(values | change))
        with pytest.raises(ValueError, match=message):
            load_adapter(model, tmp_path / "lora")
    card.write_text("{")
    with pytest.raises(ValueError, match="it cannot be read"):
        load_adapter(model, tmp_path / "lora")
    assert fingerprint(model) == before
    card.write_text(json.dumps(values))
    load_adapter(model, tmp_path / "lora")  # a model without a classifier is given the adapter's


def test_a_folder_that_is_taken_or_a_checkpoint_of_another_trial_is_refused(trained: dict[str, Trained], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trained["lora"].export(tmp_path / "out")
    kept = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    for taken in ("file", "out"):
        with pytest.raises(ValueError, match="must not exist or be an empty folder"):
            trained["lora"].export(tmp_path / taken)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == kept
    with pytest.raises(ValueError, match="holds a checkpoint of"):
        trained["lora"].export(tmp_path / "other", seed=SEED + 1)
    (tmp_path / "empty").mkdir()
    trained["lora"].export(tmp_path / "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "out"]
