"""The MLflow client: the runs of one experiment. This is the search's only file that imports MLflow, on first use.

`RunStore.send` updates one run to its target content (`search.tracking.run_content.RunContent`) and sends only what the run lacks:
parameters and sizes are known by their names, epochs by a tag that counts them. MLflow writes the tags of a call last, so data
counted by a tag have arrived.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.metrics import Metric
from search.secret import SecretAddress, hide_secrets
from search.storage.sqlite_address import sqlite_address, sqlite_path
from search.tracking.mlflow_database import whole_database
from search.tracking.mlflow_internals import metric_history
from search.tracking.run_content import VIEW, RunContent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

MAX_METRICS_PER_CALL = 1000  # limit of one log_batch in MLflow
MAX_RUNS_PER_HISTORY, MAX_POINTS_PER_HISTORY = 100, 25_000  # limits of one call for the history of a metric in MLflow


def experiment_tags(metric: Metric, against: str) -> dict[str, str]:
    """Return the tags with which MLflow's pages recognise a model experiment and lay out its table of runs.

    Args:
        metric: Metric of the first objective, by which the table is ordered, the best first.
        against: Second objective, shown as a column of the table.
    """
    sizes = [f"metrics.`{key}`" for key in dict.fromkeys((against, "adapter_params"))]
    tags = ["tags.`paretune.state`", "tags.`paretune.rank`"]
    view = {
        "orderByKey": f"metrics.`{metric.key}`",
        "orderByAsc": not metric.larger_is_better,
        "selectedColumns": [f"metrics.`{metric.key}`", *sizes, *tags, "attributes.`Duration`"],
        "runsExpanded": {},
    }
    return {"mlflow.experimentKind": "custom_model_development", f"mlflow.sharedViewState.{VIEW}": json.dumps(view)}


@dataclass
class RunIndex:
    """The content of one run in MLflow, as far as it is known."""

    id: str
    status: str
    tags: dict[str, str]
    keys: set[str] = field(default_factory=set)  # of parameters and metrics

    @classmethod
    def of(cls, run: Run) -> RunIndex:
        """Build the index of a run returned by MLflow's client."""
        return cls(run.info.run_id, run.info.status, dict(run.data.tags), {*run.data.params, *run.data.metrics})

    def count(self, tag: str) -> int:
        """Return the value of a counting tag, 0 if it is missing."""
        return int(self.tags.get(tag, 0))


@dataclass(frozen=True)
class FullRun:
    """The complete content of one run in MLflow.

    Attributes:
        id: Id of the run in MLflow.
        name: Name of the run.
        status: Status in MLflow.
        started: Unix time of the start, in ms.
        params: Parameters, as text.
        tags: All tags.
        points: Points of all metrics as (metric, step, value, Unix time in ms), with duplicates.
    """

    id: str
    name: str
    status: str
    started: int
    params: Mapping[str, str]
    tags: Mapping[str, str]
    points: Sequence[tuple[str, int, float, int]]


