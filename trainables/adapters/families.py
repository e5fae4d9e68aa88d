"""The supported backbone families, and a common form for their blocks.

A method reads `attn.qkv`, `attn.proj`, `attn.num_heads`, `mlp.fc1`, `mlp.fc2` and the block itself, and replaces them by layers.
So each of them must be a module that the block calls. In two families it is not, and `join` changes that while a model is adapted:

    BEiT, EVA      attention adds q_bias and v_bias itself and, if it has them, calls no module: the biases move into `qkv`
    EVA-02         q_proj, k_proj and v_proj become one `qkv`, fc1_g and fc1_x one `fc1` of timm's packed MLP

`split` undoes it with the current weights: after `remove` every tensor has its old bits, after `merge` the adapted ones, under
timm's own names. The bias of k, which neither family has, is zero unless a method adds one (ARC, RepAdapter, serial CLoRA).
Without rotary embedding and without a norm on k it cannot change a softmax, and is dropped; otherwise `k_proj` gets a bias of its
own, or `qkv` keeps all three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from timm.layers import GluMlp, Mlp, SwiGLU
from timm.layers.attention import Attention
from timm.models import beit, eva
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock, WindowAttention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

Blocks = Mapping[str, Block]  # transformer blocks in order, by their path in the model: "blocks.0", ...

# model -> its block, its attention, its MLPs
FAMILIES: Final[dict[type[nn.Module], tuple[type[nn.Module], type[nn.Module], tuple[type[nn.Module], ...]]]] = {
    VisionTransformer: (Block, Attention, (Mlp, GluMlp)),
    beit.Beit: (beit.Block, beit.Attention, (Mlp, SwiGLU)),
    eva.Eva: (eva.EvaBlock, eva.EvaAttention, (Mlp, GluMlp, SwiGLU)),
    SwinTransformer: (SwinTransformerBlock, WindowAttention, (Mlp,)),
}
REASONS: Final = {
    "SwinTransformerV2": "its attention reads `qkv.weight` itself, and its norms follow attention and MLP",
    "VisionTransformerDistilled": "it has two heads, and the methods train one",
}
REMEDY: Final = "choose a plain ViT, DeiT, DINOv2, CLIP, SigLIP, MAE, BEiT, EVA-02 or Swin"


def supported_blocks(model: nn.Module) -> dict[str, Block]:
    """Return the transformer blocks of a backbone, in order, by path; blocks of one stage have the same width and parent.

    Raises:
        ValueError: If the backbone or a part of it is not known to call each of its linears as a module. A layer in the place of
            such a linear might never be called, and nothing would be adapted.
    """
    kind = type(model)
    if kind not in FAMILIES:
        reason = REASONS.get(kind.__name__, "it may read the weights of its linears itself and so bypass an adapter in their place")
        known = ", ".join(family.__name__ for family in FAMILIES)
        raise ValueError(f"a supported backbone must be one of timm's {known}; got {kind.__name__}: {reason}; {REMEDY}")
    block_type, attention, mlps = FAMILIES[kind]
    stages = [f"layers.{i}.blocks" for i in range(len(cast(Any, model).layers))] if kind is SwinTransformer else ["blocks"]
    blocks = {
        f"{stage}.{i}": block
        for stage in stages
        for i, block in enumerate(cast(nn.Sequential, model.get_submodule(stage)))
    }  # fmt: skip
    for path, block in blocks.items():
        parts: dict[str, tuple[object, tuple[type[nn.Module], ...]]] = {
            "block": (block, (block_type,)),
            "attention": (getattr(block, "attn", None), (attention,)),
            "MLP": (getattr(block, "mlp", None), mlps),
        }
        for part, (module, wanted) in parts.items():
            if type(module) not in wanted:
                names = " or ".join(t.__name__ for t in wanted)
                raise ValueError(
                    f"the {part} of a supported {kind.__name__} must be timm's plain {names}; {path} has {type(module).__name__}; "
                    f"{REMEDY}"
                )
        if getattr(cast(Any, block).attn, "gate", None) is not None:
            raise ValueError(f"the attention of a supported backbone must have no gate; {path} has one; {REMEDY}")
    return cast(dict[str, Block], blocks)


def stages(blocks: Blocks) -> list[dict[str, Block]]:
    """Group the blocks by stage: a Swin's stage has one width; other backbones have one stage."""
    found: dict[str, dict[str, Block]] = {}
    for path, block in blocks.items():
        found.setdefault(path.rpartition(".")[0], {})[path] = block
    return list(found.values())


@dataclass(frozen=True)
class Layout:
    """The tokens that pass through a block: class and register tokens, then the patches, row by row.

    Attributes:
        n_prefix: Number of class and register tokens.
        grid: Rows and columns of patches.
    """

    n_prefix: int
    grid: tuple[int, int]

    def __len__(self) -> int:
        return self.n_prefix + self.grid[0] * self.grid[1]


def layouts(model: nn.Module, blocks: Blocks) -> dict[str, Layout]:
    """Return the layout of the tokens in each of these blocks; a Swin's stages have different ones.

    Raises:
        ValueError: If the backbone has no fixed grid of patches.
    """
    if isinstance(model, SwinTransformer):
        return {path: Layout(0, tuple(cast(Any, block).input_resolution)) for path, block in blocks.items()}
    own = cast(Any, model)
    grid = getattr(own.patch_embed, "grid_size", None)
    if grid is None or getattr(getattr(own, "patch_drop", None), "prob", 0) > 0:
        raise ValueError(
            f"the patches of this {type(model).__name__} have no fixed grid: it drops some or takes any size; {REMEDY}"
        )
    return dict.fromkeys(blocks, Layout(own.num_prefix_tokens, tuple(grid)))


