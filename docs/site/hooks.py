"""The parts of the documentation site that are made when it is built: the reference, pages from outside of docs/, and links to them.

mkdocs calls these functions. A page of another folder (ARCHITECTURE.md, a result of a benchmark) becomes a page of the site, and a
link to a file that has no page becomes its text.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\]|!\[[^\]]*\]\([^)]*\))*)\]\(([^)\s]+)\)")


def pages() -> dict[str, Path]:
    """Return the site's pages from outside of docs/, by their name in the site."""
    found = {"architecture.md": ROOT / "ARCHITECTURE.md", "changelog.md": ROOT / "CHANGELOG.md"}
    found |= {"contributing.md": ROOT / "CONTRIBUTING.md", "readme.md": ROOT / "README.md"}
    results = sorted((ROOT / "benchmarks" / "results").glob("*.md"))
    return found | {f"results/{path.name}": path for path in results}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of other folders and the reference."""
    for name, path in pages().items():
        if name != "readme.md":
            files.append(File.generated(config, name, content=path.read_text()))
    for name, lines in (("commands", commands()), ("events", events()), ("python", python())):
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines) + "\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links at the site's pages, and reduce those without a page to their text."""
    own = pages()
    source = own.get(page.file.src_uri, ROOT / "docs" / page.file.src_uri).parent
    names = {path: name for name, path in own.items()} | {ROOT / "docs" / file.src_uri: file.src_uri for file in files}

    def moved(match: re.Match[str]) -> str:
        mark, text, target = match.groups()
        path, _, anchor = target.partition("#")
        if not path or "://" in target or target.startswith("mailto:"):
            return match[0]
        name = names.get(Path(os.path.normpath(source / path)))
        if name is None or name == "readme.md":
            return text
        here = PurePosixPath(page.file.src_uri).parent
        return f"{mark}[{LINK.sub(moved, text)}]({os.path.relpath(name, here)}{'#' + anchor if anchor else ''})"

    parts = re.split(r"(^```.*?^```|^    .*?$)", markdown, flags=re.MULTILINE | re.DOTALL)  # code stays as it is
    return "".join(part if i % 2 else LINK.sub(moved, part) for i, part in enumerate(parts))


def commands() -> Iterator[str]:
    """Yield the page of the commands, from Typer."""
    import typer

    from search.cli.app import app

    yield "# Commands\n\n`paretune COMMAND --help` prints the same. Most commands print JSON with `--json`."
    for name, command in sorted(typer.main.get_command(app).commands.items()):  # type: ignore[attr-defined]
        if command.hidden:
            continue
        arguments = " ".join(one.metavar or one.name.upper() for one in command.params if one.param_type_name == "argument")
        yield f"\n## {name}\n\n{command.help}\n\n    paretune {name} {arguments}\n"
        rows = [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
        if rows:
            yield "| option | meaning |\n|---|---|"
        for one in rows:
            words = " ".join((one.help or "").split()).replace("|", "\\|")
            yield f"| `{'`, `'.join(one.opts)}` | {words} |"


def events() -> Iterator[str]:
    """Yield the page of the events."""
    from search.storage.events import EVENTS

    yield "# Events\n\nThe lines of a study's history, as `paretune events STUDY --json` prints them.\n"
    yield "| event | of | meaning | detail |\n|---|---|---|---|"
    for kind, spec in EVENTS.items():
        keys = [f"`{key}`" for key in spec.required] + [f"`{key}` (some)" for key in spec.optional]
        yield f"| `{kind}` | {spec.subject} | {spec.meaning} | {', '.join(keys)} |"


def python() -> Iterator[str]:
    """Yield the page of the Python API, from the docstrings."""
    import search
    from search.results.saved_study import SavedStudy
    from search.workflows.export_adapter import export_adapter
    from trainables.export.predict import predict

    yield f"# Python\n\n{_prose(search)}\n"
    for function in (search.run, search.load, search.compare, export_adapter, predict):
        yield from _entry(function, function.__module__)
    yield f"\n## SavedStudy\n\n`search.results.saved_study.SavedStudy`\n\n{_prose(SavedStudy)}\n"
    for name, member in vars(SavedStudy).items():
        if not name.startswith("_") and inspect.getdoc(member) and (inspect.isfunction(member) or isinstance(member, property)):
            yield f"- **`{name}{'' if isinstance(member, property) else '()'}`**: {(inspect.getdoc(member) or '').splitlines()[0]}"


def _entry(function: Any, module: str) -> Iterator[str]:
    signature = re.sub(r"'", "", str(inspect.signature(function)))
    yield f"\n## {module}.{function.__name__}\n\n```python\n{function.__name__}{signature}\n```\n\n{_prose(function)}\n"


def _prose(thing: Any) -> str:
    """Return a docstring as Markdown: its sections as bold words with lists."""
    text = re.sub(r"^(Args|Returns|Raises|Attributes):$", r"\n**\1**\n", inspect.getdoc(thing) or "", flags=re.MULTILINE)
    text = re.sub(r"^    (\S[\w., ]*): ", r"- `\1`: ", text, flags=re.MULTILINE)
    return re.sub(r"\n        +", " ", text)
