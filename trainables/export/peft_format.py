"""The form that Hugging Face PEFT loads: `peft.PeftModel.from_pretrained(model, DIR)` on the same timm model.

    DIR/adapter_config.json             PEFT's configuration
    DIR/adapter_model.safetensors       its tensors, with the classifier and other trained modules in `modules_to_save`

A tuner of PEFT itself (`peft.vera`) is written as it is, if PEFT's own model computes the same. Every other method that merges is
converted to LoRA, see `trainables.export.low_rank`. LoRA's own update has its rank, so that its conversion is exact.

The card's `conversion` has `tuner`, `exact` (True if outputs differ by rounding only), `n_bytes` of the tensors, and for a
conversion: `rank`; `n_parameters` of A, B and biases; `left_out`, the names of changed tensors that PEFT has no place for, which
keep their pretrained values; `accuracy` on the validation images: `metric`, `n_images`, `before`, `after`, `loses_points`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.adapters import Adaptation, PeftMethod, adaptation, merge, unmergeable
from trainables.adapters.peft_bridge import PeftModelFiles, save_native
from trainables.backbones import classifier
from trainables.export.card import FILES, UNMERGED
from trainables.export.low_rank import Update, never_called, smallest_rank, update_of, updated
from trainables.export.validation import Validation

LOSES: Final = 0.2  # points of accuracy that a conversion may lose unless the user says otherwise
EXACT: Final = 1e-5  # largest difference of outputs that counts as rounding
CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."


@dataclass(frozen=True)
class Rank:
    """The choice of the rank of a conversion.

    Attributes:
        rank: Rank, at least 1; None to choose the smallest that loses few points.
        loses: Points of validation accuracy (of 100) that may be lost; None for `LOSES`, or for none if the method is LoRA.
    """

    rank: int | None = None
    loses: float | None = None

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"a rank must be at least 1; got {self.rank}")
        if self.loses is not None and not 0 <= self.loses <= 100:
            raise ValueError(f"points of accuracy must be in [0, 100]; got {self.loses:g}")
        if self.rank is not None and self.loses is not None:
            raise ValueError("either give the rank, or the points of accuracy by which it is chosen")


def write(model: nn.Module, plain: nn.Module, folder: Path, name: str, rank: Rank, *, on: Validation) -> dict[str, Any]:
    """Write the files of an adapted model in eval mode, which is merged in float64 afterwards.

    Args:
        model: Adapted model.
        plain: The model before it was adapted, with a classifier of the same shape.
        folder: Folder for the files.
        name: Name of the backbone, for PEFT's configuration.
        rank: Choice of the rank.
        on: Validation images.

    Returns:
        The card's `conversion`.

    Raises:
        ValueError: If the adapter cannot be merged, or no rank loses so few points. The message says which.
    """
    method, images = cast(Adaptation, adaptation(model)).method, on.normalise(on.pixels(2))
    if isinstance(method, PeftMethod) and rank == Rank():
        with torch.inference_mode():
            wanted = model(images)
        files = PeftModelFiles(folder, name, classifier(plain))
        if (found := save_native(model, copy.deepcopy(plain), files, images)) is not None:
            if float((found - wanted).abs().max()) <= EXACT * max(1.0, float(wanted.abs().max())):
                return {"tuner": method.tuner, "exact": True, "n_bytes": (folder / FILES["peft"]).stat().st_size}
            for file in folder.iterdir():
                file.unlink()
    if (reason := unmergeable(model)) is not None:
        raise ValueError(f"{reason}, and PEFT has no tuner that computes it; {UNMERGED}")
    before = on.accuracy(model)
    merge(model.double())
    update = update_of(plain, model, classifier(plain))
    if bypassed := never_called(plain, update, images):
        raise ValueError(
            f"{type(plain).__name__} reads the weight of {bypassed[0]} itself: PEFT's layer in its place would never be called"
        )
    chosen = _chosen(update, plain, rank, before, on, exact=method.name in ("lora", "peft.lora"))
    cut = update.at(chosen)
    with updated(plain, cut):
        after = on.accuracy(plain)
    _save(cut, plain, folder, name)
    return {
        "tuner": "lora",
        "exact": chosen == update.rank and not update.left_out,
        "rank": chosen,
        "n_bytes": (folder / FILES["peft"]).stat().st_size,
        "n_parameters": sum(t.numel() for one in cut.linears.values() for t in (one.a, one.b, one.bias) if t is not None),
        "left_out": list(update.left_out),
        "accuracy": {
            "metric": on.metric,
            "n_images": len(on.split),
            "before": before,
            "after": after,
            "loses_points": 100 * (before - after),
        },
    }


def _chosen(update: Update, plain: nn.Module, rank: Rank, before: float, on: Validation, *, exact: bool) -> int:
    """Return the rank of the conversion.

    Raises:
        ValueError: If no rank loses so few points.
    """
    if rank.rank is not None:
        return min(rank.rank, update.rank)
    if exact and rank.loses is None:
        return update.rank
    loses = LOSES if rank.loses is None else rank.loses

    def lost(r: int) -> float:
        with updated(plain, update.at(r)):
            return 100 * (before - on.accuracy(plain))

    rounded = loses + 1e-9  # of a difference of two accuracies
    found = smallest_rank(update.rank, lambda r: lost(r) <= rounded)
    if found == update.rank and (least := lost(found)) > rounded:
        missing = f" (PEFT has no place for {', '.join(update.left_out)})" if update.left_out else ""
        raise ValueError(
            f"LoRA of the update's full rank, {found}, loses {least:.2f} points of validation accuracy, and at most {loses:g} are "
            f"allowed{missing}; allow more with --loses, or choose another format"
        )
    return found


def _save(update: Update, plain: nn.Module, folder: Path, name: str) -> None:
    """Write the update as PEFT's LoRA with a scale of 1, whose linears have ranks of their own where theirs are smaller."""
    with_bias = any(one.bias is not None for one in update.linears.values())
    tensors: dict[str, Tensor] = {}
    for path, one in update.linears.items():
        tensors |= {f"{path}.lora_A.weight": one.a, f"{path}.lora_B.weight": one.b}
        if with_bias:
            tensors[f"{path}.lora_B.bias"] = torch.zeros(len(one.b)) if one.bias is None else one.bias
    for path, own in _as_peft_matches(plain, update.modules).items():
        tensors |= {f"{path}.{key}": tensor for key, tensor in own.items()}
    ranks = {path: len(one.a) for path, one in update.linears.items()}
    largest = max(ranks.values())
    pattern = {path: rank for path, rank in ranks.items() if rank != largest}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": name,
        "inference_mode": True,
        "r": largest,
        "lora_alpha": largest,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "lora_dropout": 0.0,
        "lora_bias": with_bias,
        "bias": "none",
        "target_modules": list(update.linears),
        "modules_to_save": list(update.modules),
    }
    save_file({_PREFIX + key: t.contiguous().clone() for key, t in tensors.items()}, folder / FILES["peft"], {"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _as_peft_matches(plain: nn.Module, modules: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Mapping[str, Tensor]]:
    """Return the tensors of all modules that PEFT saves: those whose path ends with one of these names."""
    ends = tuple(modules)
    matched = {path: module.state_dict() for path, module in plain.named_modules() if path.endswith(ends)}
    return {path: modules.get(path, own) for path, own in matched.items()}


def load_lora(model: nn.Module, folder: Path) -> None:
    """Add a conversion to LoRA to the weights of a plain model with a classifier, without PEFT."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    tensors = {key.removeprefix(_PREFIX): tensor for key, tensor in load_file(folder / FILES["peft"]).items()}
    with torch.no_grad():
        for path in config["target_modules"]:
            linear = cast(nn.Linear, model.get_submodule(path))
            linear.weight += tensors.pop(f"{path}.lora_B.weight") @ tensors.pop(f"{path}.lora_A.weight")
            bias = tensors.pop(f"{path}.lora_B.bias", None)
            if bias is not None:
                linear.bias = nn.Parameter(bias if linear.bias is None else linear.bias + bias)
    model.load_state_dict(tensors, strict=False)
