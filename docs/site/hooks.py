"""The parts of the documentation site that are made when it is built: pages from outside of docs/, and links to them.

mkdocs calls these functions. A page of another folder (ARCHITECTURE.md, a result of a benchmark) becomes a page of the site, and a
link to a file that has no page becomes its text. `docs/site/reference.py` makes the reference.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

import reference  # the file next to this one
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
    for name, lines in reference.pages().items():
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
