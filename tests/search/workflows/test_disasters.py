"""A torn write-ahead log, a full disk, a clock that is stepped back: nothing that was acknowledged is lost."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

import search
from search.backends import in_process
from search.config.loading import check
from search.errors import OutOfReach
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.study.study import Study
from search.trial import State, Trial
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from ..command_line import paretune, paretune_process
from ..mlflow_database import with_mlflow_database

# -- the last write cut at every byte ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_write_that_is_cut_at_any_byte_is_whole_or_absent_and_all_before_it_stands(tmp_path: Path) -> None:
    """As after a power cut: the ledger's file and the first bytes of its write-ahead log are all that is left.

    The log is cut at each byte of a frame's header and next to it, and at every 41st byte of its page.
    """
    whole = tmp_path / "s" / "ledger.db"
    log = whole.with_name("ledger.db-wal")
    with closing(SqlLedger.create(whole, name="s", file={}, facts={})) as ledger:
        with ledger.decision() as writer:
            trial = writer.start(Trial(0, State.RUNNING, {"method": "lora", "lora.rank": 2}, 7, 300, 10))
        before, n_before = contents(ledger), log.stat().st_size
        with ledger.decision() as writer:
            writer.finish(writer.report(trial, 1, {"val/top1": 0.5, "train/loss": 1.0}), State.COMPLETE)
        after = contents(ledger)
        kept, written = whole.read_bytes(), log.read_bytes()
    assert len(written) > n_before
    torn = tmp_path / "torn" / "ledger.db"
    torn.parent.mkdir()
    torn.write_bytes(kept)
    torn.with_name("ledger.db-wal").write_bytes(written)
    page = int.from_bytes(written[8:12])  # the log has a header of 32 bytes, and a frame one of 24
    for n_bytes in range(len(written), n_before - 1, -1):
        if (n_bytes - 32) % (24 + page) > 48 and n_bytes % 41:
            continue
        os.truncate(torn.with_name("ledger.db-wal"), n_bytes)
        torn.with_name("ledger.db-shm").unlink(missing_ok=True)
        assert rows(torn) == (rows_of(after) if n_bytes == len(written) else rows_of(before)), n_bytes
    for n_bytes in (n_before, (n_before + len(written)) // 2, len(written)):  # the same as our own reader sees it
        torn.with_name("ledger.db-shm").unlink(missing_ok=True)
        torn.write_bytes(kept)
        torn.with_name("ledger.db-wal").write_bytes(written[:n_bytes])
        with closing(SqlLedger.open(torn)) as ledger:
            assert contents(ledger) == (after if n_bytes == len(written) else before)


def contents(ledger: SqlLedger) -> tuple[list[Trial], list[Event]]:
    return ledger.trials(), ledger.events()


def rows(path: Path) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    """The states of the trials and the kinds of the events, by SQLite alone, which takes a tenth of the time."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        trials = connection.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
        return trials, connection.execute("SELECT number, kind FROM events ORDER BY number").fetchall()


def rows_of(contents: tuple[list[Trial], list[Event]]) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
    trials, events = contents
    return [(trial.number, trial.state.value) for trial in trials], [(event.number, event.kind) for event in events]


