"""Backbones: the packaged one, any timm ViT from a local file, and what proves that one is unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from trainables.backbones import (
    RANDOM,
    WEIGHTS,
    create,
    describe_normalisation,
    fingerprint,
    preprocessing,
    remove_head,
    set_head,
)


def test_the_packaged_backbone_is_a_timm_model_with_its_weights_and_statistics() -> None:
    card = json.loads((WEIGHTS / "vit_glyphs.json").read_text())
    model, stored = create("vit_glyphs"), load_file(WEIGHTS / "vit_glyphs.safetensors")
    assert model.state_dict().keys() == stored.keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float()), name
    assert not model.training
    wanted = preprocessing(model)
    assert (wanted.channels, *wanted.size) == (card["architecture"]["in_chans"], *[card["architecture"]["img_size"]] * 2)
    assert (list(wanted.mean), list(wanted.std), wanted.interpolation) == (card["mean"], card["std"], card["interpolation"])
    assert (WEIGHTS / "vit_glyphs.safetensors").stat().st_size <= 3 * 2**20


def test_timm_creates_the_packaged_backbone_with_a_classifier_like_any_other() -> None:
    model = timm.create_model("vit_glyphs", pretrained=True, num_classes=7)
    frozen = create("vit_glyphs").state_dict()
    assert model.head.out_features == 7
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in frozen.items())


def test_another_input_size_resamples_the_position_embedding_only() -> None:
    own = create("vit_glyphs")
    size = 2 * preprocessing(own).size[0]
    large = create("vit_glyphs", img_size=size)
    assert preprocessing(large).size == (size, size)
    changed = {name for name, tensor in large.state_dict().items() if not torch.equal(tensor, own.state_dict()[name])} if (
        large.state_dict().keys() == own.state_dict().keys()) else None  # fmt: skip
    assert changed == {"pos_embed"}


def test_random_weights_are_the_same_on_every_call_and_disturb_no_random_numbers() -> None:
    state = torch.get_rng_state()
    first, second = create("test_vit", "random"), create("test_vit", "random")
    assert torch.equal(torch.get_rng_state(), state)
    assert fingerprint(first) == fingerprint(second)


@pytest.mark.parametrize("name", ["test_vit", "vit_glyphs"])
def test_weights_are_read_from_a_local_file(name: str, tmp_path: Path) -> None:
    source = timm.create_model(name, num_classes=3)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.normal_()
    path = tmp_path / "weights.safetensors"
    save_file(source.state_dict(), path)
    source.reset_classifier(0)
    assert fingerprint(create(name, str(path))) == fingerprint(source)


def test_a_file_that_is_not_of_this_backbone_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"something": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match=r"weights\.safetensors does not hold weights of test_vit"):
        create("test_vit", str(path))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        (
            "vit_glyph",
            None,
            r"backbone\.name must be a timm model, vit_emoji or vit_glyphs; got 'vit_glyph'; did you mean vit_glyphs",
        ),
        ("vit_base_patch16_244", "random", r"got 'vit_base_patch16_244'; did you mean .*vit_base_patch16_224"),
        (
            "vit_base_patch16_224.augreg",
            None,
            r"no weights of the tag in .*; it has .*did you mean vit_base_patch16_224\.augreg_in",
        ),
        ("test_vit", "nowhere.safetensors", r"an existing \.safetensors, .* file; got 'nowhere\.safetensors'"),
        ("test_vit", __file__, r"an existing \.safetensors, .*\.npz file"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(name: str, weights: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, weights)


def test_a_new_head_is_small_zero_biased_and_of_its_generators_seed() -> None:
    model = create("test_vit", "random")
    set_head(model, 1000, torch.Generator().manual_seed(0))
    weight = model.head.weight.detach().clone()
    assert weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert torch.equal(model.head.bias, torch.zeros(1000))
    assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 1000)
    set_head(model, 1000, torch.Generator().manual_seed(0))
    assert torch.equal(model.head.weight, weight)
    remove_head(model)
    assert model(torch.zeros(1, 3, 160, 160)).shape == (1, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_one_flipped_bit_anywhere_changes_the_fingerprint(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5)).to(dtype)
    original = fingerprint(module)
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    for name, tensor in module.state_dict().items():
        bits = tensor.view(integers[tensor.element_size()]).view(-1)
        for bit in range(8 * tensor.element_size() - 1):
            bits[-1] ^= 1 << bit
            assert fingerprint(module) != original, (name, bit)
            bits[-1] ^= 1 << bit
    assert fingerprint(module) == original


@pytest.mark.parametrize(
    ("normalize", "mean", "std"),
    [
        ("backbone", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("imagenet", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ({"mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0)),
    ],
)
def test_images_are_normalised_as_the_data_set_says(normalize: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    model = create("vit_base_patch16_224", RANDOM, device="meta")
    wanted = preprocessing(model, normalize)
    assert (wanted.mean, wanted.std) == (mean, std)
    assert replace(wanted, mean=(), std=()) == replace(preprocessing(model), mean=(), std=())
    told = describe_normalisation(model, None, normalize)
    assert f"mean {', '.join(f'{value:g}' for value in mean)}, std" in told
    assert ("from data.normalize; the backbone's own: mean 0.5, 0.5, 0.5" in told) is (normalize != "backbone")


@pytest.mark.parametrize("normalize", ["imagenet", {"mean": [0.5, 0.5], "std": [1.0, 1.0]}])
def test_as_many_means_as_channels_are_needed(normalize: Any) -> None:
    with pytest.raises(ValueError, match=r"data\.normalize: the backbone has 1 channels, and there are [23] means"):
        preprocessing(create("vit_glyphs"), normalize)


@pytest.mark.parametrize(
    ("init", "std"), [("trunc_normal", 0.02), ("linear", (3 * 192) ** -0.5), ("kaiming", (2 / 1000) ** 0.5), ("zeros", 0.0)]
)
def test_a_head_begins_as_the_recipe_says(init: str, std: float) -> None:
    model = create("vit_tiny_patch16_224", RANDOM, 32)
    set_head(model, 1000, torch.Generator().manual_seed(0), init)
    head = cast(nn.Linear, model.head)
    assert head.weight.std().item() == pytest.approx(std, rel=0.01)
    assert (head.bias.abs().max().item() > 0) is (init == "linear")
    assert head.bias.abs().max().item() <= 192**-0.5
