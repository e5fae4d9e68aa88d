"""The names of Hugging Face's transformers in those of the timm model of the same shape.

One `Layout` per group of models that name their tensors alike. `translated` finds a file's layout by a name that only this layout
has, renames its tensors, and joins or divides those that timm stores in another form:

    q, k and v             one `attn.qkv`; the biases of BEiT and DINOv3, which have none for k, `attn.q_bias` and `attn.v_bias`
    gate and up            one `mlp.fc1` of timm's packed MLP (DINOv2), or `mlp.fc1_g` and `mlp.fc1_x` (DINOv3)
    positions of a token   added to the class token where timm has positions of patches only (DINOv2 with registers)

Both the names that `save_pretrained` writes and those of a model in memory since transformers 5 are read. EVA-02 is published in
timm's names. Position grids and tables are resampled by timm afterwards, as for any other file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

Rule = tuple[str, str | Callable[[re.Match[str]], str]]  # regular expression and replacement, as for `re.sub`


@dataclass(frozen=True)
class Layout:
    """The names of tensors that several models share.

    Attributes:
        models: Names of the models, for messages.
        sign: Regular expression of a name that only this layout has; its group is the path of the backbone in the file.
        rules: Replacements that make a name timm's, in order, without the backbone's path; none if it is timm's already.
    """

    models: str
    sign: str
    rules: tuple[Rule, ...] = ()


_EMBEDDINGS: Final[tuple[Rule, ...]] = (
    (r"^embeddings\.(cls_token|class_embedding)$", "cls_token"),
    (r"^embeddings\.distillation_token$", "dist_token"),
    (r"^embeddings\.register_tokens$", "reg_token"),
    (r"^embeddings\.position_embeddings?(\.weight)?$", "pos_embed"),
    (r"^embeddings\.patch_embeddings?\.(projection\.)?", "patch_embed.proj."),
    (r"^embeddings\.norm\.", "patch_embed.norm."),
)
_BLOCKS: Final[tuple[Rule, ...]] = ((r"^(model\.)?(encoder\.)?layers?\.(\d+)\.", r"blocks.\3."),)
_STAGES: Final[tuple[Rule, ...]] = (
    (r"^encoder\.layers\.(\d+)\.blocks\.", r"layers.\1.blocks."),
    # transformers reduces at the end of a stage, timm at the beginning of the next one
    (r"^encoder\.layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample."),
)
_PARTS: Final[tuple[Rule, ...]] = (
    (r"\.(layernorm_before|layer_norm1)\.", ".norm1."),
    (r"\.(layernorm_after|layer_norm2)\.", ".norm2."),
    (r"\.(attention\.output\.dense|attention\.o_proj|self_attn\.out_proj)\.", ".attn.proj."),
    (r"\.(?:attention|self_attn)\.(?:attention\.|self\.)?([qkv])(?:uery|ey|alue|_proj)\.", r".attn.\1_proj."),
    (r"\.(intermediate\.dense|mlp\.weights_in)\.", ".mlp.fc1."),
    (r"\.(output\.dense|mlp\.weights_out|mlp\.down_proj)\.", ".mlp.fc2."),
    (r"\.mlp\.gate_proj\.", ".mlp.fc1_g."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1_x."),
    (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    (r"^(post_)?layernorm\.", "norm."),
)
_PLAIN: Final = (*_EMBEDDINGS, *_BLOCKS, *_PARTS)
_TABLE: Final = r"\.attention\.(attention\.|self\.)?(relative_position_bias\.)?relative_position_bias_table$"

LAYOUTS: Final = (
    Layout("a timm model in transformers", r"^(timm_model\.)"),
    Layout(
        "Swin",
        r"^(.*?)embeddings\.norm\.weight$",
        (*_EMBEDDINGS, *_STAGES, (_TABLE, ".attn.relative_position_bias_table"), *_PARTS),
    ),
    Layout("DINOv2", r"^(.*?)encoder\.layer\.0\.layer_scale1\.lambda1$", _PLAIN),
    Layout(
        "DINOv3",
        r"^(.*?)embeddings\.patch_embeddings\.weight$",
        (*_PLAIN, (r"\.ls([12])\.gamma$", r".gamma_\1")),
    ),
    Layout(
        "BEiT",
        r"^(.*?)(?:encoder\.)?layers?\.0\.lambda_1$",
        (
            (_TABLE, ".attn.relative_position_bias_table"),
            (r"\.relative_position_bias\.relative_position_bias_table$", ".attn.relative_position_bias_table"),
            (r"\.lambda_([12])$", r".gamma_\1"),
            (r"^pooler\.layernorm\.", "fc_norm."),
            *_PLAIN,
        ),
    ),
    Layout("CLIP", r"^(.*?)embeddings\.class_embedding$", (*_PLAIN, (r"^pre_layrnorm\.", "norm_pre."))),
    Layout(
        "SigLIP",
        r"^(.*?)embeddings\.patch_embedding\.weight$",
        (
            (r"^head\.probe$", "attn_pool.latent"),
            (r"^head\.attention\.in_proj_", "attn_pool.qkv."),
            (r"^head\.attention\.out_proj\.", "attn_pool.proj."),
            (r"^head\.layernorm\.", "attn_pool.norm."),
            (r"^head\.mlp\.", "attn_pool.mlp."),
            *_PLAIN,
        ),
    ),
    Layout("ViT, DeiT or MAE", r"^(.*?)embeddings\.patch_embeddings\.projection\.weight$", _PLAIN),
)
# classifiers, what only pretraining uses, and what timm computes itself
LEFT_OUT: Final = re.compile(
    r"mask_token$|position_ids$|relative_position_index$|^pooler\.dense\.|^(\w+_)?classifier\.|^decoder\.|^lm_head\."
)
JOINED: Final = {
    "attn.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj"),
    "mlp.fc1": ("mlp.fc1_g", "mlp.fc1_x"),
}


def translated(state: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """Return the tensors of a file under timm's names; a file in none of the layouts is returned as it is.

    Args:
        state: Tensors by name.
        model: Model without a classifier.

    Raises:
        ValueError: If the layout is known and the file does not hold exactly this model's tensors; the message has the first names.
    """
    found = ((layout, sign[1]) for layout in LAYOUTS for name in state if (sign := re.match(layout.sign, name)))
    if (first := next(found, None)) is None:
        return state
    layout, prefix = first
    if not layout.rules:  # timm's own names, and its own check of them
        return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    wanted = model.state_dict()
    tensors: dict[str, Tensor] = {}
    names: dict[str, str] = {}  # timm's -> the file's
    for name, tensor in state.items():
        own = name.removeprefix(prefix)
        if not name.startswith(prefix) or LEFT_OUT.search(own):
            continue
        for pattern, replacement in layout.rules:
            own = re.sub(pattern, replacement, own)
        if own in tensors:
            raise ValueError(f"{names[own]} and {name} are the same tensor, {own}")
        tensors[own], names[own] = tensor, name
    _divide_pooling(tensors, wanted)
    _join(tensors, wanted)
    _fold_positions(tensors, model)
    _refuse_others(tensors, wanted, names, layout)
    return tensors


def _divide_pooling(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Divide q, k and v of SigLIP's attention pooling into q and k with v; leave them out for a model that pools by the mean."""
    if "attn_pool.latent" not in wanted:
        for name in [name for name in tensors if name.startswith("attn_pool.")]:
            del tensors[name]
    for kind in ("weight", "bias"):
        if (whole := tensors.pop(f"attn_pool.qkv.{kind}", None)) is not None:
            width = whole.shape[0] // 3
            tensors[f"attn_pool.q.{kind}"], tensors[f"attn_pool.kv.{kind}"] = whole[:width], whole[width:]


