"""One study over many tasks, as the benchmarks of the papers have it, and the table of a method per row and a task per column."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, ValidationError

from search.config.loading import check
from search.config.sections import Section
from search.config.study_file import StudyFile
from search.config.yaml_text import assign, parse
from search.errors import StudyFileError
from search.results.saved_study import SavedStudy
from search.storage.whole_file import write_whole
from search.trial import State

PACKAGED = resources.files("search") / "suites"


class SuiteFile(Section):
    """A suite as it is written.

    Attributes:
        suite: Its name; the studies are called `<suite>-<task>`.
        study: What all studies share: the sections of a study file but `study` and `data`.
        data: What the `data` of all tasks shares.
        tasks: Group -> task -> what is its own in `data`.
    """

    suite: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    study: dict[str, Any]
    data: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[str, dict[str, dict[str, Any]]] = Field(min_length=1)


@dataclass(frozen=True)
class Task:
    """One study of a suite."""

    name: str
    group: str
    file: StudyFile


def packaged_names() -> list[str]:
    """The suites that ship with Paretune."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PACKAGED.iterdir() if entry.name.endswith(".yaml"))


def load(
    source: str,
    *,
    root: Path | None = None,
    storage: Path | None = None,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
) -> tuple[str, list[Task]]:
    """Read a suite, and check every study of it.

    Args:
        source: A path, or the name of a packaged suite.
        root: What the tasks' `data.path` are relative to.
        storage: Where the studies are kept; None for the studies' own.
        overrides: `a.b=value` for all studies.
        only: Names of tasks; none for all.

    Returns:
        The suite's name, and its tasks in the order of the file.

    Raises:
        StudyFileError: listing everything that is wrong.
    """
    try:
        packaged = source in packaged_names()
        text = (PACKAGED / f"{source}.yaml" if packaged else Path(source)).read_text()
    except OSError:
        known = ", ".join(packaged_names())
        raise StudyFileError(f"{source}: there is no such file, nor a packaged suite of that name (packaged: {known})") from None
    try:
        suite = SuiteFile.model_validate(parse(text, source)[0])
    except ValidationError as error:
        lines = [f"{source}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise StudyFileError("\n".join(lines)) from None
    names = [name for tasks in suite.tasks.values() for name in tasks]
    if unknown := sorted(set(only) - set(names)):
        raise StudyFileError(f"--only: the suite has no task {', '.join(unknown)}; it has {', '.join(names)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise StudyFileError(f"{source}: tasks: {', '.join(twice)} is there twice; a task's name is its own")
    found, problems = [], []
    for group, tasks in suite.tasks.items():
        for name, own in tasks.items():
            if only and name not in only:
                continue
            try:
                file = _study(suite, name, own, root, overrides)
                found.append(Task(name, group, file if storage is None else file.model_copy(update={"storage": storage})))
            except StudyFileError as error:
                problems.append(str(error))
    if problems:
        raise StudyFileError("\n".join(problems))
    return suite.suite, found


def _study(suite: SuiteFile, name: str, own: Mapping[str, Any], root: Path | None, overrides: Sequence[str]) -> StudyFile:
    data = {**suite.data, **own}
    if root is not None and "path" in data:
        data["path"] = str(root / data["path"])
    raw = {**suite.study, "study": f"{suite.suite}-{name}", "data": data}
    for assignment in overrides:
        assign(raw := _copied(raw), assignment)
    return check(raw, f"{suite.suite}: {name}")


def _copied(raw: dict[str, Any]) -> dict[str, Any]:
    """A mapping whose sections can be changed without changing the suite's."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}


# -- the table ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """One method over all tasks.

    Attributes:
        method: The method's name.
        top1: Task -> accuracy (fraction) of its best trial; tasks without a complete one are absent.
        group_means: Group -> mean over its tasks; absent unless all are there.
        mean_of_tasks: Mean over all tasks, as FacT and Lily count; None unless all are there.
        mean_of_groups: Mean of the groups' means, as NOAH and SNELL count; None unless all are there.
    """

    method: str
    top1: Mapping[str, float]
    group_means: Mapping[str, float]
    mean_of_tasks: float | None
    mean_of_groups: float | None


def standings(tasks: Sequence[Task], best: Mapping[str, Mapping[str, float]]) -> list[Standing]:
    """The rows of the table, in the order of the methods' first appearance.

    Args:
        tasks: Of the suite.
        best: Task -> method -> accuracy (fraction).
    """
    methods = list(dict.fromkeys(method for task in tasks for method in best.get(task.name, {})))
    groups: dict[str, list[str]] = {}
    for task in tasks:
        groups.setdefault(task.group, []).append(task.name)
    rows = []
    for method in methods:
        top1 = {task.name: best[task.name][method] for task in tasks if method in best.get(task.name, {})}
        means = {group: statistics.fmean(top1[n] for n in names) for group, names in groups.items() if set(names) <= top1.keys()}
        whole = len(top1) == len(tasks)
        rows.append(
            Standing(
                method,
                top1,
                means,
                statistics.fmean(top1.values()) if whole else None,
                statistics.fmean(means.values()) if whole else None,
            )
        )
    return rows


def best_of_search(study: SavedStudy) -> dict[str, float]:
    """Method -> validation accuracy of its best complete trial; it was chosen by that accuracy, and is flattered by it."""
    best: dict[str, float] = {}
    for trial in study.history:
        if trial.state is State.COMPLETE:
            best[trial.method] = max(best.get(trial.method, 0.0), trial.metrics["val/top1"])
    return best


def write_parquet(rows: Sequence[Standing], path: Path, *, measure: str) -> None:
    """One row per method, one column per task and mean; accuracies are fractions of what `measure` names."""
    table: list[dict[str, Any]] = [
        {"method": row.method}
        | dict(row.top1)
        | {f"mean of {group}": mean for group, mean in row.group_means.items()}
        | {"mean of tasks": row.mean_of_tasks, "mean of groups": row.mean_of_groups}
        for row in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for line in table for key in line))
    whole = [{key: line.get(key) for key in columns} for line in table]
    arrow = pa.Table.from_pylist(whole, metadata={"paretune.schema_version": "1", "paretune.measure": measure})
    write_whole(path, lambda draft: pq.write_table(arrow, draft))
