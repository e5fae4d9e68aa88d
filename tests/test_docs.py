"""The pages say what the code says, and can be read: no dead link, no path that is gone, no long line."""

import importlib.util
import json
import math
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from search import costs, metrics
from search.config import data_sections, loading, sections
from search.config.loading import check
from search.config.protocols import differences, packaged_names, protocol
from search.config.study_file import StudyFile
from search.workflows.suite import load as load_suite
from trainables.adapters import METHODS, method_of
from trainables.recipe.recipe import recipe_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COLUMNS = 100
PAGES = {
    str(page.relative_to(ROOT)): page for page in sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *DOCS.glob("decisions/*.md")])
}
PACKAGES = ("search", "trainables", "spaces", "cluster")
TREE = (*PACKAGES, "tests", "benchmarks", "docs")
every_page = pytest.mark.parametrize("name", PAGES)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


@pytest.fixture(scope="module")
def make_methods() -> ModuleType:
    return script("make_methods")


def test_the_page_of_methods_is_current(make_methods: ModuleType) -> None:
    assert (DOCS / "methods.md").read_text() == make_methods.page(), "run: python docs/make_methods.py"


def test_the_page_of_published_numbers_is_current_and_its_commands_are_searches_of_a_whole_grid() -> None:
    page = (DOCS / "papers.md").read_text()
    assert page == script("make_papers").page(), "run: python docs/make_papers.py"
    commands = re.findall(r"^paretune suite .*?(?=\n```)", page, re.DOTALL | re.MULTILINE)
    assert len(commands) == sum(len(protocol(name).published) for name in packaged_names())
    for command in commands:
        words = shlex.split(command.replace("\\\n", ""))
        overrides = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        file = load_suite(words[2], root=Path("/data"), overrides=overrides, only=["cifar"])[1][0].file
        assert list(differences(file.resolved())) == []
        space = file.joint_space()
        choices = [len(knob.distribution.choices) for knob in space.knobs(file.methods[0])]  # type: ignore[attr-defined]
        assert file.budget.n_trials == math.prod(choices) + 1


def test_a_study_file_reaches_every_value_that_a_paper_used_outside_the_searched_ranges(make_methods: ModuleType) -> None:
    for key, (values, _) in make_methods.BEYOND.items():
        method = "lora" if key.startswith("optim.") else key.split(".")[0]
        raw = {"study": "outside", "methods": [method], "budget": {"n_trials": 2, "epochs": 2}, "data": {"kind": "digits"}}
        packaged = check(raw).joint_space()
        widened = check({**raw, "space": {key: list(values)}}).joint_space()
        for value in values:
            config = {**packaged.default(method), key: value}
            assert not packaged.holds(config), f"{key}: {value} is searched by default"
            assert widened.holds(config), f"{key}: {value}"
            method_of(config)
            recipe_of({}, config)


def test_the_schema_of_study_files_is_current_and_knows_what_they_hold() -> None:
    made = script("make_schema")
    schema = json.loads(made.SCHEMA.read_text())
    assert schema == made.schema(), "run: python docs/make_schema.py"
    assert schema["properties"].keys() == StudyFile.model_fields.keys()
    assert schema["$defs"]["Budget"]["properties"]["epochs"]["description"] == "Epochs of a complete trial."
    assert {"lora.rank", "optim.lr"} <= schema["properties"]["space"]["properties"].keys()


def test_a_copied_study_file_names_its_schema_where_an_editor_finds_it() -> None:
    for name in loading.packaged_names():
        named = "# yaml-language-server: $schema="
        packaged, copied = (text.partition("\n")[0] for text in (loading.packaged_text(name), loading.packaged_copy(name)))
        assert (ROOT / "search" / "studies" / packaged.removeprefix(named)).is_file()
        assert Path(copied.removeprefix(named)).is_file()
        assert Path(copied.removeprefix(named)).is_absolute()


def test_a_schema_whose_path_has_a_space_is_named_by_an_address_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Editors take everything up to the first space."""
    monkeypatch.setattr(loading, "SCHEMA", Path("/my tools/search/study.schema.json"))
    assert loading.schema_line() == "# yaml-language-server: $schema=file:///my%20tools/search/study.schema.json"


def test_the_newest_section_of_the_changelog_is_of_this_version_grouped_and_read_within_three_minutes() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    newest = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)[1]
    assert re.match(rf"{re.escape(version)} \(20\d\d-\d\d-\d\d\)\n", newest)
    assert re.findall(r"^### (.+)$", newest, re.MULTILINE) == ["Added", "Changed", "Fixed"]
    assert len(newest.split()) <= 3 * 240  # words


def test_nothing_asks_to_install_paretune_from_an_index_that_does_not_hold_it() -> None:
    """Others could take the name there. A clone or a wheel is installed by its path."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split()
    by_name = re.compile(r"(?:pip|uv|pipx) (?:pip )?install\b[^\n;&|]*?\s['\"]?paretune(?![\w./*-]*\.whl)\b(?!/)")
    assert by_name.search("pip install 'paretune[peft]'")
    assert by_name.search("pip install --quiet paretune")
    assert not by_name.search("~/paretune/bin/pip install /shared/paretune-*.whl")
    for name in tracked:
        path = ROOT / name
        if path.suffix in (".py", ".md", ".yaml", ".yml", ".toml", ".sh", "") and path.is_file() and name != "tests/test_docs.py":
            assert not by_name.search(path.read_text(errors="replace")), name


def test_the_page_of_python_has_every_name_of_ours_that_another_page_imports() -> None:
    reference = script("site/reference")
    listed = {name for _, names in reference.PYTHON.values() for name in names}
    listed |= {f"trainables.adapters.{kind.__name__}" for kind in METHODS.values()}  # its table of the methods' classes
    imported = {
        f"{module}.{name.strip()}"
        for name_of_page in PAGES
        for module, names in re.findall(
            rf"^from ((?:{'|'.join(PACKAGES)})[\w.]*) import (.+?)(?:  #.*)?$", PAGES[name_of_page].read_text(), re.MULTILINE
        )
        for name in names.split(",")
    }
    assert len(imported) > 8
    assert imported <= listed
    text = "\n".join(reference.python())
    assert all(f"\n### {name}\n" in text for _, names in reference.PYTHON.values() for name in names)
    assert "| `LoRA` | `lora` | `rank=8`" in text


def test_the_page_of_metrics_and_costs_has_each_that_objectives_may_name() -> None:
    text = "\n".join(script("site/reference").metrics())
    assert set(re.findall(r"^\| `([\w/]+)` \|", text, re.MULTILINE)) == {*metrics.METRICS, *costs.COSTS}


# -- every page ------------------------------------------------------------------------------------------------------------------


@every_page
def test_no_line_of_prose_is_longer_than_100_columns(name: str) -> None:
    long = [f"{name}:{n}" for n, line in prose(PAGES[name]) if len(line) > COLUMNS and not _is_one_link(line)]
    assert not long, f"wrap at {COLUMNS} columns"


@every_page
def test_every_relative_link_leads_to_a_file_and_a_heading(name: str) -> None:
    page = PAGES[name]
    for target in re.findall(r"\]\(([^)\s]+)\)", "\n".join(line for _, line in prose(page, tables=True))):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        there = page.parent / path if path else page
        assert there.exists(), f"{name}: {target}"
        assert not heading or heading in _anchors(there), f"{name}: {target}"


@every_page
def test_every_path_of_the_repository_that_a_page_names_exists(name: str) -> None:
    for path in re.findall(rf"`((?:{'|'.join(TREE)})/[\w./-]*)`", PAGES[name].read_text()):
        assert (ROOT / path).exists(), f"{name}: {path}"


