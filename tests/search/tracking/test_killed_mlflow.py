"""A real MLflow server, or the recorder itself, is killed in the middle of a search: the search goes on, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from typer.testing import CliRunner

from search.cli.app import app
from search.config import loading
from search.results.saved_study import SavedStudy
from search.storage.sql_ledger import SqlLedger
from search.study.study import Study
from search.study.user_requests import write_requests
from search.tracking.recorder import RecorderProcess
from search.workflows import run

from ..mlflow_server import MLflowServer

N_TRIALS = 12
MOST_BLOCKED = 0.25  # seconds that starting and leaving a recorder may take of the search's
STUDY = {
    "data": {"kind": "synthetic", "epoch_seconds": 0.1},
    "methods": ["lora", "arc"],
    "budget": {"n_trials": N_TRIALS, "epochs": 3},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflowServer]:
    """A server that every test leaves running."""
    server = MLflowServer(tmp_path_factory.mktemp("mlflow"))
    server.start()
    yield server
    server.kill()


class Meanwhile:
    """What happens beside a search. It holds the search up (`paretune pause`) where MLflow takes its time.

    Args:
        server: What records the search.
        folder: The study's.
    """

    def __init__(self, server: MLflowServer, folder: Path) -> None:
        self.server, self._folder = server, folder

    def trials_end(self, n: int) -> None:
        """So many more trials end; then the search pauses."""
        wanted = self._n_ended() + n
        until(lambda: self._n_ended() >= wanted, f"{n} more trials end")
        write_requests(self._folder, "pause", [], {})

    def is_recorded(self) -> None:
        """The recorder has shown a run of each of them. The search goes on afterwards."""
        n_ended = self._n_ended()
        until(lambda: n_runs(self.server.address, self._folder.name) > n_ended, f"{n_ended} trials and the study are in MLflow")

    def is_missed(self) -> None:
        """The recorder has asked MLflow in vain, and told so in the log."""
        log = self._folder / "paretune.log"
        until(lambda: "the search continues, the record follows later" in log.read_text(), "a warning in the log")

    def is_caught_up_with(self) -> None:
        """The recorder has told in the log that MLflow answers again."""
        log = self._folder / "paretune.log"
        until(lambda: "is up to date again" in log.read_text(), "the end of the warning in the log")

    def search_goes_on(self) -> None:
        """Lift the pause."""
        assert self._n_ended() < N_TRIALS
        write_requests(self._folder, "unpause", [], {})

    def _n_ended(self) -> int:
        with contextlib.closing(SqlLedger.open(self._folder / "ledger.db")) as ledger:
            return sum(trial.state.finished for trial in ledger.trials())


def search_with(
    accident: Callable[[Meanwhile], None], server: MLflowServer, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SavedStudy, list[str]]:
    """The finished study, and what was said at its end; the accident happens beside it when three of its trials are recorded."""
    happened: list[BaseException | None] = []

    @contextlib.contextmanager
    def watch(study: Study, *_: object) -> Iterator[None]:
        meanwhile = Meanwhile(server, study.file.folder)

        def happen() -> None:
            try:
                meanwhile.trials_end(3)
                meanwhile.is_recorded()
                accident(meanwhile)
                happened.append(None)
            except BaseException as error:
                happened.append(error)
                write_requests(study.file.folder, "stop", [], {})

        beside = threading.Thread(target=happen)
        beside.start()
        yield
        beside.join(60)

    said: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setattr(run, "RecorderProcess", partial(RecorderProcess, period=0.1, longest_period=0.3))
    file = loading.check(STUDY | {"study": accident.__name__, "storage": str(storage)})
    saved = run.run(file, back_end="in-process", watch=watch, say=said.append)
    assert happened == [None]
    assert (saved.state, len(saved.history)) == ("FINISHED", N_TRIALS)
    log = (saved.folder / "paretune.log").read_text()
    assert float(re.findall(r"blocked it for ([\d.]+) s of", log)[-1]) < MOST_BLOCKED
    return saved, said


def until(condition: Callable[[], bool], what: str, *, timeout: float = 60.0) -> None:
    """Wait for something, not for ever."""
    deadline, pause = time.monotonic() + timeout, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout:g} s"
        pause.wait(0.05)


def n_runs(address: str, name: str) -> int:
    """How many runs MLflow has of a study; 0 as long as it knows none."""
    client = MlflowClient(tracking_uri=address)
    if (experiment := client.get_experiment_by_name(name)) is None:
        return 0
    return len(client.search_runs([experiment.experiment_id], max_results=1000))


def assert_exactly_once(saved: SavedStudy, server: MLflowServer) -> None:
    """One run for the study and one for each trial, none of them RUNNING, and everything in them as in the ledger."""
    told = CliRunner().invoke(app, ["sync", str(saved.folder), "--check"])
    assert (told.exit_code, told.output) == (
        0,
        f"MLflow at {server.address} matches the ledger of study {saved.name} exactly\n",
    )
    client = MlflowClient(tracking_uri=server.address)
    experiment = client.get_experiment_by_name(saved.name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ACTIVE_ONLY, max_results=1000)
    assert sorted(run.data.tags.get("paretune.trial", "study") for run in runs) == sorted([*map(str, range(N_TRIALS)), "study"])
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}


def test_a_server_and_then_the_recorder_are_killed_and_the_server_holds_the_whole_study_at_its_end(
    server: MLflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is started again; another recorder follows the one that was killed."""

    def both_killed(meanwhile: Meanwhile) -> None:
        server.kill()
        meanwhile.search_goes_on()
        meanwhile.trials_end(4)
        meanwhile.is_missed()
        server.start()
        meanwhile.is_recorded()
        meanwhile.is_caught_up_with()
        (recorder,) = [child for child in psutil.Process().children() if "search.tracking.recorder" in child.cmdline()]
        os.kill(recorder.pid, signal.SIGKILL)
        meanwhile.search_goes_on()

    saved, said = search_with(both_killed, server, tmp_path, monkeypatch)
    assert said == []
    assert_exactly_once(saved, server)
