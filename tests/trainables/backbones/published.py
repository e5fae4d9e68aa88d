"""Small random models of Hugging Face's transformers, and the timm models of the same shape, which `create` knows by name."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import transformers
from timm.layers import LayerNorm, SwiGLUPacked
from timm.models import register_model
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..small_models import small

SIZE = 32
_TIMM: dict[str, Any] = {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
_DINOV3 = _TIMM | {
    "dynamic_img_size": True, "init_values": 1.0, "rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True,
    "use_rot_pos_emb": True, "use_abs_pos_emb": False, "num_reg_tokens": 4, "use_fc_norm": False, "global_pool": "token",
    "norm_layer": partial(LayerNorm, eps=1e-5),
}  # fmt: skip
_CLIP = _TIMM | {"pre_norm": True, "norm_layer": partial(LayerNorm, eps=1e-5)}
# name -> timm's class and arguments; each differs from a published model in width and depth only
SHAPES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "tiny_vit": (VisionTransformer, _TIMM),
    "tiny_deit_distilled": (VisionTransformerDistilled, _TIMM),
    "tiny_dinov2": (VisionTransformer, _TIMM | {"init_values": 1.0}),
    "tiny_dinov2_reg": (VisionTransformer, _TIMM | {"init_values": 1.0, "reg_tokens": 4, "no_embed_class": True}),
    "tiny_dinov2_swiglu": (
        VisionTransformer,
        _TIMM | {"init_values": 1.0, "mlp_ratio": 5.5, "mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU},
    ),
    "tiny_dinov3": (Eva, _DINOV3 | {"qkv_bias": False}),
    "tiny_dinov3_qkvb": (Eva, _DINOV3),
    "tiny_dinov3_plus": (Eva, _DINOV3 | {"swiglu_mlp": True, "swiglu_align_to": 8}),
    "tiny_clip": (VisionTransformer, _CLIP),
    "tiny_clip_quickgelu": (VisionTransformer, _CLIP | {"act_layer": "quick_gelu"}),
    "tiny_siglip": (VisionTransformer, _TIMM | {"class_token": False, "global_pool": "map"}),
    "tiny_siglip_gap": (VisionTransformer, _TIMM | {"class_token": False, "global_pool": "avg", "fc_norm": False}),
    "tiny_eva02": (
        Eva,
        _TIMM
        | {"mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True, "scale_mlp": True, "qkv_fused": False}
        | {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)},
    ),
    "tiny_beit": (Beit, _TIMM | {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.1}),
    "tiny_swin": (
        SwinTransformer,
        {"patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)},
    ),
}
PRETRAINED = {"tiny_mae": "tiny_vit", "tiny_dino": "tiny_vit"}  # other models of a shape


def _register(name: str) -> None:
    def build(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        kind, args = SHAPES[name]
        model: nn.Module = small(kind, name, **args | kwargs)
        return model

    build.__name__, build.__module__ = name, __name__
    register_model(build)


for _name in SHAPES:
    _register(_name)

_HF: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "image_size": SIZE,
    "patch_size": 8, "layer_norm_eps": 1e-6, "attn_implementation": "eager",
}  # fmt: skip
_TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}


def published(name: str) -> Any:
    """Build a random model by the name of its timm shape: one of `SHAPES` or `PRETRAINED`, or timm's `test_vit`."""
    t, dino = transformers, {key: value for key, value in _HF.items() if key != "intermediate_size"}
    rope = _HF | {"num_register_tokens": 4, "layer_norm_eps": 1e-5}
    clip = _HF | {"layer_norm_eps": 1e-5, "hidden_act": "gelu"}
    build = {
        "test_vit": lambda: t.ViTForImageClassification(
            t.ViTConfig(
                **_HF | {"hidden_size": 64, "num_hidden_layers": 6, "intermediate_size": 192, "image_size": 160, "patch_size": 16}
            )
        ),
        "tiny_vit": lambda: t.ViTForImageClassification(t.ViTConfig(**_HF)),
        "tiny_dino": lambda: t.ViTModel(t.ViTConfig(**_HF)),
        "tiny_mae": lambda: t.ViTMAEForPreTraining(
            t.ViTMAEConfig(
                **_HF,
                mask_ratio=0.0,
                decoder_num_hidden_layers=1,
                decoder_hidden_size=32,
                decoder_num_attention_heads=2,
                decoder_intermediate_size=32,
            )
        ),
        "tiny_deit_distilled": lambda: t.DeiTForImageClassificationWithTeacher(t.DeiTConfig(**_HF)),
        "tiny_dinov2": lambda: t.Dinov2Model(t.Dinov2Config(**dino)),
        "tiny_dinov2_reg": lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**dino)),
        "tiny_dinov2_swiglu": lambda: t.Dinov2Model(t.Dinov2Config(**dino, use_swiglu_ffn=True)),
        "tiny_dinov3": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**rope, query_bias=False, value_bias=False)),
        "tiny_dinov3_qkvb": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**rope)),
        "tiny_dinov3_plus": lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**rope, use_gated_mlp=True, hidden_act="silu")),
        "tiny_clip": lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**clip)),
        "tiny_clip_quickgelu": lambda: t.CLIPModel(
            t.CLIPConfig(text_config=_TEXT, vision_config=clip | {"hidden_act": "quick_gelu"}, attn_implementation="eager")
        ),
        "tiny_siglip": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**_HF | {"hidden_act": "gelu"})),
        "tiny_siglip_gap": lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**_HF | {"hidden_act": "gelu"}, vision_use_head=False)),
        "tiny_eva02": lambda: t.TimmWrapperModel(t.TimmWrapperConfig(architecture="tiny_eva02")),
        "tiny_beit": lambda: t.BeitForImageClassification(
            t.BeitConfig(**_HF, use_relative_position_bias=True, use_mask_token=True)
        ),
        "tiny_swin": lambda: t.SwinForImageClassification(
            t.SwinConfig(image_size=SIZE, patch_size=4, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4)
        ),
    }[name]
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def features(model: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what timm calls features, the normalised last hidden state, and their pooled form in front of a classifier."""
    kind = type(model).__name__
    tower = model if kind.endswith("Model") and kind != "CLIPModel" else getattr(model, "vision_model", None) or model.base_model
    if kind == "ViTMAEForPreTraining":  # masks none, and visits the patches in the order of the noise
        out = model.vit(images, noise=torch.arange(16.0).expand(len(images), 16))
    elif kind == "TimmWrapperModel":
        tower = model.timm_model
        return tower.forward_features(images), tower(images)
    else:
        out = tower(images)
    hidden = out.last_hidden_state
    if "CLIP" in kind:  # returns it without the norm
        hidden = tower.post_layernorm(hidden)
    pooled = None if kind == "ViTModel" else getattr(out, "pooler_output", None)  # a ViT's passes through another layer
    if pooled is None:
        pooled = hidden.mean(1) if "Siglip" in kind else hidden[:, :2].mean(1) if "DeiT" in kind else hidden[:, 0]
    return hidden, pooled
