"""The text form of numbers and configurations in tables, plots and pages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from search.trial import Trial

METHOD_NAMES = {
    "head_only": "head only",
    "lora": "LoRA",
    "arc": "ARC",
    "lily": "Lily",
    "snell": "SNELL",
    "clora": "CLoRA",
    "serial_lora": "Serial LoRA",
    "heart_lora": "Heart-LoRA",
    "householder": "Householder",
    "fact": "FacT",
    "randlora": "RandLoRA",
    "adapter": "adapter",
    "adaptformer": "AdaptFormer",
    "ssf": "SSF",
    "layer_norm": "LayerNorm tuning",
    "bitfit": "BitFit",
    "full": "full fine-tuning",
    "difffit": "DiffFit",
    "rep_adapter": "RepAdapter",
    "adapter_plus": "Adapter+",
    "convpass": "Convpass",
    "vpt": "VPT",
}


_SIZES = ("rank", "extra_rank", "n_experts", "n_spaces")
_PLACES = ("targets", "position", "level", "layers")
_SHORT = {
    "rank": "r",
    "n_experts": "e",
    "extra_rank": "+",
    "n_spaces": "k",
    "temperature": "T=",
    "scale": "s=",
    "dropout": "drop=",
    "batch_size": "batch=",
    "weight_decay": "wd=",
}


def describe_knobs(trial: Trial, first: Sequence[str] = ()) -> str:
    """Describe a configuration in a few words, starting with its size: `r8 e4 kv_mlp last-2 lr=1e-3 s=10`.

    Args:
        trial: The trial.
        first: Knobs that come before all others.
    """
    order = [*(key for key in first if key in trial.config), *(key for key in _usual_order(trial.config) if key not in first)]
    return " ".join(_knob(key, trial.config[key]) for key in order)


def telling_apart(trials: Sequence[Trial]) -> list[str]:
    """Return the knobs that tell the trials of one method apart, by their words: the one that splits most of them first."""
    keys = dict.fromkeys(key for trial in trials for key in (*_usual_order(trial.config), *trial.config) if key != "method")
    groups: list[tuple[str, ...]] = [()] * len(trials)
    chosen: list[str] = []
    while len(set(groups)) < len(trials):
        split = {key: [(*group, _knob(key, t.config.get(key))) for group, t in zip(groups, trials, strict=True)] for key in keys}
        best = max(keys, key=lambda key: len(set(split[key])), default=None)  # of equal ones, the first in the usual order
        if best is None or len(set(split[best])) == len(set(groups)):
            break  # the same configuration with another seed
        chosen.append(best)
        groups = split[best]
    return chosen


def _usual_order(config: Mapping[str, object]) -> list[str]:
    """Return the keys of a configuration that describe it: sizes, places, learning rate, and other knobs of the method."""
    prefix = f"{config['method']}."
    own = {key.removeprefix(prefix): key for key in config if key.startswith(prefix)}
    order = [own.pop(name) for name in (*_SIZES, *_PLACES) if name in own]
    return [*order, *(["optim.lr"] if config.get("optim.lr") is not None else []), *own.values()]


def _knob(key: str, value: object) -> str:
    name = key.rpartition(".")[2]
    return str(value) if name in _PLACES else f"{_SHORT.get(name, name + '=')}{_number(value)}"


def format_percent(top1: float) -> str:
    """Format a fraction as percent with two decimals: one validation image of 800 is 0.125."""
    return f"{100 * top1:.2f}"


def sparkline(values: Sequence[float]) -> str:
    """Draw a curve in one line of blocks, from its lowest to its highest value; a value that is not finite leaves a gap."""
    finite = [value for value in values if math.isfinite(value)]
    low, span = min(finite, default=0.0), (max(finite, default=0.0) - min(finite, default=0.0)) or 1.0
    return "".join("▁▂▃▄▅▆▇█"[round(7 * (value - low) / span)] if math.isfinite(value) else " " for value in values)


def format_value(value: object) -> str:
    """Format a value of a study file: `1e-3`, `null`, `16, 32, 64` or `1e-4 to 2e-2 (log)`."""
    if isinstance(value, Mapping):
        if {"low", "high"} <= value.keys():
            return f"{_number(value['low'])} to {_number(value['high'])}" + (" (log)" if value.get("log") else "")
        return ", ".join(f"{key}: {format_value(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(part) for part in value)
    return "null" if value is None else _number(value)


def _number(value: object) -> str:
    if not isinstance(value, float) or value == 0 or 0.01 <= abs(value) < 1000:
        return f"{value:.3g}" if isinstance(value, float) else str(value)
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def format_quantity(value: float) -> str:
    """Format a cost with four digits, or as a whole number."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def format_budget(budget: Mapping[str, Any]) -> str:
    """Format the trials and hours of a budget: `40 trials of 30 epochs, at most 2 h`, `2 h of trials of 30 epochs`."""
    trials = f"trials of {budget['epochs']} epochs"
    hours = "" if budget.get("max_hours") is None else f"{budget['max_hours']:g} h"
    if budget["n_trials"] is None:
        return f"{hours} of {trials}"
    return f"{budget['n_trials']} {trials}" + (f", at most {hours}" if hours else "")


def format_end(n_trials: int | None, reason: str) -> str:
    """Say why a study ended early, or, if only hours end it, why it ended."""
    return f"Ended: {reason}" if n_trials is None else f"Ended before its {n_trials:,} trials: {reason}"
