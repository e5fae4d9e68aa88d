"""`paretune finalize`: retraining the members of a front with several seeds, and testing each model once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, complain, folder_of, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from search.workflows.finalize import Member

app = typer.Typer()


@app.command()
def finalize(
    study: StudyName,
    trials: Annotated[list[int] | None, typer.Argument(metavar="[T...]", min=0, help="Trials; none: all front members.")] = None,
    *,
    seeds: Annotated[int, typer.Option(min=1, help="Number of models for each of them.")] = 5,
    storage: Storage = DEFAULT_STORAGE,
    back_end: Annotated[str, typer.Option(help="ray or in-process.")] = "ray",
    cpus: Annotated[int | None, typer.Option(min=1, help="Maximum number of cores; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Retrain front members, or the trials you name, on train and validation together; test each model once on the test split."""
    from search.backends.choose import make_back_end
    from search.cli.progress import retraining
    from search.cli.signals import interruptible
    from search.front import judged_by
    from search.results.saved_study import load
    from search.workflows import finalize as workflow

    driver = make_back_end(back_end, n_cpus=cpus)
    saved = load(folder_of(study, storage))
    numbers = trials or []
    with interruptible(), retraining(saved.name) as on_done:
        members = workflow.finalize_and_record(
            saved, n_seeds=seeds, back_end=driver, numbers=numbers, on_done=on_done, say=complain
        )
    if as_json:
        print_json([workflow.row(member) for member in members])
        return
    console = Terminal()
    console.print(table(members))
    judged = judged_by(member.trial for member in members).label
    console.print(
        f"n = {seeds} seeds each, trained on train and validation, tested once. P(front): probability that no other member "
        f"beats it in both {judged} and size, by bootstrap over seeds and test images.",
        style="dim",
    )


def table(members: list[Member]) -> Table:
    """Return one row per member, with its validation and its test accuracy."""
    from search.front import judged_by

    metric = judged_by(member.trial for member in members)
    test = metric.heading.replace(metric.key, metric.on_test)
    watched = sorted({name for member in members for name in member.watched})
    shown = Table("trial", "method", "params", metric.heading, test, *watched, "n", "P(front)", box=None)
    for member in members:
        spread = f" ± {metric.format(member.deviation)}" if len(member.tested) > 1 else ""
        shown.add_row(
            str(member.trial.number),
            member.trial.method,
            f"{member.trial.adapter_params:,}",
            metric.format(member.trial.quality),
            metric.format(member.mean) + spread,
            *(metric.format(member.watched[name]) if name in member.watched else "" for name in watched),
            str(len(member.tested)),
            f"{member.p_front:.2f}",
        )
    return shown