def test_the_index_of_decisions_names_every_page() -> None:
    index = (DOCS / "decisions" / "README.md").read_text()
    pages = {page.name for page in (DOCS / "decisions").glob("*.md")} - {"README.md"}
    assert set(re.findall(r"\]\(([\w-]+\.md)\)", index)) == pages


def prose(page: Path, *, tables: bool = False) -> Iterator[tuple[int, str]]:
    """The numbered lines of a page outside code blocks and, unless they are asked for, tables."""
    fenced = False
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    ") and (tables or not line.startswith("|")):
            yield number, line


def _is_one_link(line: str) -> bool:
    """Whether a line holds nothing but a link or an image, which cannot be wrapped."""
    return re.fullmatch(r"\s*(\[!\[[^]]*\]\([^)]*\)\]|!?\[[^]]*\])\([^)]*\)[.,;:]?", line) is not None


def _anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links them."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if line.startswith("#")]
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- the page of the study file --------------------------------------------------------------------------------------------------

STUDY_FILE = (DOCS / "study-file.md").read_text()
SECTIONS: dict[str, type[BaseModel]] = {
    "## Top level": StudyFile,
    "## `backbone`": sections.Backbone,
    "## `recipe`": sections.Recipe,
    "## `budget`": sections.Budget,
    "## `search`": sections.Search,
    "`search.rungs`:": sections.RungsSection,
    "## `resources`": sections.Resources,
}


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_page_of_the_study_file_has_every_key_of_a_section_with_its_default(heading: str) -> None:
    table = next(rows_below(STUDY_FILE, heading))
    fields = SECTIONS[heading].model_fields
    assert {row[0] for row in table} == {f"`{key}`" for key in fields}
    for row in table:
        assert row[2].partition(";")[0] == in_words(fields[row[0].strip("`")]), row


def test_the_page_of_the_study_file_has_every_key_of_every_kind_of_data_with_its_default() -> None:
    kinds, common, more = list(rows_below(STUDY_FILE, "## `data`"))
    assert {row[0] for row in kinds} == {f"`{kind}`" for kind in data_sections.DATA_KINDS}
    images = [kind for kind, section in data_sections.DATA_KINDS.items() if issubclass(section, data_sections.Images)]
    written: dict[str, dict[str, str]] = {kind: {} for kind in data_sections.DATA_KINDS}
    for key, of, default in [*((r[0], images, r[2]) for r in common), *((r[0], re.findall(r"\w+", r[1]), r[3]) for r in more)]:
        usual, *others = default.split("; ")
        unlike = dict(other.split(": ", 1) for other in others)
        for kind in of:
            written[kind][key.strip("`")] = unlike.get(f"`{kind}`", usual)
    for kind, section in data_sections.DATA_KINDS.items():
        fields = {key: in_words(field) for key, field in section.model_fields.items() if key != "kind"}
        assert written[kind] == fields, kind


def test_the_example_of_the_page_of_the_study_file_is_a_study_file() -> None:
    example = STUDY_FILE.partition("```yaml\n")[2].partition("```")[0]
    assert check(yaml.safe_load(example.replace("1e-", "1.0e-"))).study == "flowers"


def rows_below(page: str, title: str) -> Iterator[list[list[str]]]:
    """The tables between a title and the next one, as rows of cells without the header."""
    text = page.partition(f"\n{title}\n")[2]
    text = re.split(r"^(?:## |`[\w.]+`:$)", text, maxsplit=1, flags=re.MULTILINE)[0]
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        yield [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]


def in_words(field: FieldInfo) -> str:
    """A key's default as the page writes it."""
    default: Any = field.get_default(call_default_factory=True)
    if field.is_required():
        return "required"
    if isinstance(default, BaseModel):
        return "see below"
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if isinstance(default, str | Path):
        return f"`{default}`"
    if isinstance(default, tuple):
        return f"`[{', '.join(default)}]`"
    return f"`{default}`" if isinstance(default, dict) else str(default)
