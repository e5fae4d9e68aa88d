"""The example of docs/developing.md of a method of one's own, and a way to break it."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "developing.md").read_text()
[GAIN] = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)


def changed(*replacements: tuple[str, str]) -> str:
    """The example with parts replaced, each of which it must have."""
    text = GAIN
    for old, new in replacements:
        assert old in text, old
        text = text.replace(old, new)
    return text
