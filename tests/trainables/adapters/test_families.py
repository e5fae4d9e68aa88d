"""The laws again on one small random model of each further family of backbones, and what each of them needs."""

from __future__ import annotations

import functools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from timm.layers import LayerNorm, QuickGELU, SwiGLUPacked
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from trainables import measure
from trainables.adapters import METHODS, VPT, Convpass, LayerNormTuning, Lily, LoRA, adapt, remove
from trainables.adapters.base import adapted_layers
from trainables.backbones import create, fingerprint, remove_head, set_head

from ..small_models import small_beit, small_swin
from .adapter_laws import LAWS, METHOD_ALONE, N_CLASSES, TOKEN, AdapterLaws, Backbone, Case, Family, adapted, images
from .test_adapters import CASES

HEADS: dict[str, Any] = {"num_heads": 2}
SMALL: dict[str, Any] = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 3, "num_classes": N_CLASSES, **HEADS}
VIT = partial(VisionTransformer, **SMALL)
EVA = partial(Eva, **SMALL, norm_layer=LayerNorm, mlp_ratio=2, swiglu_mlp=True, use_rot_pos_emb=True, ref_feat_shape=(2, 2))

FAMILIES = [
    Family("BEiT", 8, 3, 24, HEADS, partial(Beit, **SMALL, mlp_ratio=3, qkv_bias=True, use_abs_pos_emb=False, use_rel_pos_bias=True,
        init_values=0.5)),
    Family("EVA", 8, 3, 24, HEADS, partial(Eva, **SMALL, mlp_ratio=3)),
    Family("EVA-02", 8, 3, 24, HEADS, partial(EVA, qkv_fused=False, scale_mlp=True, scale_attn_inner=True)),
    Family("rotary, fused, packed", 8, 3, 24, HEADS, partial(EVA, qk_norm=True, init_values=0.5)),
    Family("DINOv2 giant", 8, 3, 24, HEADS, partial(VIT, mlp_ratio=4, mlp_layer=SwiGLUPacked, init_values=0.5, reg_tokens=2)),
    Family("CLIP", 8, 3, 24, HEADS, partial(VIT, mlp_ratio=3, pre_norm=True, act_layer=QuickGELU)),
    Family("SigLIP", 8, 3, 24, HEADS, partial(VIT, mlp_ratio=3, class_token=False, global_pool="map")),
    Family("Swin", 8, 3, 16, HEADS, partial(SwinTransformer, img_size=8, patch_size=2, embed_dim=8, depths=(3, 3), num_heads=(2, 2),
        window_size=2, mlp_ratio=2.0, drop_path_rate=0.0, num_classes=N_CLASSES),
        last=Backbone("second stage", 16, 3, 32, HEADS)),
]  # fmt: skip


@functools.cache
def chosen_cases() -> list[tuple[Case, list[Case]]]:
    """Of each method the case that puts in most layers, and the first that adapts some blocks only, if there is one."""
    chosen = []
    for method in METHODS.values():
        of_method = [case for case in CASES if type(case.method) is method]
        most = max(of_method, key=lambda case: len(adapted_layers(adapted(TOKEN, case.method, moved=False))))
        some = [case for case in of_method if case is not most and getattr(case.method, "layers", "all") != "all"]
        chosen.append((most, some[:1]))
    return chosen


EQUATION = "test_values_and_gradients_are_those_of_the_dense_equation"


def rows(law: str) -> list[Any]:
    """Every method on every third family, and the next law on the next: every two meet, and every family has many methods.

    The law of the equation itself, on every family. So too on Swin, whose stages differ, for the cases on some blocks only.
    Of a law in which the backbone has no part: each family with one method, and the next law with the next ones.
    """
    turn = LAWS.index(law)
    most = [case for case, _ in chosen_cases() if case.concerns(law)]
    if law in METHOD_ALONE:
        found = [(family, most[(turn + i) % len(most)]) for i, family in enumerate(FAMILIES)]
    else:
        found = [
            (family, case)
            for i, case in enumerate(most)
            for j, family in enumerate(FAMILIES)
            if law == EQUATION or (i + j + turn) % 3 == 0
        ]
        some = [(family, case) for _, some in chosen_cases() for case in some for family in FAMILIES if family.name == "Swin"]
        found += some[turn % 3 :: 3]
    if law == EQUATION:  # each way of adding tokens meets the positions of every family
        found += [(family, case) for case in CASES if case.n_tokens and case not in most for family in FAMILIES]
    found = [(family, case) for family, case in found if not (case.n_tokens and family.name == "Swin")]
    return [pytest.param(*row, id=f"{row[0].name}-{row[1]}") for row in found]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"backbone", "case"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("backbone", "case"), rows(metafunc.function.__name__))


@pytest.mark.slow
class TestEveryMethodOnEveryFamily(AdapterLaws):
    """Every method and every family, as far as the family has a part in the law."""


