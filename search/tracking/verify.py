"""The check that MLflow matches the ledger, without duplicates: every run, parameter, tag, status and point of every metric.

Artifacts are checked once the study has no running driver: all must exist and be made from the current ledger.

The expected content comes from `search.tracking.run_content`, the actual content from MLflow alone; the recorder's notes are not
trusted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from search.front import ranks
from search.results.belief import odds_of
from search.results.study_state import ended_by, find_state, measured_by
from search.storage.events import EventKind
from search.storage.rows import Counts
from search.storage.sql_ledger import SqlLedger
from search.tracking import run_content
from search.tracking.mlflow_client import FullRun, RunStore
from search.tracking.study_note import write_note
from search.tracking.sync import ARTIFACTS, sync_fully

_NOT_OF_THE_LEDGER = ("paretune.drawn_at_event", "paretune.adapter", "paretune.measured")  # tags about other data in the run
_LARGEST = 1.7976931348623157e308  # value that MLflow stores for infinity


def differences(ledger_path: Path, tracking_uri: str) -> list[str]:
    """Return each difference between a study's ledger and its record as a line; none if they match.

    Args:
        ledger_path: Path of the study's ledger.
        tracking_uri: MLflow address, see `search.tracking.mlflow_client.tracking_uri`.

    Raises:
        Exception: If MLflow raises it.
    """
    ledger = SqlLedger.open(ledger_path)
    try:
        study = ledger.study()
        if (store := RunStore.find(tracking_uri, study.name)) is None:
            return [f"MLflow has no experiment {study.name}"]
        trials, events, reports, owner = ledger.trials(), ledger.events(), ledger.reports(), ledger.owner()
    finally:
        ledger.close()
    found: dict[int | None, list[FullRun]] = {}
    for run in store.everything(study.uid):
        trial = run.tags.get("paretune.trial")
        found.setdefault(None if trial is None else int(trial), []).append(run)
    lines = [
        f"trial {number}: MLflow has a run of it, the ledger has no such trial" for number in found if (number or 0) >= len(trials)
    ]
    parents = found.get(None, [])
    parent = parents[0].id if parents else ""
    of_trial: dict[int, list[Any]] = {}
    for epoch in reports:
        of_trial.setdefault(epoch.trial, []).append(epoch)
    measured = {event.trial: measured_by(event) for event in events if event.kind is EventKind.MEASURED}
    known_ranks = ranks(trials)
    table = f"#/experiments/{store.experiment_id}/runs"
    picture = f"get-artifact?path=front-small.png&run_uuid={parent}"
    progress = run_content.Progress.of(study)
    steps = progress.advance(events, reports, trials)
    shows_odds = parents and "P(front)" in parents[0].tags.get("mlflow.note.content", "")  # an earlier version's has none
    text = write_note(
        study,
        trials,
        state := find_state(study, Counts.of(trials), ended=ended_by(events) is not None, owner=owner),
        links={number: f"{table}/{runs[0].id}" for number, runs in found.items() if number is not None},
        table=table,
        spent=progress.spent,
        picture=picture if parents and "paretune.drawn_at_event" in parents[0].tags else None,
        odds=odds_of(study, trials) if shows_odds else None,
    )
    wanted = {None: run_content.study_content(study, trials, state, steps, text)} | {
        t.number: run_content.trial_content(study, t, of_trial.get(t.number, []), rank=known_ranks.get(t.number), parent=parent)
        for t in trials
    }
    for number, one in wanted.items():
        runs, what = found.get(number, []), "the study" if number is None else f"trial {number}"
        if len(runs) != 1:
            lines.append(f"{what}: MLflow has {len(runs)} runs of it instead of one")
        for run in runs:
            lines += [f"{what}: {line}" for line in _of_run(one, run, measured.get(number, {}))]
    if parents and owner is None:
        lines += [f"the study: {line}" for line in _of_artifacts(store, parents[0], events[-1].number if events else -1)]
    return lines


def _of_artifacts(store: RunStore, parent: FullRun, last_event: int) -> Iterator[str]:
    if (drawn := parent.tags.get("paretune.drawn_at_event")) != sync_fully(last_event):
        yield f"its artifacts are those of event {drawn}, the ledger is at {sync_fully(last_event)}"
    for name in sorted(ARTIFACTS - store.artifacts(parent)):
        yield f"artifact {name} is missing"


def _of_run(wanted: run_content.RunContent, found: FullRun, measured: Mapping[str, float]) -> Iterator[str]:
    if found.name != wanted.name:
        yield f"its name is {found.name}, the ledger says {wanted.name}"
    if found.status != wanted.status:
        yield f"its status is {found.status}, the ledger says {wanted.status}"
    if found.started != round(wanted.started * 1000):
        yield f"it began at {found.started} ms, the ledger says {round(wanted.started * 1000)} ms"
    tags = {**wanted.tags, wanted.counter: str(wanted.steps[-1].number if wanted.steps else 0)}
    ours = {key: value for key, value in found.tags.items() if key.startswith("paretune.") and key not in _NOT_OF_THE_LEDGER}
    theirs = {key: found.tags[key] for key in tags.keys() & found.tags.keys() if not key.startswith("paretune.")}
    yield from _of_mapping("tag", tags, ours | theirs)
    yield from _of_mapping("parameter", wanted.params, found.params)
    points = {(key, 0): (value, round(wanted.started * 1000)) for key, value in wanted.sizes.items()}
    for step in wanted.steps:
        points |= {(key, step.number): (_stored(value), round(step.time * 1000)) for key, value in step.metrics.items()}
    held: dict[tuple[str, int], tuple[float, int]] = {}
    for key, number, value, at in found.points:
        if key.startswith("final/") or (key in measured and number == 0):
            continue  # added by `paretune finalize` or `paretune cost`
        if (key, number) in held:
            yield f"metric {key} at step {number} is duplicated"
        held[key, number] = (value, at)
    late = {key: value for key, number, value, _ in found.points if number == 0}
    yield from _of_mapping(
        "metric", {k: str(v) for k, v in measured.items()}, {k: str(late[k]) for k in measured.keys() & late.keys()}
    )
    yield from _of_mapping("metric", {_named(k): str(v) for k, v in points.items()}, {_named(k): str(v) for k, v in held.items()})


def _of_mapping(kind: str, wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[str]:
    for key in sorted(wanted.keys() | found.keys()):
        if wanted.get(key) != found.get(key):
            yield f"{kind} {key} is {_short(found.get(key))}, the ledger says {_short(wanted.get(key))}"


def _named(point: tuple[str, int]) -> str:
    return f"{point[0]} at step {point[1]}"


def _short(value: str | None) -> str:
    return "missing" if value is None else repr(value if len(value) <= 60 else f"{value[:57]}...")


def _stored(value: float) -> float:
    return math.copysign(_LARGEST, value) if math.isinf(value) else value
