"""A study goes on on another machine, given the same storage. With a server and an object store: test_checkpoints.py."""

import time
from pathlib import Path

import pytest

from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage.owner import LEASE_SECONDS

from ..command_line import paretune
from ..machines import driver, essence, n_reported, searched_here, until, write_study_file


@pytest.mark.slow
def test_a_driver_elsewhere_goes_on_where_a_dead_one_ended_with_the_same_trials(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    write_study_file(here, "moved", None, epoch_seconds=0.1)
    with driver(here, "moved", elsewhere=True) as process:
        until(lambda: n_reported(here / "paretune-studies" / "moved") > 10)
        process.kill()
    cut = load(here / "paretune-studies" / "moved")
    assert cut.state is not StudyState.FINISHED
    (here / "paretune-studies").rename(there / "disk")  # the same storage, mounted elsewhere
    began = time.monotonic()
    done = paretune("resume", "disk/moved", "--back-end", "in-process", cwd=there)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began >= LEASE_SECONDS  # it was not known here whether the other one lived: it was watched
    whole = load(there / "disk" / "moved")
    assert whole.state is StudyState.FINISHED
    assert essence(whole.history) == essence(tuple(searched_here(tmp_path / "twin", "moved").trials))
    assert [report for report in whole.epochs if report.event <= cut.epochs[-1].event] == list(cut.epochs)
