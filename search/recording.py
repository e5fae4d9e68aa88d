"""The record: a study's ledger shown in MLflow. The only file that imports it.

MLflow is a view. Everything written here is read from the ledger, by a process of its own (`search.recorder`) that the search
never waits for: an MLflow that is slow, down or killed only leaves the view behind, and the next sync catches up. What MLflow
holds already is known by tags (`paretune.study_uid`, `paretune.trial`, `paretune.epochs`), so that a sync sends only what is
missing and a second one sends nothing.

One experiment per study, one parent run for the study, one child run per trial.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from search import report
from search.errors import RequestError
from search.front import front, hypervolume
from search.ledger import Event, Ledger, Report, StudyRecord
from search.saved import StudyState, ended_by, load, study_state
from search.trial import State, Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS_PER_CALL = 1000  # MLflow's limits of one log_batch
MAX_TAG_CHARACTERS = 5000
_STATUS = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAILED: "FAILED"}  # RUNNING for the rest
_STUDY_STATUS = {StudyState.FINISHED: "FINISHED", StudyState.INTERRUPTED: "KILLED", StudyState.RUNNING: "RUNNING"}
RECEIPT = "mlflow.json"  # in the study's folder: where the study is recorded, and up to which event


class RecordingError(RequestError):
    """MLflow cannot be used as asked; the message names the remedy."""


def tracking_uri(storage: Path) -> str:
    """Where studies of a storage folder are recorded: `MLFLOW_TRACKING_URI`, or an SQLite file in the folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage.resolve() / 'mlflow.db'}"


def is_behind(ledger_path: Path, tracking_uri: str) -> bool:
    """Whether MLflow may lack a part of the study: known without asking MLflow, from the receipt of the last full sync."""
    try:
        receipt = json.loads((ledger_path.parent / RECEIPT).read_text())
    except (OSError, ValueError):
        return True
    with _reading(ledger_path) as ledger:
        return receipt.get("tracking_uri") != without_secret(tracking_uri) or bool(
            ledger.events(after=receipt.get("last_event", -1))
        )


class Record:
    """One study's record, which `sync` brings up to date with the ledger.

    Args:
        ledger_path: The study's ledger, `<storage>/<study>/ledger.db`; it is opened to read only.
        tracking_uri: An MLflow server or database (see `tracking_uri`).
        artifact_period: Seconds between two drawings of the front while the study runs.
    """

    def __init__(self, ledger_path: Path, tracking_uri: str, *, artifact_period: float = 15.0) -> None:
        self.tracking_uri = tracking_uri
        self._ledger_path = ledger_path
        self._artifact_period = artifact_period
        self._view: _View | None = None  # None: what MLflow holds has to be looked up

    def sync(self, *, final: bool = False) -> None:
        """Bring MLflow up to date with the ledger. Nothing is sent that MLflow holds already.

        Args:
            final: Write the views beside the ledger, whatever becomes of MLflow; look up afresh what MLflow holds, and bring the
                artifacts up to date too.

        Raises:
            Exception: whatever MLflow raises. What has arrived stays; the next sync sends the rest.
        """
        if final:
            self._view = None
            load(self._ledger_path.parent).write_views()
        try:
            if self._view is None:
                self._view = _View.look_up(self._ledger_path, self.tracking_uri)
            self._view.advance(time.monotonic(), self._artifact_period, final=final)
            if final:
                self._view.write_receipt(self.tracking_uri)
        except BaseException:
            self._view = None
            raise


