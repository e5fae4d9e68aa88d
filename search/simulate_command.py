"""`paretune simulate`: a study on imaginary workers, in seconds, before or instead of training."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.arguments import Json, Overrides

if TYPE_CHECKING:
    from search.config import StudyFile
    from search.simulated import Replay

app = typer.Typer()


@app.command()
def simulate(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY.yaml]", help="A study file; none: the packaged digits study.")
    ] = None,
    *,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Imaginary workers.")] = 1,
    table: Annotated[Path | None, typer.Option(help="Recorded learning curves to replay (Parquet); trials are its rows.")] = None,
    surface: Annotated[str | None, typer.Option(help="A synthetic family instead: valley or crossing.")] = None,
    instance: Annotated[int, typer.Option(min=0, help="Which member of the family.")] = 0,
    as_json: Json = False,
) -> None:
    """Search without training: the same study, rungs and sampler on a virtual clock; nothing is written."""
    from rich.console import Console
    from rich.constrain import Constrain

    from search import config, report, simulated

    file = config.load(study, overrides or ())
    replay = _replay(file, table, surface, instance)
    clock, begun = simulated.VirtualClock(), time.perf_counter()
    searched = simulated.create(file, replay.sizes, clock, pool=replay.pool)
    simulated.run(searched, replay.make, clock, n_workers=workers)
    trials = searched.trials
    facts: dict[str, Any] = {
        "n_workers": workers,
        "n_trials": len(trials),
        "n_epochs": sum(trial.epochs for trial in trials),
        "virtual_seconds": clock.seconds,
        "real_seconds": time.perf_counter() - begun,
        "ended": searched.ended,
    }
    if as_json:
        sys.stdout.write(json.dumps(report.front_json(searched.record, trials) | facts, indent=2, default=str) + "\n")
        return
    console = Console(highlight=False)
    console.print(Constrain(report.front_table(searched.front()), report.TABLE_WIDTH))
    console.print(f"Hypervolume {searched.hypervolume():.4f}", style="dim")
    states = Counter(trial.state.lower() for trial in trials)
    console.print(
        f"{len(trials):,} trials ({', '.join(f'{n:,} {state}' for state, n in states.items())}), {facts['n_epochs']:,} epochs"
    )
    console.print(f"{clock.seconds:,.0f} virtual seconds on {workers:,} workers, simulated in {facts['real_seconds']:.1f} s")
    if searched.ended:
        console.print(f"Ended before its {file.budget.n_trials:,} trials: {searched.ended}", soft_wrap=True)


def _replay(file: StudyFile, table: Path | None, surface: str | None, instance: int) -> Replay:
    """What stands in for training: a table, a family's member, or the study's own data if that is synthetic."""
    from search.errors import RequestError
    from search.simulated import Replay
    from trainables import make, measure
    from trainables.recorded import Table

    if table is not None and surface is not None:
        raise RequestError("--table and --surface both say what is replayed; name one of them")
    try:
        if table is not None:
            return Replay.of_table(Table(table), file)
        data: dict[str, Any] = file.worker()["data"]
        if surface is not None or data["kind"] != "synthetic":
            data = {"kind": "synthetic", "surface": surface or "valley", "instance": instance}
        return Replay(measure({}, data), lambda: make({}, data, {}), None)
    except ValueError as error:
        raise RequestError(str(error)) from error
