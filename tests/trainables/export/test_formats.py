"""An adapter in the form of another program computes what it computed here, or says why it has no such form."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from trainables.adapters import METHODS, adapt, method_of, trainable_parameters, trainable_state
from trainables.adapters.peft_bridge import peft_method
from trainables.backbones import create, preprocessing, set_head
from trainables.export import peft_format
from trainables.export.adapter import Card, Exporter, Form, Rank
from trainables.export.low_rank import smallest_rank, update_of
from trainables.export.peft_format import load_lora
from trainables.export.validation import validation
from trainables.training import checkpoint

from ..small_models import small_beit, small_swin
from .alone import run_alone

DIGITS = {"kind": "digits"}
GLYPHS: dict[str, Any] = {"name": "vit_glyphs"}
WHOLE = Rank(rank=10_000)  # the update's own rank
RANKED = {name for name, kind in METHODS.items() if "rank" in (f.name for f in dataclasses.fields(kind))}
CONFIGS: dict[str, dict[str, Any]] = {
    name: {"method": name, **({f"{name}.rank": 4} if name in RANKED else {}), "optim.lr": 1e-2} for name in METHODS
}
UNMERGEABLE = ("adapter", "adapter_plus", "adaptformer", "convpass", "vpt", "lily")
MERGEABLE = tuple(name for name in METHODS if name not in UNMERGEABLE)


@dataclasses.dataclass(frozen=True)
class Made:
    """A trial whose adapter and head have random values: its checkpoint, and the logits of its model."""

    backbone: dict[str, Any]
    config: dict[str, Any]
    folder: Path
    images: Tensor
    logits: Tensor

    def export(self, to: Path, name: str, **options: Any) -> Card:
        exporter = Exporter(self.backbone, DIGITS)
        return exporter.write(self.folder, to, config=self.config, seed=0, origin={"trial": 0}, form=Form(name, **options))


def made(config: dict[str, Any], folder: Path, backbone: dict[str, Any] = GLYPHS) -> Made:
    model = create(backbone["name"], backbone.get("weights"))
    set_head(model, 10, torch.Generator().manual_seed(0))
    weight: Any = model.patch_embed.proj.weight  # type: ignore[union-attr]
    size: Any = model.patch_embed.img_size  # type: ignore[union-attr]
    adapt(model, method_of(config))
    rng = torch.Generator().manual_seed(1)
    for _, parameter in trainable_parameters(model):
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=rng)
    tensors = {f"trainable/{name}": tensor for name, tensor in trainable_state(model).items()}
    facts = {"config": config, "seed": 0, "epoch": 1, "epochs": 1, "metrics": {}}
    checkpoint.write(folder, checkpoint.Checkpoint(tensors, facts))
    images = torch.randn(4, weight.shape[1], *size, generator=rng)
    return Made(backbone, config, folder, images, logits(model, images))


def logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(images)
    return found


def run_lines(card: Card, folder: Path) -> dict[str, Any]:
    """What the card's own lines make, run as a user would."""
    names: dict[str, Any] = {}
    exec(card.lines(folder), names)  # noqa: S102
    return names


@pytest.mark.parametrize("name", [name for name in MERGEABLE if name != "full"])
def test_peft_loads_every_method_that_merges_and_computes_the_same(name: str, tmp_path: Path) -> None:
    own = made(CONFIGS[name], tmp_path / "trial")
    card = own.export(tmp_path / "out", "peft", rank=WHOLE)
    torch.testing.assert_close(logits(run_lines(card, tmp_path / "out")["model"], own.images), own.logits, rtol=1e-5, atol=1e-5)
    assert card.conversion["exact"]
    assert card.conversion["n_bytes"] == (tmp_path / "out" / card.file).stat().st_size
    ours = create("vit_glyphs")
    set_head(ours, 10, torch.Generator().manual_seed(0))
    load_lora(ours, tmp_path / "out")
    torch.testing.assert_close(logits(ours, own.images), own.logits, rtol=1e-5, atol=1e-5)


def test_full_fine_tuning_keeps_what_peft_has_no_place_for_at_its_pretrained_value(tmp_path: Path) -> None:
    own = made(CONFIGS["full"], tmp_path / "trial")
    card = own.export(tmp_path / "out", "peft", rank=WHOLE)
    assert card.conversion["left_out"] == ["pos_embed"]
    assert not card.conversion["exact"]


