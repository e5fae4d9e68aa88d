"""The results of a suite: one row per method, as Parquet, as Markdown, and in the format of Hugging Face PEFT's comparison."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from search.config.protocols import differences, protocol
from search.results.saved_study import SavedStudy
from search.results.words import METHOD_NAMES, format_percent, format_value
from search.storage.whole_file import write_whole
from search.trial import State
from search.workflows import peft_comparison
from search.workflows.finalize import Member
from search.workflows.suite import Task


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
            best[trial.method] = max(best.get(trial.method, 0.0), trial.quality)
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


def write_markdown(tasks: Sequence[Task], rows: Sequence[Standing], path: Path, *, measure: str) -> None:
    """Write a table of Markdown with the recipe above it; accuracies are in percent."""
    write_whole(path, lambda draft: draft.write_text("\n".join(_markdown(tasks, rows, measure)) + "\n", encoding="utf-8"))


def _markdown(tasks: Sequence[Task], rows: Sequence[Standing], measure: str) -> Iterator[str]:
    groups = list(dict.fromkeys(task.group for task in tasks))
    names = [task.name for group in groups for task in tasks if task.group == group]
    yield from _recipe(tasks[0])
    yield f"Accuracy in %: {measure}."
    yield ""
    columns = ["method", *names, *(f"mean of {group}" for group in groups if len(groups) > 1), "mean of tasks", "mean of groups"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---" + "|---:" * (len(columns) - 1) + "|"
    for row in rows:
        means = [row.group_means.get(group) for group in groups if len(groups) > 1]
        values = [*(row.top1.get(name) for name in names), *means, row.mean_of_tasks, row.mean_of_groups]
        shown = ("" if value is None else format_percent(value) for value in values)
        yield f"| {METHOD_NAMES.get(row.method, row.method)} | {' | '.join(shown)} |"


def _recipe(task: Task) -> Iterator[str]:
    """Yield the protocol and its differences, or the settings of a suite without one."""
    resolved = task.file.resolved()
    if task.file.protocol is not None:
        known = protocol(task.file.protocol)
        changes = [f"{d.key} {format_value(d.study)} instead of {format_value(d.protocol)}" for d in differences(resolved)]
        yield (
            f"Protocol `{task.file.protocol}` ({known.source}), "
            + ("; ".join(changes) if changes else "every key as published")
            + "."
        )
    else:
        shown = {"backbone.name": task.file.backbone.name, "budget.epochs": task.file.budget.epochs}
        shown |= {f"data.{key}": value for key, value in resolved["data"].items() if key in ("normalize", "resize", "augment")}
        shown |= {f"recipe.{key}": value for key, value in resolved["recipe"].items() if value is not None}
        shown |= {f"space.{key}": value for key, value in resolved["space"].items()}
        yield "No protocol: " + "; ".join(f"{key} {format_value(value)}" for key, value in shown.items()) + "."
    yield ""


def write_peft_comparison(task: Task, study: SavedStudy, members: Sequence[Member], folder: Path) -> None:
    """Write one file in the format of PEFT's comparison for each retrained model of a method that PEFT has, too."""
    for member in members:
        for model in member.models if peft_comparison.peft_type(member.trial.method) is not None else ():
            record = peft_comparison.record(task.name, task.file, study.row.facts, model)
            text = json.dumps(record, indent=2) + "\n"
            path = folder / f"{record['run_info']['experiment_name'].replace('/', '--')}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda draft, text=text: draft.write_text(text, encoding="utf-8"))  # type: ignore[misc]
