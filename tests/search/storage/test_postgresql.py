"""A ledger on a real PostgreSQL server: the same searches, from several machines, through restarts; and what is refused.

The ledger's laws are in test_ledger.py, for both databases.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from search.backends.base import Order, Outcome
from search.errors import LedgerError, OutOfReach
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage import location, sql_ledger
from search.storage.address import Address
from search.storage.events import EventKind
from search.storage.location import LedgerLocation
from search.storage.postgresql import list_names
from search.storage.sql_ledger import SqlLedger, open_ledger
from search.trial import State, Trial
from search.workflows.finalize import finalize, finalized

from ..machines import driver, essence, n_reported, said, searched_here, write_study_file
from ..postgresql_server import PASSWORD, Server


@pytest.fixture(scope="module")
def mortal() -> Iterator[Server]:
    """A server that a test may stop, and leaves running as it was."""
    server = Server()
    yield server
    server.remove()


# -- one search, two databases -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, postgresql: Server) -> Path:
    """A folder in which the command has searched, with the ledger on the server."""
    folder = tmp_path_factory.mktemp("searched")
    write_study_file(folder, "both", postgresql.address())
    code, printed, complaint = said("run", "both.yaml", "--back-end", "in-process", cwd=folder)
    assert code == 0, complaint
    (folder / "printed.txt").write_text(printed + complaint)
    return folder


def test_a_search_is_the_same_on_both_databases_and_its_folder_points_at_the_server(
    tmp_path: Path, searched: Path, postgresql: Server
) -> None:
    folder = searched / "paretune-studies" / "both"
    assert json.loads((folder / "ledger.json").read_text()) == {"ledger": f"{postgresql.address()}/both"}
    assert not (folder / "ledger.db").exists()
    assert "both/ledger.json" in (searched / "printed.txt").read_text()
    searched_here(tmp_path, "both")
    here, there = load(tmp_path / "both"), load(folder)
    assert essence(here.history) == essence(there.history)
    assert here.rejections == there.rejections
    assert [(e.trial, e.epoch, e.event) for e in here.epochs] == [(e.trial, e.epoch, e.event) for e in there.epochs]
    assert there.state is StudyState.FINISHED


def test_finalizing_keeps_its_ledger_beside_the_studys(searched: Path, postgresql: Server) -> None:
    study, met = load(searched / "paretune-studies" / "both"), []

    def retrain(orders: Iterable[Order]) -> Iterator[Outcome]:
        for order in orders:
            met.append(order.number)
            Path(order.folder).mkdir(parents=True)
            yield Outcome(order.number, {"test/top1": 1.0}, np.ones(5, dtype=bool))

    members = finalize(study, n_seeds=1, retrain=retrain)
    assert finalized(study) == members
    assert met == list(range(len(study.members)))
    pointer = study.folder / "final" / "ledger.json"
    assert json.loads(pointer.read_text()) == {"ledger": f"{postgresql.address()}/both/final"}
    pointer.unlink()  # as on another machine
    assert finalize(study, n_seeds=1, retrain=retrain) == members
    assert len(met) == len(members)
    names = list_names(postgresql.address())
    assert "both" in names
    assert "both/final" not in names


def test_the_password_is_nowhere(searched: Path, postgresql: Server) -> None:
    files = [path for path in searched.rglob("*") if path.is_file()]
    assert {"printed.txt", "mlflow.db", "ledger.json", "paretune.log", "study.yaml"} <= {path.name for path in files}
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []
    tables = postgresql.execute("SELECT table_name FROM information_schema.tables WHERE table_schema = 'paretune/both'")
    assert len(tables) == 6
    for (table,) in tables:
        rows = postgresql.execute(f'SELECT row_to_json(t)::text FROM "paretune/both"."{table}" t')  # noqa: S608 - our own names
        assert not any(PASSWORD in row for (row,) in rows)


def test_an_address_with_a_password_is_refused_without_repeating_it(tmp_path: Path) -> None:
    address = f"postgresql://team:{PASSWORD}@host/team"
    plain = write_study_file(tmp_path, "t", None)
    for command in (
        ("validate", write_study_file(tmp_path, "s", address)),
        ("ls", address),
        ("validate", plain, "--set", f"ledger={address}"),
    ):
        complaint = refused(*command, cwd=tmp_path)
        assert "contains a password" in complaint
        assert "~/.pgpass" in complaint
        assert PASSWORD not in complaint


# -- several machines --------------------------------------------------------------------------------------------------


def test_from_another_machine_a_study_is_watched_and_steered_by_its_address(tmp_path: Path, postgresql: Server) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    postgresql.execute("CREATE DATABASE afar")  # its own, since it lists all that there are
    server = postgresql.address(database="afar")
    write_study_file(here, "far", server, n_trials=40, epoch_seconds=0.5)
    address = f"{server}/far"
    with driver(here, "far") as process:
        code, printed, complaint = said("ls", server, "--json", cwd=there, elsewhere=True)
        assert code == 0, complaint
        assert {"name": "far", "state": "running", "path": address} in json.loads(printed)["studies"]
        assert list(there.iterdir()) == []  # looking round leaves nothing
        code, printed, complaint = said("trials", address, "--json", cwd=there, elsewhere=True)
        assert code == 0, complaint
        running = next(trial["trial"] for trial in json.loads(printed) if trial["state"] == "RUNNING")
        assert json.loads((there / "paretune-studies" / "far" / "ledger.json").read_text()) == {"ledger": address}
        pruned = said("prune", "far", running, "--reason", "from afar", cwd=there, elsewhere=True)  # by its name, from now on
        if pruned[0]:  # it ended in the meantime
            assert "only RUNNING" in pruned[2]
        events = json.loads(said("events", "far", "--json", cwd=there, elsewhere=True)[1])
        if not pruned[0]:
            [event] = [event for event in events if event["kind"] == "pruned" and "from afar" in str(event["detail"])]
            assert event["trial"] == running
            assert "@elsewhere:" in event["who"]
        second = write_study_file(there, "far", server, n_trials=40, epoch_seconds=0.5)
        refused = said("run", second, "--back-end", "in-process", cwd=there, elsewhere=True)
        assert refused[0] == 2
        assert f"run by process {process.pid} on" in refused[2]
        assert said("front", "far", cwd=there, elsewhere=True)[0] == 0
        assert said("stop", "far", "--now", cwd=there, elsewhere=True)[0] == 0
        assert process.wait(60) == 1


def test_a_study_stays_in_the_ledger_that_it_was_made_in(tmp_path: Path, postgresql: Server) -> None:
    searched_here(tmp_path, "stays", n_trials=2)
    with pytest.raises(LedgerError, match="a ledger stays where it was created"):
        searched_here(tmp_path, "stays", postgresql.address(), n_trials=2)
    searched_here(tmp_path, "there", postgresql.address(), n_trials=2)
    with pytest.raises(LedgerError, match="a ledger stays where it was created"):
        searched_here(tmp_path, "there", postgresql.address(database="postgres"), n_trials=2)


# -- servers that die --------------------------------------------------------------------------------------------------


def test_a_server_that_dies_twice_and_comes_back_within_a_search_changes_nothing(
    tmp_path: Path, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    write_study_file(tmp_path, "dies", mortal.address(), epoch_seconds=0.1)
    folder = tmp_path / "paretune-studies" / "dies"
    codes, dies_at = [], [6, 16]  # reports
    while 0 not in codes:
        with driver(tmp_path, "dies") as process:
            while process.poll() is None:
                if dies_at and n_reported(folder) >= dies_at[0]:
                    dies_at.pop(0)
                    with open_ledger(folder) as reader:
                        before = reader.events()
                    mortal.stop()
                    mortal.start()
                    with open_ledger(folder) as reader:
                        assert reader.events()[: len(before)] == before
                threading.Event().wait(0.02)
            codes.append(process.wait())
            assert process.stderr is not None
            assert codes[-1] == 0 or "nothing that was acknowledged is lost" in process.stderr.read()
    assert not dies_at
    assert len(codes) <= 3  # 1 where it died in the middle of a transaction, and the same command goes on
    assert essence(load(folder).history) == essence(tuple(searched_here(tmp_path / "twin", "dies").trials))
    assert load(folder).state is StudyState.FINISHED


def test_a_decision_waits_for_a_server_that_is_being_started(
    tmp_path: Path, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    place = LedgerLocation(tmp_path / "s", Address(mortal.address(), "waits"))
    with closing(SqlLedger.create(place.path, address=place.address, name="waits", file={}, facts={})) as mine:
        mortal.stop()
        starting = threading.Thread(target=mortal.start)
        starting.start()
        with mine.decision() as writer:
            writer.event(EventKind.OPENED)
        starting.join()
        assert [event.kind for event in mine.events()] == ["opened"]


def test_a_server_that_stays_away_ends_the_driver_and_nothing_acknowledged_is_lost(
    tmp_path: Path, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    monkeypatch.setattr(sql_ledger, "PATIENCE_SECONDS", 0.2)
    place = LedgerLocation(tmp_path / "s", Address(mortal.address(), "away"))
    with closing(SqlLedger.create(place.path, address=place.address, name="away", file={}, facts={})) as mine:
        with mine.decision() as writer:
            trial = writer.start(Trial(0, State.RUNNING, {"method": "lora"}, 7, 300, 10))
        known = mine.events()
        mortal.stop()
        with pytest.raises(OutOfReach, match="is the server up"), mine.decision() as writer:
            writer.report(trial, 1, {"val/top1": 0.5})
        with pytest.raises(OutOfReach):
            mine.events()
        mortal.start()
        assert mine.events() == known
        with mine.decision() as writer:  # and with the server back the same driver could go on
            writer.report(trial, 1, {"val/top1": 0.5})

        def decide_on_a_dying_server() -> None:
            with mine.decision() as writer:
                writer.report(trial, 2, {"val/top1": 0.6})
                mortal.stop()
                mortal.start()

        with pytest.raises(OutOfReach):
            decide_on_a_dying_server()
    with closing(SqlLedger.open(place.path)) as reader:
        assert [report.epoch for report in reader.reports()] == [1]


def test_a_driver_that_is_frozen_within_a_decision_holds_nobody_up(
    tmp_path: Path, postgresql: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    import search.storage.postgresql as product

    monkeypatch.setattr(product, "IDLE_SECONDS", 1)
    place = LedgerLocation(tmp_path / "s", Address(postgresql.address(), "frozen"))

    def freeze(frozen: SqlLedger, second: SqlLedger) -> None:
        with frozen.decision() as writer:
            writer.event(EventKind.OPENED)
            second.claim(wait=lambda _: None)  # waits for the lock until the server ends the frozen one's session

    with closing(SqlLedger.create(place.path, address=place.address, name="s", file={}, facts={})) as frozen:
        postgresql.execute("UPDATE \"paretune/frozen\".owner SET host = 'elsewhere'")
        with closing(SqlLedger.open(place.path)) as second:
            with pytest.raises(OutOfReach):
                freeze(frozen, second)
            assert second.events() == []
            with second.decision() as writer:
                writer.event(EventKind.OPENED)
            assert not frozen.beat()


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def roles(postgresql: Server, tmp_path_factory: pytest.TempPathFactory) -> Server:
    """A study of the team's, a role that may read it, and one that may do nothing."""
    place = LedgerLocation(tmp_path_factory.mktemp("roles") / "shared", Address(postgresql.address(), "shared"))
    file = {"study": "shared", "budget": {"n_trials": 3, "epochs": 2}}
    facts = {"reference_point": [0.1, 1000], "n_classes": 10}
    made = SqlLedger.create(place.path, address=place.address, name="shared", file=file, facts=facts)
    with closing(made), made.decision() as writer:
        writer.start(Trial(0, State.RUNNING, {"method": "head_only", "optim.lr": 1e-3}, 7, 0, 10))
    for role in ("reader", "outsider"):
        postgresql.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
    postgresql.execute('GRANT USAGE ON SCHEMA "paretune/shared" TO reader')
    postgresql.execute('GRANT SELECT ON ALL TABLES IN SCHEMA "paretune/shared" TO reader')
    return postgresql