@dataclass(frozen=True)
class Joined:
    """The original parts of a block before `join`.

    Attributes:
        block: The block.
        projections: Modules q_proj, k_proj and v_proj, if the block has them.
        biases: Tensors q_bias, k_bias and v_bias, if they do not belong to a linear.
        mlp: MLP whose fc1_g and fc1_x are joined.
        k_bias_acts: True if a bias on k can change the attention.
    """

    block: nn.Module
    projections: tuple[nn.Linear, ...] = ()
    biases: tuple[Tensor, ...] = ()
    mlp: SwiGLU | None = None
    k_bias_acts: bool = False


def join(model: nn.Module, blocks: Blocks) -> list[Joined]:
    """Make each block call `attn.qkv` and `mlp.fc1` as modules with all of their weights and biases; the function is the same."""
    joined = []
    for block in blocks.values():
        attn, mlp = cast(Any, block.attn), block.mlp
        projections: tuple[nn.Linear, ...] = ()
        biases: tuple[Tensor, ...] = ()
        if getattr(attn, "q_proj", None) is not None:
            projections = (attn.q_proj, attn.k_proj, attn.v_proj)
            attn.qkv = _fused(projections)
            attn.q_proj = attn.k_proj = attn.v_proj = None
        elif getattr(attn, "q_bias", None) is not None:
            biases = (attn.q_bias, attn.k_bias, attn.v_bias)
            attn.qkv.bias = nn.Parameter(torch.cat(biases).detach())
            attn.q_bias = attn.k_bias = attn.v_bias = None
        if isinstance(mlp, SwiGLU):
            block.mlp = cast(Mlp, _packed(mlp))
        if projections or biases or isinstance(mlp, SwiGLU):
            acts = getattr(model, "rope", None) is not None or not isinstance(getattr(attn, "k_norm", nn.Identity()), nn.Identity)
            joined.append(Joined(block, projections, biases, mlp if isinstance(mlp, SwiGLU) else None, acts))
    return joined


def split(joined: Sequence[Joined]) -> None:
    """Undo `join`, with the current weights."""
    for was in joined:
        attn = cast(Any, was.block).attn
        if was.mlp is not None:
            _share_out(cast(Any, was.block).mlp.fc1, (was.mlp.fc1_g, was.mlp.fc1_x), keep=True)
            cast(Any, was.block).mlp = was.mlp.train(cast(Any, was.block).mlp.training)
        if was.projections:
            _share_out(attn.qkv, was.projections, keep=was.k_bias_acts)
            attn.q_proj, attn.k_proj, attn.v_proj = was.projections
            del attn.qkv
            attn.qkv = None
        if was.biases:
            q, k, v = attn.qkv.bias.detach().chunk(3)
            if was.k_bias_acts and not k.is_meta and bool(k.any()):
                continue  # the qkv keeps all three
            for name, before, now in zip(("q_bias", "k_bias", "v_bias"), was.biases, (q, torch.zeros_like(k), v), strict=True):
                before.data = now.clone()
                setattr(attn, name, before)
            attn.qkv.bias = None


def _fused(parts: Sequence[nn.Linear]) -> nn.Linear:
    """Fuse `parts` into one linear that computes them side by side; they hold no weights until `_share_out`."""
    weight = torch.cat([part.weight for part in parts]).detach()
    fused = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta").train(parts[0].training)
    fused.weight = nn.Parameter(weight)
    if any(part.bias is not None for part in parts):
        biases = [weight.new_zeros(part.out_features) if part.bias is None else part.bias.detach() for part in parts]
        fused.bias = nn.Parameter(torch.cat(biases))
    for part in parts:
        part.weight.data = weight.new_empty(0)
    return fused


def _share_out(fused: nn.Linear, parts: Sequence[nn.Linear], *, keep: bool) -> None:
    """Return the rows of `fused` to its parts; `keep` also gives a non-zero bias to a part that had none."""
    sizes = [part.out_features for part in parts]
    biases = (None,) * len(parts) if fused.bias is None else torch.split_with_sizes(fused.bias.detach(), sizes)
    for part, weight, bias in zip(parts, torch.split_with_sizes(fused.weight.detach(), sizes), biases, strict=True):
        part.weight.data = weight.clone()
        if bias is not None and part.bias is not None:
            part.bias.data = bias.clone()
        elif bias is not None and keep and not bias.is_meta and bool(bias.any()):
            part.bias = nn.Parameter(bias.clone())


def _packed(mlp: SwiGLU) -> GluMlp:
    """Return timm's MLP with one fc1 for gate and value, as a replacement for one that has two."""
    packed = GluMlp(1, 2, gate_last=False, device="meta").train(mlp.training)
    packed.fc1 = _fused((mlp.fc1_g, mlp.fc1_x))
    packed.act, packed.drop1, packed.norm, packed.fc2, packed.drop2 = mlp.act, mlp.drop1, mlp.norm, mlp.fc2, mlp.drop2
    return packed
