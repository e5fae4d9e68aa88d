"""A study as a job of a real cluster: submitted, watched, pruned, its driver killed, resumed, read. All from outside, by HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from search.results.saved_study import load
from search.storage.sql_ledger import SqlLedger
from search.trial import State

from ..own_methods import GAIN
from ..search.mlflow_database import with_mlflow_database
from .conftest import Head
from .watching import n_at_work, sleeping, wait_until


def test_a_study_with_a_method_of_the_user_is_searched_and_later_commands_find_the_method(head: Head, tmp_path: Path) -> None:
    study = {"study": "own", "data": {"kind": "digits"}, "methods": ["./gain.py"], "budget": {"n_trials": 2, "epochs": 1}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(study))
    (tmp_path / "gain.py").write_text(GAIN)
    submitted = head.paretune("submit", str(tmp_path / "own.yaml"), "--storage", str(head.storage), "-f")
    assert submitted.returncode == 0, submitted.stdout + submitted.stderr
    (tmp_path / "gain.py").unlink()
    assert [(t.method, t.state) for t in load(head.storage / "own").history][1:] == [("gain", State.COMPLETE)]
    assert "identical to the last bit" in asked(head, "rerun", "own", "1")


def test_a_study_is_submitted_watched_pruned_killed_and_resumed(head: Head) -> None:
    folder = head.storage / "flowers"
    (head.storage / "flowers.yaml").write_text(yaml.safe_dump(sleeping("flowers", 3, 10, 0.5)))
    command = ("submit", str(head.storage / "flowers.yaml"), "--storage", str(head.storage))

    submitted = head.paretune(*command)
    assert submitted.returncode == 0, submitted.stderr
    assert "flowers-1 submitted" in submitted.stdout
    assert "Traceback" not in submitted.stderr

    wait_until(lambda: drivers(head))
    for driver in drivers(head):
        driver.suspend()  # before it has made the study
    assert asked(head, "status", "flowers").startswith("flowers is starting; flowers-1 is RUNNING")
    too_early = head.paretune("front", "flowers")
    assert too_early.returncode == 2
    assert "flowers is starting; flowers-1 is RUNNING and has not made the study yet" in too_early.stderr
    assert [one["job"] for one in json.loads(asked(head, "ls", "--json"))["studies"] if one["name"] == "flowers"] == ["flowers-1"]
    watching = head.beginning("status", "flowers", "--watch")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("flowers is starting")
    for driver in drivers(head):
        driver.resume()

    again = head.paretune(*command)
    assert again.returncode == 2
    assert "flowers-1 is still running flowers" in again.stderr

    wait_until(lambda: n_at_work(folder) > 0)
    for worker in trial_workers(head):
        worker.suspend()  # or a small search would be over before we have looked at it
    seen = json.loads(asked(head, "status", "flowers", "--json"))
    assert seen["state"] == "RUNNING"
    assert 1 <= seen["slots_busy"] <= 2

    running = next(trial.number for trial in reversed(load(folder).history) if trial.state is State.RUNNING)
    asked(head, "prune", "flowers", str(running), "--reason", "too slow")
    ended = load(folder).history[running]
    assert ended.state is State.PRUNED
    assert "too slow" in str(ended.reason)

    before = load(folder)
    os.kill(driver_of(folder), signal.SIGKILL)
    for worker in trial_workers(head):
        worker.resume()
    acknowledged = {(r.trial, r.epoch): dict(r.metrics) for r in before.epochs}
    watched, _ = watching.communicate(timeout=240)
    assert watching.returncode == 0
    assert re.search("flowers, RUNNING.*flowers, INTERRUPTED", watched, re.DOTALL), watched

    wait_until(lambda: "flowers-2 submitted" in head.paretune("resume", "flowers").stdout)
    followed = head.paretune("logs", "flowers", "--follow")
    assert followed.returncode == 0, followed.stdout + followed.stderr
    assert "Hypervolume" in followed.stdout

    after = load(folder)
    assert after.state.value == "FINISHED"
    assert len(after.history) == 3
    kept = {(r.trial, r.epoch): dict(r.metrics) for r in after.epochs}
    assert acknowledged.items() <= kept.items()


def test_a_command_about_a_study_that_the_cluster_does_not_know_is_refused(head: Head) -> None:
    done = head.paretune("front", "nobody")
    assert done.returncode == 2
    assert "has no job of a study nobody" in done.stderr


def test_without_the_token_the_cluster_refuses_us(head: Head) -> None:
    stranger = Head(head.address, head.environment | {"RAY_AUTH_TOKEN_PATH": "/dev/null"}, head.storage)
    done = stranger.paretune("front", "flowers")
    assert done.returncode == 2
    assert "refuses access" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_first_submit_of_the_page_works_as_it_is_written(head: Head, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    section = page.partition("## A first submit in five minutes\n")[2].partition("\n## ")[0]
    commands = re.findall("^    (.+)$", section, re.MULTILINE)
    start = next(command for command in commands if command.startswith("ray start --head"))
    assert commands.index(start) > next(i for i, one in enumerate(commands) if one.startswith("export RAY_AUTH_MODE=token"))
    commands.remove(start)  # this test's head, with the token that the first command would have made
    script = "\n".join(commands).replace("http://127.0.0.1:8265", head.address)
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    shutil.copy(head.environment["RAY_AUTH_TOKEN_PATH"], token)
    with_mlflow_database(tmp_path / "paretune-studies")
    environment = {name: value for name, value in head.environment.items() if not name.startswith(("RAY_", "PARETUNE_"))}
    command = ["bash", "-e", "-u", "-o", "pipefail", "-c", script]
    environment |= {"HOME": str(tmp_path), "COLUMNS": "200"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"good +node .*sees .*paretune-studies", done.stdout)
    assert not re.search(r"^bad ", done.stdout, re.MULTILINE)
    assert "Hypervolume" in done.stdout.partition("digits-1 submitted")[2]
    assert re.search(r"digits +digits-1 +succeeded", done.stdout)


def asked(head: Head, *words: str) -> str:
    done = head.paretune(*words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def trial_workers(head: Head) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(head.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error, IndexError):
            if process.cmdline()[0].startswith(("ray::TuneTrial", "ray::ResourceTrainable")):
                found.append(process)
    return found


def drivers(head: Head) -> list[psutil.Process]:
    """The processes that run studies as jobs."""
    found = []
    for process in psutil.Process(head.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:4] == ["-m", "search.cli", "run"]:
                found.append(process)
    return found


def driver_of(folder: Any) -> int:
    ledger = SqlLedger.open(folder / "ledger.db")
    try:
        owner = ledger.owner()
    finally:
        ledger.close()
    assert owner is not None
    return int(owner.split()[1])


@pytest.mark.parametrize(
    ("address", "law"),
    [
        ("head:8265", "give the address of the cluster's dashboard"),
        ("http://127.0.0.1:1", "cannot be reached"),
    ],
)
def test_an_address_that_is_none_is_said(head: Head, address: str, law: str) -> None:
    nowhere = Head(address, head.environment | {"PARETUNE_ADDRESS": address}, head.storage)
    done = nowhere.paretune("front", "flowers")
    assert done.returncode == 2
    assert law in done.stderr


@pytest.mark.parametrize("command", [("logs", "flowers"), ("doctor", "--storage", "/studies")])
def test_an_address_may_stand_in_front_of_any_command(head: Head, command: tuple[str, ...]) -> None:
    unnamed = {name: value for name, value in head.environment.items() if name != "PARETUNE_ADDRESS"}
    done = Head("", unnamed, head.storage).paretune("--address", "http://127.0.0.1:1", *command)
    assert done.returncode == 2
    assert "http://127.0.0.1:1 cannot be reached" in done.stderr