class RunStore:
    """The runs of one experiment. Every method passes on the exceptions of MLflow."""

    def __init__(self, client: MlflowClient, uri: SecretAddress, experiment_id: str) -> None:
        self._client = client
        self.uri = uri
        self.experiment_id = experiment_id

    @classmethod
    def open(cls, uri: str, name: str, storage: Path, metric: Metric, against: str) -> RunStore:
        """Open the experiment of that name, creating it if it is missing.

        Args:
            uri: MLflow server or database.
            name: Name of the study.
            storage: Folder of the studies; artifacts are stored in it unless a server has its own location for them.
            metric: Metric of the first objective, see `experiment_tags`.
            against: Second objective.
        """
        uri = SecretAddress(uri)
        with whole_database(uri):
            client = _client(uri)
            return cls(client, uri, _experiment(client, uri, name, storage, experiment_tags(metric, against)))

    @classmethod
    def find(cls, uri: str, name: str) -> RunStore | None:
        """Return the experiment of that name, None if it does not exist."""
        uri = SecretAddress(uri)
        with whole_database(uri):
            client = _client(uri)
            found = client.get_experiment_by_name(name)
        return None if found is None else cls(client, uri, str(found.experiment_id))

    def runs(self, study_uid: str) -> Iterator[RunIndex]:
        """Yield all active runs of a study, the oldest first."""
        for page in self._pages(study_uid):
            yield from map(RunIndex.of, page)

    def everything(self, study_uid: str) -> Iterator[FullRun]:
        """Yield all active runs of a study with their complete content, the oldest first."""
        for page in self._pages(study_uid):
            points = self._points(page)
            for run in page:
                info, data = run.info, run.data
                known = dict(data.params), dict(data.tags), points[info.run_id]
                yield FullRun(info.run_id, info.run_name, info.status, info.start_time, *known)

    def _pages(self, study_uid: str) -> Iterator[list[Run]]:
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                f"tags.`paretune.study_uid` = '{study_uid}'",
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield [run for run in page if run.data.tags.get("paretune.trial", "0").isdecimal()]  # others may edit tags
            if not (token := page.token):
                return

    def _points(self, runs: Sequence[Run]) -> dict[str, list[tuple[str, int, float, int]]]:
        """Return the points of all metrics by run: (metric, step, value, Unix time in ms)."""
        found: dict[str, list[tuple[str, int, float, int]]] = {run.info.run_id: [] for run in runs}
        of_metric: dict[str, list[str]] = {}
        for run in runs:
            for key in run.data.metrics:
                of_metric.setdefault(key, []).append(run.info.run_id)
        for key, ids in of_metric.items():
            for first in range(0, len(ids), MAX_RUNS_PER_HISTORY):
                for run_id, step, value, at in self._history(ids[first : first + MAX_RUNS_PER_HISTORY], key):
                    found[run_id].append((key, step, value, at))
        return found

    def _history(self, ids: Sequence[str], key: str) -> list[tuple[str, int, float, int]]:
        """Return (run, step, value, Unix time in ms) of every point of a metric, with one call for many runs."""
        every = metric_history(self._client, ids, key, MAX_POINTS_PER_HISTORY)
        if len(every) < MAX_POINTS_PER_HISTORY:
            return every
        return [(one, p.step, p.value, p.timestamp) for one in ids for p in self._client.get_metric_history(one, key)]

    def delete(self, run: RunIndex) -> None:
        """Move a run to MLflow's trash."""
        self._client.delete_run(run.id)

    def send(self, run: RunIndex | None, shown: RunContent) -> RunIndex:
        """Create a run or update it to its target content, sending only what it lacks."""
        from mlflow.entities import Metric

        if run is None:
            run = self._create(shown)
        sizes = [Metric(key, value, _ms(shown.started), 0) for key, value in shown.sizes.items() if key not in run.keys]
        params = {key: value for key, value in shown.params.items() if key not in run.keys}
        tags, metrics, recorded = dict(shown.tags), sizes, run.count(shown.counter)
        for step in shown.steps:
            if step.number <= recorded:
                continue
            if len(metrics) + len(step.metrics) > MAX_METRICS_PER_CALL:
                self._log(run, metrics, params, tags)
                metrics, params = [], {}
            metrics += [Metric(key, value, _ms(step.time), step.number) for key, value in step.metrics.items()]
            tags[shown.counter] = str(step.number)
        self._log(run, metrics, params, tags)
        for key in [key for key in shown.optional if key in run.tags and key not in shown.tags]:
            self._client.delete_tag(run.id, key)
            del run.tags[key]
        self._set_status(run, shown.status, shown.ended)
        return run

    def log(self, run: RunIndex, metrics: Mapping[str, float] = {}, tags: Mapping[str, str] = {}) -> None:
        """Add metrics and tags to a run."""
        from mlflow.entities import Metric

        now = _ms(time.time())
        self._log(run, [Metric(key, value, now, 0) for key, value in metrics.items()], {}, tags)

    def register(self, run: RunIndex, code: Path, adapter: Path, name: str) -> str:
        """Register a version of a model that `mlflow.pyfunc` loads from code and safetensors.

        Args:
            run: Run of the adapter's trial.
            code: File with the code that serves the adapter.
            adapter: Folder of the adapter and its card.
            name: Name of the registered model, created if missing.

        Returns:
            The version.
        """
        from mlflow.exceptions import MlflowException

        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow warns about its own type hints
            import mlflow.pyfunc

            path = Path(folder) / "model"
            mlflow.pyfunc.save_model(
                str(path), python_model=str(code), artifacts={"adapter": str(adapter)}, pip_requirements=_served_by()
            )
            self._client.log_artifacts(run.id, str(path), "model")
        with contextlib.suppress(MlflowException):  # it exists already
            self._client.create_registered_model(name)
        source = f"{self._client.get_run(run.id).info.artifact_uri}/model"
        return str(self._client.create_model_version(name, source, run.id).version)

    def analyse(self) -> None:
        """Run ANALYZE on an SQLite store, so that it uses the right index at 10,000 runs. Other stores are not touched."""
        if (path := sqlite_path(self.uri)) is not None:
            with contextlib.closing(sqlite3.connect(path, timeout=10)) as database:
                database.executescript("PRAGMA analysis_limit = 1000; ANALYZE;")

    def attach(self, run: RunIndex, path: Path, target_folder: str | None = None) -> None:
        """Attach a file, or the content of a folder, to the artifacts of a run; `target_folder` names a target folder there."""
        if path.is_dir():
            self._client.log_artifacts(run.id, str(path), target_folder)
        else:
            self._client.log_artifact(run.id, str(path), target_folder)

    def artifacts(self, run: FullRun) -> set[str]:
        """Return the names of a run's artifacts: files, and folders without their content."""
        return {found.path for found in self._client.list_artifacts(run.id)}

    def attach_text(self, run: RunIndex, text: str, name: str) -> None:
        """Attach a text to the artifacts of a run."""
        self._client.log_text(run.id, text, name)

    def _create(self, shown: RunContent) -> RunIndex:
        tags = {**shown.tags, shown.counter: "0", "mlflow.source.name": "paretune", "mlflow.source.type": "LOCAL"}
        run = self._client.create_run(self.experiment_id, start_time=_ms(shown.started), tags=tags, run_name=shown.name)
        return RunIndex(run.info.run_id, run.info.status, tags)

    def _log(self, run: RunIndex, metrics: Sequence[Any], params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        """Send everything that is missing in one call."""
        from mlflow.entities import Param, RunTag

        news = {key: value for key, value in tags.items() if run.tags.get(key) != value}
        if metrics or params or news:
            named = [Param(key, value) for key, value in params.items()]
            self._client.log_batch(run.id, metrics, named, [RunTag(key, value) for key, value in news.items()])
            run.tags |= news
            run.keys |= {*params, *(metric.key for metric in metrics)}

    def _set_status(self, run: RunIndex, status: str, ended: float | None) -> None:
        if run.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(run.id, status=status)
        else:
            self._client.set_terminated(run.id, status=status, end_time=_ms(ended if ended is not None else time.time()))
        run.status = status


def tracking_uri(storage: Path) -> SecretAddress:
    """Return the MLflow address for the studies of a storage folder: `MLFLOW_TRACKING_URI`, or an SQLite file in the folder."""
    return SecretAddress(os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(storage.resolve() / "mlflow.db"))


def describe_error(error: BaseException, uri: str) -> str:
    """Return the first line of an error, without the secret of the address."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return hide_secrets(SecretAddress(uri).hide(line))[:300]


def _client(uri: SecretAddress) -> MlflowClient:
    """Create a client without output or telemetry, that leaves retries to the recorder."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
    return MlflowClient(tracking_uri=uri.reveal())


def _experiment(client: MlflowClient, uri: str, name: str, storage: Path, tags: Mapping[str, str]) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        remote = uri.startswith(("http://", "https://", "databricks"))
        location = None if remote else (storage.resolve() / "mlflow-artifacts").as_uri()
        return str(client.create_experiment(name, artifact_location=location, tags=dict(tags)))
    if found.lifecycle_stage != "active":  # it was deleted in MLflow's pages, but recording again means that it is wanted
        client.restore_experiment(found.experiment_id)
    for key in tags.keys() - found.tags.keys():  # created by an older Paretune, or by the check of our permissions
        client.set_experiment_tag(found.experiment_id, key, tags[key])
    return str(found.experiment_id)


def _served_by() -> list[str]:
    """Return the libraries that a registered model needs in addition to Paretune, with their versions.

    Paretune itself is not among them: no package index has it, and a name that others can take is not to be installed.
    """
    return [f"{name}=={version(name)}" for name in ("timm", "torch", "safetensors", "numpy")]


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
