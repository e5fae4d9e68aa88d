"""An overview of a study, read without its history: the front, what runs, and counts. `status`, `front` and `ls` show it.

Two numbers are read of each complete trial, which takes some microseconds; whole trials only if they are shown, and no epochs. For
everything else there is `search.results.saved_study`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search import pareto
from search.front import beside, front
from search.results.study_state import StudyState, ended_by, find_state, with_measured
from search.storage.address import Address
from search.storage.events import EventKind
from search.storage.ledger import Ledger
from search.storage.location import ledger_in
from search.storage.rows import Counts, Pause, StudyRow
from search.storage.sql_ledger import SqlLedger
from search.trial import PARAMETERS, State, Trial

_WITHOUT_WORKER = (EventKind.UNPAUSED, EventKind.MOVED, EventKind.LOST)
_WITH_WORKER = (EventKind.RESUMED, EventKind.PROMOTED)


@dataclass(frozen=True)
class Overview:
    """The state of a study at the time of reading.

    Attributes:
        folder: Folder of the study.
        row: Fixed properties of the study: name, resolved file, facts.
        state: State of the study.
        counts: Numbers of its trials.
        members: The front, smallest member first.
        extended: The COMPLETE trials with more epochs than the budget's, smallest first.
        running: The trials that are RUNNING.
        n_waiting: Number of these that wait for a slot: they were unpaused, or have lost or left their worker.
        hypervolume: The hypervolume of the front.
        ended: Reason why no more trials start although the budget has some left, or None.
        paused: Pause by a user, during which no more trials start, or None.
    """

    folder: Path
    row: StudyRow
    state: StudyState
    counts: Counts
    members: tuple[Trial, ...]
    extended: tuple[Trial, ...]
    running: tuple[Trial, ...]
    n_waiting: int
    hypervolume: float
    ended: str | None
    paused: Pause | None


def overview(folder: Path, address: Address | None = None) -> Overview:
    """Read the overview of the study in a folder.

    Args:
        folder: Folder of the study.
        address: Address of its ledger, if the folder neither contains one nor refers to one.

    Raises:
        LedgerError: If there is no study, or it cannot be read.
    """
    with SqlLedger.open(ledger_in(folder), address=address) as ledger:
        return overview_of(ledger, folder)


def overview_of(ledger: Ledger, folder: Path) -> Overview:
    """Read the overview of the study in an open ledger."""
    row, counts = ledger.study(), ledger.counts()
    objectives = ledger.objectives()
    on_front = _on_front(objectives)
    points = [(score, size) for number, score, size in objectives if number in on_front]
    kinds = (EventKind.ENDED, EventKind.EXTENDED, EventKind.MEASURED, EventKind.PAUSED, *_WITHOUT_WORKER, *_WITH_WORKER)
    changes = ledger.events(kinds=kinds)
    others = ledger.numbers(State.RUNNING) + ledger.numbers(State.COMPLETE, extended=True)
    shown = with_measured(ledger.trials([*on_front, *others]), changes)
    ended = ended_by(changes)
    paused: Pause | None = None
    for event in changes:
        paused = Pause.after(event, paused)
    running = tuple(trial for trial in shown if trial.state is State.RUNNING)
    newest = {event.trial: event.kind for event in changes if event.kind in (*_WITHOUT_WORKER, *_WITH_WORKER)}
    state = find_state(row, counts, ended=ended is not None, owner=ledger.owner())
    return Overview(
        folder,
        row,
        state,
        counts,
        members=tuple(front(trial for trial in shown if trial.number in on_front)),
        extended=tuple(beside(shown)),
        running=running,
        n_waiting=sum(newest.get(trial.number) in _WITHOUT_WORKER for trial in running),
        hypervolume=pareto.hypervolume(points, row.facts.reference_point, linear=row.against not in PARAMETERS),
        ended=ended,
        paused=None if state is StudyState.FINISHED else paused,
    )


def best(ledger: Ledger, n: int, *, method: str | None = None) -> tuple[list[Trial], set[int]]:
    """Read the COMPLETE trials with the highest accuracy, the best first, of equal ones the smaller first.

    Args:
        ledger: Ledger of the study.
        n: Number of trials.
        method: Method of these trials; None for all.

    Returns:
        The trials, and the numbers of the front's members.
    """
    objectives = ledger.objectives()
    if method is None:
        ordered = heapq.nsmallest(n, objectives, key=lambda one: (-one[1], one[2], one[0]))
        found = {trial.number: trial for trial in ledger.trials([number for number, *_ in ordered])}
        return [found[number] for number, *_ in ordered], _on_front(objectives)
    own = [trial for trial in ledger.trials([number for number, *_ in objectives]) if trial.method == method]
    own.sort(key=lambda trial: (-trial.objectives[0], trial.size, trial.number))
    return own[:n], _on_front(objectives)


def _on_front(objectives: Sequence[tuple[int, float, float]]) -> set[int]:
    """Return the numbers of the trials that no other one dominates."""
    survives = pareto.non_dominated([(score, size) for _, score, size in objectives])
    return {number for (number, *_), keep in zip(objectives, survives, strict=True) if keep}
