"""`paretune suite`: one study over many tasks."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from search.cli.options import Json, Overrides, complain, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.workflows.suite import Task
    from search.workflows.suite_tables import Standing

app = typer.Typer()
VALIDATION = "validation accuracy of each method's best trial, which was chosen by this accuracy"
TEST = "mean test accuracy of each method's best front member after retraining (blank: the method is not on that task's front)"


@app.command()
def suite(
    source: Annotated[str, typer.Argument(metavar="SUITE", help="A suite file, or a packaged one: vtab1k, fgvc.")],
    *,
    root: Annotated[Path | None, typer.Option(help="Base folder of the tasks' relative data paths.")] = None,
    overrides: Overrides = None,
    only: Annotated[list[str] | None, typer.Option(help="Run only this task; repeatable.")] = None,
    finalize: Annotated[int, typer.Option(min=0, help="Seeds for retraining and testing each front; 0: no retraining.")] = 0,
    storage: Annotated[Path | None, typer.Option(envvar="PARETUNE_STORAGE", help="Storage of the studies.")] = None,
    back_end: Annotated[str, typer.Option(help="ray or in-process.")] = "ray",
    cpus: Annotated[int | None, typer.Option(min=1, help="Maximum number of cores; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Search every task of a suite, one after the other, and compare the methods. After an interruption, run it again."""
    from search.backends.choose import make_back_end
    from search.cli.progress import retraining
    from search.cli.run import search_quietly
    from search.workflows import suite as suites
    from search.workflows import suite_tables
    from search.workflows.finalize import finalize_and_record

    name, tasks = suites.load(source, root=root, storage=storage, overrides=overrides or (), only=only or ())
    if tasks[0].earlier:
        complain(f"{name} continues as it began, with an earlier version of {source}")
    best: dict[str, dict[str, float]] = {}
    for task in tasks:
        study = search_quietly(task.file, back_end, cpus, progress_on=Terminal(stderr=True) if as_json else None)
        best[task.name] = suite_tables.best_of_search(study)
        if finalize:
            found: dict[str, float] = {}
            with retraining(study.name) as on_done:
                driver = make_back_end(back_end, n_cpus=cpus)
                members = finalize_and_record(study, n_seeds=finalize, back_end=driver, on_done=on_done, say=complain)
            for member in members:
                found[member.trial.method] = max(found.get(member.trial.method, 0.0), member.mean)
            best[task.name] = found
            suite_tables.write_peft_comparison(task, study, members, task.file.storage / f"suite-{name}-peft")
    rows, measure = suite_tables.standings(tasks, best), TEST if finalize else VALIDATION
    path = tasks[0].file.storage / f"suite-{name}.parquet"
    suite_tables.write_parquet(rows, path, measure=measure)
    suite_tables.write_markdown(tasks, rows, path.with_suffix(".md"), measure=measure)
    if as_json:
        print_json({"measure": measure, "standings": [asdict(row) for row in rows]})
        return
    console = Terminal()
    console.print(table(tasks, rows))
    console.print(
        f"In %: {measure}. Also in {path} and, with its recipe, in {path.with_suffix('.md').name}.", style="dim", soft_wrap=True
    )


def table(tasks: Sequence[Task], rows: Sequence[Standing]) -> Table:
    """Return one row per method: the tasks of each group, their mean, and both means that the papers print."""
    from search.results.words import format_percent

    def shown(value: float | None) -> str:
        return "-" if value is None else format_percent(value)

    groups = dict.fromkeys(task.group for task in tasks)
    several = len(groups) > 1
    columns = []
    for group in groups:
        columns += [task.name for task in tasks if task.group == group] + ([f"mean of {group}"] if several else [])
    grid = Table("method", *columns, "mean of tasks", *(["mean of groups"] if several else []), box=None)
    for row in rows:
        cells = []
        for group in groups:
            cells += [shown(row.top1.get(task.name)) for task in tasks if task.group == group]
            cells += [shown(row.group_means.get(group))] if several else []
        grid.add_row(row.method, *cells, shown(row.mean_of_tasks), *([shown(row.mean_of_groups)] if several else []))
    return grid
