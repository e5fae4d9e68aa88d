"""The words for what pydantic finds wrong in a study file: the key, the law, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from search.config.data_sections import DATA_KINDS
from search.config.study_file import StudyFile
from search.config.yaml_text import KeyPath


def explained(error: dict[str, Any]) -> tuple[KeyPath, str]:
    """Convert one of pydantic's errors into (path, problem and remedy)."""
    path, kind = _place(error["loc"]), error["type"]
    if kind == "extra_forbidden":
        keys = _keys(tuple(str(part) for part in error["loc"][:-1]))  # with the kind of the data
        near = difflib.get_close_matches(path[-1], keys, n=1)
        return path, "no such key" + (f"; did you mean {near[0]}?" if near else f"; the keys are {', '.join(keys)}" if keys else "")
    if kind == "value_error":
        message = str(error["msg"]).removeprefix("Value error, ")
    elif kind == "missing" and path not in _LISTS:
        return path, "is missing, but required"
    elif (law := _LAWS.get(path)) is not None:
        message = law
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        path, message = (*path, "kind"), f"must be one of {', '.join(DATA_KINDS)}"
        if isinstance(given := error["input"].get("kind"), str):
            near = difflib.get_close_matches(given, DATA_KINDS, n=1)
            return path, f"{message} (got {given!r})" + (f"; did you mean {near[0]}?" if near else "")
        error = {**error, "input": given}
    else:
        told = {"keys": ", ".join(_keys(path)), **error.get("ctx", {})}
        message = _TYPES[kind].format_map(told) if kind in _TYPES else str(error["msg"])
    if path == ("ledger",):
        return path, message  # the value may contain a password
    return path, f"{message} (got {_shortened(error['input'])})"


def _place(loc: Sequence[str | int]) -> KeyPath:
    """Return the key of a pydantic error, without pydantic's names for parts of a union and for elements of a list with a law."""
    path: KeyPath = ()
    for part in loc:
        if path in _LISTS or path in _UNIONS:
            break
        if not (path == ("data",) and part in DATA_KINDS):
            path = (*path, str(part))
    return path


_UNIONS = (
    ("data", "normalize"),
    ("recipe", "clip_norm"),
    ("resources", "gpus_per_trial"),
    ("resources", "memory_per_trial"),
    ("resources", "prefix_cache"),
)
_LISTS = (("methods",), ("objectives",), ("search", "points"), ("search", "learn_from"))
# The laws of keys that the sentences of the types below do not state
_LAWS: dict[KeyPath, str] = {
    (
        "study",
    ): "must be a name of 1 to 64 letters, digits, - and _ that begins with a letter or digit; quote a number, and no or null",
    ("methods",): "must be a list of methods, at least one: [lora, lily]",
    (
        "objectives",
    ): "must be a pair [METRIC, COST], as [val/top1, adapter_params]; docs/metrics.md lists metrics, docs/cost.md costs",
    ("resources", "gpus_per_trial"): "must be auto, a share of one GPU between 0 and 1, or a whole number of GPUs",
    ("resources", "memory_per_trial"): "must be auto, or a size as 4GiB, 500MiB or a number of bytes",
    ("resources", "prefix_cache"): "must be auto, off, or a size as 4GiB, 500MiB or a number of bytes",
    ("resources", "accelerator_type"): "must be the label of Ray for a type of GPU, as H100, A100 or L4, or null for any",
    ("budget", "max_hours"): "must be a number of hours above 0 (1.5 for 1:30), or null for no limit",
    ("budget", "until"): "must be a moment as 2026-12-24T18:00, or null",
    ("search", "rungs"): "must be null, or a section with some of the keys grace, factor, epsilon, promote: {grace: 5, factor: 3}",
    ("search", "points"): "must be a list of configurations: [{method: lora, lora.rank: 8}]",
    ("search", "learn_from"): "must be a list of folders of studies: [studies/first]",
    ("data", "normalize"): "must be backbone, imagenet, none, or {mean: [...], std: [...]}, a number for each channel, std above 0",
    ("recipe", "clip_norm"): "must be a number above 0, null for no clipping, or numbers for some of the methods: {arc: 1.0}",
    ("backbone", "img_size"): "must be one whole number of pixels, the side of a square, or null for the backbone's own",
    ("backbone", "weights"): "must be null, random, or the path of a file or folder; quote a number",
}
_TYPES: dict[str, str] = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a section with keys, not a single value or a list",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number, without a unit or quotes",
    "float_type": "must be a number",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number, without a unit or quotes",
    "int_parsing_size": "is too large",
    "int_type": "must be a whole number",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be one of {expected}",
    "model_attributes_type": "must be a section with the key kind and others, not a single value or a list",
    "model_type": "must be a section with some of the keys {keys}; not a single value or a list",
    "path_type": "must be a path; quote a number",
    "string_type": "must be text; quote a number",
    "tuple_type": "must be a list",
}


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _keys(path: KeyPath) -> list[str]:
    """Return the allowed keys of a section of a study file."""
    section: Any = StudyFile
    for part in path:
        if section is StudyFile and part == "data":
            continue
        if part in DATA_KINDS:
            section = DATA_KINDS[part]
        else:
            field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
            section = field.annotation if field else None
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []
