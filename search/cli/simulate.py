"""`paretune simulate`: a study on simulated workers, in seconds, before or instead of training."""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from search.cli.options import Json, MaybeStudyFile, Overrides, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from search.backends.simulated import Replay
    from search.config.study_file import StudyFile
    from search.workflows.compare_samplers import HypervolumeCurve

app = typer.Typer()


@app.command()
def simulate(
    study: MaybeStudyFile = None,
    *,
    overrides: Overrides = None,
    workers: Annotated[int, typer.Option(min=1, help="Number of simulated workers.")] = 1,
    table: Annotated[Path | None, typer.Option(help="Recorded learning curves to replay (Parquet); trials are its rows.")] = None,
    surface: Annotated[str | None, typer.Option(help="A synthetic family to use instead: valley or crossing.")] = None,
    instance: Annotated[int, typer.Option(min=0, help="Number of the family's member.")] = 0,
    against: Annotated[
        list[str] | None, typer.Option(metavar="SAMPLER", help="Compare with this sampler, without rungs; repeatable.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="For a comparison: number of seeds of each search.")] = 10,
    picture: Annotated[Path | None, typer.Option(help="For a comparison: file of the plot (.png or .svg).")] = None,
    as_json: Json = False,
) -> None:
    """Search without training: the same study, rungs and sampler on a virtual clock; nothing is written."""
    from rich.constrain import Constrain

    from search.backends import simulated
    from search.config import loading
    from search.errors import RequestError
    from search.results import tables, words
    from search.results.as_json import front_json
    from search.workflows import compare_samplers

    file = loading.load(study, overrides or ())
    replay = _replay(file, table, surface, instance)
    if against:
        _refuse(file, against, picture)
        courses = compare_samplers.hypervolume_curves(file, replay, against, n_seeds=seeds, n_workers=workers)
        if picture is not None:
            compare_samplers.plot(courses, picture, title=f"{file.study}: {' and '.join(courses)}")
        _show_courses(courses, as_json=as_json)
        return
    if picture is not None:
        raise RequestError("--picture draws a comparison; name a sampler with --against")
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
        print_json(front_json(searched.row, trials) | facts)
        return
    console = Terminal()
    console.print(Constrain(tables.front_table(searched.front()), tables.TABLE_WIDTH))
    console.print(f"Hypervolume {searched.hypervolume():.4f}", style="dim")
    states = Counter(trial.state.lower() for trial in trials)
    console.print(
        f"{len(trials):,} trials ({', '.join(f'{n:,} {state}' for state, n in states.items())}), {facts['n_epochs']:,} epochs"
    )
    console.print(f"{clock.seconds:,.0f} virtual seconds on {workers:,} workers, simulated in {facts['real_seconds']:.1f} s")
    if searched.ended:
        console.print(words.format_end(file.budget.n_trials, searched.ended), soft_wrap=True)


def _refuse(file: StudyFile, against: list[str], picture: Path | None) -> None:
    """Check that a comparison and its plot are possible.

    Raises:
        RequestError: If not; the message names the option.
    """
    from search.errors import RequestError
    from search.samplers.sampler import SAMPLERS

    for sampler in against:
        if sampler not in SAMPLERS:
            raise RequestError(f"--against {sampler}: no such sampler; choose one of {', '.join(SAMPLERS)}")
    if file.search.sampler in against:
        raise RequestError(
            f"--against {file.search.sampler}: this is the study's own sampler; choose another, or set search.sampler"
        )
    if picture is not None and (picture.suffix not in (".png", ".svg") or not picture.parent.is_dir()):
        raise RequestError(f"--picture {picture}: name a .png or .svg file in an existing folder")


def _show_courses(found: Mapping[str, Sequence[HypervolumeCurve]], *, as_json: bool) -> None:
    """Print how many epochs each sampler trained until its front reached given shares of the best one."""
    from rich.table import Table

    from search.workflows import compare_samplers

    best = compare_samplers.best(found)
    shares = (0.9, 0.95, 0.99)
    medians = {
        name: [statistics.median(course.until(share, best) for course in several) for share in shares]
        for name, several in found.items()
    }
    n_seeds = max(map(len, found.values()))
    if as_json:
        rows = {name: [None if math.isinf(n) else n for n in row] for name, row in medians.items()}
        print_json({"best": best, "shares": shares, "n_seeds": n_seeds, "epochs_until": rows})
        return
    shown = Table(box=None, header_style="bold", pad_edge=False)
    shown.add_column("sampler")
    for share in shares:
        shown.add_column(f"epochs to {share:.0%}", justify="right")
    for name, row in medians.items():
        shown.add_row(name, *("never" if math.isinf(n) else f"{n:,.0f}" for n in row))
    console = Terminal()
    console.print(shown)
    console.print(
        f"Medians of {n_seeds} seeds; shares of the way from head-only to the best hypervolume of all, {best:.4f}", style="dim"
    )


def _replay(file: StudyFile, table: Path | None, surface: str | None, instance: int) -> Replay:
    """Return the replacement of training: a table, a synthetic surface, or the study's own data if they are synthetic."""
    from search.backends.simulated import Replay
    from search.errors import RequestError
    from trainables import make, measure
    from trainables.simulated.recorded import Table

    if table is not None and surface is not None:
        raise RequestError("--table and --surface both choose what is replayed; give only one of them")
    try:
        if table is not None:
            return Replay.of_table(Table(table), file)
        worker = file.worker()
        data: dict[str, Any] = worker["data"]
        if surface is not None or data["kind"] != "synthetic":
            named = [key for key in (file.objectives[1], *file.budget.limits) if key.startswith("cost/")]
            if named and data["kind"] != "synthetic":
                raise RequestError(
                    f"the study uses {named[0]}, whose values on a synthetic surface do not predict real ones; "
                    "replay recorded runs that hold it with --table, or simulate the study without it"
                )
            data = {"kind": "synthetic", "surface": surface or "valley", "instance": instance}
        return Replay(measure({}, data), lambda: make({}, data, worker["recipe"]), None)
    except ValueError as error:
        raise RequestError(str(error)) from error