def record_final(ledger_path: Path, uri: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Show what finalizing has found: test accuracies on the members' runs, the table on the study's.

    Args:
        ledger_path: The study's ledger.
        uri: See `tracking_uri`.
        rows: Of `search.finalize.row`.

    Raises:
        Exception: whatever MLflow raises.
    """
    view = _View.look_up(ledger_path, uri)
    view.show_final(rows)


# -- one view: what MLflow holds of a study, and what it lacks ---------------------------------------------------------


@dataclass
class _Run:
    """What MLflow holds of one run."""

    id: str
    status: str
    tags: dict[str, str]
    keys: set[str] = field(default_factory=set)  # of parameters and metrics

    @classmethod
    def of(cls, run: Run) -> _Run:
        return cls(run.info.run_id, run.info.status, dict(run.data.tags), {*run.data.params, *run.data.metrics})

    def count(self, tag: str) -> int:
        """A tag that counts, 0 when it is not there."""
        return int(self.tags.get(tag, 0))


class _View:
    """One study in MLflow: knows what is there, and sends what is missing."""

    def __init__(self, client: MlflowClient, ledger_path: Path, experiment_id: str, study: StudyRecord) -> None:
        self._client = client
        self._ledger_path = ledger_path
        self._experiment_id = experiment_id
        self._study = study
        self._reference_point = report.reference(study)
        self._parent: _Run | None = None
        self._children: dict[int, _Run] = {}
        self._place = -1  # number of the last event that MLflow shows
        self._progress = _Progress(self._reference_point)
        self._ended: str | None = None
        self._drawn: tuple[float, set[int]] = (time.monotonic(), set())  # when, and which members the picture shows

    @classmethod
    def look_up(cls, ledger_path: Path, uri: str) -> _View:
        """Find the study's runs by their tags; the experiment is made when there is none."""
        with _reading(ledger_path) as ledger:
            study = ledger.study()
        with _making(uri):
            client = _client(uri)
            view = cls(client, ledger_path, _experiment(client, uri, study.name, ledger_path), study)
        for run in _search(client, view._experiment_id, f"tags.`paretune.study_uid` = '{study.uid}'"):
            number = run.data.tags.get("paretune.trial")
            twin = view._parent if number is None else view._children.get(int(number))
            if twin is not None:  # sent again because the answer came too late: one stays
                client.delete_run(run.info.run_id)
            elif number is None:
                view._parent = _Run.of(run)
            else:
                view._children[int(number)] = _Run.of(run)
        return view

    def advance(self, now: float, artifact_period: float, *, final: bool) -> None:
        """Send what the ledger holds beyond this view."""
        with _reading(self._ledger_path) as ledger:
            events = ledger.events(after=self._place)
            if self._parent is not None and not events and not final:
                return
            place = events[-1].number if events else self._place
            reports = [r for r in ledger.reports(after=self._place) if r.event <= place]
            trials = ledger.trials()  # as new as the events, or newer: the rest of the news comes with the next sync
            owner = ledger.owner()
            self._study = ledger.study()  # the budget may have been extended
        self._ended = ended_by(events, self._ended)
        state = study_state(self._study, trials, ended=self._ended is not None, owner=owner)
        parent = self._parent = self._parent or self._create_parent(trials)

        members = {trial.number for trial in front(trials)}
        touched = {event.trial for event in events}
        news: dict[int, list[Report]] = {}
        for epoch in reports:
            news.setdefault(epoch.trial, []).append(epoch)
        for trial in trials:
            run = self._children.get(trial.number)
            shown = run is not None and (run.tags.get("paretune.front") == "true")
            if trial.number in touched or shown != (trial.number in members):
                self._show_trial(parent, trial, news.get(trial.number, []), in_front=trial.number in members)
        self._show_study(parent, trials, state, self._progress.advance(events, reports, trials))
        drawn_at, drawn_members = self._drawn
        if final or (members != drawn_members and now - drawn_at >= artifact_period):
            if not final:
                load(self._ledger_path.parent).write_views()
            self._attach_views(parent, place)
            self._drawn = (now, members)
        self._place = place

    def write_receipt(self, uri: str) -> None:
        """Note beside the ledger where the study is recorded, and up to which event."""
        receipt = {
            "tracking_uri": without_secret(uri),
            "experiment_id": self._experiment_id,
            "run_id": self._parent.id if self._parent else None,
            "last_event": self._place,
        }
        path = self._ledger_path.parent / RECEIPT
        draft = path.with_name(f".{path.name}.draft")
        draft.write_text(json.dumps(receipt, indent=2) + "\n")
        draft.replace(path)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _create_parent(self, trials: Sequence[Trial]) -> _Run:
        tags = self._identity() | {"paretune.n_ended": "0"}
        return self._create(self._study.name, self._study.created, tags)

    def _create(self, name: str, started: float, tags: dict[str, str]) -> _Run:
        tags = tags | {"mlflow.source.name": "paretune", "mlflow.source.type": "LOCAL"}
        run = self._client.create_run(self._experiment_id, start_time=_ms(started), tags=tags, run_name=name)
        return _Run(run.info.run_id, run.info.status, tags)

    def _identity(self) -> dict[str, str]:
        return {"paretune.study": self._study.name, "paretune.study_uid": self._study.uid}

    def _show_trial(self, parent: _Run, trial: Trial, reports: Sequence[Report], *, in_front: bool) -> None:
        from mlflow.entities import Metric

        wanted = self._identity() | {
            "paretune.trial": str(trial.number),
            "paretune.method": trial.method,
            "paretune.state": trial.state.value,
            "paretune.front": "true" if in_front else "false",
            "paretune.attempts": str(trial.n_attempts),
            "mlflow.parentRunId": parent.id,
        }
        if trial.extends is not None:
            wanted["paretune.extends"] = str(trial.extends)
        if trial.rung is not None:
            wanted["paretune.rung"] = str(trial.rung)
        if trial.reason is not None:
            wanted["paretune.reason"] = trial.reason[:MAX_TAG_CHARACTERS]
        run = self._children.get(trial.number)
        if run is None:
            run = self._create(trial.label, trial.started, wanted | {"paretune.epochs": "0"})
            self._children[trial.number] = run

        sizes = {"adapter_params": trial.adapter_params, "head_params": trial.head_params}
        metrics = [Metric(key, float(n), _ms(trial.started), 0) for key, n in sizes.items() if key not in run.keys]
        params = {**trial.config, "trial": trial.number, "seed": trial.seed}
        params = {key: value for key, value in params.items() if key not in run.keys}
        recorded = run.count("paretune.epochs")
        for epoch in reports:
            if epoch.epoch <= recorded:
                continue
            if len(metrics) + len(epoch.metrics) > MAX_METRICS_PER_CALL:
                self._log(run, metrics, params, wanted)
                metrics, params = [], {}
            metrics += [Metric(key, value, _ms(epoch.time), epoch.epoch) for key, value in epoch.metrics.items()]
            wanted["paretune.epochs"] = str(epoch.epoch)
        self._log(run, metrics, params, wanted)
        self._set_status(run, _STATUS.get(trial.state, "RUNNING"), trial.finished)

    def _log(self, run: _Run, metrics: Sequence[Any], params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """One call for whatever is missing. MLflow writes the tags, which tell what is there, after the rest."""
        from mlflow.entities import Param, RunTag

        news = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if metrics or params or news:
            named = [Param(key, str(value)) for key, value in params.items()]
            self._client.log_batch(run.id, metrics, named, [RunTag(key, value) for key, value in news.items()])
            run.tags |= news
            run.keys |= {*params, *(metric.key for metric in metrics)}
        for key in [k for k in ("paretune.rung", "paretune.reason") if k in run.tags and k not in tags]:
            self._client.delete_tag(run.id, key)
            del run.tags[key]

    def _set_status(self, run: _Run, status: str, ended: float | None) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status=status, end_time=_ms(ended if ended is not None else time.time()))
        run.status = status

    # -- the study's own run -------------------------------------------------------------------------------------------

    def _show_study(
        self,
        parent: _Run,
        trials: Sequence[Trial],
        state: StudyState,
        steps: Iterable[tuple[int, float, dict[str, float]]],
    ) -> None:
        from mlflow.entities import Metric

        wanted = self._identity() | {
            "paretune.state": state.value,
            "paretune.n_trials": str(len(trials)),
            "mlflow.note.content": self._description(trials, state),
        }
        metrics: list[Metric] = []
        recorded = parent.count("paretune.n_ended")
        for step, at, values in steps:
            if step <= recorded:
                continue
            if len(metrics) + len(values) > MAX_METRICS_PER_CALL:
                self._log(parent, metrics, {}, wanted)
                metrics = []
            metrics += [Metric(key, value, _ms(at), step) for key, value in values.items()]
            wanted["paretune.n_ended"] = str(step)
        self._log(parent, metrics, {}, wanted)
        ended = max((trial.finished for trial in trials if trial.finished is not None), default=None)
        self._set_status(parent, _STUDY_STATUS[state], ended)

    def _description(self, trials: Sequence[Trial], state: StudyState) -> str:
        """What someone reads first who opens the study in MLflow."""
        file, facts = self._study.file, self._study.facts
        budget, backbone, data = self._study.budget, file["backbone"], file["data"]
        counts = {s: sum(t.state is s for t in trials) for s in State}
        standing = ", ".join(f"{n} {s.value.lower()}" for s, n in counts.items() if n)
        weights = f", weights `{backbone['weights']}`" if backbone.get("weights") else ""
        n_trials, largest = budget["n_trials"], int(self._reference_point[1])
        lines = [
            f"**Which adapter of `{backbone['name']}`, at which size, is worth training on `{data['kind']}`?**",
            "",
            f"- **Backbone** `{backbone['name']}`{weights}, {facts['backbone_params']:,} frozen parameters",
            f"- **Data** `{data['kind']}`, {facts['n_classes']} classes",
            f"- **Methods** {', '.join(file['methods'])}, and head_only as the anchor",
            f"- **Budget** {n_trials} trials of {budget['epochs']} epochs, adapters up to {largest:,} parameters",
            f"- **State** {state.value.lower()}: {len(trials)} of {n_trials} trials started ({standing or 'none yet'})",
            "",
            f"### Front (hypervolume {hypervolume(trials, self._reference_point):.4f})",
            "\n",
        ]
        links = {n: f"#/experiments/{self._experiment_id}/runs/{run.id}" for n, run in self._children.items()}
        head = "\n".join(lines)
        table = report.front_markdown(trials, links=links).splitlines()
        room = MAX_TAG_CHARACTERS - len(head) - 100
        kept: list[str] = []
        for line in table:
            room -= len(line) + 1
            if room < 0:
                kept.append("\nThe whole front is in `front.parquet`.")
                break
            kept.append(line)
        return head + "\n".join(kept if len(table) > 2 else ["No trial is complete yet."])

    def _attach_views(self, parent: _Run, place: int) -> None:
        """The artifacts: the views and the study file; once per state of the ledger."""
        import yaml

        if parent.tags.get("paretune.drawn_at_event") == str(place):
            return
        for name in ("front.png", "front.parquet", "trials.parquet"):
            self._client.log_artifact(parent.id, str(self._ledger_path.parent / name))
        self._client.log_text(parent.id, yaml.safe_dump(dict(self._study.file), sort_keys=False), "study.yaml")
        self._log(parent, [], {}, parent.tags | {"paretune.drawn_at_event": str(place)})

    def show_final(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Test accuracies on the members' runs, and the table on the study's."""
        from mlflow.entities import Metric

        now = _ms(time.time())
        for row in rows:
            if (run := self._children.get(row["trial"])) is not None:
                named = ("test/top1_mean", "test/top1_deviation", "p_front", "n")
                values = {f"final/{key.removeprefix('test/')}": float(row[key]) for key in named}
                metrics = [Metric(key, value, now, 0) for key, value in values.items() if math.isfinite(value)]
                self._client.log_batch(run.id, metrics)
        if self._parent is not None:
            self._client.log_artifact(self._parent.id, str(self._ledger_path.parent / "final.parquet"))


class _Progress:
    """Front size, hypervolume and best accuracy after each end of a trial, whatever portions the events come in."""

    def __init__(self, reference_point: tuple[float, float]) -> None:
        self._reference_point = reference_point
        self._running: dict[int, float | None] = {}  # trial -> its last accuracy
        self._complete: list[Trial] = []  # those that may still be on the front
        self._best = 0.0
        self._n_ended = 0

    def advance(
        self, events: Iterable[Event], reports: Iterable[Report], trials: Sequence[Trial]
    ) -> list[tuple[int, float, dict[str, float]]]:
        """(number of trials ended so far, time, metrics) for each trial that ended among the events."""
        top1 = {r.event: r.metrics.get("val/top1") for r in reports}
        steps = []
        for event in events:
            if event.trial is None:
                continue
            if event.kind == "reported":
                self._running[event.trial] = top1[event.number]
            elif event.kind in ("completed", "pruned", "failed"):
                self._n_ended += 1
                last = self._running.pop(event.trial, None)
                if event.kind == "completed" and last is not None and trials[event.trial].planned_epochs is None:
                    self._complete = front([*self._complete, _completed(trials[event.trial], last)])
                    self._best = max(self._best, last)
                values = {
                    "front/size": float(len(self._complete)),
                    "front/hypervolume": hypervolume(self._complete, self._reference_point),
                }
                if self._complete:
                    values["best/top1"] = self._best
                steps.append((self._n_ended, event.time, values))
        return steps


def _completed(trial: Trial, top1: float) -> Trial:
    """The trial as it stood when it was completed."""
    return replace(trial, state=State.COMPLETE, metrics={"val/top1": top1})


# -- MLflow ------------------------------------------------------------------------------------------------------------


def _client(uri: str) -> MlflowClient:
    """A client that stays quiet, sends nothing home, and leaves trying again to the recorder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    return MlflowClient(tracking_uri=uri)


@contextlib.contextmanager
def _making(uri: str) -> Iterator[None]:
    """One process at a time makes an SQLite store: MLflow's migrations fail when two studies begin a storage at once."""
    if not uri.startswith("sqlite:///"):
        yield
        return
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    with database.with_name(f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed, also by a process that is killed
        yield


def _experiment(client: MlflowClient, uri: str, name: str, ledger_path: Path) -> str:
    """The id of the experiment, made when there is none.

    With a database, artifacts lie beside the studies; a server knows its own place for them.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        storage = ledger_path.resolve().parent.parent
        location = None if uri.startswith(("http://", "https://", "databricks")) else (storage / "mlflow-artifacts").as_uri()
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":  # deleted in MLflow's own pages: recording it again means that it is wanted
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _search(client: MlflowClient, experiment_id: str, query: str) -> Iterator[Run]:
    """All active runs that match, the oldest first, page by page."""
    token = None
    while True:
        page = client.search_runs(
            [experiment_id], query, max_results=1000, order_by=["attributes.start_time ASC"], page_token=token
        )
        yield from page
        if not (token := page.token):
            return


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Ledger]:
    ledger = Ledger.open(path)
    try:
        yield ledger
    finally:
        ledger.close()


def without_secret(uri: str, text: str | None = None) -> str:
    """An address, or a text that holds it, without the name and password that may be in it."""
    secret, at, _ = urlsplit(uri).netloc.rpartition("@")
    text = uri if text is None else text
    return text.replace(secret + at, "") if at else text


def in_short(error: BaseException, uri: str) -> str:
    """The first line of what an error says, without the secret of the address."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return without_secret(uri, line)[:300]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
