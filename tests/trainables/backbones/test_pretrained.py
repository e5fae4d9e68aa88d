"""Pretrained weights from local files, in every format that they come in, and nothing executed on the way."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer

from trainables.backbones import create, describe_normalisation, fingerprint

from ..small_models import small_swin


def source(name: str = "test_vit") -> VisionTransformer:
    """A model whose weights all differ, with a classifier."""
    torch.manual_seed(7)
    model = timm.create_model(name, num_classes=5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    assert isinstance(model, VisionTransformer)
    return model


def write_jax(model: VisionTransformer, path: Path, *, n_blocks: int | None = None) -> None:
    """The names and shapes of the original ViT releases."""
    w = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    d, heads = model.embed_dim, model.blocks[0].attn.num_heads
    out: dict[str, np.ndarray[Any, Any]] = {
        "embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": w["patch_embed.proj.bias"],
        "cls": w["cls_token"],
        "Transformer/posembed_input/pos_embedding": w["pos_embed"],
        "Transformer/encoder_norm/scale": w["norm.weight"],
        "Transformer/encoder_norm/bias": w["norm.bias"],
    }
    for i in range(len(model.blocks) if n_blocks is None else n_blocks):
        block, to = f"blocks.{i % len(model.blocks)}.", f"Transformer/encoderblock_{i}/"
        for ours, theirs in {"norm1": "LayerNorm_0", "norm2": "LayerNorm_2"}.items():
            out[f"{to}{theirs}/scale"], out[f"{to}{theirs}/bias"] = w[f"{block}{ours}.weight"], w[f"{block}{ours}.bias"]
        attention = f"{to}MultiHeadDotProductAttention_1/"
        kernels, biases = w[f"{block}attn.qkv.weight"].reshape(3, d, d), w[f"{block}attn.qkv.bias"].reshape(3, d)
        for name, kernel, bias in zip(("query", "key", "value"), kernels, biases, strict=True):
            out[f"{attention}{name}/kernel"] = kernel.T.reshape(d, heads, d // heads)
            out[f"{attention}{name}/bias"] = bias.reshape(heads, d // heads)
        out[f"{attention}out/kernel"] = w[f"{block}attn.proj.weight"].T.reshape(heads, d // heads, d)
        out[f"{attention}out/bias"] = w[f"{block}attn.proj.bias"]
        for n, ours in enumerate(("fc1", "fc2")):
            out[f"{to}MlpBlock_3/Dense_{n}/kernel"] = w[f"{block}mlp.{ours}.weight"].T
            out[f"{to}MlpBlock_3/Dense_{n}/bias"] = w[f"{block}mlp.{ours}.bias"]
    np.savez(path, **out)


def same(name: str, path: Path, model: VisionTransformer, **options: Any) -> bool:
    model.reset_classifier(0)
    return fingerprint(create(name, str(path), **options)) == fingerprint(model)


@pytest.mark.parametrize("ending", ["pth", "pt", "bin"])
@pytest.mark.parametrize("nested", [None, "model", "state_dict"])
def test_torch_files_are_read_plain_and_nested(ending: str, nested: str | None, tmp_path: Path) -> None:
    model, path = source(), tmp_path / f"weights.{ending}"
    torch.save(model.state_dict() if nested is None else {nested: model.state_dict(), "epoch": 3}, path)
    assert same("test_vit", path, model)


def test_names_of_data_parallel_training_are_understood(tmp_path: Path) -> None:
    model, path = source(), tmp_path / "weights.pth"
    torch.save({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, path)
    assert same("test_vit", path, model)


def test_the_npz_of_the_original_releases_is_read(tmp_path: Path) -> None:
    model = source("test_vit")
    write_jax(model, tmp_path / "ViT-Ti_16.npz")
    assert same("test_vit", tmp_path / "ViT-Ti_16.npz", model)


def test_position_embeddings_are_resampled_to_the_input_size(tmp_path: Path) -> None:
    model, path = source("test_vit"), tmp_path / "weights.safetensors"
    save_file(model.state_dict(), path)
    write_jax(model, tmp_path / "weights.npz")
    expected = resample_abs_pos_embed(model.pos_embed.detach(), [6, 6], num_prefix_tokens=1)
    for file in (path, tmp_path / "weights.npz"):
        small = create("test_vit", str(file), img_size=96)
        torch.testing.assert_close(small.pos_embed, expected, rtol=0, atol=1e-5)


class Trap:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    for name, content in {"pth": {"model": Trap(tmp_path / "sprung")}, "bin": Trap(tmp_path / "sprung")}.items():
        path = tmp_path / f"weights.{name}"
        torch.save(content, path)
        with pytest.raises(ValueError, match="holds more than tensors, which is not run here"):
            create("test_vit", str(path))
    np.savez(tmp_path / "weights.npz", **{"embedding/kernel": np.array([Trap(tmp_path / "sprung")], dtype=object)})
    with pytest.raises(ValueError, match=r"weights\.npz"):
        create("test_vit", str(tmp_path / "weights.npz"))
    assert not (tmp_path / "sprung").exists()
    (tmp_path / "other.npz").write_bytes(b"not found")
    with pytest.raises(ValueError, match=r"other\.npz is not a \.npz file \(a zip archive of arrays\)"):
        create("test_vit", str(tmp_path / "other.npz"))


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    state = source().state_dict()
    del state["blocks.1.attn.qkv.weight"]
    state["extra.weight"] = torch.zeros(2)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"of test_vit: missing blocks\.1\.attn\.qkv\.weight; unexpected extra\.weight"):
        create("test_vit", str(tmp_path / "weights.safetensors"))


def test_an_npz_of_another_depth_or_kind_is_refused(tmp_path: Path) -> None:
    write_jax(source("test_vit"), tmp_path / "deep.npz", n_blocks=8)
    with pytest.raises(ValueError, match=r"deep\.npz does not .*: it has 8 blocks, the model 6"):
        create("test_vit", str(tmp_path / "deep.npz"))
    with pytest.raises(ValueError, match="hold plain Vision Transformers; SwinTransformer is not one"):
        create(small_swin.__name__, str(tmp_path / "deep.npz"))
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npz does not hold weights of test_vit"):
        create("test_vit", str(tmp_path / "other.npz"))


def test_files_that_are_cut_off_are_refused(tmp_path: Path) -> None:
    model = source()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    write_jax(model, tmp_path / "a.npz")
    for path in list(tmp_path.iterdir()):
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ValueError, match=path.name):
            create("test_vit", str(path))


@pytest.mark.parametrize(
    ("name", "weights", "told"),
    [
        ("vit_base_patch16_224", "mae.safetensors", "mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5, from timm's configuration of"),
        ("vit_base_patch16_224.mae", "mae.safetensors", "mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225, from timm's"),
        (
            "vit_base_patch16_224",
            "mae.safetensors",
            "not read from mae.safetensors: if those were trained with other values, name their",
        ),
        ("vit_base_patch16_224.dino", None, "of vit_base_patch16_224.dino"),
    ],
)
def test_the_normalisation_is_told_with_its_source(name: str, weights: str | None, told: str) -> None:
    with torch.device("meta"):
        assert told in describe_normalisation(timm.create_model(name), weights)
