"""The forward pass of a model cut in two: a frozen part in front, whose output never changes, and the rest.

A cut is a number: 0 in front of everything, k behind the first k blocks, and one more than there are blocks between pooling and
classifier. What passes through a cut are an image's tokens, (tokens, width), and at the last cut what the head takes: its pooled
features, (width,), or the tokens of a head for pixels.

A plain ViT can be cut anywhere, because its blocks pass nothing but tokens. Blocks of BEiT and EVA-02 also get position biases or
rotary embeddings, and those of a Swin change the tokens' number and width: they are cut at the end only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from trainables.adapters import adapted_layers, transformer_blocks
from trainables.recipe.step import Forward, autocast, whole
from trainables.tasks.segmentation import Head

_FLOAT_BYTES = 4
_BEHIND_THE_BLOCKS = ("norm", "fc_norm", "attn_pool")


def last_cut(model: nn.Module) -> int:
    """Return the cut between pooling and classifier."""
    return len(transformer_blocks(model)) + 1


def deepest_cut(model: nn.Module) -> int:
    """Return the last cut with nothing in front of it that is trained or belongs to an adapter."""
    classifier = {id(parameter) for parameter in _classifier(model).parameters()}
    named = model.named_parameters(remove_duplicate=False)
    changed = [name for name, parameter in named if parameter.requires_grad and id(parameter) not in classifier]
    changed += [path for path, _ in adapted_layers(model)]
    if not changed:
        return last_cut(model)
    return min(_cut_in_front(model, name) for name in changed) if type(model) is VisionTransformer else 0


def _cut_in_front(model: nn.Module, name: str) -> int:
    """Return the last cut in front of a plain ViT's parameter or module."""
    part, _, rest = name.partition(".")
    if part == "blocks":
        return int(rest.partition(".")[0])
    return last_cut(model) - 1 if part in _BEHIND_THE_BLOCKS else 0


def shape_at(model: nn.Module, cut: int) -> tuple[int, ...]:
    """Return the shape of what an image has at a cut: (tokens, width), or what the head takes at the last cut."""
    if cut == last_cut(model):
        head = _classifier(model)
        return head.input_shape if isinstance(head, Head) else (cast(nn.Linear, head).in_features,)
    vit = cast(VisionTransformer, model)
    return (vit.patch_embed.num_patches + vit.num_prefix_tokens, vit.embed_dim)


def bytes_at(model: nn.Module, cut: int) -> int:
    """Return the bytes of an image at a cut: the tokens between blocks are float32 in both precisions."""
    return _FLOAT_BYTES * torch.Size(shape_at(model, cut)).numel()


def kept_at(
    model: nn.Module, cuts: Sequence[int] | None, split: str, n_images: int, augment: str, *, most_bytes: int
) -> tuple[int, bool]:
    """Return the cut at which a split's tokens are kept for the model as it is, 0 for none, and whether it is one of the study's.

    Args:
        model: Model, adapted or not.
        cuts: The `prefix_cuts` of a recipe.
        split: Name of the split: "train", "validation" or "test".
        n_images: Number of its images.
        augment: Augmentation of the split's images, see `data.augment`.
        most_bytes: Most bytes of tokens that a worker keeps in memory for a split that the study keeps nowhere.
    """
    deepest = deepest_cut(model)
    of_study = max((cut for cut in cuts or () if cut <= deepest), default=0)
    if split == "train":
        return (0, False) if augment == "crop" else (of_study, of_study > 0)
    if split == "validation" and of_study > 0:
        return of_study, True
    if cuts is None and deepest == last_cut(model):
        deepest = deepest - 1 if type(model) is VisionTransformer else 0
    fits = deepest > 0 and n_images * bytes_at(model, deepest) <= most_bytes
    return (deepest if fits else 0), False


def before(model: nn.Module, images: Tensor, cuts: Sequence[int], precision: str) -> list[Tensor]:
    """Compute what passes through each of the cuts, in one pass.

    Args:
        model: Model in eval mode.
        images: Normalised images.
        cuts: Cuts, from 1 on.
        precision: See `trainables.recipe.step.logits`.
    """
    vit, last = cast(VisionTransformer, model), last_cut(model)
    behind_blocks = [cut for cut in cuts if cut != last]
    found: dict[int, Tensor] = {}
    with autocast(images.device, precision):
        if not behind_blocks:
            features = vit.forward_features(images)
        else:
            whole_pass = last in cuts
            passed: Any = vit.forward_intermediates(
                images,
                indices=[cut - 1 for cut in behind_blocks],
                return_prefix_tokens=True,
                stop_early=not whole_pass,
                output_fmt="NLC",
                intermediates_only=not whole_pass,
            )
            features, passed = passed if whole_pass else (None, passed)
            for cut, tokens in zip(sorted(behind_blocks), passed, strict=True):  # a pair is (patches, class and registers)
                found[cut] = tokens if isinstance(tokens, Tensor) else torch.cat(tokens[::-1], 1)
    if last in cuts:
        found[last] = vit.forward_head(features.float() if precision == "bfloat16" else features, pre_logits=True)
    return [found[cut] for cut in cuts]


def after(model: nn.Module, cut: int) -> Forward:
    """Return the rest of the forward pass."""
    if cut == 0:
        return whole(model)
    if cut == last_cut(model):
        return Forward(nn.Identity(), _classifier(model))
    vit = cast(VisionTransformer, model)

    def features(tokens: Tensor) -> Tensor:
        for block in list(vit.blocks)[cut:]:
            tokens = block(tokens)
        return cast(Tensor, vit.norm(tokens))

    return Forward(features, vit.forward_head)


def hold_frozen_blocks(model: nn.Module) -> None:
    """Put the blocks that nothing trains into eval mode, without stochastic depth and dropout; call it after `model.train()`."""
    parents = cast(Any, model.layers) if isinstance(model, SwinTransformer) else [cast(Any, model)]
    for block in (block for parent in parents for block in parent.blocks):
        if not any(parameter.requires_grad for parameter in block.parameters()):
            block.eval()


def _classifier(model: nn.Module) -> nn.Module:
    return cast(nn.Module, cast(VisionTransformer, model).get_classifier())
