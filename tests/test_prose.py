"""The prose of the code keeps the rules of CONTRIBUTING.md, as far as a program can tell.

`ruff` (D401) finds first lines whose verb is not an imperative. This file finds fragments, fields that need their name to be
understood, and idioms that a newcomer has to translate.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("search", "trainables", "spaces", "cluster")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
# First words that begin a fragment, or a relative clause without a head.
FRAGMENTS = {
    *("As", "At", "Both", "By", "For", "From", "How", "If", "In", "Is", "It", "Its", "Near", "No", "Nobody", "None", "Nothing"),
    *("Of", "On", "Once", "Only", "Or", "Others", "So", "That", "Their", "Them", "There", "These", "They", "This", "Those", "To"),
    *("Until", "What", "Whatever", "When", "Where", "Whether", "Which", "While", "Who", "Whoever", "Whom", "Whose", "Why", "With"),
}
FIELD = re.compile(
    r"^\s+\**\w[\w, *]*: (?P<word>Of|As|In|To|By|For|On|What|Whether|How|Which|Where|Why|Its|That|When|if|Told|From)\b", re.M
)
IDIOMS = re.compile(
    r"\b(anew|beside|besides|by hand|comes? to|goes on|is told|lies|meanwhile|nobody|to be had|whoever|what is left)\b",
    re.IGNORECASE,
)


def docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every docstring of a file, with its place."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node, clean=False)):
            line = node.body[0].lineno
            yield f"{path.relative_to(ROOT)}:{line}", text


def comments(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every comment of a file, with its place."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.COMMENT:
            yield f"{path.relative_to(ROOT)}:{token.start[0]}", token.string


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Yield every string of a file that looks like a sentence for a user, with its place: words and no docstring.

    The meanings and sources of knobs are left out: `paretune methods --json` prints them, and others may compare its output.
    """
    tree = ast.parse(path.read_text())
    owners = (node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    expressions = {id(node.body[0].value) for node in owners if node.body and isinstance(node.body[0], ast.Expr)}
    expressions |= {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.keyword) and n.arg in ("meaning", "source")}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in expressions and " " in node.value:
            yield f"{path.relative_to(ROOT)}:{node.lineno}", node.value


def problems(text: str) -> Iterator[str]:
    """Yield what is wrong with a docstring."""
    first = re.match(r"[`\"'(]*([A-Za-z]+)", text.strip())
    if first is not None and first[1] in FRAGMENTS:
        yield f"begins with {first[1]!r}"
    if (field := FIELD.search(text)) is not None:
        yield f"a field begins with {field['word']!r}: {field[0].strip()}"
    raises = re.search(r"^\s+Raises:\n((?:.*\S.*\n?)+)", text, re.M)
    if raises is not None and (clause := re.search(r"^\s+[\w., ]+: (?!If )\w+", raises[1], re.M)) is not None:
        yield f"a condition of an error does not begin with 'If': {clause[0].strip()}"
    if re.search(r"(?:^|[.:]\s+)Of (?!course)", text.strip()):
        yield "a sentence begins with 'Of'"


def test_docstrings_begin_with_a_verb_or_a_noun_and_their_fields_are_noun_phrases() -> None:
    found = [f"{place}: {problem}" for path in FILES for place, text in docstrings(path) for problem in problems(text)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize("texts", [docstrings, comments, messages])
def test_docstrings_comments_and_messages_use_terms_instead_of_idioms(texts: Callable[[Path], Iterator[tuple[str, str]]]) -> None:
    found = [f"{place}: {idiom[0]}" for path in FILES for place, text in texts(path) if (idiom := IDIOMS.search(text))]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    "text",
    [
        "What is saved.",
        "Of one epoch.",
        'Make it.\n\nArgs:\n    seed: Of the draws.\n"""',
        "Make it.\n\nArgs:\n    seed: Whether it is drawn.\n",
        "Make it. Of each method the best.",
        "Make it.\n\n    Raises:\n        ValueError: It is none.\n",
    ],
)
def test_the_checker_finds_what_it_is_for(text: str) -> None:
    assert list(problems(text))


@pytest.mark.parametrize(
    "text", ["Return whether it is drawn.", "The front of a study.", "Make it.\n\nArgs:\n    seed: Seed of it.\n"]
)
def test_the_checker_lets_the_rest_pass(text: str) -> None:
    assert not list(problems(text))