def _join(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Join the linears that the model has as one. A bias that some of them lack is zero there."""
    for name in wanted:
        path, _, ending = name.rpartition(".")
        whole = next((whole for whole in JOINED if path.endswith(f".{whole}")), None)
        if whole is None or ending != "weight":
            continue
        parts = [path.removesuffix(whole) + part for part in JOINED[whole] if f"{path.removesuffix(whole)}{part}.weight" in tensors]
        if not parts:
            continue
        weights = [tensors.pop(f"{part}.weight") for part in parts]
        tensors[name] = torch.cat(weights)
        biases = {part: tensors.pop(f"{part}.bias") for part in parts if f"{part}.bias" in tensors}
        if f"{path}.bias" in wanted:
            if biases:
                tensors[f"{path}.bias"] = torch.cat(
                    [biases.get(part, weight.new_zeros(weight.shape[0])) for part, weight in zip(parts, weights, strict=True)]
                )
            continue
        for part, bias in biases.items():
            alone = part.removesuffix("_proj") + "_bias"  # q_bias and v_bias of BEiT and EVA
            if alone in wanted:
                tensors[alone] = bias
            elif bias.any():
                tensors[f"{part}.bias"] = bias  # the model has no place for it


def _fold_positions(tensors: dict[str, Tensor], model: nn.Module) -> None:
    """Give tokens and positions timm's number of dimensions; add the class token's position to it where patches alone have one."""
    for name in ("cls_token", "pos_embed"):
        if name in tensors:
            tensors[name] = tensors[name].reshape(1, -1, tensors[name].shape[-1])
    if getattr(model, "no_embed_class", False) and tensors.keys() >= {"cls_token", "pos_embed"}:
        positions = tensors["pos_embed"].float()
        tensors["cls_token"] = tensors["cls_token"].float() + positions[:, :1]
        tensors["pos_embed"] = positions[:, 1:]


def _refuse_others(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], names: Mapping[str, str], layout: Layout) -> None:
    """Refuse tensors that are missing, have no place, or are patches of another size, which timm would resample."""
    missing = [name for name in wanted if name not in tensors]
    unexpected = [names.get(name, name) for name in tensors if name not in wanted]
    told = [f"{what} {some(found)}" for what, found in (("missing", missing), ("without a place", unexpected)) if found]
    patches = "patch_embed.proj.weight"
    if not told and tensors[patches].shape != wanted[patches].shape:
        told = [f"{names[patches]} is {tuple(tensors[patches].shape)}, the model's {tuple(wanted[patches].shape)}"]
    if told:
        raise ValueError(f"read as {layout.models}: {'; '.join(told)}")


def some(names: list[str]) -> str:
    """Return the first names and the number of the others."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
