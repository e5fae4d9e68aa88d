"""The laws of docs/reliability.md that chaos.py holds a killed search against, and what it counts of them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.storage.location import ledger_in
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.trial import State, Trial

_ENDS = ("completed", "pruned", "failed")


@dataclass
class Outcome:
    """What became of one search.

    Attributes:
        number: Which search of the series.
        back_end: `ray` or `in-process`.
        kills: How often which victim was killed.
        n_trials: How many trials it has in the end.
        lost, rerun, behind, zombies, different, gave_up: See the head of this file; all should be 0.
        seconds: From the first start to the end.
    """

    number: int
    back_end: str
    kills: dict[str, int] = field(default_factory=dict)
    n_trials: int = 0
    lost: int = 0
    rerun: int = 0
    behind: int = 0
    zombies: int = 0
    different: int = 0
    gave_up: int = 0
    seconds: float = 0.0

    @property
    def flaws(self) -> int:
        """The sum of all that should be 0."""
        return self.lost + self.rerun + self.behind + self.zombies + self.different + self.gave_up


def table(outcomes: list[Outcome]) -> str:
    """The counts as Markdown."""
    lines = [
        "| back end | searches | trials | kills | lost | run again | behind | zombies | different | gave up |",
        "|---" * 10 + "|",
    ]
    for back_end in dict.fromkeys(outcome.back_end for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.back_end == back_end]
        kills = sum((Counter(outcome.kills) for outcome in mine), Counter[str]())
        shown = ", ".join(f"{n} {victim}" for victim, n in sorted(kills.items()))
        sums = [sum(getattr(one, law) for one in mine) for law in ("lost", "rerun", "behind", "zombies", "different", "gave_up")]
        different = sums[4] if back_end == "in-process" else "-"
        n_trials = sum(one.n_trials for one in mine)
        counts = f"{sums[0]} | {sums[1]} | {sums[2]} | {sums[3]} | {different} | {'-' if back_end.startswith('plain') else sums[5]}"
        lines.append(f"| {back_end} | {len(mine)} | {n_trials} | {kills.total()} ({shown}) | {counts} |")
    return "\n".join(lines)


def study_folder(folder: Path) -> Path:
    """The study's folder: the only one but its twin's."""
    return next((path for path in (folder / "paretune-studies").glob("s*") if path.is_dir()), folder / "paretune-studies" / "s")


def ledger_of(folder: Path) -> Path:
    return ledger_in(study_folder(folder))


def events_of(folder: Path) -> list[Event]:
    if not ledger_of(folder).exists():
        return []
    with closing(SqlLedger.open(ledger_of(folder))) as ledger:
        return ledger.events()


def lost(before: list[Event], after: list[Event]) -> int:
    """Events that were durable before a death and are not there, or not the same, after it."""
    return sum(event not in after[event.number : event.number + 1] for event in before)


def rerun(events: list[Event]) -> int:
    """Trials to which anything happened after their end."""
    ended: set[int | None] = set()
    again: set[int | None] = set()
    for event in events:
        if event.kind in ("promoted", "continued"):  # a trial that a rung had stopped goes on, or a complete one is trained again
            ended.discard(event.trial)
        if event.trial in ended and event.kind in ("started", "resumed", "reported"):
            again.add(event.trial)
        if event.kind in _ENDS:
            ended.add(event.trial)
    return len(again)


def behind(folder: Path) -> int:
    """Running trials whose checkpoint holds fewer epochs than are reported. It is read last: it may be newer, never older."""
    with closing(SqlLedger.open(ledger_of(folder))) as ledger:
        again = {event.trial for event in ledger.events() if event.kind == "restarted"}  # from the first epoch, their reports stay
        running = [t for t in ledger.trials() if t.state is State.RUNNING and t.epochs and t.number not in again]
        epochs = ledger.study().budget["epochs"]
    return sum(_checkpoint(folder, trial) < trial.epochs - epochs * len(trial.runs) for trial in running)


def _checkpoint(folder: Path, trial: Trial) -> int:
    name = "epoch.json" if trial.run == 1 else f"run-{trial.run}-epoch.json"
    path = ledger_of(folder).parent / "trials" / f"{trial.number:04d}" / name
    return int(json.loads(path.read_text())["epoch"]) if path.exists() else 0


def recorded_running(folder: Path) -> int:
    """Runs that MLflow shows as RUNNING, read from its own tables."""
    with closing(sqlite3.connect(folder / "paretune-studies" / "mlflow.db")) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
        ).fetchone()
    return int(count)


def different(ours: Sequence[Trial], twins: Sequence[Trial]) -> int:
    """Trials that an uninterrupted twin has otherwise."""
    return abs(len(ours) - len(twins)) + sum(_essence(a) != _essence(b) for a, b in zip(ours, twins, strict=False))


def _essence(trial: Trial) -> tuple[Any, ...]:
    return trial.number, trial.state, trial.config, trial.seed, trial.epochs, {k: str(v) for k, v in trial.metrics.items()}
