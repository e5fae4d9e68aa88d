"""The ledger's laws: a decision is all or nothing, there is one owner, and what was acknowledged survives."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from search.errors import LedgerError, OutOfReach, OwnedElsewhere
from search.storage import database, location, schema
from search.storage.events import EventKind
from search.storage.location import LedgerLocation
from search.storage.owner import LEASE_SECONDS
from search.storage.sql_ledger import SqlLedger
from search.trial import State, Trial

FILE = {"study": "s", "budget": {"n_trials": 3, "epochs": 2}}
FACTS = {"n_classes": 10, "backbone_params": 600_000, "max_params": 1000, "reference_point": [0.1, 1000]}


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0

    def __call__(self) -> float:
        """Unix seconds."""
        return self.time


@pytest.fixture
def clock() -> Clock:
    """Stands still until it is set."""
    return Clock()


@pytest.fixture
def ledger(place: LedgerLocation, clock: Clock) -> Iterator[SqlLedger]:
    """A new ledger, owned by this process."""
    with closing(create(place, clock)) as ledger:
        yield ledger


def create(place: LedgerLocation, clock: Clock | None = None) -> SqlLedger:
    return SqlLedger.create(place.path, address=place.address, name="s", file=FILE, facts=FACTS, now=clock)


def new_trial(number: int = 0) -> Trial:
    config = {"method": "lora", "lora.rank": 2, "optim.lr": 1e-3}
    return Trial(number, State.RUNNING, config, seed=7, adapter_params=300, head_params=10)


def start(ledger: SqlLedger, number: int = 0) -> Trial:
    with ledger.decision() as writer:
        return writer.start(new_trial(number))


@contextmanager
def another_driver(path: Path, *, when_told: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A real process that claims the ledger, writes one event after the other and prints the number of each that is durable.

    Unless it writes only `when_told`, after the first event: one for each line of input.
    """
    program = """
import sys
from pathlib import Path
from search.storage.events import EventKind
from search.storage.sql_ledger import SqlLedger
ledger = SqlLedger.open(Path(sys.argv[1]))
ledger.claim()
while True:
    with ledger.decision() as writer:
        number = writer.event(EventKind.MEASURED, 0, text="x" * 1000)
    print(number, flush=True)
    if sys.argv[2] == "when told":
        input()
"""
    both = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), "when told" if when_told else "always"], **both, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().strip().isdigit()
            yield process
        finally:
            process.kill()


def altered(path: Path, statement: str) -> None:
    """Change a ledger behind Paretune's back."""
    engine = location.open_database(path).engine
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_a_decision_is_all_or_nothing(ledger: SqlLedger) -> None:
    trial = start(ledger)
    before = (ledger.trials(), ledger.reports(), ledger.events())

    def decide_and_fail() -> None:
        with ledger.decision() as writer:
            writer.reject([({"method": "arc"}, "too large")])
            writer.finish(writer.report(trial, 1, {"val/top1": 0.5}), State.COMPLETE)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide_and_fail()
    assert (ledger.trials(), ledger.reports(), ledger.events()) == before
    start(ledger, 1)  # and the next decision goes on where the last durable one ended
    assert [event.number for event in ledger.events()] == [0, 1]


def test_an_interruption_behind_the_commit_leaves_a_ledger_that_can_be_written(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = ledger._write

    @contextmanager
    def cut() -> Iterator[sa.Connection]:
        with write() as connection:
            yield connection
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "_write", cut)
        with pytest.raises(KeyboardInterrupt):
            start(ledger)
    with ledger.decision() as writer:
        writer.event(EventKind.LEFT, reason="interrupted")
    assert [(event.number, event.kind) for event in ledger.events()] == [(0, "started"), (1, "left")]


def test_what_a_decision_writes_is_seen_only_when_it_is_done(ledger: SqlLedger) -> None:
    with closing(SqlLedger.open(ledger.path)) as reader:
        with ledger.decision() as writer:
            writer.start(new_trial())
            assert reader.trials() == []
        assert len(reader.trials()) == 1


