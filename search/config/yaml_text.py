"""The text of a study file: YAML as plain values with the line of every key, and the assignments of a command line.

PyYAML's safe loader reads it, so nothing in it is executed. Its content is checked in `search.config.study_file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from search.errors import StudyFileError

MAX_NODES = 10_000  # values in a study file, with aliases expanded


class _Loader(yaml.SafeLoader):
    """The safe loader of PyYAML, but with `1e-4` as a number, as in YAML 1.2 and as everyone writes a learning rate."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

KeyPath = tuple[str, ...]  # ("budget", "n_trials"); the dotted knobs of a space are one part: ("space", "lora.rank")


def parse(text: str, name: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Parse a YAML text into plain values and the line of every key; it executes nothing, and limits the expansion of aliases.

    Raises:
        StudyFileError: If it is not YAML, not a mapping, or has a duplicate key; `name` is the prefix of each line of the message.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if _size(node, {}) > MAX_NODES:
                raise StudyFileError(
                    f"{name}: expands to more than {MAX_NODES:,} values; a study file must be smaller: write less, or drop aliases"
                )
            raw = {} if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        source = f"{name}:{mark.line + 1}" if mark is not None else name
        raise StudyFileError(f"{source}: not YAML: {getattr(error, 'problem', None) or ' '.join(str(error).split())}") from None
    except RecursionError:
        raise StudyFileError(
            f"{name}: is nested too deeply or contains itself; a study file must be a flat mapping of sections"
        ) from None
    if node is None or not isinstance(raw, dict):
        raise StudyFileError(f"{name}: a study file must be a mapping that begins with `study: NAME`")
    lines: dict[KeyPath, int] = {}
    problems = list(_walk(node, (), lines))
    if problems:
        raise StudyFileError("\n".join(f"{name}:{line}: {problem}" for line, problem in problems))
    return raw, lines


def _size(node: yaml.Node | None, known: dict[int, int]) -> int:
    """Count the values of a node with every alias expanded."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        parts = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
        known[id(node)] = MAX_NODES + 1  # a node that contains itself
        known[id(node)] = 1 + sum(_size(part, known) for part in parts)
    return known[id(node)]


def _walk(node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> Iterator[tuple[int, str]]:
    """Record every key's line; yield the keys that are duplicates or not words."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        here, line = (*path, str(key.value)), key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            yield line, f"{'.'.join(path) or 'the file'}: a key must be a word, got {key.value!r}; quote it or correct it"
            continue
        if here in lines:
            yield line, f"{'.'.join(here)}: given twice (first in line {lines[here]}); keep one"
        lines[here] = line
        yield from _walk(value, here, lines)


def assign(raw: dict[str, Any], assignment: str) -> KeyPath:
    """Apply one `a.b=value` to the raw mapping; return the path that it set.

    Raises:
        StudyFileError: If it does not have that form, or its path leads into a plain value.
    """
    dotted, equals, text = assignment.partition("=")
    if not equals or not dotted:
        raise StudyFileError(f"--set {assignment}: an override must have the form a.b=value")
    value = parse(f"value: {text}", f"--set {assignment}")[0]["value"]
    head, _, rest = dotted.partition(".")
    path = (head, rest) if head == "space" and rest else tuple(dotted.split("."))  # a knob's key contains dots itself
    target: Any = raw
    for section in path[:-1]:
        if target.get(section) is None:
            target[section] = {}
        target = target[section]
        if not isinstance(target, dict):
            raise StudyFileError(f"--set {assignment}: {section} is a plain value and has no parts")
    target[path[-1]] = value
    return path
