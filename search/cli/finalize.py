"""`paretune finalize`: the members of a front retrained with seeds and tested once each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, complain, folder_of, print_json

if TYPE_CHECKING:
    from search.backends.base import Order, Outcome
    from search.results.saved_study import SavedStudy
    from search.workflows.finalize import Member

app = typer.Typer()


@app.command()
def finalize(
    study: StudyName,
    *,
    seeds: Annotated[int, typer.Option(min=1, help="How many models of each member of the front.")] = 5,
    storage: Storage = DEFAULT_STORAGE,
    back_end: Annotated[str, typer.Option(help="ray or in-process.")] = "ray",
    cpus: Annotated[int | None, typer.Option(min=1, help="Cores that may be used; default all.")] = None,
    as_json: Json = False,
) -> None:
    """Retrain every member of the front on train and validation together, and meet the test split once per model."""
    from search.cli.signals import interruptible
    from search.results.saved_study import load
    from search.workflows import finalize as final

    if back_end not in ("ray", "in-process"):
        raise typer.BadParameter(f"{back_end!r} is neither ray nor in-process", param_hint="--back-end")
    saved = load(folder_of(study, storage))
    with interruptible():
        members = train(saved, n_seeds=seeds, back_end=back_end, n_cpus=cpus)
    if as_json:
        print_json([final.row(member) for member in members])
        return
    console = Console(highlight=False)
    console.print(table(members))
    console.print(
        f"n = {seeds} seeds each, trained on train and validation, tested once. P(front): that no other member beats it in "
        "accuracy and size, by bootstrap over seeds and test images.",
        style="dim",
    )


def train(study: SavedStudy, *, n_seeds: int, back_end: str = "ray", n_cpus: int | None = None) -> list[Member]:
    """Finalize a study on this machine or cluster, show how far it is, and record it.

    Raises:
        RequestError: There is no front or no test split, or a model could not be trained; what is done is kept.
    """
    from search.storage.location import ledger_in
    from search.tracking.mlflow_client import tracking_uri
    from search.tracking.sync import record_final
    from search.workflows import finalize as final

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"Finalizing {study.name}", total=len(study.members) * n_seeds)
        members = final.finalize(
            study,
            n_seeds=n_seeds,
            retrain=lambda orders: _retrained(study, orders, back_end, n_cpus),
            on_done=lambda done, of: progress.update(task, completed=done, total=of),
        )
    final.write_views(study, members)
    uri = tracking_uri(study.folder.parent)
    try:
        record_final(ledger_in(study.folder), uri, [final.row(member) for member in members])
    except Exception as error:  # MLflow is a view: whatever it fails with, the numbers are in the ledger
        complain(f"MLflow does not show the test accuracies ({type(error).__name__}); finalize again to record them")
    return members


def _retrained(study: SavedStudy, orders: Iterable[Order], back_end: str, n_cpus: int | None) -> Iterator[Outcome]:
    """The back end's outcomes. Nothing is started, or imported, where no order comes."""
    from itertools import chain

    from search.config.loading import check
    from search.errors import RequestError

    waiting = iter(orders)
    if (first := next(waiting, None)) is None:
        return
    file = check(study.row.file)
    worker, resources = file.worker(study.row.facts), file.resources
    try:
        if back_end == "in-process":
            yield from _in_process(worker, chain([first], waiting))
            return
        from cluster.capacity import FreeSlots
        from cluster.connect import connected
        from cluster.nodes import refuse_open

        with connected(n_cpus=n_cpus):
            from search.backends import ray_tune

            refuse_open()

            takes = resources.of_a_trial(study.row.facts.memory)
            n_slots = FreeSlots(takes).at_most  # what waits for a node is asked of an autoscaler
            yield from ray_tune.retrain(
                worker,
                chain([first], waiting),
                n_slots=n_slots,
                **takes,
            )
    except ValueError as error:
        raise RequestError(str(error)) from error


def _in_process(worker: dict[str, object], orders: Iterable[Order]) -> Iterator[Outcome]:
    from search.backends.base import Outcome
    from trainables.workers.retrainer import Retrainer

    retrainer = Retrainer(**worker)  # type: ignore[arg-type]
    for order in orders:
        try:
            done = retrainer(order.config, seed=order.seed, epochs=order.epochs, folder=order.folder)
        except Exception as error:
            yield Outcome(order.number, {}, None, f"{type(error).__name__}: {error}")
        else:
            yield Outcome(order.number, done.metrics, done.correct)


def table(members: list[Member]) -> Table:
    """A row per member: what the search saw, and what the test says."""
    from search.results.words import format_percent

    shown = Table("trial", "method", "params", "val %", "test %", "n", "P(front)", box=None)
    for member in members:
        spread = f" ± {100 * member.deviation:.2f}" if len(member.top1) > 1 else ""
        shown.add_row(
            str(member.trial.number),
            member.trial.method,
            f"{member.trial.adapter_params:,}",
            format_percent(member.trial.metrics["val/top1"]),
            format_percent(member.mean) + spread,
            str(len(member.top1)),
            f"{member.p_front:.2f}",
        )
    return shown
