"""The laws again on one small random model of each further family of backbones, and what each of them needs."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from timm.layers import LayerNorm, QuickGELU, SwiGLUPacked
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from trainables.adapters import METHODS
from trainables.adapters.base import adapted_layers

from .adapter_laws import N_CLASSES, TOKEN, AdapterLaws, Backbone, Family, adapted
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


def rows() -> list[Any]:
    """On every family the row of each method that puts in most layers, on two also the first that adapts some blocks only."""
    found = []
    for method in METHODS.values():
        of_method = [case for case in CASES if type(case.method) is method]
        most = max(of_method, key=lambda case: len(adapted_layers(adapted(TOKEN, case.method, moved=False))))
        found += [(family, most) for family in FAMILIES]
        some = [case for case in of_method if case is not most and getattr(case.method, "layers", "all") != "all"]
        found += [(family, case) for family in FAMILIES if family.name in ("EVA-02", "Swin") for case in some[:1]]
    return [pytest.param(*row, id=f"{row[0].name}-{row[1]}") for row in found]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"backbone", "case"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("backbone", "case"), rows())


class TestEveryMethodOnEveryFamily(AdapterLaws):
    """Every method on every family."""
