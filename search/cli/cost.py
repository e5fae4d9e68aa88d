"""`paretune cost`: the inference latency of a front's members, with the adapter as separate layers and merged into the weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, complain, folder_of, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from search.results.saved_study import SavedStudy
    from search.workflows.latency import Measured

app = typer.Typer()


@app.command()
def cost(
    study: StudyName,
    trials: Annotated[list[int] | None, typer.Argument(metavar="[T...]", min=0, help="Trials; none: all front members.")] = None,
    *,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Measure and record trials' latency for one image, unmerged and merged. Nothing else should run on the machine."""
    from search.results.saved_study import load
    from search.workflows import busy
    from search.workflows.latency import measure

    saved = load(folder_of(study, storage))
    others = busy.watch()
    disturbed = others is not None and others.disturbs
    if disturbed:
        complain(
            f"the machine is busy ({others}), so latencies are too long and uneven; they are recorded as measured on a busy "
            "machine: measure again when nothing else runs"
        )
    found = list(measure(saved, trials or [], busy_cores=others.busy_cores if others is not None and disturbed else None))
    _show_elsewhere(load(saved.folder))
    if as_json:
        print_json([one.json() for one in found])
        return
    console = Terminal()
    console.print(table(found))
    how, repeats = found[0].found, min(one.found["repeats"] for one in found)
    console.print(
        f"Milliseconds per image, one at a time, median of {repeats} or more, on {how['device']} with {how['threads']} "
        f"thread{'s' if how['threads'] > 1 else ''} in {how['precision']}; ± half the interquartile range.",
        style="dim",
    )
    if disturbed:
        console.print("Measured on a busy machine.", style="bold")
    for method, reason in {one.trial.method: one.found["unmergeable"] for one in found if one.found["unmergeable"]}.items():
        console.print(f"{method}: {reason}", style="dim")


def table(found: Sequence[Measured]) -> Table:
    """Return a table with one row per trial."""
    from search.front import judged_by
    from search.results.words import describe_knobs

    heading = judged_by(one.trial for one in found).heading
    shown = Table("trial", "method", "knobs", "params", heading, "unmerged ms", "merged ms", box=None)
    for one in found:
        merged, spread = one.found.get("cost/latency_merged_ms"), one.found["spread_ms"]
        shown.add_row(
            f"{one.trial.number:04d}",
            one.trial.method,
            describe_knobs(one.trial),
            f"{one.trial.adapter_params:,}",
            "-" if math.isnan(one.trial.quality) else one.trial.metric.format(one.trial.quality),
            f"{one.found['cost/latency_ms']:.3f} ± {spread:.3f}",
            "-" if merged is None else f"{merged:.3f}",
        )
    return shown


def _show_elsewhere(study: SavedStudy) -> None:
    """Update tables and MLflow."""
    from search.storage.location import ledger_in
    from search.tracking.mlflow_client import tracking_uri
    from search.tracking.sync import MlflowSync

    try:
        MlflowSync(ledger_in(study.folder), tracking_uri(study.folder.parent)).sync(final=True)
    except Exception as error:  # MLflow is only a view: the numbers are already in the ledger
        complain(f"MLflow does not show the latencies ({type(error).__name__}); run `paretune cost` again to record them")
