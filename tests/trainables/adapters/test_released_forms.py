"""Ours against short transcriptions of released equations: the same where the form is another, else as declared."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest
import timm
import torch
from timm.models.swin_transformer import SwinTransformerBlock
from timm.models.vision_transformer import Block, LayerScale, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from trainables.adapters import (
    ARC,
    VPT,
    Adapter,
    AdapterPlus,
    Convpass,
    DiffFit,
    FacT,
    Layer,
    Method,
    RandLoRA,
    RepAdapter,
    adapt,
    trainable_parameters,
)
from trainables.adapters.adapter import AdapterLayer
from trainables.adapters.arc import ARCLayer
from trainables.adapters.convpass import Bypass, ConvpassLayer
from trainables.adapters.fact import FacTLayer
from trainables.adapters.families import Layout
from trainables.adapters.randlora import RandLoRALayer
from trainables.adapters.rep_adapter import RepAdapterLayer

from .. import small_models

D, R = 24, 4


def random_model(method: Method, name: str = "") -> Any:
    """A small model in float64, adapted by a method, all of whose adapter's tensors are random."""
    by = torch.Generator().manual_seed(0)
    sizes: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": D, "depth": 2, "num_heads": 2, "num_classes": 3}
    model = timm.create_model(name) if name else VisionTransformer(**sizes)
    adapt(model.double(), method, generator=by)
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.normal_(generator=by)
    return model.eval()


def tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


# FacT-TK (`fact_tk.py`): P has a column for each d x d slice of a block's four linears; u and v are the two factors


def in_blocks(t: Tensor) -> Tensor:
    """The (r, r, 4) slices of a linear of the MLP next to each other, (r, 4 r), as the paper has them."""
    return torch.cat(t.unbind(2), 1)


def interleaved(t: Tensor) -> Tensor:
    """The same as the released code reshapes them."""
    return t.reshape(len(t), -1)


