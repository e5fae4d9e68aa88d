"""Which configurations exist: one file per method, and what all methods share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from spaces import arc, head_only, lily, lora
from spaces.shared import SHARED
from spaces.space import Config, JointSpace, Knob, Space, Value, in_words

__all__ = ["SHARED", "SPACES", "Config", "JointSpace", "Knob", "Space", "Value", "in_words", "joint"]

SPACES: dict[str, Space] = {module.SPACE.method: module.SPACE for module in (head_only, lora, arc, lily)}


def joint(methods: Sequence[str]) -> JointSpace:
    """The joint space of some methods.

    Raises:
        ValueError: naming every method that has no space, and the nearest that has.
    """
    problems = []
    for method in methods:
        if method not in SPACES:
            near = difflib.get_close_matches(method, SPACES, n=1, cutoff=0.4)
            problems.append(
                f"{method}: no such method; " + (f"did you mean {near[0]}? " if near else "") + f"There are {', '.join(SPACES)}"
            )
    if problems:
        raise ValueError("\n".join(problems))
    return JointSpace(tuple(SPACES[method] for method in dict.fromkeys(methods)), SHARED)