def test_who_may_only_read_reads_and_is_told_so_when_it_asks_for_more(tmp_path: Path, roles: Server) -> None:
    address = f"{roles.address('reader')}/shared"
    code, printed, complaint = said("trials", address, "--json", cwd=tmp_path)
    assert code == 0, complaint
    assert [trial["trial"] for trial in json.loads(printed)] == [0]
    refused = said("prune", "shared", 0, cwd=tmp_path)
    assert refused[0] == 2
    assert "permission denied" in refused[2]
    assert "docs/reliability.md" in refused[2]
    assert roles.execute('SELECT count(*) FROM "paretune/shared".requests') == [(0,)]


def test_who_may_nothing_is_told_what_is_missing(tmp_path: Path, roles: Server) -> None:
    made = said("run", write_study_file(tmp_path, "mine", roles.address("outsider")), "--back-end", "in-process", cwd=tmp_path)
    assert made[0] == 2
    assert "permission denied for database team" in made[2]
    assert "CREATE on the database" in made[2]
    assert "Traceback" not in made[2]
    read = said("front", f"{roles.address('outsider')}/shared", cwd=tmp_path)
    assert read[0] == 2
    assert "USAGE on the study's schema" in read[2]


def refused(*command: object, cwd: Path, **environment: str) -> str:
    code, printed, complaint = said(*command, cwd=cwd, **environment)
    assert code == 2, complaint
    assert printed.count("[") == 0  # nothing was trained
    assert "Traceback" not in complaint
    assert not list(cwd.rglob("ledger*"))
    return complaint


