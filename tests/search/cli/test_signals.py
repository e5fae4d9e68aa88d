"""Ending a search by signals: real drivers, real processes, real time."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psutil
import pytest

from search.cli.signals import RECORDER, is_recorder
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.tracking.recorder import MODULE
from search.trial import State

from ..command_line import paretune

GONE_SECONDS = 10.0  # after a signal
STUDY = """
study: s
data: {kind: synthetic, epoch_seconds: 0.3}
methods: [lora, arc, lily]
budget: {n_trials: 5, epochs: 3, max_params: 20_000}
"""


@contextmanager
def driver(folder: Path, back_end: str) -> Iterator[subprocess.Popen[str]]:
    """A real driver of the study, once the first epoch is reported."""
    (folder / "s.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "search.cli", "run", "s.yaml", "--back-end", back_end]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            deadline = time.monotonic() + 240
            while not any(event.kind == "reported" for event in events(folder)):
                assert time.monotonic() < deadline
                assert process.poll() is None, process.stderr
                threading.Event().wait(0.05)
            yield process
        finally:
            process.kill()


def events(folder: Path) -> list[Event]:
    path = folder / "paretune-studies" / "s" / "ledger.db"
    if not path.exists():
        return []
    with closing(SqlLedger.open(path)) as ledger:
        return ledger.events()


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [one for one in psutil.Process(process.pid).children(recursive=True) if one.is_running()]


def seconds_until_all_are_gone(process: subprocess.Popen[str], others: list[psutil.Process], *, since: float) -> float:
    """The recorder aside, which may need its minute."""
    recorders = [one for one in others if is_recorder(one.pid)]
    process.wait(60)
    _, alive = psutil.wait_procs([one for one in others if one not in recorders], timeout=240)
    assert alive == []
    seconds = time.monotonic() - since
    _, alive = psutil.wait_procs(recorders, timeout=90)
    assert alive == []
    return seconds


def test_the_recorder_is_recognised_by_its_module() -> None:
    assert RECORDER == MODULE


@pytest.mark.parametrize(
    ("back_end", "number"),
    [("in-process", signal.SIGHUP), ("ray", signal.SIGTERM)],
)
def test_a_signal_leaves_no_process_and_loses_nothing(tmp_path: Path, back_end: str, number: signal.Signals) -> None:
    with driver(tmp_path, back_end) as process:
        others, known, since = family(process), events(tmp_path), time.monotonic()
        process.send_signal(number)
        assert seconds_until_all_are_gone(process, others, since=since) < GONE_SECONDS
        _, complaint = process.communicate()
    assert process.returncode == 1
    assert "interrupted; nothing is lost" in complaint
    assert "Traceback" not in complaint
    assert events(tmp_path)[: len(known)] == known
    saved = load(tmp_path / "paretune-studies" / "s")
    assert saved.state is StudyState.INTERRUPTED
    assert {trial.state for trial in saved.history} <= {State.RUNNING, State.COMPLETE}


def test_a_second_signal_ends_everything_at_once_and_loses_nothing(tmp_path: Path) -> None:
    with driver(tmp_path, "ray") as process:
        others, known, since = family(process), events(tmp_path), time.monotonic()
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 1
        assert seconds_until_all_are_gone(process, others, since=since) < GONE_SECONDS
    assert events(tmp_path)[: len(known)] == known
    recorded = paretune("sync", "s", "--check", cwd=tmp_path)  # the run of the study is KILLED, not RUNNING
    assert recorded.returncode == 0, recorded.stdout
    again = paretune("resume", "s", "--back-end", "in-process", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    with closing(SqlLedger.open(tmp_path / "paretune-studies" / "s" / "ledger.db")) as ledger:
        for trial in ledger.trials():
            assert trial.state is State.COMPLETE
            assert [report.epoch for report in ledger.reports(trial=trial.number)] == [1, 2, 3]


def test_a_signal_while_ray_starts_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(STUDY)
    command = [sys.executable, "-m", "search.cli", "run", "s.yaml"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not (others := family(process)):  # Ray's first process
            assert time.monotonic() < deadline
            threading.Event().wait(0.02)
        since = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert seconds_until_all_are_gone(process, others, since=since) < GONE_SECONDS
        assert process.returncode == 1
    assert [one for one in psutil.process_iter() if _works_in(one, tmp_path)] == []


def _works_in(process: psutil.Process, folder: Path) -> bool:
    try:
        return process.cwd() == str(folder)
    except psutil.Error:
        return False


LOST = """
import os, signal, time, weakref
from search.cli.signals import interruptible
class Thing: pass
def callback(_):
    os.kill(os.getpid(), signal.SIGINT)
    for _ in range(1000): pass  # the handler runs here, where Python loses what it raises
thing = Thing()
watched = weakref.ref(thing, callback)
with interruptible():
    del thing
    time.sleep(60)
"""


def test_a_signal_where_python_loses_exceptions_ends_the_process_all_the_same() -> None:
    begun = time.monotonic()
    done = subprocess.run([sys.executable, "-c", LOST], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    assert "Exception ignored" not in done.stderr
    assert time.monotonic() - begun < 30  # not the sleep's end; by itself, not by our patience: its own traceback is printed
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")


STUCK = """
import hashlib, os, subprocess, sys
from search.cli.signals import interruptible
child = subprocess.Popen(["sleep", "600"])
with interruptible():
    while True:
        try:
            print(child.pid, flush=True)
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # half an hour without coming back to Python
        except KeyboardInterrupt:
            pass  # it came before that had begun
"""


def test_a_second_signal_ends_a_process_stuck_outside_python() -> None:
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        psutil.wait_procs([child], timeout=240)
        assert not child.is_running()


def test_a_signal_ends_a_process_stuck_outside_python_when_patience_is_at_an_end() -> None:
    stuck = STUCK.replace("interruptible()", "interruptible(patience=1.0)")
    with subprocess.Popen([sys.executable, "-c", stuck], stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        since = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 1
        assert time.monotonic() - since < GONE_SECONDS
