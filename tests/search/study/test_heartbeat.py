"""The thread beside a driver, while the driver's own thread does something else for long."""

import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from search.storage.owner import LEASE_SECONDS
from search.storage.sql_ledger import SqlLedger
from search.study import user_requests
from trainables.protocol import STOP_FLAG

from ..studies import new_study

GOOD = {"val/top1": 0.5}


def seconds_until(true: Callable[[], object]) -> float:
    """A bounded wait for something real."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < 60
        threading.Event().wait(0.02)
    return time.monotonic() - begun


def heartbeat(ledger: SqlLedger) -> float:
    with ledger._reading.connect() as connection:
        return float(connection.execute(sa.text("SELECT heartbeat FROM owner")).scalar_one())


@pytest.mark.slow
def test_the_heart_beats_within_the_lease_while_the_driver_is_busy(tmp_path: Path) -> None:
    with closing(new_study(tmp_path)) as study, closing(SqlLedger.open(study.folder / "ledger.db")) as ledger, study.heartbeat():
        for _ in range(2):
            before = heartbeat(ledger)
            assert seconds_until(lambda: heartbeat(ledger) != before) < LEASE_SECONDS  # noqa: B023 - called at once


def test_flags_are_raised_while_the_driver_is_busy_and_the_rest_is_left_to_it(tmp_path: Path) -> None:
    with closing(new_study(tmp_path)) as study:
        for number in (0, 1):
            study.ask()
            study.report(number, 1, GOOD)
        before = study.trials
        with study.heartbeat():
            user_requests.write_requests(study.folder, "prune", [1], {})
            seconds_until((study.checkpoint_folder(1) / STOP_FLAG).exists)
            assert not (study.checkpoint_folder(0) / STOP_FLAG).exists()
            user_requests.write_requests(study.folder, "stop", [], {"now": True})
            seconds_until((study.checkpoint_folder(0) / STOP_FLAG).exists)
            assert study.trials == before
            assert study.stopping is None
        study.handle_requests()
        assert study.trials[1].reason == "pruned by a user"


def test_an_attended_driver_looks_at_what_is_asked_of_it_only_when_something_is(tmp_path: Path) -> None:
    with closing(new_study(tmp_path)) as study:
        study.ask()
        with study.heartbeat():
            study.handle_requests()  # nobody has looked yet
            looks: list[int] = []
            driver = threading.get_ident()
            sa.event.listen(sa.Engine, "before_cursor_execute", record := lambda *_: looks.append(threading.get_ident()))
            try:
                for _ in range(100):
                    study.handle_requests()
                assert driver not in looks
                user_requests.write_requests(study.folder, "prune", [0], {})
                seconds_until(lambda: study.handle_requests() or study.trials[0].reason)
            finally:
                sa.event.remove(sa.Engine, "before_cursor_execute", record)
        assert study.trials[0].reason == "pruned by a user"


@pytest.mark.slow
def test_a_driver_that_was_taken_over_stops_beating(tmp_path: Path) -> None:
    with closing(new_study(tmp_path)) as study, closing(SqlLedger.open(study.folder / "ledger.db")) as ledger, study.heartbeat():
        with ledger._writing.begin() as connection:
            connection.execute(sa.text("UPDATE owner SET token = 'another', heartbeat = 5"))
        names = {"paretune-attendant"}
        seconds_until(lambda: not names & {thread.name for thread in threading.enumerate()})
        assert heartbeat(ledger) == 5.0
