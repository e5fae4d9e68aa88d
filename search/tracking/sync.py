"""The synchronisation of MLflow with a study's ledger.

MLflow is a view. Everything written here is read from the ledger by a separate process (`search.tracking.recorder`) that the
search never waits for. If MLflow is slow, down or killed, only the view falls behind, and the next sync catches up. Tags
(`paretune.study_uid`, `paretune.trial`, `paretune.epochs`) tell what MLflow already holds, so a sync sends only what is
missing, and a second one sends nothing.

A study is one experiment with one parent run for the study and one child run per trial (`search.tracking.run_content`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from search.errors import RequestError
from search.front import ranks
from search.results.belief import odds_of
from search.results.front_plot import plot_front
from search.results.saved_study import load
from search.results.study_state import StudyState, ended_by, find_state, measured_by
from search.results.views import PICTURES, write_page, write_views
from search.secret import SecretAddress
from search.storage.events import EventKind
from search.storage.location import ledger_in
from search.storage.rows import Counts, Event, Report, StudyRow
from search.storage.sql_ledger import SqlLedger
from search.storage.whole_file import write_whole
from search.tracking import run_content
from search.tracking.mlflow_client import RunIndex, RunStore
from search.tracking.study_note import write_note

N_MANY = 500  # number of runs from which MLflow's own SQLite needs ANALYZE
RECEIPT = "mlflow.json"  # file in the study's folder: address of the record, and its last event
_FILES = ("front.html", *PICTURES, "front.parquet", "trials.parquet", "reports.parquet")  # next to the ledger
ARTIFACTS = frozenset({*_FILES, "study.yaml", "environment.json"})  # of a study without a running driver


# The code that MLflow copies with a registered adapter and runs when the model is loaded. A path, because tracking does without
# trainables.
MODEL_CODE = Path(__file__).parents[2] / "trainables" / "export" / "mlflow_model.py"


class RecordingError(RequestError):
    """The error that MLflow cannot be used as requested; the message names the remedy."""


def receipt_of(folder: Path) -> Mapping[str, Any]:
    """Return the address of a study's record and its last event, as noted by the last full sync; empty if there was none."""
    try:
        receipt: Mapping[str, Any] = json.loads((folder / RECEIPT).read_text())
    except (OSError, ValueError):
        return {}
    return receipt


def is_behind(ledger_path: Path, tracking_uri: str) -> bool:
    """Return whether MLflow may lack a part of the study, judged by the receipt of the last full sync, without asking MLflow."""
    receipt = receipt_of(ledger_path.parent)
    if receipt.get("tracking_uri") != str(SecretAddress(tracking_uri)):
        return True
    with _reading(ledger_path) as ledger:
        return bool(ledger.events(after=receipt.get("last_event", -1)))


class MlflowSync:
    """The record of one study, which `sync` updates from the ledger.

    Args:
        ledger_path: Path of the study's ledger (`search.storage.location.ledger_in`), which is opened read-only.
        tracking_uri: MLflow server or database (see `search.tracking.mlflow_client.tracking_uri`).
        artifact_period: Seconds between two plots of the front while the study runs.
    """

    def __init__(self, ledger_path: Path, tracking_uri: str, *, artifact_period: float = 30.0) -> None:
        self.tracking_uri = SecretAddress(tracking_uri)
        self._ledger_path = ledger_path
        self._artifact_period = artifact_period
        self._view: _View | None = None  # None: the content of MLflow has to be read

    def sync(self, *, final: bool = False) -> None:
        """Update MLflow from the ledger, sending only what it lacks.

        Args:
            final: True to also write the views next to the ledger (even if MLflow fails), read the content of MLflow again, and
                update the artifacts.

        Raises:
            Exception: If MLflow raises it. Data that arrived are kept; the next sync sends the rest.
        """
        if final:
            self._view = None
            write_views(load(self._ledger_path.parent), complete=True)
        try:
            if self._view is None:
                self._view = _View.look_up(self._ledger_path, self.tracking_uri)
            self._view.advance(time.monotonic(), self._artifact_period, final=final)
            if final:
                self._view.write_receipt(self.tracking_uri)
        except BaseException:
            self._view = None
            if final and not (self._ledger_path.parent / "front.html").exists():
                write_page(load(self._ledger_path.parent))
            raise


def prepare_last_sync() -> None:
    """Import what only the last sync needs, and read what it will describe, so that a finished search waits less for it."""
    from search.results import html_page, importance, plotly_figures  # noqa: F401 - what `write_page` imports

    environment()
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):  # the last sync says what a full disk prevents
        plot_front([], Path(folder) / PICTURES[0], title="", reference_point=(0.0, 1.0))