@pytest.mark.parametrize(
    ("name", "lora", "bitfit", "layer_norm"),
    [  # r = 8 on q and v; the biases of a plain block with its norms: 7 d + m; weight and bias of 2 norms a block and the last one
        ("deit_base_patch16_224", 12 * 4 * 768 * 8, 12 * (7 * 768 + 3072) + 2 * 768, 2 * 768 * 25),
        ("vit_base_patch14_dinov2", 12 * 4 * 768 * 8, 12 * (7 * 768 + 3072) + 2 * 768, 2 * 768 * 25),
        (
            "vit_base_patch16_clip_224",
            12 * 4 * 768 * 8,
            12 * (7 * 768 + 3072) + 2 * 768,
            39_936,
        ),  # no patch bias, a norm before the blocks; the last count is the one that Mai et al. print
        (
            "vit_base_patch16_siglip_224",
            12 * 4 * 768 * 8,
            13 * (7 * 768 + 3072) + 2 * 768 - 768,
            2 * 768 * 26,
        ),  # a pool like a block, one norm less
        ("beitv2_base_patch16_224", 12 * 4 * 768 * 8, 12 * (6 * 768 + 3072) + 2 * 768, 2 * 768 * 25),
        ("eva02_base_patch14_224", 12 * 4 * 768 * 8, 12 * (6 * 768 + 3 * 2048) + 2 * 768, 2 * (768 * 25 + 12 * 2048)),
        (
            "swin_tiny_patch4_window7_224",
            4 * 8 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768),
            None,
            2 * (2 * (2 * 96 + 2 * 192 + 6 * 384 + 2 * 768) + 96 + 4 * (96 + 192 + 384) + 768),
        ),  # norms of the blocks, the patch embedding, three patch mergings of four patches each, and the end
        ("vit_base_r50_s16_224", 12 * 4 * 768 * 8, None, 2 * 768 * 25),  # the group norms of the stem are no layer norms
    ],
)
def test_counts_on_real_architectures_are_closed_forms(name: str, lora: int, bitfit: int | None, layer_norm: int) -> None:
    sizes = measure({"name": name}, {"kind": "none", "n_classes": 2})
    assert sizes.count({"method": "lora"})[0] == lora
    assert bitfit is None or sizes.count({"method": "bitfit"})[0] == bitfit
    assert sizes.count({"method": "layer_norm"})[0] == layer_norm
    assert bitfit is None or sizes.count({"method": "difffit"})[0] == bitfit + layer_norm // 2 + 12 * 2 * 768
    assert sizes.count({"method": "full"})[0] == sizes.backbone_params
    swin = name.startswith("swin")  # of two blocks at widths of 96, 192 and 768, and six at 384
    widths = (96, 96, 192, 192, *(384,) * 6, 768, 768) if swin else (768,) * 12
    assert sizes.count({"method": "convpass"})[0] == 2 * sum(2 * d * 8 + 9 * 8**2 + 2 * 8 + d for d in widths)
    assert swin or [sizes.count({"method": "vpt", "vpt.depth": depth})[0] for depth in ("deep", "shallow")] == [12 * 38_400, 38_400]


def test_layer_norm_tuning_refuses_a_backbone_of_rms_norms_and_leaves_it_as_it_was() -> None:
    model = create("test_vit4", device="meta")
    flags = [p.requires_grad for p in model.parameters()]
    with pytest.raises(
        ValueError, match=r"layer_norm trains layer norms, and this VisionTransformer has none \(its norms: RmsNorm\);"
    ):
        adapt(model, LayerNormTuning())
    assert [p.requires_grad for p in model.parameters()] == flags
    adapt(model, LoRA(rank=2))


def test_convpass_refuses_patches_without_a_fixed_grid() -> None:
    model = VIT(patch_drop_rate=0.5)
    with pytest.raises(
        ValueError, match="the patches of this VisionTransformer have no fixed grid: it drops some or takes any size;"
    ):
        adapt(model, Convpass(rank=2))
    adapt(model, LoRA(rank=2))


def test_a_swin_has_no_place_for_tokens_and_stays_as_it_was() -> None:
    model = create(small_swin.__name__, device="meta")
    with pytest.raises(
        ValueError,
        match=r"vpt adds tokens to a sequence, and the attention of a SwinTransformer is in windows of a grid; "
        r"choose another method, or a plain ViT, .*, BEiT or EVA-02$",
    ):
        adapt(model, VPT())
    adapt(model, LoRA(rank=2))


def test_tokens_have_no_bias_whether_blocks_share_their_relative_positions_or_own_them() -> None:
    """A table that all blocks share does what copies of it in each block do."""
    shared, owned = (
        Beit(**SMALL, use_abs_pos_emb=False, use_rel_pos_bias=own, use_shared_rel_pos_bias=not own) for own in (False, True)
    )
    by = torch.Generator().manual_seed(0)
    table = torch.randn(12, 2, generator=by)
    state = {n: torch.randn(p.shape, generator=by) for n, p in shared.state_dict().items() if not n.startswith("rel_pos_bias.")}
    owned.load_state_dict(state | {f"blocks.{i}.attn.relative_position_bias_table": table for i in range(3)})
    shared.load_state_dict(state | {"rel_pos_bias.relative_position_bias_table": table})
    for model in (shared, owned):
        adapt(model.double().eval(), VPT(length=3))
    torch.testing.assert_close(shared(images(2)), owned(images(2)))


def test_what_does_not_fit_a_stage_of_a_swin_is_refused_with_the_stage() -> None:
    """Of the last four blocks one is in the first stage and three are in the second."""
    swin = next(family for family in FAMILIES if family.name == "Swin")
    with pytest.raises(
        ValueError, match=r"lily\.n_downs must be at most 1, one for each adapted block of layers\.0\.blocks, .*; got 2"
    ):
        adapt(swin.build(), Lily(rank=2, n_downs=2, layers="last-4"))


@pytest.mark.parametrize("name", [small_beit.__name__, "eva02_tiny_patch14_224", small_swin.__name__])
def test_a_head_is_set_taken_off_and_left_out_of_local_weights(name: str, tmp_path: Path) -> None:
    source = create(name, "random")
    before = fingerprint(source)
    set_head(source, 3, torch.Generator().manual_seed(0))
    assert source.get_classifier().out_features == 3
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    adapt(source, LoRA(rank=2))
    remove(source)
    remove_head(source)
    assert fingerprint(source) == before == fingerprint(create(name, str(tmp_path / "weights.safetensors")))