# -- a full disk -------------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[None]:
    """A real file system of a few megabytes. Mounting one needs root: a runner that says it is CI must have it."""
    if os.geteuid() != 0 and not os.environ.get("CI"):
        pytest.skip("needs root: a small tmpfs is mounted")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:  # root in a container without the right to mount: nothing that we could install
        pytest.skip(f"this machine does not let root mount a tmpfs ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


STUDY = """
study: s
data: {kind: synthetic, noise: 0.01, diverges_above_lr: 0.015}
methods: [lora, arc, lily]
budget: {n_trials: 60, epochs: 3, max_params: 20_000}
"""


def test_a_full_disk_of_the_checkpoints_fails_no_trial_and_with_room_the_search_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    budget = {"n_trials": 16, "epochs": 2, "max_params": 20_000}
    raw = {
        "study": "s",
        "data": {"kind": "synthetic"},
        "methods": ["lora", "arc"],
        "budget": budget,
        "ledger": str(tmp_path / "ledgers"),
    }
    with small_disk(disk, 1):
        (disk / "ballast").write_bytes(bytes(1_000_000))
        with pytest.raises(OutOfReach, match=r"checkpoints: .*/s/trials/\d{4}/epoch\.json cannot be written \(No space left"):
            search.run(raw | {"storage": str(disk)}, back_end="in-process")
        cut = load(tmp_path / "ledgers" / "s")
        assert {trial.state for trial in cut.history} == {State.COMPLETE, State.RUNNING}
        (disk / "ballast").unlink()
        whole = search.run(raw | {"storage": str(disk)}, back_end="in-process")
        assert [trial.state for trial in whole.history] == [State.COMPLETE] * 16


def test_a_disk_that_fills_up_ends_the_search_and_with_room_it_goes_on(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    record = f"sqlite:///{with_mlflow_database(tmp_path)}/mlflow.db"

    command = ("run", "s.yaml", "--back-end", "in-process", "--storage", "disk")

    (tmp_path / "s.yaml").write_text(STUDY)
    with small_disk(disk, 1):
        (disk / "ballast").write_bytes(bytes(600_000))
        full = paretune_process(*command, cwd=tmp_path, MLFLOW_TRACKING_URI=record)  # which could not note that it has ended
        assert full.returncode == 1, full.stderr
        assert "nothing that was acknowledged is lost" in full.stderr
        assert "Traceback" not in full.stderr
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        cut = load(disk / "s")
        assert 0 < len(cut.history) < 60
        printed = [line for line in full.stdout.splitlines() if line.startswith("[")]  # acknowledged to a person
        assert len(printed) <= sum(trial.state.finished for trial in cut.history)
        again = paretune(*command, cwd=tmp_path, MLFLOW_TRACKING_URI=record)
        assert again.returncode == 0, again.stderr
        whole = load(disk / "s")
        assert whole.state is StudyState.FINISHED
        ended = [trial for trial in cut.history if trial.state.finished]
        assert [whole.history[trial.number] for trial in ended] == ended
        with closing(SqlLedger.open(disk / "s" / "ledger.db")) as ledger:
            assert [event.number for event in ledger.events()] == list(range(len(ledger.events())))
        shutil.copytree(disk / "s", tmp_path / "copy")  # still a sound database elsewhere
    with closing(sqlite3.connect(tmp_path / "copy" / "ledger.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# -- a clock that is stepped back --------------------------------------------------------------------------------------


class Erratic:
    """A clock that is stepped back an hour at every third look, and otherwise goes on by a minute."""

    def __init__(self) -> None:
        self.time, self.n_looks = 1_790_000_000.0, 0

    def __call__(self) -> float:
        """Unix seconds."""
        self.n_looks += 1
        self.time += -3600.0 if self.n_looks % 3 == 0 else 60.0
        return self.time


def essence(study: Study) -> list[str]:
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        return [json.dumps([event.kind, event.trial, dict(event.detail)]) for event in ledger.events()]


def test_a_clock_that_is_stepped_back_changes_nothing_but_times(tmp_path: Path) -> None:
    raw = {"study": "s", "data": {"kind": "synthetic"}, "methods": ["lora", "arc"], "search": {"rungs": {"grace": 1}}}
    budget = {"n_trials": 12, "epochs": 3, "max_params": 20_000}
    steady = Study.create(check(raw | {"budget": budget, "storage": str(tmp_path / "steady")}), SyntheticSizes())
    in_process.run(steady, SyntheticTrainable())
    erratic = Study.create(
        check(raw | {"budget": budget, "storage": str(tmp_path / "erratic")}), SyntheticSizes(), now=(clock := Erratic())
    )
    in_process.run(erratic, SyntheticTrainable())
    assert clock.n_looks > 40
    assert essence(erratic) == essence(steady)
    assert [t.metrics for t in erratic.trials] == [t.metrics for t in steady.trials]
    erratic.close()
    with closing(Study.open(erratic.file, SyntheticSizes(), now=clock)) as again:
        assert again.trials == erratic.trials


def test_a_clock_that_is_stepped_back_gives_no_hours_back(tmp_path: Path) -> None:
    now = [0.0]
    raw = {"study": "s", "data": {"kind": "synthetic"}, "methods": ["lora"], "storage": str(tmp_path)}
    budget = {"n_trials": 9, "epochs": 1, "max_params": 20_000, "max_hours": 2.0}
    with closing(Study.create(check(raw | {"budget": budget}), SyntheticSizes(), now=lambda: now[0])) as study:
        for time in (3000.0, -50_000.0, -47_000.0):  # 3,000 s, back, 3,000 s
            now[0] = time
            assert study.ask() is not None
        now[0] = -45_000.0  # 2,000 s: 8,000 in all
        assert study.ask() is None
        assert study.ended == "budget.max_hours = 2 is spent"
