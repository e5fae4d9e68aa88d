"""A study's name, which becomes folders, schemas and tags, checked wherever one is typed or read back; and printable text."""

from __future__ import annotations

import re
from typing import Final

PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
LAW: Final = "a study's name must have 1 to 64 letters, digits, - and _, and begin with a letter or digit"
_NAME: Final = re.compile(PATTERN.removesuffix("$") + r"\Z")  # `$` would accept a newline at the end


class StudyName(str):
    """The name of a study. It cannot leave its folder, end an SQL identifier or a filter, or steer a terminal.

    Raises:
        ValueError: If the text is no such name.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> StudyName:
        """Check the text."""
        if not is_study_name(text):
            raise ValueError(f"{LAW}, got {shortened(text)}")
        return super().__new__(cls, text)


def is_study_name(text: str) -> bool:
    """Return whether a text is a study's name."""
    return _NAME.match(text) is not None


def printable(text: str) -> str:
    """Return a text with every character escaped that a terminal would obey or hide; lines and tabs stay."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one in "\n\t" else one.encode("unicode_escape").decode() for one in text)


def shortened(text: str) -> str:
    """Return a text for a message: on one line, printable, and not too long."""
    text = printable(text).replace("\n", "\\n").replace("\t", "\\t")
    return text if len(text) <= 80 else text[:77] + "..."
