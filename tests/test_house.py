"""The house: no circle of imports, every name of a module that stands in a text resolves, one file for each library's insides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from search.config.sections import Search
from search.tracking.sync import MODEL_CODE

ROOT = Path(__file__).parents[1]
PACKAGES = ("search", "trainables", "spaces", "cluster")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
LONGEST = 350  # lines
NAME = re.compile(rf"(?<![\w/.])(?:{'|'.join(PACKAGES)})(?:\.[a-zA-Z_]\w*)+(?![\w/(]|\.\w)")
SECTION = {f"search.{key}" for key in Search.model_fields}  # keys of a study file, in the section `search`


def test_no_circle_of_imports_not_even_of_late_or_type_only_ones() -> None:
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=False)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    while leaves := [module for module, imported in imports.items() if not imported]:
        for leaf in leaves:
            del imports[leaf]
        for imported in imports.values():
            imported.difference_update(leaves)
    assert imports == {}, "these import each other"


def test_no_file_of_the_packages_is_too_long_to_read_from_top_to_bottom() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert {path: n for path, n in lengths.items() if n > LONGEST} == {}


def test_optunas_samplers_are_used_in_two_files() -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if re.search(r"optuna\.samplers\b|from optuna import .*samplers", path.read_text())
    }
    assert users == {"search/samplers/optuna_sampler.py", "search/samplers/pareto_sampler.py"}  # those of Optuna, and ours for it


def texts(path: Path) -> Iterator[str]:
    """What may name a module: the strings of a program, docstrings among them, and what stands in backticks in a page."""
    text = path.read_text()
    if path.suffix == ".md":
        yield from re.findall(r"`([^`\n]+)`", text)
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def resolves(name: str) -> bool:
    """Whether a dotted name is a module, or a definition in one; read from the files, without importing them."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:n])
        file = next((f for f in (base.with_suffix(".py"), base / "__init__.py") if f.exists()), None)
        if file is not None:
            return defines(ast.parse(file.read_text()).body, parts[n:])
    return False


def defines(body: list[ast.stmt], parts: list[str]) -> bool:
    if not parts:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == parts[0]:
            return defines(node.body, parts[1:]) or isinstance(node, ast.ClassDef)  # an attribute, or one of a base
        names = [alias.asname or alias.name for alias in node.names] if isinstance(node, ast.ImportFrom | ast.Import) else []
        targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if parts[0] in [*names, *(target.id for target in targets if isinstance(target, ast.Name))]:
            return True
    return False


@pytest.mark.parametrize("folder", [*PACKAGES, "tests", "benchmarks", "docs", "."])
def test_every_module_that_a_text_names_is_there(folder: str) -> None:
    root = ROOT / folder
    pages = root.glob("*.md") if folder == "." else (path for end in ("py", "md") for path in root.rglob(f"*.{end}"))
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in pages
        if path.name != "CHANGELOG.md"
        for text in texts(path)
        for name in NAME.findall(text)
        if name not in SECTION
        and "__" not in name
        and not name.endswith((".py", ".md", ".yaml", ".jsonl", ".parquet", ".png"))
        and not resolves(name)
    ]
    assert not missing, "\n" + "\n".join(missing)


def test_the_code_that_mlflow_copies_beside_a_registered_model_is_there() -> None:
    assert MODEL_CODE == ROOT / "trainables" / "export" / "mlflow_model.py"
    assert MODEL_CODE.is_file()


PRIVATE = re.compile(
    r"ray\._private|internal_kv|temporary_state|_cleanup_cached_actors|_actor_id|_tracking_client|class_cache|distribution\._contains"
)


def test_private_parts_of_libraries_are_used_in_one_file_for_each() -> None:
    users = {str(path.relative_to(ROOT)) for path in SOURCES if PRIVATE.search(path.read_text())}
    assert users == {"cluster/ray_internals.py", "search/backends/tune_internals.py", "search/tracking/mlflow_internals.py"}
