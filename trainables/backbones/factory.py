"""Frozen backbones: timm's Vision Transformers and two small packaged ones, `vit_emoji` and `vit_glyphs`.

Importing this module registers both with timm: `timm.create_model("vit_emoji", pretrained=True)`.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, resolve_model_data_config
from timm.layers import ClassifierHead
from timm.models import build_model_with_cfg, get_arch_pretrained_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import Tensor, nn

from trainables.adapters import near
from trainables.backbones.model_folder import ModelFolder, read_folder
from trainables.backbones.pretrained import load_weights
from trainables.protocol import Changed
from trainables.torch_internals import shapes_only

WEIGHTS: Final = Path(__file__).parents[1] / "weights"
RANDOM: Final = "random"
HEAD_INITS: Final = ("trunc_normal", "linear", "kaiming", "zeros")  # see `set_head`
_INTEGERS: Final = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def vit_glyphs(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Build the backbone pretrained on glyphs rendered from fonts; see `trainables/weights/vit_glyphs.json`."""
    return _packaged("vit_glyphs", pretrained, kwargs)


def vit_emoji(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Build the backbone pretrained to name emoji of four sets; see `trainables/weights/vit_emoji.json`."""
    return _packaged("vit_emoji", pretrained, kwargs)


def _packaged(name: str, pretrained: bool, kwargs: dict[str, Any]) -> VisionTransformer:
    card = json.loads((WEIGHTS / f"{name}.json").read_text(encoding="utf-8"))
    architecture = card["architecture"]
    size, chans = architecture["img_size"], architecture["in_chans"]
    cfg = {
        "file": str(WEIGHTS / f"{name}.safetensors"),
        "num_classes": 0,
        "classifier": "head",
        "first_conv": "patch_embed.proj",
        "input_size": (chans, size, size),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": card.get("interpolation", "bilinear"),
        "mean": tuple(card["mean"]),
        "std": tuple(card["std"]),
    } | (kwargs.pop("pretrained_cfg_overlay", None) or {})
    for key in ("pretrained_cfg", "cache_dir"):
        kwargs.pop(key, None)
    model = build_model_with_cfg(
        VisionTransformer,
        name,
        pretrained,
        pretrained_cfg=cfg,
        pretrained_filter_fn=checkpoint_filter_fn,
        **{**architecture, **kwargs},
    )
    return cast(VisionTransformer, model)


OURS: Final = ("vit_glyphs", "vit_emoji")  # the packaged backbones
register_model(vit_glyphs)
register_model(vit_emoji)


Normalization = str | Mapping[str, Sequence[float]]  # `data.normalize`; see `preprocessing`


@dataclass(frozen=True)
class Preprocessing:
    """The image format that a backbone expects.

    Attributes:
        channels: Number of channels, 1 or 3.
        size: Height and width in pixels.
        mean: Mean per channel, for values in [0, 1].
        std: Standard deviation per channel.
        interpolation: Resize filter: "bilinear", "bicubic" or "nearest".
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


def create(name: str, weights: str | None = None, img_size: int | None = None, device: str | torch.device = "cpu") -> nn.Module:
    """Build a timm model without a classifier, in eval mode.

    Args:
        name: Name `vit_emoji`, `vit_glyphs` or any timm name, with or without a tag (`vit_base_patch16_224.augreg_in21k`).
        weights: None for the model's own weights (packaged, or downloaded by timm); "random" for untrained weights, the same
            on every call; or the path of a local file or folder, see `trainables.backbones.pretrained`.
        img_size: Height and width in pixels; None for those of a folder's processor, else the model's own. Position embeddings are
            resampled.
        device: Torch device; "meta" gives shapes only, without downloading or allocating anything; of a folder only its description
            is read.

    Raises:
        ValueError: If the name is unknown, or the weights cannot be read.
    """
    architecture, known = name.partition(".")[0], timm.list_models()
    if architecture not in known:
        raise ValueError(f"backbone.name must be a timm model, vit_emoji or vit_glyphs; got {name!r}{near(name, known)}")
    if "." in name and name not in (tagged := list(get_arch_pretrained_cfgs(architecture))):
        raise ValueError(f"{architecture} has no weights of the tag in {name!r}; it has {', '.join(tagged)}{near(name, tagged)}")
    if weights not in (None, RANDOM) and Path(weights).is_dir():
        return _of_folder(name, read_folder(Path(weights)), img_size, torch.device(device))
    kwargs: dict[str, Any] = {"num_classes": 0} if img_size is None else {"num_classes": 0, "img_size": img_size}
    if torch.device(device).type == "meta":
        with shapes_only():
            return _create(name, pretrained=False, **kwargs).eval()
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _create(name, pretrained=False, **kwargs).to(device).eval()
    if weights is None:
        try:
            model = _create(name, pretrained=True, **kwargs)
        except (OSError, RuntimeError) as error:
            raise ValueError(
                f"backbone.name: the weights of {name!r} could not be read or downloaded ({type(error).__name__}: {error}); "
                'without a network, set backbone.weights to a local file (or to "random" for an untrained backbone)'
            ) from error
        return model.to(device).eval()
    model = create(name, RANDOM, img_size)
    load_weights(model, name, Path(weights))
    return model.to(device).eval()


def image_size(weights: str | None, img_size: int | None) -> int | None:
    """Return the height and width of the images for which `create` builds a model, given these arguments; None for its own."""
    folder = img_size is None and weights not in (None, RANDOM) and Path(weights).is_dir()
    return read_folder(Path(cast(str, weights))).size if folder else img_size


def _of_folder(name: str, folder: ModelFolder, img_size: int | None, device: torch.device) -> nn.Module:
    """Build a timm model with the weights and the image format of a folder."""
    meta, size = device.type == "meta", folder.size if img_size is None else img_size
    model = create(name, RANDOM, size, "meta" if meta else "cpu")
    folder.refuse_other(model, name.partition(".")[0])
    config = cast(dict[str, Any], model.pretrained_cfg)
    found = folder.preprocessing(int(config["input_size"][0]))
    model.pretrained_cfg = config | found | {"folder": {"processor": folder.source, "size": size}}  # type: ignore[assignment]
    if not meta:
        load_weights(model, name, folder)
    return model.to(device).eval()


def _create(name: str, **kwargs: Any) -> nn.Module:
    try:
        return cast(nn.Module, timm.create_model(name, **kwargs))
    except TypeError as error:
        raise ValueError(f"backbone {name!r} cannot be built with {kwargs}: {error}") from error


def preprocessing(model: nn.Module, normalize: Normalization = "backbone") -> Preprocessing:
    """Return the image format that `model` expects, from its timm configuration and its actual input size.

    Args:
        model: A backbone.
        normalize: `backbone` for the mean and standard deviation of its configuration, `imagenet` for those of ImageNet, `none`
            for pixels in [0, 1], or a mapping with `mean` and `std`, one value per channel each.

    Raises:
        ValueError: If these are not as many values as the model has channels.
    """
    config = resolve_model_data_config(model)
    chans, height, width = config["input_size"]
    embed = getattr(model, "patch_embed", None)
    if embed is not None and getattr(embed, "img_size", None) is not None:
        height, width = embed.img_size
    size = (int(height), int(width))
    mean, std = _normalization(config, int(chans), normalize)
    return Preprocessing(int(chans), size, mean, std, config["interpolation"])


def _normalization(
    config: Mapping[str, Any], channels: int, normalize: Normalization
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel."""
    if normalize == "backbone":
        return tuple(config["mean"]), tuple(config["std"])
    if normalize == "none":
        return (0.0,) * channels, (1.0,) * channels
    if normalize == "imagenet":
        mean, std = IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
    elif isinstance(normalize, str):
        raise ValueError(f"data.normalize must be backbone, imagenet, none, or mean and std; got {normalize!r}")
    else:
        mean, std = (tuple(map(float, normalize[key])) for key in ("mean", "std"))
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"data.normalize: the backbone has {channels} channels, and there are {len(mean)} means and {len(std)} stds"
        )
    return mean, std


def digest(model: nn.Module) -> str:
    """Return a digest of a backbone's weights: SHA-256 over names, shapes and bits (as sums) of all but head and positions.

    Positions are excluded because a resampled embedding may differ in its last bit between machines. It is not cryptographic.
    """
    return digest_of(fingerprint(model))


def digest_of(found: Mapping[str, tuple[tuple[int, ...], str, int]]) -> str:
    """Return the digest of a model with this `fingerprint`."""
    told = [(name, *found[name]) for name in sorted(found) if not name.startswith("head.") and "pos_embed" not in name]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def refuse_changed(backbone: Mapping[str, Any], now: str) -> None:
    """Refuse weights with another digest than those with which the study began.

    Args:
        backbone: The `backbone` argument of `trainables.make`; nothing is refused if it has no `digest`.
        now: Digest of the weights that were loaded.

    Raises:
        Changed: If they differ; the message has both digests.
    """
    if (then := backbone.get("digest")) is not None and then != now:
        weights = backbone.get("weights")
        what = "weights and processor" if weights is not None and Path(weights).is_dir() else "weights"
        raise Changed(
            f"backbone: the {what} of {backbone['name']} ({weights or 'its own'}) are not those with which the "
            f"study began: their digest was {then[:12]} and is {now[:12]}; restore them, or begin a study of another name"
        )


def describe_normalisation(model: nn.Module, weights: str | None = None, normalize: Normalization = "backbone") -> str:
    """Describe the normalisation of images for `model` and where it comes from.

    Args:
        model: A backbone.
        weights: The argument of `create`.
        normalize: The argument of `preprocessing`.
    """
    values = _in_words(preprocessing(model, normalize))
    config = getattr(model, "pretrained_cfg", {})
    folder = config.get("folder", {})
    sized = "; images of {} x {} pixels".format(*preprocessing(model).size) if folder.get("size") else ""
    if normalize != "backbone":
        own = _in_words(preprocessing(model))
        return f"(pixel - mean) / std with {values}, from data.normalize; the backbone's own: {own}{sized}"
    if folder.get("processor"):
        return f"(pixel - mean) / std with {values}, from {folder['processor']} of {weights}{sized}"
    tagged = ".".join(part for part in (config.get("architecture"), config.get("tag")) if part)
    source = f"from timm's configuration of {tagged}" if tagged else "from the model's configuration"
    if weights not in (None, RANDOM):
        source += f", not read from {weights}: if those were trained with other values, name their tag in backbone.name"
    return f"(pixel - mean) / std with {values}, {source}{sized}"


def _in_words(wanted: Preprocessing) -> str:
    mean, std = (", ".join(f"{value:g}" for value in values[: wanted.channels]) for values in (wanted.mean, wanted.std))
    return f"mean {mean}, std {std}"


def set_head(model: nn.Module, n_classes: int, generator: torch.Generator, init: str = "trunc_normal") -> None:
    """Add a new classifier to a model that has none.

    Args:
        model: Backbone.
        n_classes: Number of classes.
        generator: CPU generator of the initial values.
        init: Initial weights: "trunc_normal" (standard deviation 0.02, as timm and Adapter+), "linear" (PyTorch's default, as
            PETL-ViT and Lily), "kaiming" (normal, by the number of classes, as VPT) or "zeros" (as ARC). Biases are zero, except
            for "linear".
    """
    like = next(model.parameters())
    head = nn.Linear(cast(int, model.num_features), n_classes, device="meta").to(like.dtype)
    if not like.is_meta:
        weight, bias = torch.empty(head.weight.shape), torch.zeros(n_classes)
        if init == "linear":
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)
            nn.init.uniform_(bias, -(bound := weight.shape[1] ** -0.5), bound, generator=generator)
        elif init == "kaiming":
            nn.init.kaiming_normal_(weight, mode="fan_out", generator=generator)
        elif init == "zeros":
            nn.init.zeros_(weight)
        else:
            nn.init.trunc_normal_(weight, std=0.02, generator=generator)
        head.weight, head.bias = nn.Parameter(weight.to(like)), nn.Parameter(bias.to(like))
    model.num_classes = n_classes  # type: ignore[assignment]
    model.set_submodule(classifier(model), head)


def remove_head(model: nn.Module) -> None:
    """Remove the classifier."""
    model.num_classes = 0  # type: ignore[assignment]
    model.set_submodule(classifier(model), nn.Identity())


def classifier(model: nn.Module) -> str:
    """Return the path of the submodule that holds the classifier's linear layer."""
    return "head.fc" if isinstance(model.head, ClassifierHead) else "head"


def fingerprint(model: nn.Module) -> Mapping[str, tuple[tuple[int, ...], str, int]]:
    """Return shape, type and sum of the bit patterns, as integers, of every parameter and buffer by name.

    One flipped bit changes a sum by a power of two, and so the fingerprint. It takes one pass over the memory and is not
    cryptographic. The image format that a folder of weights asks for is part of it: a model that sees other pixels is another one.
    """
    tensors = model.state_dict()
    sums = [
        tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).sum(dtype=torch.int64) for tensor in tensors.values()
    ]
    totals: Tensor = torch.stack(sums).cpu()  # one transfer, however many tensors
    found = {name: (tuple(t.shape), str(t.dtype), total) for (name, t), total in zip(tensors.items(), totals.tolist(), strict=True)}
    config = getattr(model, "pretrained_cfg", None) or {}
    if "folder" in config:
        wanted = [config[key] for key in ("mean", "std", "interpolation")]
        found["preprocessing"] = ((), json.dumps([*wanted, config["folder"]["size"]]), 0)
    return found