def test_a_wrong_password_a_wrong_name_and_a_server_that_is_away_are_told_apart(tmp_path: Path, postgresql: Server) -> None:
    run = ("run", write_study_file(tmp_path, "s", postgresql.address()), "--back-end", "in-process")
    complaint = refused(*run, cwd=tmp_path, PGPASSWORD="something else")
    assert "password authentication failed" in complaint
    assert "the password comes from PGPASSWORD or ~/.pgpass" in complaint
    assert "something else" not in complaint
    complaint = refused(*run, "--set", f"ledger={postgresql.address(database='nowhere')}", cwd=tmp_path)
    assert 'database "nowhere" does not exist' in complaint
    complaint = refused(*run, "--set", "ledger=postgresql://team@127.0.0.1:1/team", cwd=tmp_path)
    assert "is the server up" in complaint
    complaint = refused("front", f"{postgresql.address()}/unknown", cwd=tmp_path)
    assert "does not exist" in complaint
    complaint = refused("validate", write_study_file(tmp_path, "s", "mysql://host/team"), cwd=tmp_path)
    assert "s.yaml:7: ledger: " in complaint
    complaint = refused("run", write_study_file(tmp_path, "s" * 49, postgresql.address()), "--back-end", "in-process", cwd=tmp_path)
    assert "at most 48 letters" in complaint


