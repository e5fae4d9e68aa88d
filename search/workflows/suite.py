"""One study over many tasks, as in the papers' benchmarks, and the result table with one row per method and one column per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from search.config.loading import check
from search.config.sections import Section
from search.config.study_file import StudyFile
from search.config.yaml_text import assign, parse
from search.errors import StudyFileError
from search.metrics import TOP1
from search.study.opening import find_study

PACKAGED = resources.files("search") / "suites"


class Version(Section):
    """The content of a suite file that all of its studies share.

    Attributes:
        study: Sections of a study file except `study` and `data`.
        data: Common part of the `data` sections of all tasks.
    """

    study: dict[str, Any]
    data: dict[str, Any] = Field(default_factory=dict)


class SuiteFile(Version):
    """The content of a suite file.

    Attributes:
        suite: Name of the suite; its studies are called `<suite>-<task>`.
        tasks: Tasks by group, then by name, each with its own part of `data`.
        earlier: Earlier versions, the latest first, with which studies of the suite may have begun.
    """

    suite: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    tasks: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)
    earlier: list[Version] = Field(default_factory=list)


@dataclass(frozen=True)
class Task:
    """One study of a suite.

    Attributes:
        name: Name.
        group: Group of tasks to which it belongs.
        file: Study file.
        earlier: True if the suite began with an earlier version of its file, and continues with that.
    """

    name: str
    group: str
    file: StudyFile
    earlier: bool = False


def packaged_names() -> list[str]:
    """Return the names of the packaged suites."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def load(
    source: str,
    *,
    root: Path | None = None,
    storage: Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
) -> tuple[str, list[Task]]:
    """Read a suite, and check all of its studies. A suite that began with an earlier version of its file continues with that.

    Args:
        source: Path, or name of a packaged suite.
        root: Base folder of the tasks' relative `data.path`.
        storage: Storage of the studies; None for the one in the file.
        overrides: Assignments `a.b=value` for all studies.
        only: Names of tasks; empty for all.

    Returns:
        The suite's name, and its tasks in the order of the file.

    Raises:
        StudyFileError: If anything is wrong; the message lists every problem.
    """
    try:
        packaged = source in packaged_names()
        text = (PACKAGED / f"{source}.yaml" if packaged else Path(source)).read_text()
    except OSError:
        known = ", ".join(packaged_names())
        raise StudyFileError(f"{source}: neither a file nor a packaged suite of that name exists (packaged: {known})") from None
    try:
        suite = SuiteFile.model_validate(parse(text, source)[0])
    except ValidationError as error:
        lines = [f"{source}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise StudyFileError("\n".join(lines)) from None
    names = [name for tasks in suite.tasks.values() for name in tasks]
    if unknown := sorted(set(only) - set(names)):
        raise StudyFileError(f"--only: the suite has no task {', '.join(unknown)}; it has {', '.join(names)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyFileError(f"{source}: tasks: {', '.join(twice)} occurs twice; task names must be unique")
    versions = [_tasks(suite, version, only, root, overrides, folder=Path(source).parent) for version in (suite, *suite.earlier)]
    if storage is not None:
        versions = [[replace(t, file=t.file.model_copy(update={"storage": storage})) for t in tasks] for tasks in versions]
    began = next((tasks for tasks in versions if all(map(_goes_on, tasks))), versions[0]) if suite.earlier else versions[0]
    return suite.suite, began


def _tasks(
    suite: SuiteFile, version: Version, only: Sequence[str], root: Path | None, overrides: Sequence[str], *, folder: Path
) -> list[Task]:
    """Return the tasks of a version of a suite."""
    found, problems = [], []
    for group, tasks in suite.tasks.items():
        for name, own in tasks.items():
            if only and name not in only:
                continue
            data = {**version.data, **own}
            if root is not None and "path" in data:
                data["path"] = str(root / data["path"])
            raw = {**version.study, "study": f"{suite.suite}-{name}", "data": data}
            try:
                for assignment in overrides:
                    assign(raw := _copied(raw), assignment)
                file = check(raw, f"{suite.suite}: {name}", folder=folder)
                if file.objectives[0] != TOP1:
                    problems.append(f"{suite.suite}: {name}: objectives: the table of a suite has accuracies; use {TOP1}")
                found.append(Task(name, group, file, earlier=version is not suite))
            except StudyFileError as error:
                problems.append(str(error))
    if problems:
        raise StudyFileError("\n".join(problems))
    return found


def _goes_on(task: Task) -> bool:
    """Return whether the task's study began with this file, or has not begun."""
    try:
        find_study(task.file)
    except StudyFileError:
        return False
    return True


def _copied(raw: dict[str, Any]) -> dict[str, Any]:
    """Copy a mapping and its sections, so that changes do not affect the suite's."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}