def test_an_epoch_is_reported_once(ledger: SqlLedger) -> None:
    trial = start(ledger)
    with ledger.decision() as writer:
        writer.report(trial, 1, {"val/top1": 0.5})
    with pytest.raises(Exception, match=r"(?i)unique"), ledger.decision() as writer:
        writer.report(trial, 1, {"val/top1": 0.6})
    assert [report.metrics for report in ledger.reports()] == [{"val/top1": 0.5}]


def test_the_trial_that_a_decision_returns_is_the_trial_that_is_read_back(ledger: SqlLedger, clock: Clock) -> None:
    trial = start(ledger)
    assert [trial] == ledger.trials()
    clock.time += 1.0
    with ledger.decision() as writer:
        trial = writer.report(trial, 1, {"val/top1": 0.25, "val/loss": 2.0})
    assert [trial] == ledger.trials()
    with ledger.decision() as writer:
        trial = writer.attempt(trial)
    assert [trial] == ledger.trials()
    clock.time += 1.0
    with ledger.decision() as writer:
        trial = writer.finish(writer.report(trial, 2, {"val/top1": 0.5}), State.PRUNED, reason="by hand", rung=2)
    assert [trial] == ledger.trials()
    assert (trial.epochs, trial.n_attempts, trial.rung, trial.finished) == (2, 2, 2, clock.time)


def test_events_are_numbered_without_gaps_and_tell_the_whole_story(ledger: SqlLedger) -> None:
    with ledger.decision() as writer:
        writer.reject([({"method": "arc"}, "too large"), ({"method": "lily"}, "the same as trial 0")])
        trial = writer.start(new_trial())
    with ledger.decision() as writer:
        trial = writer.finish(writer.report(trial, 1, {"val/top1": 0.5}), State.FAILED, reason="a reason")
    events = ledger.events()
    assert [event.number for event in events] == list(range(5))
    assert [event.kind for event in events] == ["rejected", "rejected", "started", "reported", "failed"]
    assert events[0].detail == {"config": {"method": "arc"}, "reason": "too large"}
    assert events[4].detail == {"reason": "a reason"}
    assert events[2].trial == trial.number


def test_a_reader_takes_up_where_it_left_off(ledger: SqlLedger) -> None:
    trial = start(ledger)
    for epoch in (1, 2, 3):
        with ledger.decision() as writer:
            trial = writer.report(trial, epoch, {"val/top1": epoch / 10})
    events, reports = ledger.events(), ledger.reports()
    for place in range(-1, len(events)):
        assert ledger.events(after=place) == [event for event in events if event.number > place]
        assert ledger.reports(after=place) == [report for report in reports if report.event > place]


def test_numbers_that_are_not_finite_are_read_back_as_nan(ledger: SqlLedger) -> None:
    trial = start(ledger)
    with ledger.decision() as writer:
        writer.report(trial, 1, {"val/top1": 0.5, "train/loss": math.inf, "val/loss": math.nan})
    metrics = ledger.trials()[0].metrics
    assert metrics["val/top1"] == 0.5
    assert math.isnan(metrics["train/loss"])
    assert math.isnan(metrics["val/loss"])


def test_a_reason_may_hold_anything_that_a_trial_has_died_of(ledger: SqlLedger) -> None:
    """A failure that could not be written would come again at every resume."""
    first, second = start(ledger), start(ledger, 1)
    with ledger.decision() as writer:
        first = writer.finish(first, State.FAILED, reason="a byte \0, a file named caf\udce9, ☃")
        second = writer.pause(second, "\0")
    assert ledger.trials() == [first, second]
    assert first.reason == "a byte \\x00, a file named caf\\udce9, ☃"


def test_the_history_outlives_its_driver(ledger: SqlLedger) -> None:
    trial = start(ledger)
    with ledger.decision() as writer:
        writer.report(trial, 1, {"val/top1": 0.5})
    history = (ledger.study(), ledger.trials(), ledger.reports(), ledger.events())
    ledger.close()
    with closing(SqlLedger.open(ledger.path)) as again:
        assert (again.study(), again.trials(), again.reports(), again.events()) == history


# -- owners ------------------------------------------------------------------------------------------------------------