def test_without_the_driver_one_is_told_what_to_install(tmp_path: Path, postgresql: Server) -> None:
    path = write_study_file(tmp_path, "s", postgresql.address())
    program = "import sys; sys.modules['psycopg'] = None; from search.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(path), "--back-end", "in-process"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 2
    assert "pip install 'psycopg[binary]'" in done.stderr


def test_a_server_that_does_not_wait_for_its_disk_is_refused(
    tmp_path: Path, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    mortal.execute("ALTER SYSTEM SET fsync = off", database="postgres")
    mortal.stop()
    mortal.start()
    place = LedgerLocation(tmp_path / "s", Address(mortal.address(), "fsync"))
    try:
        with pytest.raises(LedgerError, match="fsync off"):
            SqlLedger.create(place.path, address=place.address, name="fsync", file={}, facts={})
    finally:
        mortal.execute("ALTER SYSTEM RESET ALL", database="postgres")
        mortal.stop()
        mortal.start()


def test_every_commit_waits_for_the_disk_whatever_the_servers_default(
    tmp_path: Path, mortal: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    mortal.execute("ALTER SYSTEM SET synchronous_commit = off", "SELECT pg_reload_conf()", database="postgres")
    with (
        closing(location.open_database(tmp_path / "ledger.json", Address(mortal.address(), "commits"))) as there,
        there.engine.connect() as connection,
    ):
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        assert connection.exec_driver_sql("SHOW lock_timeout").scalar_one() == "30s"
        assert connection.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar_one() == "10s"
        driver = connection.connection.driver_connection
        assert driver is not None
        assert driver.info.get_parameters()["tcp_user_timeout"] == "20000"  # Linux gives a silent connection up after that


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"ledger": 3}', '{"ledger": "postgresql://u:geheim@h/d/s"}', '{"ledger": "s"}']
)
def test_a_pointer_that_leads_nowhere_is_refused(tmp_path: Path, content: str) -> None:
    pointer = tmp_path / "ledger.json"
    pointer.write_text(content)
    with pytest.raises(LedgerError, match="does not refer to a ledger") as told:
        SqlLedger.open(pointer)
    assert "geheim" not in str(told.value)


def test_machines_whose_clocks_differ_agree_on_whether_a_driver_is_at_work(tmp_path: Path, postgresql: Server) -> None:
    place = LedgerLocation(tmp_path / "s", Address(postgresql.address(), "clocks"))
    with closing(SqlLedger.create(place.path, address=place.address, name="s", file={}, facts={})):
        postgresql.execute("UPDATE \"paretune/clocks\".owner SET host = 'elsewhere'")
        program = (
            "import sys, time; from pathlib import Path; real = time.time; time.time = lambda: real() + 3600.0\n"
            "from search.storage.sql_ledger import SqlLedger; print(SqlLedger.open(Path(sys.argv[1])).owner())"
        )
        command = [sys.executable, "-c", program, str(place.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
        assert "elsewhere" in done.stdout
