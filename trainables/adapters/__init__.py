"""Adapter methods: one file per paper, with their common parts in `base`.

model = timm.create_model("vit_base_patch16_224", pretrained=True, num_classes=10)
adapt(model, LoRA(rank=8))
...                                 # train
merge(model)
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from types import NoneType
from typing import Any, Final

from trainables.adapters.adapter import Adapter
from trainables.adapters.adapter_plus import AdapterPlus
from trainables.adapters.adaptformer import AdaptFormer
from trainables.adapters.arc import ARC
from trainables.adapters.base import (
    Adaptation,
    Layer,
    Method,
    adapt,
    adaptation,
    adapted_layers,
    merge,
    regulariser,
    remove,
    transformer_blocks,
    unmergeable,
)
from trainables.adapters.bitfit import BitFit
from trainables.adapters.clora import CLoRA
from trainables.adapters.convpass import Convpass
from trainables.adapters.difffit import DiffFit
from trainables.adapters.fact import FacT
from trainables.adapters.families import supported_blocks
from trainables.adapters.full import Full
from trainables.adapters.head_only import HeadOnly
from trainables.adapters.heart_lora import HeartLoRA
from trainables.adapters.householder import Householder
from trainables.adapters.layer_norm import LayerNormTuning
from trainables.adapters.lily import Lily
from trainables.adapters.lora import LoRA
from trainables.adapters.peft_bridge import PREFIX, PeftMethod, peft_method
from trainables.adapters.randlora import RandLoRA
from trainables.adapters.rep_adapter import RepAdapter
from trainables.adapters.serial_lora import SerialLoRA
from trainables.adapters.snell import SNELL
from trainables.adapters.ssf import SSF
from trainables.adapters.state import load_trainable_state, trainable_parameters, trainable_state, undecayed_parameters
from trainables.adapters.tokens import sequence_growth
from trainables.adapters.vpt import VPT

__all__ = [
    "ARC",
    "METHODS",
    "PREFIX",
    "SNELL",
    "SSF",
    "TYPES",
    "VPT",
    "AdaptFormer",
    "Adaptation",
    "Adapter",
    "AdapterPlus",
    "BitFit",
    "CLoRA",
    "Convpass",
    "DiffFit",
    "FacT",
    "Full",
    "HeadOnly",
    "HeartLoRA",
    "Householder",
    "Layer",
    "LayerNormTuning",
    "Lily",
    "LoRA",
    "Method",
    "PeftMethod",
    "RandLoRA",
    "RepAdapter",
    "SerialLoRA",
    "adapt",
    "adaptation",
    "adapted_layers",
    "load_trainable_state",
    "merge",
    "method_of",
    "method_type",
    "peft_method",
    "regulariser",
    "remove",
    "sequence_growth",
    "supported_blocks",
    "trainable_parameters",
    "trainable_state",
    "transformer_blocks",
    "types_of",
    "undecayed_parameters",
    "unmergeable",
]

_METHODS: Final[tuple[type[Method], ...]] = (
    HeadOnly,
    LoRA,
    SerialLoRA,
    Lily,
    ARC,
    Householder,
    SNELL,
    CLoRA,
    FacT,
    Adapter,
    AdaptFormer,
    RandLoRA,
    HeartLoRA,
    SSF,
    LayerNormTuning,
    BitFit,
    Full,
    DiffFit,
    RepAdapter,
    AdapterPlus,
    Convpass,
    VPT,
)
METHODS: Final[dict[str, type[Method]]] = {method.name: method for method in _METHODS}

# the types of a knob, as a dataclass writes them -> the accepted types in a configuration
TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "bool": (bool,),
    "None": (NoneType,),
}


def method_of(config: Mapping[str, Any], own: Mapping[str, type[Method]] | None = None) -> Method:
    """Return the method of a configuration with its knobs; missing knobs have the paper's defaults.

    Args:
        config: Flat, dotted configuration: `{"method": "lora", "lora.rank": 4, ...}`. Keys of other families (`optim.`,
            `recipe.`) are ignored.
        own: Methods that the user brought, by name.

    Raises:
        ValueError: If the method or a knob is unknown, or a value has the wrong type or is rejected by the method.
    """
    name = config.get("method")
    known = {**METHODS, **(own or {})}
    kind = method_type(name, known)
    types = types_of(kind)
    knobs: dict[str, Any] = {}
    for key, value in config.items():
        family, _, knob = key.rpartition(".")
        if (family in known or family.startswith(PREFIX)) and family != name:
            raise ValueError(f"a configuration of {name} may not have knobs of {family}; got {key}; remove it")
        if family != name:
            continue
        if knob not in types:
            raise ValueError(f"{name} has no knob {knob!r}; its knobs are {', '.join(types) or 'none'}{near(knob, types)}")
        if not any(type(value) in TYPES[part] for part in types[knob].split(" | ")):
            raise ValueError(f"{key} must be of type {types[knob]}; got {value!r} of type {type(value).__name__}")
        knobs[knob] = float(value) if types[knob] == "float" else value
    return kind(**knobs)


def types_of(kind: type[Method]) -> dict[str, str]:
    """Return the types of a method's hyperparameters in words, by name: `int`, `float | None`."""
    return {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in dataclasses.fields(kind)}


def method_type(name: Any, known: Mapping[str, type[Method]] = METHODS) -> type[Method]:
    """Return the method type of a name: one of the known or, as `peft.<tuner>`, one of Hugging Face PEFT's.

    Raises:
        ValueError: If the name is unknown, or PEFT is not installed.
    """
    if isinstance(name, str) and name.startswith(PREFIX):
        return peft_method(name.removeprefix(PREFIX))
    if name not in known:
        raise ValueError(f"method must be one of {', '.join(known)}; got {name!r}{near(str(name), known)}")
    return known[name]


def near(word: str, known: Any) -> str:
    """Return the end of an error about an unknown `word`: `; did you mean X?`, empty if nothing known is similar."""
    matches = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
