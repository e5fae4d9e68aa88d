"""The search spaces: one file per method, and the knobs that all methods share."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from spaces import (
    adapter,
    adapter_plus,
    adaptformer,
    arc,
    bitfit,
    clora,
    convpass,
    difffit,
    fact,
    full,
    head_only,
    heart_lora,
    householder,
    layer_norm,
    lily,
    lora,
    peft,
    randlora,
    rep_adapter,
    serial_lora,
    snell,
    ssf,
    vpt,
)
from spaces.knob import Knob, Value, in_words
from spaces.shared import SHARED
from spaces.space import Config, JointSpace, Space, key_of

__all__ = [
    "SHARED",
    "SPACES",
    "Config",
    "JointSpace",
    "Knob",
    "Space",
    "Value",
    "in_words",
    "joint",
    "key_of",
    "peft",
    "space_of",
    "unknown_method",
]

_METHODS = (
    head_only,
    lora,
    serial_lora,
    arc,
    lily,
    householder,
    snell,
    clora,
    fact,
    adapter,
    adaptformer,
    randlora,
    heart_lora,
    ssf,
    layer_norm,
    bitfit,
    full,
    difffit,
    rep_adapter,
    adapter_plus,
    convpass,
    vpt,
)
SPACES: dict[str, Space] = {module.SPACE.method: module.SPACE for module in _METHODS}


def unknown_method(method: str, own: Mapping[str, Space] | None = None) -> str | None:
    """Return why a name is not a method, with the nearest method or the package to install; None if it is one.

    Args:
        method: The name.
        own: Spaces of methods that the user brought, by name.
    """
    known = {**SPACES, **(own or {})}
    if method in known:
        return None
    if method.startswith(peft.PREFIX):
        return peft.problem(method)
    near = difflib.get_close_matches(method.casefold(), known, n=1, cutoff=0.4)
    return f"{method}: no such method; " + (f"did you mean {near[0]}? " if near else "") + f"there are {', '.join(known)}"


def space_of(method: str, own: Mapping[str, Space] | None = None) -> Space:
    """Return the space of a method: one of ours, one that the user brought, or a tuner of PEFT.

    Raises:
        ValueError: If the method is unknown; the message is `unknown_method(method)`.
    """
    if (problem := unknown_method(method, own)) is not None:
        raise ValueError(problem)
    known = {**SPACES, **(own or {})}
    return known[method] if method in known else peft.space(method)


def joint(methods: Sequence[str], own: Mapping[str, Space] | None = None) -> JointSpace:
    """Return the joint space of several methods.

    Args:
        methods: Names of the methods.
        own: Spaces of methods that the user brought, by name.

    Raises:
        ValueError: If methods are unknown; the message names each of them with the nearest known method.
    """
    if problems := [problem for method in methods if (problem := unknown_method(method, own)) is not None]:
        raise ValueError("\n".join(problems))
    return JointSpace(tuple(space_of(method, own) for method in dict.fromkeys(methods)), SHARED)