def test_a_reader_may_not_write(ledger: SqlLedger) -> None:
    with closing(SqlLedger.open(ledger.path)) as reader, pytest.raises(LedgerError, match="claim it"), reader.decision():
        pass


def test_a_second_driver_is_refused_while_the_first_lives_and_follows_its_death(ledger: SqlLedger) -> None:
    ledger.close()
    with closing(SqlLedger.open(ledger.path)) as second, another_driver(ledger.path) as first:
        with pytest.raises(OwnedElsewhere, match=f"process {first.pid} on"):
            second.claim()
        assert second.owner() is not None
        first.send_signal(signal.SIGKILL)  # and nobody has buried it yet: a zombie owns nothing
        _await_death(first.pid)
        assert second.owner() is None
        second.claim()
        start(second)


def _await_death(pid: int) -> None:
    """Wait until a child has died, without burying it."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_every_acknowledged_decision_survives_the_killing_of_the_driver(ledger: SqlLedger) -> None:
    ledger.close()
    with another_driver(ledger.path) as driver:
        assert driver.stdout is not None
        for _ in range(20):
            driver.stdout.readline()
        driver.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in driver.stdout.read().split()]
        driver.wait()
    with closing(SqlLedger.open(ledger.path)) as reader:
        numbers = [event.number for event in reader.events()]
    assert numbers == list(range(len(numbers)))
    assert numbers[-1] >= max(acknowledged, default=20)


def test_a_driver_that_could_not_give_the_study_back_leaves_it_free_to_its_own_process(
    ledger: SqlLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def full() -> Iterator[None]:
        raise OutOfReach("no space is left on the disk")
        yield

    with closing(SqlLedger.open(ledger.path)) as second:
        with pytest.raises(OwnedElsewhere, match=f"process {os.getpid()} on"):
            second.claim()
        monkeypatch.setattr(ledger, "_write", full)
        ledger.close()
        assert second.owner() is None
        second.claim()
        start(second)


def test_a_driver_that_gives_the_study_back_leaves_it_free(ledger: SqlLedger) -> None:
    ledger.close()
    with closing(SqlLedger.open(ledger.path)) as second:
        assert second.owner() is None
        second.claim()


def moved_elsewhere(ledger: SqlLedger) -> None:
    """Let the owner be one that cannot be seen from here."""
    altered(ledger.path, "UPDATE owner SET host = 'elsewhere'")


def test_an_owner_on_another_machine_lives_as_long_as_its_heart_beats(ledger: SqlLedger, clock: Clock) -> None:
    moved_elsewhere(ledger)
    clock.time -= 3600.0  # whatever the clocks say: what counts is whether the heart beats while one watches
    waited = 0.0

    def wait(seconds: float) -> None:
        nonlocal waited
        waited += seconds
        if waited >= LEASE_SECONDS - 1:
            clock.time += 1.0
            assert ledger.beat()

    with closing(SqlLedger.open(ledger.path, now=clock)) as second:
        with pytest.raises(OwnedElsewhere, match="on elsewhere"):
            second.claim(wait=wait)
        assert waited < LEASE_SECONDS
        waited = -math.inf  # the heart stands still
        spans: list[float] = []
        second.claim(wait=spans.append)
        assert sum(spans) == LEASE_SECONDS
        assert not ledger.beat()


def test_a_driver_that_was_taken_over_cannot_write(ledger: SqlLedger, clock: Clock) -> None:
    start(ledger)
    moved_elsewhere(ledger)
    with closing(SqlLedger.open(ledger.path, now=clock)) as second:
        second.claim(wait=lambda *_: None)
        with pytest.raises(OwnedElsewhere, match="taken the study over"):
            start(ledger, 1)
        assert len(second.trials()) == 1
        start(second, 1)
        ledger.close()  # the old driver's end takes nothing from the new one
        start(second, 2)


def test_a_driver_that_was_frozen_and_wakes_up_cannot_write(ledger: SqlLedger) -> None:
    """A real process, really stopped and continued."""
    ledger.close()
    with closing(SqlLedger.open(ledger.path)) as second, another_driver(ledger.path, when_told=True) as first:
        assert first.stdin is not None
        first.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, first.pid, os.WSTOPPED | os.WNOWAIT)
        with pytest.raises(OwnedElsewhere):  # on this machine it is known to live, only frozen
            second.claim()
        moved_elsewhere(ledger)
        second.claim(wait=lambda *_: None)
        n_events = len(second.events())
        first.send_signal(signal.SIGCONT)
        _, complaint = first.communicate("write\n", timeout=30)
        assert "OwnedElsewhere: another driver has taken the study over" in complaint
        assert len(second.events()) == n_events
        start(second)


def test_processes_of_one_number_on_two_machines_are_told_apart(ledger: SqlLedger) -> None:
    with closing(SqlLedger.open(ledger.path)) as second:
        assert second.owner() is not None
        altered(ledger.path, "UPDATE owner SET machine = 'another container', heartbeat = 0")
        assert second.owner() is None


# -- requests ----------------------------------------------------------------------------------------------------------


def test_a_request_is_durable_at_once_and_answered_by_the_owner_alone(ledger: SqlLedger, clock: Clock) -> None:
    start(ledger)
    start(ledger, 1)
    with closing(SqlLedger.open(ledger.path, now=clock)) as other:
        numbers = other.ask_for("prune", [0, 1], {"reason": "too slow"}, lambda *_: None)
        requests = ledger.requests(waiting=True)
        assert [(r.number, r.verb, r.trial, r.detail, r.time) for r in requests] == [
            (numbers[0], "prune", 0, {"reason": "too slow"}, clock.time),
            (numbers[1], "prune", 1, {"reason": "too slow"}, clock.time),
        ]
        with ledger.decision() as writer:
            writer.answer(requests[0])
            writer.answer(requests[1], "trial 1 has ended")
        assert other.requests(waiting=True) == []
        assert [(r.served, r.refusal) for r in other.requests()] == [(clock.time, None), (clock.time, "trial 1 has ended")]


def test_a_request_that_is_not_allowed_leaves_nothing(ledger: SqlLedger) -> None:
    start(ledger)

    def forbid(states: Mapping[int, State], n_trials: int) -> None:
        raise LedgerError(f"{dict(states)} of {n_trials} trials")

    with pytest.raises(LedgerError, match=r"\{0: <State.RUNNING: 'RUNNING'>\} of 1 trials"):
        ledger.ask_for("prune", [0, 7], {}, forbid)
    assert ledger.requests() == []


# -- older ledgers -----------------------------------------------------------------------------------------------------

SCHEMA_1 = """
CREATE TABLE study (name VARCHAR NOT NULL, uid VARCHAR NOT NULL, schema_version INTEGER NOT NULL, created FLOAT NOT NULL,
    file JSON NOT NULL, facts JSON NOT NULL, PRIMARY KEY (name));