def test_a_rank_is_chosen_by_the_accuracy_that_it_keeps_and_refused_if_none_keeps_enough(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create("vit_glyphs")
    set_head(model, 10, torch.Generator().manual_seed(0))
    plain = copy.deepcopy(model).eval()
    adapt(model, method_of(CONFIGS["randlora"]))
    for _, parameter in trainable_parameters(model):
        parameter.data += 0.2 * torch.randn(parameter.shape)
    plain.head.load_state_dict(model.head.state_dict())  # type: ignore[operator, union-attr]
    known = validation(DIGITS, preprocessing(model))
    labels = logits(model, known.normalise(known.split.images)).argmax(-1)  # right is what the whole update says
    on = dataclasses.replace(known, split=dataclasses.replace(known.split, labels=labels))
    made = peft_format.write(copy.deepcopy(model).eval(), plain, tmp_path, "vit_glyphs", Rank(loses=5.0), on=on)
    assert made["accuracy"]["before"] == 1.0
    assert made["accuracy"]["loses_points"] <= 5.0 + 1e-6
    less = Rank(rank=made["rank"] - 1)
    assert peft_format.write(copy.deepcopy(model).eval(), plain, tmp_path, "x", less, on=on)["accuracy"]["loses_points"] > 5.0
    full = copy.deepcopy(plain)
    adapt(full, method_of(CONFIGS["full"]))
    full.pos_embed.data += 2 * torch.randn(full.pos_embed.shape)  # type: ignore[operator, union-attr]
    labels = logits(full, known.normalise(known.split.images)).argmax(-1)
    on = dataclasses.replace(known, split=dataclasses.replace(known.split, labels=labels))
    with pytest.raises(ValueError, match=r"loses .* points .* at most 0\.2 are allowed \(PEFT has no place for pos_embed\)"):
        peft_format.write(full.eval(), plain, tmp_path, "x", Rank(), on=on)


def test_loras_own_rank_is_exact_without_any_option_and_a_smaller_one_is_measured(tmp_path: Path) -> None:
    own = made(CONFIGS["lora"], tmp_path / "trial")  # q and v of one linear, each of rank 4
    whole = own.export(tmp_path / "whole", "peft").conversion
    assert (whole["rank"], whole["exact"], whole["accuracy"]["loses_points"]) == (8, True, 0)
    less = own.export(tmp_path / "less", "peft", rank=Rank(rank=2)).conversion
    assert (less["rank"], less["exact"]) == (2, False)
    assert less["n_parameters"] * 4 == whole["n_parameters"]
    assert less["accuracy"]["before"] == whole["accuracy"]["before"]
    chosen = own.export(tmp_path / "chosen", "peft", rank=Rank(loses=3.0)).conversion
    assert chosen["accuracy"]["loses_points"] <= 3.0 + 1e-6
    assert chosen["rank"] <= 8


@pytest.mark.parametrize("tuner", ["vera", "lora", "ia3"])
def test_a_tuner_of_peft_is_written_as_it_is(tuner: str, tmp_path: Path) -> None:
    peft_method(tuner)
    own = made({"method": f"peft.{tuner}", **({f"peft.{tuner}.r": 2} if tuner != "ia3" else {})}, tmp_path / "trial")
    card = own.export(tmp_path / "out", "peft")
    assert card.conversion["tuner"] == tuner
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["peft_type"].lower() == tuner
    torch.testing.assert_close(logits(run_lines(card, tmp_path / "out")["model"], own.images), own.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", UNMERGEABLE)
def test_what_does_not_merge_names_the_formats_that_it_has_and_is_written_as_onnx(name: str, tmp_path: Path) -> None:
    own = made(CONFIGS[name], tmp_path / "trial")
    for form in ("peft", "merged"):
        with pytest.raises(ValueError, match=r"it has the formats paretune and onnx$"):
            own.export(tmp_path / "out", form)
        assert [path.name for path in tmp_path.iterdir()] == ["trial"]
    card = own.export(tmp_path / "out", "onnx")
    assert (card.conversion["opset"], card.conversion["merged"]) == (17, False)
    session = run_lines(card, tmp_path / "out")["session"]
    for images, wanted in ((own.images, own.logits), (own.images[:1], own.logits[:1])):
        torch.testing.assert_close(torch.from_numpy(session.run(None, {"images": images.numpy()})[0]), wanted, rtol=0, atol=1e-4)


def test_an_onnx_model_is_merged_and_takes_pixels_if_it_normalises_them_itself(tmp_path: Path) -> None:
    own = made(CONFIGS["lora"], tmp_path / "trial")
    plain = own.export(tmp_path / "plain", "onnx")
    inside = own.export(tmp_path / "inside", "onnx", normalize_inside=True)
    assert plain.conversion["merged"]
    assert plain.conversion["checked"]["n_images"] == 32
    assert inside.conversion["input"]["type"] == "uint8"
    pixels = np.random.default_rng(0).integers(0, 256, (3, *own.images.shape[1:]), np.uint8)
    mean, std = (np.float32(plain.preprocessing[key]).reshape(-1, 1, 1) for key in ("mean", "std"))
    normalised = (np.float32(pixels) / 255 - mean) / std
    outer, inner = (run_lines(card, tmp_path / name)["session"] for card, name in ((plain, "plain"), (inside, "inside")))
    found = inner.run(None, {"images": pixels})[0]
    np.testing.assert_allclose(found, outer.run(None, {"images": normalised})[0], rtol=0, atol=1e-4)


def test_every_line_of_a_swin_reaches_peft_and_a_beit_that_would_bypass_it_is_refused(tmp_path: Path) -> None:
    config = CONFIGS["lora"] | {"lora.targets": "qkvo_mlp"}
    own = made(config, tmp_path / "swin", {"name": small_swin.__name__, "weights": "random"})
    card = own.export(tmp_path / "out", "peft", rank=WHOLE)
    torch.testing.assert_close(logits(run_lines(card, tmp_path / "out")["model"], own.images), own.logits, rtol=1e-5, atol=1e-5)
    other = made(config, tmp_path / "beit", {"name": small_beit.__name__, "weights": "random"})
    with pytest.raises(ValueError, match=r"Beit reads the weight of blocks\.0\.attn\.qkv itself"):
        other.export(tmp_path / "none", "peft")


def test_an_option_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="belong to the format peft"):
        Form("onnx", rank=Rank(rank=2))
    with pytest.raises(ValueError, match="only the format onnx"):
        Form("peft", normalize_inside=True)
    with pytest.raises(ValueError, match="either give the rank"):
        Rank(rank=2, loses=1.0)


@pytest.mark.parametrize("shape", [(7, 5), (5, 7), (6, 6)])
def test_the_cut_off_update_is_the_best_one_of_its_rank(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    plain, merged = (nn.Sequential(nn.Linear(shape[1], shape[0])) for _ in range(2))
    merged.load_state_dict(plain.state_dict())
    merged.double()
    delta = torch.randn(shape[0], 3, generator=rng).double() @ torch.randn(3, shape[1], generator=rng).double()
    merged[0].weight.data += delta  # type: ignore[operator]
    update = update_of(plain, merged, "none").linears["0"]
    assert len(update.a) == 3  # its own rank, not that of its rounding
    u, s, v = torch.linalg.svd(delta)
    for rank in (1, 2, 3):
        cut = update.at(rank)
        best = u[:, :rank] * s[:rank] @ v[:rank]
        torch.testing.assert_close((cut.b @ cut.a).double(), best, rtol=1e-5, atol=1e-5)


@given(largest=st.integers(1, 70), enough=st.integers(1, 100))
def test_the_smallest_rank_that_is_enough_is_found(largest: int, enough: int) -> None:
    assert smallest_rank(largest, lambda rank: rank >= enough) == min(largest, enough)


ANSWER = "with torch.no_grad(): numpy.save('{name}.npy', model(torch.from_numpy(images)).numpy())\n"


@pytest.mark.slow
def test_every_format_opens_with_the_libraries_that_it_names_alone(tmp_path: Path) -> None:
    own = made(CONFIGS["lora"], tmp_path / "trial", {"name": "test_vit", "weights": "random"})
    np.save(tmp_path / "images.npy", own.images.numpy())
    cards = {name: own.export(tmp_path / name, name) for name in ("merged", "peft", "onnx")}
    lines = {name: f"{card.lines(Path(name))}\nimport numpy\nimages = numpy.load('images.npy')\n" for name, card in cards.items()}
    program = lines["merged"] + "import sys, torch\n" + ANSWER.format(name="merged")
    program += "assert not {'peft', 'trainables'} & sys.modules.keys()\n"  # one process, because torch takes its time
    program += lines["peft"] + ANSWER.format(name="peft")
    assert cards["peft"].libraries == ("timm", "peft", "safetensors", "paretune")  # random weights are ours
    assert cards["merged"].libraries == ("timm", "safetensors")
    run_alone(program, "timm", "peft", "safetensors", ours=["trainables"], folder=tmp_path)
    assert cards["onnx"].libraries == ("onnxruntime", "numpy")
    answer = "numpy.save('onnx.npy', session.run(['logits'], {'images': images})[0])"
    run_alone(lines["onnx"] + answer, *cards["onnx"].libraries, folder=tmp_path)
    for name in cards:
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npy"), own.logits.numpy(), rtol=0, atol=1e-4)
