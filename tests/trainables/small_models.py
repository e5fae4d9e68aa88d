"""Small models with parts that in timm only large ones have; `create` and timm know them by name once this is imported."""

from __future__ import annotations

from typing import Any, cast

from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from timm.models.vision_transformer_hybrid import ConvStem, HybridEmbed
from torch import nn


def small(kind: type[nn.Module], name: str, **kwargs: Any) -> Any:
    """A model of 32 x 32 images."""
    config = {
        "input_size": (3, 32, 32), "num_classes": 0, "classifier": "head", "first_conv": "patch_embed.proj",
        "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5),
    }  # fmt: skip
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    return build_model_with_cfg(kind, name, False, pretrained_cfg=config, **{"img_size": 32} | kwargs)


@register_model
def small_vit(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Two blocks."""
    args = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2}
    return cast(VisionTransformer, small(VisionTransformer, "small_vit", **args | kwargs))


@register_model
def small_vit_without_qkv_bias(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """The mean of the patches in front of the head, as in vit_medium_patch16_gap_240."""
    args = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "class_token": False, "global_pool": "avg"}
    return cast(VisionTransformer, small(VisionTransformer, "small_vit_without_qkv_bias", **args | {"qkv_bias": False} | kwargs))


@register_model
def small_beit(pretrained: bool = False, **kwargs: Any) -> Beit:
    """Relative positions instead of absolute ones, and the mean of the patches in front of the head."""
    args = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "use_abs_pos_emb": False, "use_rel_pos_bias": True}
    return cast(Beit, small(Beit, "small_beit", **args | {"init_values": 0.1} | kwargs))


@register_model
def small_post_norm_eva(pretrained: bool = False, **kwargs: Any) -> Eva:
    """Norms behind attention and MLP, as in eva02_enormous_patch14_clip_224."""
    args = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "use_post_norm": True}
    return cast(Eva, small(Eva, "small_post_norm_eva", **args | kwargs))


@register_model
def small_eva(pretrained: bool = False, **kwargs: Any) -> Eva:
    """Rotary embeddings and a joined gate and value, as in eva02_tiny_patch14_224."""
    args = {"patch_size": 16, "embed_dim": 64, "depth": 2, "num_heads": 2, "swiglu_mlp": True, "use_rot_pos_emb": True}
    return cast(Eva, small(Eva, "small_eva", **args | kwargs))


@register_model
def small_swin(pretrained: bool = False, **kwargs: Any) -> SwinTransformer:
    """Two stages of two blocks."""
    args = {"patch_size": 4, "window_size": 4, "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4)}
    return cast(SwinTransformer, small(SwinTransformer, "small_swin", **args | kwargs))


@register_model
def small_hybrid(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A stem with batch norms, as in vit_base_mci_224."""
    stem = ConvStem(channels=(16, 32, 64), stride=(4, 2, 2), kernel_size=(4, 2, 2), padding=0)
    args = {"patch_size": 1, "embed_dim": 64, "depth": 2, "num_heads": 2, "no_embed_class": True}

    def embed(**its: Any) -> HybridEmbed:
        return HybridEmbed(backbone=stem, proj=False, **its)

    return cast(VisionTransformer, small(VisionTransformer, "small_hybrid", embed_layer=embed, **args | kwargs))
