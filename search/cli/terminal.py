"""The terminal: all that a command prints for people goes through here. JSON, and the output of a job, are written as they are."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from search.names import printable


class Terminal(Console):
    """A console that shows a text as it is: markup in it has no meaning, and the terminal obeys no character of it.

    Reasons, errors and names come from other people and other programs. What we style ourselves is a `rich.text.Text` or a style.

    Args:
        options: Options of rich's console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Turn a text into what is shown."""
        return super().render_str(printable(text), **options)
