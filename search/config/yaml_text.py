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
    """The safe loader of PyYAML with the numbers of YAML 1.2: `1e-4` is one; `1:30` (90 in 1.1), `010` (8) and dates are words."""


_DATE = "tag:yaml.org,2002:timestamp"  # a word here: the key that wants a moment reads it, and names its line
_NUMBERS = {
    "tag:yaml.org,2002:int": r"^(?:[-+]?(?:0|[1-9][0-9_]*)|0o[0-7_]+|0x[0-9a-fA-F_]+)$",
    "tag:yaml.org,2002:float": r"^[-+]?(?:(?:[0-9][0-9_]*)?\.[0-9_]+|[0-9][0-9_]*\.)(?:[eE][-+]?[0-9]+)?$"
    r"|^[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NUMBERS and tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), list("-+0123456789."))


def _whole_number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    try:
        return int(str(loader.construct_scalar(node)).replace("_", ""), 0)
    except ValueError:  # thousands of digits
        raise yaml.constructor.ConstructorError(None, None, "a number with too many digits", node.start_mark) from None


_Loader.add_constructor("tag:yaml.org,2002:int", _whole_number)

_REMEDIES = {  # by a part of PyYAML's message
    r"character '\t'": "; indent with spaces, not with tabs",
    "another document": "; a study file has one: delete the line --- and what follows it",
    "unacceptable character": "; save the file as plain UTF-8 text",
}
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
            lines: dict[KeyPath, int] = {}
            problems = [] if node is None else list(_walk(node, (), lines))
            raw = {} if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        source = f"{name}:{mark.line + 1}" if mark is not None else name
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        remedy = next((remedy for part, remedy in _REMEDIES.items() if part in problem), "")
        raise StudyFileError(f"{source}: not YAML: {problem}{remedy}") from None
    except RecursionError:
        raise StudyFileError(
            f"{name}: is nested too deeply or contains itself; a study file must be a flat mapping of sections"
        ) from None
    if node is None or not isinstance(raw, dict):
        raise StudyFileError(f"{name}: a study file must be a mapping that begins with `study: NAME`")
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
    """Record every key's line; yield the keys that are duplicates or not words. Merged keys (`<<`) yield to the mapping's own."""
    if not isinstance(node, yaml.MappingNode):
        return
    merged: dict[KeyPath, int] = {}
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for part in reversed(value.value) if isinstance(value, yaml.SequenceNode) else (value,):
                layer: dict[KeyPath, int] = {}
                yield from _walk(part, path, layer)
                merged |= layer
            continue
        here, line = (*path, str(key.value)), key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            yield line, f"{'.'.join(path) or 'the file'}: a key must be a word, got {key.value!r}; quote it or correct it"
            continue
        if here in lines:
            yield line, f"{'.'.join(here)}: given twice (first in line {lines[here]}); keep one"
        lines[here] = line
        yield from _walk(value, here, lines)
    for here, line in merged.items():
        lines.setdefault(here, line)


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
