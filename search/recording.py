"""The record: a study's ledger shown in MLflow. The only file that imports it.

MLflow is a view. Everything written here is read from the ledger, by a thread of its own that the search never waits
for: an MLflow that is slow, down or killed only leaves the view behind, and the next sync catches up. What MLflow holds
already is known by tags (`paretune.study_uid`, `paretune.trial`, `paretune.epochs`), so that a sync sends only what is
missing and a second one sends nothing.

One experiment per study, one parent run for the study, one child run per trial.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from search import picture, report
from search.errors import RequestError
from search.front import front, hypervolume
from search.ledger import Event, Ledger, Report, StudyRecord
from search.saved import StudyState, ended_by, study_state
from search.trial import State, Trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_log = logging.getLogger(__name__)

MAX_METRICS_PER_CALL = 1000  # MLflow's limits of one log_batch
MAX_TAG_CHARACTERS = 5000
_STATUS = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAILED: "FAILED"}  # RUNNING for the rest
_STUDY_STATUS = {StudyState.FINISHED: "FINISHED", StudyState.INTERRUPTED: "KILLED", StudyState.RUNNING: "RUNNING"}
RECEIPT = "mlflow.json"  # in the study's folder: where the study is recorded, and up to which event
_SHARE = 0.1  # of one core: the largest part that the thread takes for itself
_LONGEST_WAIT = 10.0  # seconds between two syncs of a thread that is expensive or fails


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
        return receipt.get("tracking_uri") != _shown(tracking_uri) or bool(ledger.events(after=receipt.get("last_event", -1)))


# -- the recorder ------------------------------------------------------------------------------------------------------


class Recorder:
    """Keeps MLflow up to date with one study's ledger.

    Args:
        ledger_path: The study's ledger, `<storage>/<study>/ledger.db`; it is opened to read only.
        tracking_uri: An MLflow server or database (see `tracking_uri`).
        experiment: Name of the experiment; the study's name when None.
        period: Seconds between two syncs of the thread.
        artifact_period: Seconds between two drawings of the front while the study runs.
    """

    def __init__(
        self,
        ledger_path: Path,
        tracking_uri: str,
        experiment: str | None = None,
        *,
        period: float = 2.0,
        artifact_period: float = 15.0,
    ) -> None:
        self._ledger_path = ledger_path
        self._uri = tracking_uri
        self._experiment = experiment
        self._period = period
        self._artifact_period = artifact_period
        self._lock = threading.Lock()  # one sync at a time, whoever calls it
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="paretune-recorder", daemon=True)
        self._problem: str | None = None  # what the last sync of the thread failed with
        self._view: _View | None = None  # None: what MLflow holds has to be looked up

    def start(self) -> None:
        """Record in the background from now on. Returns at once; whatever fails is warned about and tried again.

        The thread imports MLflow: start it when the driver's own large imports are done, because Python may hand
        half-made modules to two threads that import the same ones.
        """
        if self._thread.ident is None:
            self._thread.start()

    def stop(self, timeout: float = 60.0) -> str | None:
        """One last full sync, then the end of the thread.

        Call it when the driver has given the ledger back, so that an unfinished study is shown as interrupted.

        Args:
            timeout: Seconds to wait; an MLflow that hangs is left behind after this.

        Returns:
            None when MLflow holds the whole study, otherwise a sentence that says why not.
        """
        self._stopping.set()
        self.start()
        self._thread.join(timeout)
        if self._thread.is_alive():
            return f"MLflow at {_shown(self._uri)} is behind (no answer within {timeout:g} s); run the study again to catch up"
        if self._problem is not None:
            return f"MLflow at {_shown(self._uri)} is behind ({self._problem}); run the study again to catch up"
        return None

    def sync(self, *, final: bool = False) -> None:
        """Bring MLflow up to date with the ledger. Nothing is sent that MLflow holds already.

        Args:
            final: Look up afresh what MLflow holds, and bring the artifacts up to date too.

        Raises:
            Exception: whatever MLflow raises. What has arrived stays; the next sync sends the rest.
        """
        with self._lock:
            if final:
                self._view = None
            try:
                if self._view is None:
                    self._view = _View.look_up(self._ledger_path, self._uri, self._experiment)
                self._view.advance(time.monotonic(), self._artifact_period, final=final)
                if final:
                    self._view.write_receipt(self._uri)
            except BaseException:
                self._view = None
                raise

    def _follow(self) -> None:
        """The thread: nothing while the workers start up, then a sync, a pause; after `stop` a last full one."""
        while not self._stopping.is_set() and not self._begun():
            self._stopping.wait(self._period / 4)
        pause = self._period
        while not self._stopping.is_set():
            spent = time.thread_time()
            failed = not self._try(final=False)
            spent = time.thread_time() - spent
            wanted = max(self._period, spent / _SHARE, 2 * pause if failed else 0.0)
            pause = max(self._period, min(wanted, _LONGEST_WAIT))
            self._stopping.wait(pause)
        for again in (1.0, 2.0, None):  # seconds: a database may be locked by another writer just now
            if self._try(final=True) or again is None:
                return
            time.sleep(again)

    def _begun(self) -> bool:
        """Whether anything has been reported: importing MLflow before that would delay the first step."""
        try:
            with _reading(self._ledger_path) as ledger:
                return bool(ledger.reports())
        except Exception:
            return True  # let the sync say what is wrong

    def _try(self, *, final: bool) -> bool:
        try:
            self.sync(final=final)
        except Exception as error:
            if self._problem is None:
                words = "MLflow at %s cannot be written (%s); the search goes on, the record follows later"
                _log.warning(words, _shown(self._uri), _shown(self._uri, _first_line(error)))
            self._problem = _shown(self._uri, _first_line(error))
            return False
        if self._problem is not None:
            _log.info("MLflow at %s is up to date again", _shown(self._uri))
        self._problem = None
        return True


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
    def look_up(cls, ledger_path: Path, uri: str, experiment: str | None) -> _View:
        """Find the study's runs by their tags; the experiment is made when there is none."""
        with _reading(ledger_path) as ledger:
            study = ledger.study()
        with _making(uri):
            client = _client(uri)
            view = cls(client, ledger_path, _experiment(client, uri, experiment or study.name, ledger_path), study)
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
            self._draw(parent, trials, place)
            self._drawn = (now, members)
        self._place = place

    def write_receipt(self, uri: str) -> None:
        """Note beside the ledger where the study is recorded, and up to which event."""
        receipt = {
            "tracking_uri": _shown(uri),
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

    def _draw(self, parent: _Run, trials: Sequence[Trial], place: int) -> None:
        """The artifacts: the front as picture and table, all trials, the study file; once per state of the ledger."""
        import yaml

        if parent.tags.get("paretune.drawn_at_event") == str(place):
            return
        with tempfile.TemporaryDirectory(prefix="paretune-") as name:
            folder = Path(name)
            title = f"{self._study.name}: accuracy against adapter size"
            picture.plot_front(trials, folder / "front.png", title=title, reference_point=self._reference_point)
            report.write_parquet(front(trials), folder / "front.parquet", study=self._study)
            report.write_parquet(trials, folder / "trials.parquet", study=self._study)
            (folder / "study.yaml").write_text(yaml.safe_dump(dict(self._study.file), sort_keys=False))
            self._client.log_artifacts(parent.id, str(folder))
        self._log(parent, [], {}, parent.tags | {"paretune.drawn_at_event": str(place)})


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
                if event.kind == "completed" and last is not None:
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


def _shown(uri: str, text: str | None = None) -> str:
    """An address, or a text that holds it, without the name and password that may be in it."""
    secret, at, _ = urlsplit(uri).netloc.rpartition("@")
    text = uri if text is None else text
    return text.replace(secret + at, "") if at else text


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


# -- looking at the record ---------------------------------------------------------------------------------------------


def serve(
    storage: Path,
    *,
    study: str | None = None,
    port: int | None = None,
    say: Callable[[str], None] = print,
    start_timeout: float = 60.0,
) -> None:
    """Show a storage folder's record in MLflow's pages, on this machine only, until interrupted (SIGINT, SIGTERM).

    Args:
        storage: The folder of the studies.
        study: The study whose page the printed address opens.
        port: Where to listen; a free port when None.
        say: Takes the lines for the user; the address is the last word of the first.
        start_timeout: Seconds that MLflow's server may take to answer.

    Raises:
        RecordingError: if there is no record, the port is taken, or the server does not start.
    """
    uri = tracking_uri(storage)
    if uri.startswith(("http://", "https://")):
        say(f"MLFLOW_TRACKING_URI names a server that runs already: {uri}")
        return
    database = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not database.exists():
        raise RecordingError(f"{database} does not exist: nothing is recorded in {storage} yet; run a study first")
    port = _free_port(port)
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", uri, "--artifacts-destination", str(storage.resolve() / "mlflow-artifacts")]
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with _interruptible(), tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)  # noqa: S603
        try:
            _await_answer(process, port, start_timeout, output)
            page = _experiment_page(port, study)
            say(f"MLflow shows {study or 'the studies'} at http://127.0.0.1:{port}/{page}")
            say("Ctrl-C ends it.")
            if (status := process.wait()) != 0:
                raise RecordingError(f"MLflow's server ended with status {status}: {_tail(output)}")
        except KeyboardInterrupt:
            pass
        finally:
            _end(process)


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port or 0))
        except OSError as error:
            raise RecordingError(
                f"port {port} of 127.0.0.1 is taken ({error.strerror}); choose another, or none for a free one"
            ) from None
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that no server is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _await_answer(process: subprocess.Popen[bytes], port: int, timeout: float, output: Any) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RecordingError(f"MLflow's server did not start: {_tail(output)}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _get(port, "/health")[0] == http.client.OK:
                return
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.2)
    raise RecordingError(f"MLflow's server did not answer within {timeout:g} s: {_tail(output)}")


def _experiment_page(port: int, study: str | None) -> str:
    if study is None:
        return "#/experiments"
    status, body = _get(port, f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={quote(study)}")
    if status != http.client.OK:
        raise RecordingError(f"{study}: MLflow has no such experiment yet; run the study first")
    return f"#/experiments/{json.loads(body)['experiment']['experiment_id']}"


def _get(port: int, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _tail(output: Any) -> str:
    output.seek(0)
    lines = output.read().decode(errors="replace").strip().splitlines()
    return " / ".join(lines[-3:]) or "it said nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the workers it started; it has a session of its own, so that Ctrl-C reached only us."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            return
