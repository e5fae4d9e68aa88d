"""Protocols: the recipes under which papers published their numbers, as data in `search/protocols`.

A study file that names a protocol follows it wherever it says nothing itself. What the protocol sets becomes part of the study, so
that a later correction of the protocol does not change a study that exists.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from pydantic import Field

import spaces
from search.config.data_sections import DATA_KINDS, Images
from search.config.sections import Section
from search.errors import StudyFileError

PACKAGED = resources.files("search") / "protocols"
Key = tuple[str, str]  # section and key


class Row(Section):
    """A published row of VTAB-1k on ViT-B/16.

    Attributes:
        row: Name of the row in its paper.
        method: Method that it is here.
        space: Values of that method's knobs, as in a study file.
        groups: Mean of the means of the three groups, in percent; null if it was not printed.
        tasks: Mean of the 19 tasks, in percent; null if it was not printed.
    """

    row: str
    method: str
    space: dict[str, Any]
    groups: float | None = None
    tasks: float | None = None


class Protocol(Section):
    """A recipe under which numbers were published.

    Attributes:
        title: Title.
        source: Paper and code.
        settings: Sections of a study file: `backbone`, `data`, `recipe`, `space` and `budget`.
        selection: Choice of the epoch and configuration whose accuracy was published.
        selected_by: The same in two or three words.
        differs: Known differences that no key of a study file removes.
        published: Numbers that were published under it.
    """

    title: str
    source: str
    settings: dict[str, dict[str, Any]]
    selection: str
    selected_by: str
    differs: list[str]
    published: list[Row] = Field(default_factory=list)


@dataclass(frozen=True)
class Difference:
    """A key that a study sets in another way than its protocol."""

    key: str
    protocol: Any
    study: Any


def packaged_names() -> list[str]:
    """Return the names of all protocols."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def protocol(name: str) -> Protocol:
    """Read a protocol.

    Raises:
        ValueError: If there is none of that name; the message has the nearest.
    """
    if name not in (known := packaged_names()):
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        raise ValueError(f"no such protocol; {f'did you mean {near[0]}? ' if near else ''}There are {', '.join(known)}")
    return Protocol.model_validate(yaml.safe_load((PACKAGED / f"{name}.yaml").read_text(encoding="utf-8")))


def followed(raw: Mapping[str, Any], place: str) -> tuple[dict[str, Any], list[Key]]:
    """Complete a study file with what its protocol sets and it does not say.

    Args:
        raw: Study file; nothing is added without a key `protocol`.
        place: Place of that key, for an error.

    Returns:
        The completed file, and the keys that were added.

    Raises:
        StudyFileError: If there is no such protocol, or the data are not images.
    """
    if raw.get("protocol") is None:
        return dict(raw), []
    try:
        settings = protocol(str(raw["protocol"])).settings
    except ValueError as error:
        raise StudyFileError(f"{place}: protocol: {error} (got {raw['protocol']!r})") from None
    data = raw.get("data")
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind in DATA_KINDS and not issubclass(DATA_KINDS[kind], Images):
        raise StudyFileError(
            f"{place}: protocol: {raw['protocol']} is a recipe for images on a disk, and data.kind: {kind} has none; "
            "choose other data, or delete this line"
        )
    found, added = dict(raw), list[Key]()
    for section, values in settings.items():
        own = found.get(section, {})
        if not isinstance(own, Mapping | None):
            continue  # an error that the validation finds
        own = dict(own or {})
        for key, value in values.items():
            if key not in own and not (section == "space" and _of_another_method(key, raw.get("methods"))):
                own[key] = value
                added.append((section, key))
        found[section] = own
    return found, added


def differences(resolved: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield the keys that a study sets in another way than the protocol that it names.

    Args:
        resolved: Resolved study file with a key `protocol`.
    """
    for section, values in protocol(resolved["protocol"]).settings.items():
        for key, value in values.items():
            if section == "space" and _of_another_method(key, resolved["methods"]):
                continue
            if (own := resolved[section].get(key)) != value:
                yield Difference(f"{section}.{key}", value, own)


def _of_another_method(key: str, methods: object) -> bool:
    """Return whether a knob belongs to a method that the study does not search."""
    method = key.rpartition(".")[0]
    shared = any(knob.key == key for knob in spaces.SHARED)
    return not shared and (not isinstance(methods, list | tuple) or method not in methods)
