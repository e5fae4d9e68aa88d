"""Models of Hugging Face's transformers, as files and folders, compute the same in timm's model of their shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import nn
from transformers import ViTImageProcessor

from trainables import measure
from trainables.backbones import create, describe_normalisation, digest, image_size, preprocessing, refuse_changed
from trainables.protocol import Changed

from .published import PRETRAINED, SHAPES, SIZE, features, published

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


def saved(name: str, folder: Path, **options: Any) -> Any:
    """The model of a name, which `folder` then holds."""
    model = published(name)
    model.save_pretrained(folder, **options)
    return model


def saved_at(folder: Path) -> Path:
    """The folder, which then holds a `tiny_vit`."""
    saved("tiny_vit", folder)
    return folder


def same(first: nn.Module, second: nn.Module) -> bool:
    """True if all tensors of two models are equal, to the bit."""
    one, other = first.state_dict(), second.state_dict()
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def images(size: int = SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", [*SHAPES, *PRETRAINED])
def test_a_model_in_transformers_and_in_timm_compute_the_same(name: str, tmp_path: Path) -> None:
    theirs = saved(name, tmp_path / "model")
    ours = create(PRETRAINED.get(name, name), str(tmp_path / "model"))
    with torch.no_grad():
        hidden, pooled = features(theirs, images())
        torch.testing.assert_close(ours.forward_features(images()).reshape(hidden.shape), hidden, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours(images()), pooled, rtol=1e-5, atol=1e-5)
    # without a configuration, and with the names of the model in memory, which transformers 5 has changed
    torch.save(theirs.state_dict(), tmp_path / "memory.pt")
    for file in (tmp_path / "model/model.safetensors", tmp_path / "memory.pt"):
        assert same(create(PRETRAINED.get(name, name), str(file)), ours), file


@pytest.mark.parametrize("name", ["tiny_dinov2_reg", "tiny_swin", "tiny_dinov3"])
def test_a_timm_model_saved_by_transformers_is_read_as_it_is(name: str, tmp_path: Path) -> None:
    theirs = transformers.TimmWrapperForImageClassification(
        transformers.TimmWrapperConfig(architecture=name, num_labels=3, model_args={"img_size": SIZE})
    )
    theirs.save_pretrained(tmp_path)
    ours = create(name, str(tmp_path))
    theirs.timm_model.reset_classifier(0)
    assert same(ours, theirs.timm_model)


@pytest.mark.parametrize("name", ["tiny_vit", "tiny_dinov2_reg", "tiny_siglip", "tiny_deit_distilled"])
def test_position_grids_are_resampled_as_timms(name: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    own, large = create(name, str(tmp_path)), create(name, str(tmp_path), img_size=48)
    n_prefix = {"tiny_vit": 1, "tiny_deit_distilled": 2}.get(name, 0)
    expected = resample_abs_pos_embed(own.pos_embed.detach(), [6, 6], num_prefix_tokens=n_prefix)
    torch.testing.assert_close(large.pos_embed, expected, rtol=0, atol=1e-6)
    assert large(images(48)).shape == (2, 32)


def test_rotary_positions_are_those_of_transformers_at_every_size(tmp_path: Path) -> None:
    theirs = saved("tiny_dinov3", tmp_path)
    with torch.no_grad():
        expected = theirs(images(48)).pooler_output
        torch.testing.assert_close(create("tiny_dinov3", str(tmp_path), 48)(images(48)), expected, rtol=1e-5, atol=1e-5)


def test_weights_in_pieces_are_read_whole(tmp_path: Path) -> None:
    saved("tiny_vit", tmp_path / "whole")
    saved("tiny_vit", tmp_path / "pieces", max_shard_size="20KB")
    assert len(list((tmp_path / "pieces").glob("*.safetensors"))) > 1
    whole, pieces = (create("tiny_vit", str(tmp_path / folder)) for folder in ("whole", "pieces"))
    assert same(whole, pieces)
    index = tmp_path / "pieces/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../whole/model.safetensors"}}))
    with pytest.raises(ValueError, match="must name files of its own folder"):
        create("tiny_vit", str(tmp_path / "pieces"))


def test_a_folder_of_torch_files_is_read_and_none_of_its_code_is_run(tmp_path: Path) -> None:
    whole = create("tiny_vit", str(saved_at(tmp_path / "whole")))
    folder = saved_at(tmp_path / "torch")
    state = list(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    for name, part in {"one.bin": state[::2], "two.bin": state[1::2]}.items():
        torch.save(dict(part), folder / name)
    index = {"weight_map": {name: "one.bin" for name, _ in state[::2]} | {name: "two.bin" for name, _ in state[1::2]}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert same(create("tiny_vit", str(folder)), whole)
    (folder / "one.bin").unlink()
    with pytest.raises(ValueError, match=r"torch does not hold weights of tiny_vit: .*No such file"):
        create("tiny_vit", str(folder))
    torch.save({"model": Path("a class")}, folder / "one.bin")
    with pytest.raises(ValueError, match=r"one\.bin holds more than tensors, which is not run here"):
        create("tiny_vit", str(folder))


@pytest.mark.parametrize(
    ("name", "constant"),
    [
        ("tiny_clip_quickgelu", "vision_model.embeddings.position_ids"),
        ("tiny_swin", "swin.encoder.layers.1.blocks.1.attention.self.relative_position_index"),
        ("tiny_beit", "beit.encoder.layer.0.attention.attention.relative_position_bias.relative_position_index"),
    ],
)
def test_constants_that_older_files_hold_are_left_out(name: str, constant: str, tmp_path: Path) -> None:
    saved(name, tmp_path)
    save_file(load_file(tmp_path / "model.safetensors") | {constant: torch.arange(16)}, tmp_path / "old.safetensors")
    assert same(create(name, str(tmp_path / "old.safetensors")), create(name, str(tmp_path)))


def test_half_precision_is_read_in_full(tmp_path: Path) -> None:
    model = published("tiny_dinov2_reg").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert {tensor.dtype for tensor in create("tiny_dinov2_reg", str(tmp_path)).state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("vit.encoder.layer.1.layernorm_before.bias"), r"read as ViT.* missing blocks\.1\.norm1\.bias"),
        (
            lambda s: s.update({f"vit.encoder.layer.{i}.extra.bias": torch.zeros(1) for i in range(5)}),
            r"without a place vit\.encoder\.layer\.0\.extra\.bias, .*layer\.1\.extra\.bias, .*layer\.2\.extra\.bias and 2 more",
        ),
        (
            lambda s: s.update({"vit.encoder.layer.0.output.dense.bias": torch.zeros(7)}),
            r"of another shape blocks\.0\.mlp\.fc2\.bias \(7,\), the model's \(32,\)",
        ),
        (
            lambda s: s.update({"vit.embeddings.patch_embeddings.projection.weight": torch.zeros(32, 3, 4, 4)}),
            r"patch_embeddings\.projection\.weight is \(32, 3, 4, 4\), the model's \(32, 3, 8, 8\)",
        ),
        (lambda s: s.update({"vit.embeddings.cls_token": torch.zeros(())}), ""),
        (lambda s: s.update({"vit.encoder.layer.0.attention.attention.key.weight": torch.zeros(())}), "concatenated"),
        (
            lambda s: s.update({"vit.encoder.layer.0.attention.q_proj.weight": torch.zeros(32, 32)}),
            r"are the same tensor, blocks\.0\.attn\.q_proj\.weight",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_the_first_names(
    change: Callable[[dict[str, torch.Tensor]], object], message: str, tmp_path: Path
) -> None:
    saved("tiny_vit", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    change(state)
    save_file(state, tmp_path / "changed.safetensors")
    with pytest.raises(ValueError, match=r"changed\.safetensors does not hold weights of tiny_vit: .*" + message):
        create("tiny_vit", str(tmp_path / "changed.safetensors"))


@pytest.mark.parametrize(
    ("stored", "asked", "message"),
    [
        ("tiny_dinov2_reg", "tiny_dinov2", r"read as DINOv2: without a place embeddings\.register_tokens"),
        ("tiny_dinov2", "tiny_dinov2_reg", "read as DINOv2: missing reg_token"),
        ("tiny_vit", "tiny_dinov2", r"read as ViT, .*: missing blocks\.0\.ls1\.gamma, blocks\.0\.ls2\.gamma"),
        (
            "tiny_dinov3_qkvb",
            "tiny_dinov3",
            r"read as DINOv3: without a place layer\.0\.attention\.q_proj\.bias, layer\.0\.attention\.v_",
        ),
        ("tiny_siglip_gap", "tiny_siglip", r"read as SigLIP: missing attn_pool\.latent"),
        ("tiny_clip_quickgelu", "tiny_clip", "hidden_act quick_gelu, the model's GELU"),
        ("tiny_eva02", "tiny_vit", r"config\.json is not of tiny_vit: architecture tiny_eva02, the model's tiny_vit"),
    ],
)
def test_a_model_of_another_kind_is_refused(stored: str, asked: str, message: str, tmp_path: Path) -> None:
    saved(stored, tmp_path)
    with pytest.raises(ValueError, match=message):
        create(asked, str(tmp_path))


@pytest.mark.parametrize(
    ("stored", "changes", "message"),
    [
        (
            "tiny_vit",
            {"num_attention_heads": 4, "patch_size": 16},
            "num_attention_heads 4, the model's 2; patch_size 16, the model's 8",
        ),
        ("tiny_vit", {"num_hidden_layers": 12, "hidden_size": 64}, "num_hidden_layers 12, the model's 2; hidden_size 64, the m"),
        ("tiny_swin", {"depths": [2, 6], "num_heads": [4, 4]}, r"depths \[2, 6\], the model's \[2, 2\]; num_heads \[4, 4\]"),
        ("tiny_swin", {"window_size": 2}, "window_size 2, the model's 4"),
    ],
)
def test_a_configuration_of_another_shape_is_refused_before_its_weights_are_read(
    stored: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    saved(stored, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=message):
        create(stored, str(tmp_path))


def test_biases_that_are_zero_need_no_place(tmp_path: Path) -> None:
    model = published("tiny_dinov3_qkvb")
    for layer in model.model.layer:
        for linear in (layer.attention.q_proj, layer.attention.v_proj):
            linear.bias.data.zero_()
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        ours = create("tiny_dinov3", str(tmp_path))(images())
        torch.testing.assert_close(ours, model(images()).pooler_output, rtol=1e-5, atol=1e-5)


class TestTheProcessor:
    """Normalisation and size of a folder."""

    def save(self, folder: Path, **changes: Any) -> str:
        saved("tiny_vit", folder)
        ViTImageProcessor(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6], size={"height": 48, "width": 48}).save_pretrained(
            folder
        )
        file = folder / "preprocessor_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))
        return str(folder)

    def test_its_values_are_used_and_their_source_is_told(self, tmp_path: Path) -> None:
        folder = self.save(tmp_path)
        for device in ("cpu", "meta"):
            model = create("tiny_vit", folder, device=device)
            wanted = preprocessing(model)
            assert (wanted.mean, wanted.std, wanted.size) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), (48, 48))
            assert wanted.interpolation == "bilinear"
            assert describe_normalisation(model, folder) == (
                "(pixel - mean) / std with mean 0.1, 0.2, 0.3, std 0.4, 0.5, 0.6, from preprocessor_config.json of "
                f"{folder}; images of 48 x 48 pixels"
            )
        assert preprocessing(create("tiny_vit", folder, 32)).size == (32, 32)
        assert preprocessing(model, "none").mean == (0.0, 0.0, 0.0)

    @pytest.mark.parametrize(
        ("changes", "size", "mean", "std"),
        [
            ({"do_center_crop": True, "crop_size": {"height": 40, "width": 40}}, 40, 0.1, 0.4),
            ({"do_center_crop": False, "crop_size": 40, "size": 48}, 48, 0.1, 0.4),
            ({"size": {"shortest_edge": 40}}, 40, 0.1, 0.4),
            ({"size": None}, 32, 0.1, 0.4),
            ({"do_normalize": False}, 48, 0.0, 1.0),
            ({"rescale_factor": 2 / 255}, 48, 0.05, 0.2),
            ({"do_rescale": False, "image_mean": [25.5] * 3, "image_std": [51.0] * 3}, 48, 0.1, 0.2),
        ],
    )
    def test_every_form_of_it_is_understood(
        self, changes: dict[str, Any], size: int, mean: float, std: float, tmp_path: Path
    ) -> None:
        wanted = preprocessing(create("tiny_vit", self.save(tmp_path, **changes), device="meta"))
        assert (wanted.size, wanted.mean[0], wanted.std[0]) == ((size, size), pytest.approx(mean), pytest.approx(std))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"size": {"height": 32, "width": 48}}, "images must be square"),
            ({"image_mean": [0.5]}, "must be 3 numbers each"),
            ({"image_std": [0.5, 0.0, 0.5]}, "std and rescale_factor positive"),
            ({"image_mean": "imagenet"}, "must be 3 numbers each"),
            ({"image_mean": None}, "must be 3 numbers each"),
            ({"rescale_factor": "large"}, "rescale_factor positive; got .* and large"),
            ({"rescale_factor": None}, "rescale_factor positive; got .* and None"),
        ],
    )
    def test_values_that_cannot_be_used_are_refused(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=message):
            create("tiny_vit", self.save(tmp_path, **changes))

    def test_a_size_of_ones_own_replaces_one_that_cannot_be_used(self, tmp_path: Path) -> None:
        folder = self.save(tmp_path, size={"height": 32, "width": 48})
        assert preprocessing(create("tiny_vit", folder, 32)).size == (32, 32)
        assert (image_size(folder, 32), image_size("random", None), image_size(None, None)) == (32, None, None)
        folder = self.save(tmp_path)
        assert image_size(folder, None) == 48  # for what is measured without weights
        counted = measure({"name": "tiny_vit", "weights": folder}, {"kind": "none", "n_classes": 3}).backbone_params
        assert counted == sum(parameter.numel() for parameter in create("tiny_vit", folder).parameters())

    def test_a_change_of_it_is_a_change_of_the_backbone(self, tmp_path: Path) -> None:
        folder = self.save(tmp_path)
        before = digest(create("tiny_vit", folder))
        assert digest(create("tiny_vit", folder, 48)) == before
        assert digest(create("tiny_vit", folder, 32)) != before
        with pytest.raises(Changed, match=r"the weights and processor of tiny_vit .* are not those with which the study began"):
            refuse_changed({"name": "tiny_vit", "weights": folder, "digest": "0" * 64}, before)
        for change in ({"image_mean": [0.1, 0.2, 0.4]}, {"resample": 3}, {"size": {"height": 40, "width": 40}}):
            assert digest(create("tiny_vit", self.save(tmp_path, **change))) != before

    def test_without_one_the_configuration_of_timm_is_told(self, tmp_path: Path) -> None:
        saved("tiny_vit", tmp_path)
        model = create("tiny_vit", str(tmp_path))
        assert preprocessing(model).mean == (0.5, 0.5, 0.5)
        assert f"from timm's configuration of tiny_vit, not read from {tmp_path}" in describe_normalisation(model, str(tmp_path))


def test_a_folder_of_timm_is_read_with_its_own_configuration(tmp_path: Path) -> None:
    source = create("tiny_eva02", "random")
    save_file(source.state_dict(), tmp_path / "model.safetensors")
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "input_size": [3, 32, 32], "interpolation": "nearest"}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "tiny_eva02", "pretrained_cfg": config}))
    model = create("tiny_eva02", str(tmp_path))
    assert same(model, source)
    wanted = preprocessing(model)
    assert (wanted.mean, wanted.std, wanted.interpolation) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "nearest")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"has no config\.json"),
        ("[]", r"config\.json must hold a mapping; got list"),
        ("{", r"config\.json cannot be read"),
        ("[" * 100_000, r"config\.json cannot be read"),
        ("{}", r"must hold model\.safetensors or pytorch_model\.bin"),
        ('{"image_size": 2.5}', "images must be square, of whole pixels; got 2.5"),
    ],
)
def test_a_folder_of_something_else_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        create("tiny_vit", str(tmp_path))
