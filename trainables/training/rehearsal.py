"""One image through the backbone with each adapter, and the laws of a user's methods, tried before anything starts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from trainables import backbones
from trainables.adapters import Method, adapt, method_of, remove, supported_blocks
from trainables.adapters.laws import Bench, Verdict, check
from trainables.adapters.own import own_methods

PACKAGED = "vit_glyphs"
_N_IMAGES = 4  # of a check of laws


def rehearse(
    backbone: Mapping[str, Any],
    configs: Sequence[Mapping[str, Any]],
    methods: Sequence[Mapping[str, Any]] = (),
    *,
    on_done: Callable[[int, int], None] = lambda done, of: None,
) -> None:
    """Build the backbone with its weights; pass two images through it, and one through it with each configuration's adapter.

    Args:
        backbone: The `backbone` argument of `trainables.make`.
        configs: Configurations to try; one whose method refuses it is left out.
        methods: The `methods` argument of `trainables.make`.
        on_done: Callback that receives (tried models, all models).

    Raises:
        ValueError: If the backbone does not take images of its size, its output is the same for both, or its output or that with an
            adapter is not finite.
    """
    name, own = backbone["name"], own_methods(methods)
    shapes = backbones.create(name, backbone.get("weights"), backbone.get("img_size"), device="meta")
    refuse_size(shapes, backbones.preprocessing(shapes).size)  # before weights, whose positions no other size takes
    model = backbones.create(name, backbone.get("weights"), backbone.get("img_size"))
    supported_blocks(model)
    wanted = backbones.preprocessing(model)
    images = torch.rand(2, wanted.channels, *wanted.size, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(values[: wanted.channels]).view(-1, 1, 1) for values in (wanted.mean, wanted.std))
    images = (images - mean) / std
    one, other = _forward(model, images, name)
    source = f"its weights ({backbone.get('weights') or 'its own'})"
    if not one.isfinite().all() or not other.isfinite().all():
        raise ValueError(
            f"backbone: {name} gives numbers that are not finite for an ordinary image: {source} hold NaN or infinity; use other "
            "weights"
        )
    if torch.equal(one, other):
        raise ValueError(
            f"backbone: {name} gives the same numbers for every image: {source} are zeros or broken; use other weights"
        )
    image = images[:1]
    on_done(1, 1 + len(configs))
    for done, config in enumerate(configs, start=2):
        try:
            adapt(model, method_of(config, own))
        except ValueError:
            on_done(done, 1 + len(configs))
            continue
        try:
            if not _forward(model, image, name).isfinite().all():
                raise ValueError(f"methods: {config['method']} on {name} gives numbers that are not finite before it is trained")
        finally:
            remove(model)
        on_done(done, 1 + len(configs))


def bench(backbone: str) -> Bench:
    """Build a random backbone with a head on which the laws of a method are checked, in double precision on the CPU.

    Its values are far from timm's initial ones, among which are zeros that hide errors.

    Raises:
        ValueError: If the backbone is unknown or unsupported.
    """
    model = backbones.create(backbone, backbones.RANDOM)
    supported_blocks(model)
    wanted, generator = backbones.preprocessing(model), torch.Generator().manual_seed(0)
    backbones.set_head(model, _N_IMAGES + 1, generator)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() > 1:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
            else:
                parameter.add_(0.1 * noise)
    model = model.double().eval()
    images = torch.randn(_N_IMAGES, wanted.channels, *wanted.size, generator=generator).double()
    return Bench(lambda: copy.deepcopy(model), images)


def check_laws(kind: type[Method], backbone: str) -> list[Verdict]:
    """Check the laws of a method with its default hyperparameters on a random backbone.

    Raises:
        ValueError: If the backbone is unknown, or the method does not fit it.
    """
    return list(check(bench(backbone), kind()))


def refuse_unlawful(methods: Sequence[Mapping[str, Any]]) -> None:
    """Refuse methods that the user brought and that break a law on the packaged backbone; one that does not fit it is left out.

    Args:
        methods: The `methods` argument of `trainables.make`.

    Raises:
        ValueError: If one breaks a law; the message names it.
    """
    told = {argument["name"]: argument["source"] for argument in methods}
    for name, kind in own_methods(methods).items():
        try:
            verdicts = check_laws(kind, PACKAGED)
        except ValueError:
            continue
        if broken := [verdict for verdict in verdicts if not verdict.kept]:
            command = f"paretune check-method {told[name] if told[name].endswith('.py') else name}"
            laws = "; ".join(f"{verdict.law} ({verdict.seen})" for verdict in broken)
            raise ValueError(f"methods: {name} breaks {laws}; see every law: {command}")


def refuse_size(model: nn.Module, size: tuple[int, int]) -> None:
    """Refuse a size of images that patches do not divide: rows of pixels would be dropped.

    Raises:
        ValueError: If a side is no multiple of the patch's; the message has the nearest ones.
    """
    embed = getattr(model, "patch_embed", None)
    patch = getattr(embed, "patch_size", None)
    if patch is None or getattr(embed, "dynamic_img_pad", False):
        return
    for side, of_patch in zip(size, patch, strict=True):
        if side % of_patch:
            near = sorted({max(1, math.floor(side / of_patch)) * of_patch, math.ceil(side / of_patch) * of_patch})
            raise ValueError(
                f"backbone.img_size: {side} is no multiple of the patch size {of_patch}; nearest: {' or '.join(map(str, near))}"
            )


def _forward(model: nn.Module, image: torch.Tensor, name: str) -> torch.Tensor:
    try:
        with torch.no_grad():
            found: torch.Tensor = model(image)
    except (RuntimeError, AssertionError, ValueError) as error:
        size = " x ".join(map(str, image.shape[-2:]))
        raise ValueError(
            f"backbone: {name} does not take an image of {size} pixels: {' '.join(str(error).split())[:200]}"
        ) from error
    return found
