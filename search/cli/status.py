"""`paretune status`: the current activity of a study."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.cli.options import DEFAULT_STORAGE, Json, Storage, StudyName, folder_of, print_json
from search.cli.silence import stop_telling
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from search.results.overview import Overview

app = typer.Typer()
_WINDOW_SECONDS = 120.0  # over which the pace is averaged
_EVERY_SECONDS = 2.0


@app.command()
def status(
    study: StudyName,
    *,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until no driver is running the study.")] = False,
    storage: Storage = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show what a study is doing: trials by state, busy slots, epochs and steps per second, the front so far."""
    from search.results.study_state import StudyState

    folder, console = folder_of(study, storage), Terminal()
    facts = show_status(folder)
    with _gpus() as gpus:
        facts |= {"gpu_memory": gpus()}
        if as_json:
            print_json(facts)
        elif not watch:
            console.print(shown(facts))
        elif not console.is_terminal:
            stop_telling()
            _print_changes(folder, facts, console)
        else:
            stop_telling()
            with Live(shown(facts), console=console, auto_refresh=False) as live:
                while facts["state"] == StudyState.RUNNING:
                    time.sleep(_EVERY_SECONDS)
                    facts = show_status(folder) | {"gpu_memory": gpus()}
                    live.update(shown(facts), refresh=True)


def _print_changes(folder: Path, facts: dict[str, Any], console: Terminal) -> None:
    """Print the study's status, and once more whenever its state or the number of its trials in a state has changed."""
    from search.results.study_state import StudyState

    console.print(shown(facts))
    while facts["state"] == StudyState.RUNNING:
        time.sleep(_EVERY_SECONDS)
        before, facts = facts, show_status(folder) | {"gpu_memory": facts["gpu_memory"]}
        if any(facts.get(key) != before.get(key) for key in ("state", "trials", "paused")):
            console.print()
            console.print(shown(facts))
            console.file.flush()


def show_status(folder: Path) -> dict[str, Any]:
    """Return the facts from the study's ledger."""
    from search.results.overview import overview_of
    from search.storage.sql_ledger import open_ledger

    with open_ledger(folder) as ledger:
        found, now = overview_of(ledger, folder), ledger.now()
        return facts_of(found, n_recent=ledger.n_reports(since=now - _WINDOW_SECONDS), now=now)


@contextmanager
def _gpus() -> Iterator[Callable[[], list[str]]]:
    """Yield a function that reads the GPUs' used memory, of all nodes if a cluster is configured and reachable, else locally."""
    from cluster.health import gpu_memory, gpu_memory_of_all

    with ExitStack() as joined:
        ask = gpu_memory
        if os.environ.get("RAY_ADDRESS"):
            from cluster.connect import connected

            with suppress(ConnectionError):
                joined.enter_context(connected())
                ask = gpu_memory_of_all
        yield ask


def facts_of(study: Overview, *, n_recent: int, now: float) -> dict[str, Any]:
    """Return what a study was doing when it was read.

    Args:
        study: The study.
        n_recent: Number of epochs reported in the two minutes before, over which the pace is averaged.
        now: Unix time, by the ledger's clock.
    """
    from search.results.study_state import StudyState

    at_work = study.state is StudyState.RUNNING
    span = min(_WINDOW_SECONDS, now - study.row.created) or _WINDOW_SECONDS
    steps = [1.0 / seconds for trial in study.running if (seconds := trial.metrics.get("cost/step_seconds"))]
    return (
        {
            "study": study.row.name,
            "state": study.state.value,
            "trials": {state.value: n for state, n in study.counts.of_state.items()},
            "n_trials": study.row.budget["n_trials"],
            "slots_busy": len(study.running) - study.n_waiting if at_work else 0,
            "epochs_per_minute": 60.0 * n_recent / span if at_work else 0.0,
            "steps_per_second": sum(steps) if at_work else 0.0,
            "front": len(study.members),
            "hypervolume": study.hypervolume,
        }
        | ({} if (hours := study.row.budget.get("max_hours")) is None else {"max_hours": hours})
        | ({"waiting": study.n_waiting} if study.n_waiting and at_work else {})
        | ({"paused": study.paused.words(study.row.name)} if study.paused is not None else {})
    )


def _budget(facts: Mapping[str, Any]) -> str:
    parts = [] if facts["n_trials"] is None else [f"{facts['n_trials']:,}"]
    return " or ".join([*parts, *([f"{facts['max_hours']:g} h"] if "max_hours" in facts else [])])


def shown(facts: Mapping[str, Any]) -> Table:
    """Return the facts as a table for a terminal."""
    numbers = {state.lower(): n for state, n in facts["trials"].items()}
    if (running := numbers.pop("running", 0)) and facts["state"] != "RUNNING":
        numbers["to continue"] = running  # no driver is at work
    elif running:
        numbers = {"running": running - facts.get("waiting", 0), "waiting for a slot": facts.get("waiting", 0)} | numbers
    states = ", ".join(f"{n:,} {state}" for state, n in numbers.items() if n) or "none yet"
    rows = {
        "study": f"{facts['study']}, {facts['state']}",
        "": facts.get("paused", ""),
        "trials": f"{states}; the budget is {_budget(facts)}",
        "busy slots": f"{facts['slots_busy']}",
        "pace": f"{facts['epochs_per_minute']:.1f} epochs per minute, {facts['steps_per_second']:.1f} steps per second",
        "front": f"{facts['front']} member{'' if facts['front'] == 1 else 's'}, hypervolume {facts['hypervolume']:.4f}",
        "GPU memory": "; ".join(facts["gpu_memory"]),
    }
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        if value:
            table.add_row(Text(name, style="dim"), value)
    return table
