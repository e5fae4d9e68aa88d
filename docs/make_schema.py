"""Writes search/study.schema.json, with which editors check and complete study files, from the code. A test keeps it current.

python docs/make_schema.py
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import spaces
from search.config import data_sections, sections
from search.config.study_file import StudyFile

SCHEMA = Path(__file__).parents[1] / "search" / "study.schema.json"
ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n     +.*)*)", re.MULTILINE)


def schema() -> dict[str, Any]:
    """Return the schema: pydantic's, with the meaning of each key, each method and each knob."""
    made = StudyFile.model_json_schema()
    for name, section in made["$defs"].items():
        kind: type[Any] = getattr(sections, name, None) or getattr(data_sections, name)
        meanings = {key: meaning for base in reversed(kind.__mro__) for key, meaning in attributes(base.__doc__ or "")}
        section["description"] = inspect.cleandoc(kind.__doc__ or "").splitlines()[0]
        for key, value in section["properties"].items():
            if key in meanings:
                value["description"] = meanings[key]
    known = spaces.SPACES
    made["properties"]["methods"]["items"] = {"anyOf": [{"enum": list(known)}, {"type": "string"}]}
    knobs = {knob.key: knob.meaning for space in known.values() for knob in space.knobs} | {k.key: k.meaning for k in spaces.SHARED}
    made["properties"]["space"]["properties"] = {key: {"description": meaning} for key, meaning in knobs.items()}
    made["required"] = ["study"]  # a protocol may set the others
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}


def attributes(docstring: str) -> list[tuple[str, str]]:
    """Return the attributes of a docstring with their meanings."""
    _, _, listed = inspect.cleandoc(docstring).partition("Attributes:\n")
    return [(name, " ".join(meaning.split())) for name, meaning in ATTRIBUTE.findall(listed)]


def text() -> str:
    """Return the content of the file."""
    return json.dumps(schema(), indent=1) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(text())