def record_final(ledger_path: Path, uri: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Record the results of `paretune finalize`: test accuracies on the members' runs, the table on the study's run.

    Args:
        ledger_path: Path of the study's ledger.
        uri: MLflow address, see `search.tracking.mlflow_client.tracking_uri`.
        rows: Rows from `search.workflows.finalize.row`.

    Raises:
        Exception: If MLflow raises it.
    """
    _View.look_up(ledger_path, uri).show_final(rows)


def register(folder: Path, uri: str, number: int, name: str) -> str:
    """Register a trial's adapter, in `adapters/NNNN` of the study's folder, as a model; return the version.

    Raises:
        RecordingError: If MLflow has no run of the trial yet.
        Exception: If MLflow raises it.
    """
    view = _View.look_up(ledger_in(folder), uri)
    if (run := view._children.get(number)) is None:
        raise RecordingError(f"MLflow has no run of trial {number} yet; record it: paretune sync {folder.name}")
    return view._store.register(run, MODEL_CODE, folder / "adapters" / f"{number:04d}", name)


class _View:
    """The state of one study in MLflow; it knows what MLflow holds and sends what is missing."""

    def __init__(self, store: RunStore, ledger_path: Path, study: StudyRow) -> None:
        self._store = store
        self._server = uri if (uri := store.uri).startswith(("http://", "https://")) else None
        self._ledger_path = ledger_path
        self._study = study
        self._table = f"#/experiments/{store.experiment_id}/runs"
        self._parent: RunIndex | None = None
        self._children: dict[int, RunIndex] = {}
        self._last_event = -1  # number of the last event that MLflow shows
        self._progress = run_content.Progress.of(study)
        self._ended: str | None = None
        self._ranks: dict[int, int] = {}
        self._drawn: tuple[float, set[int]] = (time.monotonic(), set())  # time of the plot, and the members in it
        self._odds: dict[int, float] = {}  # probability that a trial is truly on the front, at the time of the plot

    @classmethod
    def look_up(cls, ledger_path: Path, uri: str) -> _View:
        """Find the study's runs by their tags; the experiment is created if missing."""
        with _reading(ledger_path) as ledger:
            study = ledger.study()
        storage = ledger_path.resolve().parent.parent
        view = cls(RunStore.open(uri, study.name, storage, study.metric, study.against), ledger_path, study)
        for run in view._store.runs(study.uid):
            number = run.tags.get("paretune.trial")
            twin = view._parent if number is None else view._children.get(int(number))
            if twin is not None:  # created twice because an answer came too late: keep one
                view._store.delete(run)
            elif number is None:
                view._parent = run
            else:
                view._children[int(number)] = run
        return view

    def advance(self, now: float, artifact_period: float, *, final: bool) -> None:
        """Send the ledger's changes since the last call."""
        with _reading(self._ledger_path) as ledger:
            events = ledger.events(after=self._last_event)
            if self._parent is not None and not events and not final:
                return
            last_event = events[-1].number if events else self._last_event
            reports = [r for r in ledger.reports(after=self._last_event) if r.event <= last_event]
            trials = ledger.trials()  # at least as new as the events; later changes follow with the next sync
            owner = ledger.owner()
            self._study = ledger.study()  # the budget may have been extended
        self._ended = ended_by(events, self._ended)
        state = find_state(self._study, Counts.of(trials), ended=self._ended is not None, owner=owner)
        parent = self._parent
        if parent is None:  # children need its id, and its description needs theirs
            parent = self._parent = self._store.send(
                None, run_content.study_content(self._study, trials, StudyState.RUNNING, [], "")
            )

        if any(event.kind in (EventKind.COMPLETED, EventKind.EXTENDED, EventKind.WIDENED) for event in events):
            self._ranks = ranks(trials)
        members = {number for number, rank in self._ranks.items() if rank == 1}
        touched = {event.trial for event in events}
        news: dict[int, list[Report]] = {}
        for epoch in reports:
            news.setdefault(epoch.trial, []).append(epoch)
        for trial in trials:
            run = self._children.get(trial.number)
            rank = self._ranks.get(trial.number)
            if trial.number in touched or run is None or run.tags.get("paretune.rank") != (None if rank is None else str(rank)):
                epochs = news.get(trial.number, [])
                self._children[trial.number] = self._store.send(
                    run, run_content.trial_content(self._study, trial, epochs, rank=rank, parent=parent.id)
                )
        for event in events:
            if event.kind is EventKind.MEASURED and event.trial is not None:
                self._show_measured(self._children[event.trial], event)
        picture = (
            f"get-artifact?path=front-small.png&run_uuid={parent.id}" if "paretune.drawn_at_event" in parent.tags or final else None
        )
        steps = self._progress.advance(events, reports, trials)
        is_due = final or (members != self._drawn[1] and now - self._drawn[0] >= artifact_period)
        if is_due:
            self._odds = odds_of(self._study, trials)
        text = write_note(
            self._study,
            trials,
            state,
            links=self._links(),
            table=self._table,
            spent=self._progress.spent,
            picture=picture,
            odds=self._odds,
        )
        self._store.send(parent, run_content.study_content(self._study, trials, state, steps, text))
        self._last_event = last_event
        if final:
            self._attach_everything(parent)
        elif is_due:
            write_views(load(self._ledger_path.parent))
            self._attach(parent, *PICTURES, "front.parquet", "trials.parquet")
            self._store.log(parent, tags={"paretune.drawn_at_event": str(last_event)})
            self._drawn = (now, members)

    def _show_measured(self, run: RunIndex, event: Event) -> None:
        """Record costs that were measured after a trial's end; a tag holds the number of the recorded event."""
        if run.count("paretune.measured") < event.number:
            self._store.log(run, measured_by(event), {"paretune.measured": str(event.number)})

    def write_receipt(self, uri: str) -> None:
        """Write the address of the record and its last event to a file next to the ledger."""
        receipt = {
            "tracking_uri": str(SecretAddress(uri)),
            "experiment_id": self._store.experiment_id,
            "run_id": self._parent.id if self._parent else None,
            "last_event": self._last_event,
        }
        text = json.dumps(receipt, indent=2) + "\n"
        write_whole(self._ledger_path.parent / RECEIPT, lambda draft: draft.write_text(text))

    def _attach(self, parent: RunIndex, *names: str) -> None:
        for name in names:
            self._store.attach(parent, self._ledger_path.parent / name)

    def _attach_everything(self, parent: RunIndex) -> None:
        """Attach all artifacts, once per state of the ledger; slow plots are made only when the driver has ended."""
        import yaml

        folder, last_event = self._ledger_path.parent, sync_fully(self._last_event)
        for number, rank in self._ranks.items():
            if rank == 1 and (adapter := folder / "adapters" / f"{number:04d}").is_dir():
                self._attach_adapter(self._children[number], adapter)
        if parent.tags.get("paretune.drawn_at_event") == last_event:
            return
        write_page(load(folder), links=self._links(), server=self._server)
        self._attach(parent, *_FILES)
        self._store.attach_text(parent, yaml.safe_dump(dict(self._study.file), sort_keys=False), "study.yaml")
        self._store.attach_text(parent, json.dumps(environment(), indent=2) + "\n", "environment.json")
        self._store.log(parent, tags={"paretune.drawn_at_event": last_event})
        if len(self._children) >= N_MANY:
            self._store.analyse()

    def _attach_adapter(self, run: RunIndex, adapter: Path) -> None:
        if "paretune.adapter" not in run.tags:
            self._store.attach(run, adapter, "adapter")
            self._store.log(run, tags={"paretune.adapter": "adapter"})

    def _links(self) -> dict[int, str]:
        """Return the address of the run of each trial in MLflow's pages."""
        return {n: f"{self._table}/{run.id}" for n, run in self._children.items()}

    def show_final(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record test accuracies on the members' runs, and the table on the study's run."""
        for row in rows:
            if (run := self._children.get(row["trial"])) is not None:
                test = self._study.metric.on_test
                watched = (key for key in row if key.startswith("watch/"))
                named = (f"{test}_mean", f"{test}_deviation", "p_front", "n", *watched)
                values = {f"final/{key.removeprefix('test/')}": float(row[key]) for key in named}
                self._store.log(run, {key: value for key, value in values.items() if math.isfinite(value)})
        if self._parent is not None:
            self._store.attach(self._parent, self._ledger_path.parent / "final.parquet")


def sync_fully(last_event: int) -> str:
    """Return the tag `paretune.drawn_at_event` of complete artifacts, made from the ledger up to an event."""
    return f"{last_event} in full"


def environment() -> dict[str, Any]:
    """Describe the environment of a run: interpreter, machine, and the version of every installed distribution."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "n_cpus": os.cpu_count(),
        "packages": dict(_packages()),
    }


@functools.cache
def _packages() -> Mapping[str, str]:
    """Return the versions by name, sorted; hundreds of files are read for them, and a process keeps what it has imported."""
    packages = {found.name: found.version for found in importlib.metadata.distributions()}
    return dict(sorted(packages.items(), key=lambda item: item[0].lower()))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[SqlLedger]:
    ledger = SqlLedger.open(path)
    try:
        yield ledger
    finally:
        ledger.close()
