"""One study over many tasks, as in the papers' benchmarks, and the result table with one row per method and one column per task."""

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
    """The content of a suite file.

    Attributes:
        suite: Name of the suite; its studies are called `<suite>-<task>`.
        study: Common part of all studies: the sections of a study file except `study` and `data`.
        data: Common part of the `data` sections of all tasks.
        tasks: Tasks by group, then by name, each with its own part of `data`.
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
    """Read a suite, and check all of its studies.

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
    found, problems = [], []
    for group, tasks in suite.tasks.items():
        for name, own in tasks.items():
            if only and name not in only:
                continue
            try:
                file = _study(suite, name, own, root, overrides, folder=Path(source).parent)
                found.append(Task(name, group, file if storage is None else file.model_copy(update={"storage": storage})))
            except StudyFileError as error:
                problems.append(str(error))
    if problems:
        raise StudyFileError("\n".join(problems))
    return suite.suite, found


def _study(
    suite: SuiteFile, name: str, own: Mapping[str, Any], root: Path | None, overrides: Sequence[str], *, folder: Path
) -> StudyFile:
    data = {**suite.data, **own}
    if root is not None and "path" in data:
        data["path"] = str(root / data["path"])
    raw = {**suite.study, "study": f"{suite.suite}-{name}", "data": data}
    for assignment in overrides:
        assign(raw := _copied(raw), assignment)
    return check(raw, f"{suite.suite}: {name}", folder=folder)


def _copied(raw: dict[str, Any]) -> dict[str, Any]:
    """Copy a mapping and its sections, so that changes do not affect the suite's."""
    return {key: dict(value) if isinstance(value, dict) else value for key, value in raw.items()}


# -- the table ---------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Standing:
    """The results of one method over all tasks.

    Attributes:
        method: Name of the method.
        top1: Accuracy (fraction) of its best trial by task; tasks without a complete trial are missing.
        group_means: Mean over the tasks of each group; missing unless all tasks have a result.
        mean_of_tasks: Mean over all tasks, as FacT and Lily count; None unless all tasks have a result.
        mean_of_groups: Mean of the groups' means, as NOAH and SNELL count; None unless all tasks have a result.
    """

    method: str
    top1: Mapping[str, float]
    group_means: Mapping[str, float]
    mean_of_tasks: float | None
    mean_of_groups: float | None


def standings(tasks: Sequence[Task], best: Mapping[str, Mapping[str, float]]) -> list[Standing]:
    """Return the rows of the table, in the order of the methods' first appearance.

    Args:
        tasks: Tasks of the suite.
        best: Accuracy (fraction) by task, then by method.
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
    """Return the validation accuracy of each method's best complete trial, biased upwards because the trial was chosen by it."""
    best: dict[str, float] = {}
    for trial in study.history:
        if trial.state is State.COMPLETE:
            best[trial.method] = max(best.get(trial.method, 0.0), trial.metrics["val/top1"])
    return best


def write_parquet(rows: Sequence[Standing], path: Path, *, measure: str) -> None:
    """Write one row per method, one column per task and mean; accuracies are fractions of what `measure` names."""
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