CREATE TABLE trials (number INTEGER NOT NULL, state VARCHAR NOT NULL, config JSON NOT NULL, seed INTEGER NOT NULL,
    adapter_params INTEGER NOT NULL, head_params INTEGER NOT NULL, reason VARCHAR, rung INTEGER, n_attempts INTEGER NOT NULL,
    started FLOAT NOT NULL, finished FLOAT, PRIMARY KEY (number));
CREATE TABLE events (number INTEGER NOT NULL, time FLOAT NOT NULL, kind VARCHAR NOT NULL, trial INTEGER, who VARCHAR NOT NULL,
    detail JSON NOT NULL, PRIMARY KEY (number));
CREATE TABLE owner (token VARCHAR NOT NULL, host VARCHAR NOT NULL, pid INTEGER NOT NULL, process_start VARCHAR NOT NULL,
    heartbeat FLOAT NOT NULL, PRIMARY KEY (token));
CREATE TABLE reports (trial INTEGER NOT NULL, epoch INTEGER NOT NULL, event INTEGER NOT NULL, metrics JSON NOT NULL,
    PRIMARY KEY (trial, epoch), FOREIGN KEY(trial) REFERENCES trials (number), UNIQUE (event));
INSERT INTO study VALUES ('s', 'u', 1, 5.0, '{"study": "s", "budget": {"n_trials": 3, "epochs": 2}}', '{"max_params": 9}');
INSERT INTO trials VALUES (0, 'COMPLETE', '{"method": "head_only"}', 7, 0, 10, NULL, NULL, 1, 6.0, 8.0);
INSERT INTO trials VALUES (1, 'RUNNING', '{"method": "lora"}', 8, 300, 10, NULL, NULL, 1, 9.0, NULL);
INSERT INTO events VALUES (0, 6.0, 'started', 0, 'me@here:1', '{"config": {"method": "head_only"}}');
INSERT INTO events VALUES (1, 7.0, 'reported', 0, 'me@here:1', '{"epoch": 1}');
INSERT INTO events VALUES (2, 8.0, 'completed', 0, 'me@here:1', '{}');
INSERT INTO events VALUES (3, 9.0, 'started', 1, 'me@here:1', '{"config": {"method": "lora"}}');
INSERT INTO reports VALUES (0, 1, 1, '{"val/top1": 0.5}');
INSERT INTO owner VALUES ('t', 'elsewhere', 1, '17', 1.0);
"""


@pytest.fixture
def ledger_of_schema_1(place: LedgerLocation) -> Path:
    """A ledger as the first Paretune wrote it, or would have."""

    def fill(connection: sa.Connection) -> None:
        for statement in SCHEMA_1.split(";\n"):
            connection.exec_driver_sql(statement.strip() or "SELECT 1")

    with closing(location.open_database(place.path, place.address)) as made:
        made.create(fill)
    return place.path


def dump_database(path: Path) -> dict[str, tuple[set[str], list[tuple[Any, ...]]]]:
    """Of each table the columns and the rows, and the bytes of a file."""
    engine, tables = location.open_database(path).engine, sa.MetaData()
    with engine.connect() as connection:
        tables.reflect(connection)
        rows = {name: [tuple(row) for row in connection.execute(sa.select(table))] for name, table in tables.tables.items()}
    engine.dispose()
    held = {name: (set(table.columns.keys()), rows[name]) for name, table in tables.tables.items()}
    return held | {"file": (set(), [(path.read_bytes(),)])}


def columns(path: Path) -> dict[str, set[str]]:
    return {name: columns for name, (columns, _) in dump_database(path).items()}


def test_an_older_ledger_is_read_as_it_would_be_migrated_and_left_as_it_is(ledger_of_schema_1: Path) -> None:
    before = dump_database(ledger_of_schema_1)
    with closing(SqlLedger.open(ledger_of_schema_1)) as reader:
        states = [(trial.number, trial.state, trial.epochs, trial.extends) for trial in reader.trials()]
        assert states == [(0, State.COMPLETE, 1, None), (1, State.RUNNING, 0, None)]
        assert [event.kind for event in reader.events()] == ["started", "reported", "completed", "started"]
        assert reader.study().budget == {"n_trials": 3, "epochs": 2}
        assert reader.requests() == []
        with pytest.raises(LedgerError, match="paretune resume"):
            reader.ask_for("prune", [1], {}, lambda *_: None)
    assert dump_database(ledger_of_schema_1) == before


def test_an_older_ledger_is_migrated_when_it_is_claimed_and_nothing_is_lost(
    ledger_of_schema_1: Path, place: LedgerLocation, clock: Clock
) -> None:
    with closing(SqlLedger.open(ledger_of_schema_1, now=clock)) as ledger:
        read = (ledger.study(), ledger.trials(), ledger.reports(), ledger.events())
        ledger.claim(wait=lambda *_: None)
        assert (ledger.study(), ledger.trials(), ledger.reports(), ledger.events()) == read
        with ledger.decision() as writer:
            assert writer.event(EventKind.OPENED) == 4
        ledger.ask_for("prune", [1], {}, lambda *_: None)
        assert len(ledger.requests(waiting=True)) == 1
    with closing(create(LedgerLocation(place.folder / "new", place.address and place.address.final()))) as new:
        assert columns(ledger_of_schema_1) == columns(new.path)


def test_an_older_ledger_that_is_migrated_while_it_is_opened_is_read_as_it_is_then(
    ledger_of_schema_1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type(SqlLedger(ledger_of_schema_1)._database)
    copy = kind.copy_in_memory

    def migrate_first(read: database.Database) -> sa.Engine:
        with closing(SqlLedger(ledger_of_schema_1)) as driver:
            driver.claim(wait=lambda *_: None)
        return copy(read)

    monkeypatch.setattr(kind, "copy_in_memory", migrate_first)
    with closing(SqlLedger.open(ledger_of_schema_1)) as reader:
        assert [trial.number for trial in reader.trials()] == [0, 1]
        assert reader.requests() == []


def test_a_migration_that_is_cut_off_leaves_the_old_ledger(ledger_of_schema_1: Path) -> None:
    altered(
        ledger_of_schema_1, "CREATE TABLE requests (number INTEGER)"
    )  # the last step of the migration will find its table taken
    with pytest.raises(LedgerError, match=r"older ledger that cannot be migrated \(table requests already exists\)"):
        SqlLedger.open(ledger_of_schema_1)
    with closing(SqlLedger(ledger_of_schema_1)) as ledger, pytest.raises(Exception, match="already exists"):
        ledger.claim(wait=lambda *_: None)
    assert "extends" not in columns(ledger_of_schema_1)["trials"]
    assert dump_database(ledger_of_schema_1)["study"][1][0][2] == 1


# -- databases and files -------------------------------------------------------------------------------------------------


def test_a_ledger_is_made_once(ledger: SqlLedger) -> None:
    with pytest.raises(LedgerError, match="exists already"):
        SqlLedger.create(ledger.path, name="s", file=FILE, facts=FACTS)


def test_of_drivers_that_make_one_study_at_once_one_succeeds(place: LedgerLocation) -> None:
    together = threading.Barrier(6)
    outcomes: list[object] = []

    def make() -> None:
        together.wait()
        try:
            outcomes.append(create(place))
        except Exception as error:
            outcomes.append(error)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = [outcome for outcome in outcomes if isinstance(outcome, SqlLedger)]
    assert len(made) == 1
    assert all(isinstance(outcome, LedgerError) for outcome in outcomes if outcome not in made)
    assert [entry.name for entry in place.folder.iterdir() if entry.name.startswith(".")] == []
    made[0].close()


def test_a_ledger_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="does not exist"):
        SqlLedger.open(tmp_path / "ledger.db")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_of_a_newer_paretune_is_refused(ledger: SqlLedger) -> None:
    ledger.close()
    altered(ledger.path, f"UPDATE study SET schema_version = {schema.VERSION + 1}")  # noqa: S608 - a number
    with pytest.raises(LedgerError, match="use a newer Paretune"):
        SqlLedger.open(ledger.path)


@pytest.mark.parametrize(("version", "needed"), [("9.1.0", "Paretune 9.1.0 or a later one"), (None, "a newer Paretune")])
def test_an_event_that_is_not_known_stops_a_replay_with_the_version_that_is_needed(
    ledger: SqlLedger, version: str | None, needed: str
) -> None:
    with ledger.decision() as writer:
        writer.event(EventKind.OPENED, **({} if version is None else {"version": version}))
        number = writer.event(EventKind.OPENED)
    ledger.close()
    altered(ledger.path, f"UPDATE events SET kind = 'teleported' WHERE number = {number}")  # noqa: S608 - a number
    with closing(SqlLedger.open(ledger.path)) as reader, pytest.raises(LedgerError, match=f"'teleported'.*use {needed}"):
        reader.events()


@pytest.mark.parametrize("content", [b"", b"not a database, and long enough to have a header" * 100, json.dumps(FILE).encode()])
def test_a_file_that_is_no_ledger_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="not a readable ledger"):
        SqlLedger.open(path)


def test_a_damaged_ledger_is_refused(tmp_path: Path) -> None:
    path = LedgerLocation(tmp_path).path
    create(LedgerLocation(tmp_path)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError, match="not a readable ledger"):
        SqlLedger.open(path)


def test_a_folder_is_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="not a readable ledger"):
        SqlLedger.open(tmp_path)