def released_update(layer: FacTLayer, target: str, x: Tensor, core: Tensor, arranged: Any = in_blocks) -> Tensor:
    """What the released forward adds to the output of a linear, without dropout."""
    u, v, t = layer.u, layer.v, core @ layer.own.flatten(0, 1).T  # (r, r, slices)
    if target == "mlp.fc2":
        codes = (x.unflatten(-1, (4, D)) @ u.T).flatten(-2) @ arranged(t).T
        return layer.scale * codes @ v.T
    codes = x @ u.T @ (arranged(t) if target == "mlp.fc1" else in_blocks(t))
    return layer.scale * (codes.unflatten(-1, (-1, R)) @ v.T).flatten(-2)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("target", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"])
def test_fact_tk_has_the_released_equation_but_for_the_transposed_core_of_fc2(target: str, train: bool) -> None:
    layer: FacTLayer = random_model(FacT(rank=R, scale=0.7, dropout=0.0)).get_submodule(f"blocks.1.{target}").train(train)
    core = cast(Tensor, layer.core)
    x = tokens(2, 3, layer.linear.in_features)
    ours = layer(x) - layer.base(x)
    released = released_update(layer, target, x, core)
    if target != "mlp.fc2":
        assert_close(ours, released)
        return
    assert (ours - released).norm() > 0.5 * released.norm()
    assert_close(ours, released_update(layer, target, x, core.transpose(0, 1)))
    with torch.no_grad():
        core.add_(core.transpose(0, 1).clone())  # a core that is its own transpose
    assert_close(layer(x) - layer.base(x), released_update(layer, target, x, core))


@pytest.mark.parametrize("target", ["mlp.fc1", "mlp.fc2"])
def test_fact_tks_released_code_interleaves_the_slices_of_the_mlp_and_ours_does_not(target: str) -> None:
    layer: FacTLayer = random_model(FacT(rank=R, dropout=0.0)).get_submodule(f"blocks.1.{target}")
    core = cast(Tensor, layer.core)
    with torch.no_grad():
        core.add_(core.transpose(0, 1).clone())  # so that the transposed core is no difference
    x = tokens(2, 3, layer.linear.in_features)
    ours = layer(x) - layer.base(x)
    assert_close(ours, released_update(layer, target, x, core))
    assert (ours - released_update(layer, target, x, core, interleaved)).norm() > 0.5 * ours.norm()


# Adapter-8 of the VTAB-1K tables (NOAH, `adapter_super.py` and its block)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def noah(layer: AdapterLayer, y: Tensor) -> Tensor:
    return y + quick_gelu(y @ layer.down.T + layer.down_bias) @ layer.up.T + layer.up_bias


def test_the_default_adapter_is_noahs_but_for_its_activation() -> None:
    block: Any = random_model(Adapter()).blocks[1]
    layer, x = block.mlp, tokens(2, 5, D)
    released = noah(layer, layer.base(x))
    assert not torch.allclose(layer(x), released)
    layer.activation = quick_gelu
    assert_close(layer(x), released)


def test_where_a_path_is_dropped_noahs_adapter_moves_the_stream_and_ours_does_not() -> None:
    block: Any = random_model(Adapter()).blocks[1]
    block.drop_path2 = Dropped()
    x = tokens(2, 5, D)
    between = x + block.attn(block.norm1(x))
    assert_close(block(x), between)
    moved = noah(block.mlp, Dropped()(between))
    assert_close(moved, (quick_gelu(block.mlp.down_bias) @ block.mlp.up.T + block.mlp.up_bias).expand_as(x))
    assert moved.norm() > 0.1 * between.norm()


class Dropped(nn.Module):
    """Stochastic depth that drops every path."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


# ARC on a Swin (`ARC_swin_b.py`)


def arc(layer: ARCLayer, x: Tensor) -> Tensor:
    return x + x @ (layer.u * layer.c) @ layer.u.T + layer.b


def test_arc_on_a_swin_adapts_behind_the_norm_and_the_released_code_the_stream_in_front_of_it() -> None:
    model = random_model(ARC(rank=3, dropout=0.0), small_models.small_swin.__name__)
    block = cast(SwinTransformerBlock, model.layers[0].blocks[0])
    mlp = cast(Any, block.mlp)
    attention, fc1 = cast(ARCLayer, cast(Any, block.attn).qkv), cast(ARCLayer, mlp.fc1)
    x = tokens(1, 8, 8, 32)

    def rest(h: Tensor) -> Tensor:
        return cast(Tensor, mlp.fc2(mlp.act(fc1.base(h))))

    between = x + block._attn(block.norm1(x))
    assert_close(block(x), between + rest(arc(fc1, block.norm2(between))).view_as(x))
    stream = arc(fc1, between)
    released = stream + rest(block.norm2(stream)).view_as(x)
    assert (block(x) - released).norm() > 0.5 * (released - x).norm()
    normed = block.norm1(x)
    assert_close(attention(normed), attention.base(arc(attention, normed)))  # the attention's is the released one
    with torch.no_grad():
        fc1.c.zero_()
        fc1.b.zero_()
    assert_close(block(x), between + rest(block.norm2(between)).view_as(x))


# RandLoRA's CLIP scripts (`vision_language/src/rand_lora.py`)


def test_randloras_clip_scripts_have_alpha_sqrt_n_and_a_map_more_where_the_rank_divides() -> None:
    for rank, n_theirs in ((6, D // 6 + 1), (5, D // 5 + 1)):
        n = -(-D // rank)
        layer: RandLoRALayer = random_model(RandLoRA(rank=rank, alpha=n**0.5)).get_submodule("blocks.0.mlp.fc1")
        assert layer.diag_b.shape[1] == n == n_theirs - (D % rank == 0)
        assert layer.scale == pytest.approx(1 / rank)


def test_randloras_fused_mlp_adds_the_output_projection_to_the_linears_of_the_clip_scripts() -> None:
    model = random_model(RandLoRA(rank=6))
    found = {name for name, module in cast(Block, model.blocks[0]).named_modules() if isinstance(module, Layer)}
    assert found - {"attn.qkv", "mlp.fc1", "mlp.fc2"} == {"attn.proj"}


def test_the_diagonals_of_qkv_are_trained_here_and_not_by_an_adapted_weight_that_is_assigned_to_data() -> None:
    layer: RandLoRALayer = random_model(RandLoRA(rank=6)).get_submodule("blocks.0.attn.qkv")
    x, released = tokens(2, 3, D), nn.Linear(D, 3 * D, dtype=torch.float64).requires_grad_(False)
    released.weight.data = layer.adapted_weight()  # as their attention does
    assert not released(x).requires_grad
    layer(x).square().sum().backward()
    for diagonal in (layer.diag_b, layer.diag_a):
        assert diagonal.grad is not None
        assert diagonal.grad.norm() > 0


# DiffFit (`model/block.py` of the study of Mai et al.): gamma stands behind LayerScale and stochastic depth


class AllKept(nn.Module):
    """Stochastic depth that keeps every path."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 0.9


def test_difffits_scales_on_the_last_linears_are_the_released_ones_behind_layer_scale_and_stochastic_depth() -> None:
    block: Any = random_model(DiffFit()).blocks[1]
    for i in (1, 2):
        setattr(block, f"ls{i}", LayerScale(D, 0.5).double())
        setattr(block, f"drop_path{i}", AllKept())
    plain, x = copy.deepcopy(block), tokens(2, 5, D)
    plain.attn.proj, plain.mlp.fc2 = plain.attn.proj.base, plain.mlp.fc2.base
    released = x + block.attn.proj.gamma * plain.drop_path1(plain.ls1(plain.attn(plain.norm1(x))))
    released = released + block.mlp.fc2.gamma * plain.drop_path2(plain.ls2(plain.mlp(plain.norm2(released))))
    assert_close(block(x), released)


# RepAdapter (`repadapter.py`): convolutions with kernels of one token, the second in two groups


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("target", ["attn.qkv", "mlp.fc1"])
def test_rep_adapters_halves_are_the_groups_of_the_released_convolution(target: str, train: bool) -> None:
    layer: RepAdapterLayer = (
        random_model(RepAdapter(rank=R, scale=0.7, dropout=0.0)).get_submodule(f"blocks.1.{target}").train(train)
    )
    x = tokens(2, 5, D)
    code = F.conv1d(x.transpose(1, 2), layer.down[:, :, None], layer.down_bias)
    moved = F.conv1d(code, layer.up.flatten(0, 1)[:, :, None], layer.up_bias, groups=2)
    assert_close(layer(x), layer.base((moved * 0.7 + x.transpose(1, 2)).transpose(1, 2)))


# Adapter+ (`vit_adapter.py`): the position `post`, and stochastic depth inside the scale


def test_adapter_plus_is_the_released_post_adapter_and_drops_whole_images() -> None:
    layer: Any = random_model(AdapterPlus(drop_path=0.5)).blocks[1].train()
    x = tokens(64, 5, D)
    y = layer.base(x)
    bottleneck = nn.Sequential(nn.Linear(D, 8), nn.GELU(), nn.Linear(8, D)).double()
    with torch.no_grad():
        for mine, theirs in zip((layer.down, layer.down_bias, layer.up, layer.up_bias), bottleneck.parameters(), strict=True):
            theirs.copy_(mine)
    released = bottleneck(y) * layer.scale
    assert_close(layer.eval()(x), y + released)
    added = layer.train()(x) - y
    kept = added.flatten(1).any(1)
    assert 0 < kept.sum() < 64
    assert_close(added[kept], 2 * released[kept])


# Convpass (`convpass.py`): its two images are the grid of patches and the class token


def convpass(bypass: Bypass, h: Tensor, grid: tuple[int, int]) -> Tensor:
    code, images = quick_gelu(h @ bypass.down.T + bypass.down_bias), []
    for part, size in ((code[:, :1], (1, 1)), (code[:, 1:], grid)):
        image = part.reshape(len(h), *size, R).permute(0, 3, 1, 2)
        image = nn.functional.conv2d(image, bypass.kernel, bypass.kernel_bias, padding=1)
        images.append(image.permute(0, 2, 3, 1).reshape(len(h), -1, R))
    return quick_gelu(torch.cat(images, 1)) @ bypass.up.T + bypass.up_bias


@pytest.mark.parametrize("kept", [(1, 1), (0, 1), (1, 0)])  # the branches, and what is parallel to them
def test_convpass_is_the_released_one_on_a_grid_that_is_not_square_and_its_paths_are_dropped_apart(kept: tuple[int, int]) -> None:
    sizes: dict[str, Any] = {"img_size": (16, 24), "patch_size": 8, "embed_dim": D, "depth": 1, "num_heads": 2, "init_values": 0.5}
    model = VisionTransformer(**sizes).double().eval()
    adapt(model, Convpass(rank=R, scale=0.7))
    layer = cast(ConvpassLayer, model.blocks[0])
    block, by = cast(Any, layer.base), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in layer.beside.parameters():
            parameter.normal_(generator=by)
    block.drop_path1, block.drop_path2 = Kept(*kept), Kept(*kept)
    x = tokens(2, 7, D)
    found = layer(x)
    attention, mlp = (cast(Bypass, layer.beside[branch]) for branch in ("attn", "mlp"))
    h = block.norm1(x)
    x = x + kept[0] * block.ls1(block.attn(h)) + kept[1] * 0.7 * convpass(attention, h, (2, 3))
    h = block.norm2(x)
    x = x + kept[0] * block.ls2(block.mlp(h)) + kept[1] * 0.7 * convpass(mlp, h, (2, 3))
    assert_close(found, x)


class Kept(nn.Module):
    """Stochastic depth that keeps the paths that have a 1, in the order of its calls."""

    def __init__(self, *kept: int) -> None:
        super().__init__()
        self.kept = iter(kept)

    def forward(self, x: Tensor) -> Tensor:
        return x * next(self.kept)


def test_convpasses_first_kernel_is_the_identity_or_xavier() -> None:
    block: Any = random_model(Convpass(rank=R)).blocks[0]
    kernels = []
    for init in ("identity", "xavier"):
        bypass = Bypass(block.base.attn.proj.weight, Layout(1, (2, 2)), Convpass(rank=R, kernel_init=init), torch.Generator())
        kernels.append(bypass.kernel)
    x = tokens(1, R, 3, 3)
    assert_close(nn.functional.conv2d(x, kernels[0], padding=1), x)
    assert 0.7 * (6 / (18 * R)) ** 0.5 < kernels[1].abs().max() <= (6 / (18 * R)) ** 0.5


# VPT (`vit_prompt/vit.py`): deep prompts are replaced in front of each block, shallow ones are carried through all


def vpt(layers: list[Any], x: Tensor, *, deep: bool, dropout: float = 0.0) -> Tensor:
    p = layers[0].prompts.shape[0]
    for i, layer in enumerate(layers):
        if i == 0 or deep:
            prompts = nn.functional.dropout(layer.prompts[None].expand(len(x), -1, -1), dropout)
            x = torch.cat((x[:, :1], prompts, x[:, 1 + (p if i else 0) :]), 1)
        x = layer.base(x)
    return x


@pytest.mark.parametrize("depth", ["shallow", "deep"])
def test_vpt_is_the_released_one_with_the_prompts_gone_behind_the_last_block(depth: str) -> None:
    model = random_model(VPT(depth=depth, length=3, dropout=0.4))
    x, layers, deep = tokens(2, 5, D), list(model.blocks), depth == "deep"
    released = vpt(layers, x, deep=deep)
    assert_close(model.blocks(x), torch.cat((released[:, :1], released[:, 4:]), 1))
    torch.manual_seed(3)
    released = vpt(layers, x, deep=deep, dropout=0.4)
    torch.manual_seed(3)
    assert_close(model.blocks.train()(x), torch.cat((released[:, :1], released[:, 4:]), 1))


def test_an_average_sees_the_patches_and_the_released_one_for_mae_the_prompts_too() -> None:
    model: Any = VisionTransformer(img_size=16, patch_size=8, embed_dim=D, depth=2, num_heads=2, num_classes=3, global_pool="avg")
    adapt(model.double().eval(), VPT(length=3, dropout=0.0))
    images = tokens(2, 3, 16, 16)
    through = vpt(list(model.blocks), model._pos_embed(model.patch_embed(images)), deep=True)
    assert_close(model(images), model.head(model.fc_norm(through[:, 4:].mean(1))))
    assert not torch.allclose(model(images), model.head(model.fc_norm(through[:, 1:].mean(1))))


def test_prompts_begin_uniform_within_xaviers_bound_of_the_patch_embedding() -> None:
    model: Any = VisionTransformer(depth=1)
    adapt(model, VPT(length=200))
    values = model.blocks[0].prompts
    bound = (6 / (3 * 16 * 16 + 768)) ** 0.5
    assert 0.999 * bound < values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
