"""What a person does to a study while it runs: real requests from another process, real drivers that obey."""

import getpass
import io
import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import pytest

from search.backends import in_process, ray_tune
from search.cli.progress import Progress
from search.cli.status import show_status
from search.cli.terminal import Terminal
from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage import checkpoints
from search.storage.sql_ledger import SqlLedger
from search.study import user_requests
from search.study.study import Stopping, Study
from search.trial import Decision, State
from trainables import folder
from trainables.protocol import STOP_FLAG
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable

from .. import studies
from ..command_line import paretune
from ..studies import next_trial

GOOD = {"val/top1": 0.5, "val/loss": 1.0, "train/loss": 1.0}

study_file = partial(studies.study_file, budget={"n_trials": 6, "epochs": 3, "max_params": 20_000})


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    """A new study with trials 0 and 1 on workers, after one epoch each."""
    with closing(Study.create(study_file(tmp_path), SyntheticSizes())) as study:
        for number in (0, 1):
            study.ask()
            study.report(number, 1, GOOD)
        yield study


def ask(study: Study, verb: str, *numbers: int, **detail: object) -> None:
    user_requests.write_requests(study.folder, verb, numbers, detail)
    study.handle_requests()


def states(study: Study) -> list[State]:
    return [trial.state for trial in study.trials]


def flagged(study: Study, number: int) -> bool:
    return (study.checkpoint_folder(number) / STOP_FLAG).exists()


# -- the study obeys ---------------------------------------------------------------------------------------------------


def test_the_flag_that_a_driver_raises_is_the_one_that_a_worker_looks_for() -> None:
    assert checkpoints.FLAG == STOP_FLAG
    assert checkpoints.FENCE == folder.FENCE


def test_a_trial_pruned_by_hand_is_pruned_with_the_reason_in_the_name_of_who_asked(study: Study) -> None:
    ask(study, "prune", 1, reason="looks bad")
    assert states(study) == [State.RUNNING, State.PRUNED]
    assert flagged(study, 1)
    assert not flagged(study, 0)
    assert study.report(1, 2, GOOD) is Decision.STOP
    study.worker_gone(1)
    assert not flagged(study, 1)
    assert study.trials[1].reason == "pruned by a user: looks bad"
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        assert ledger.trials() == study.trials
        assert [(e.kind, e.trial) for e in ledger.events()][-1] == ("pruned", 1)
        assert ledger.events()[-1].who == ledger.requests()[0].who
        assert ledger.requests()[0].served is not None


def test_a_paused_trial_gives_up_its_slot_and_goes_on_before_anything_new(study: Study) -> None:
    ask(study, "pause", 0)
    assert states(study) == [State.PAUSED, State.RUNNING]
    study.worker_gone(0)
    new = next_trial(study)
    assert new.number == 2
    ask(study, "unpause", 0)
    again = next_trial(study)
    assert (again.number, again.epochs, again.n_attempts) == (0, 1, 2)
    assert study.report(0, 2, GOOD) is Decision.CONTINUE


def test_a_trial_unpaused_before_its_worker_has_left_simply_goes_on(study: Study) -> None:
    ask(study, "pause", 0)
    ask(study, "unpause", 0)
    assert not flagged(study, 0)
    assert study.report(0, 2, GOOD) is Decision.CONTINUE
    next_one = next_trial(study)
    assert next_one.number == 2  # trial 0 is not given to a second worker


def test_a_worker_that_stopped_for_a_pause_that_was_lifted_leaves_its_trial_to_the_next(study: Study) -> None:
    ask(study, "pause", 0)
    ask(study, "unpause", 0)
    study.worker_gone(0)  # it had seen the flag already
    again = next_trial(study)
    assert again.number == 0


def test_a_paused_study_starts_nothing_new_until_it_is_unpaused(study: Study) -> None:
    ask(study, "pause")
    assert study.is_paused
    assert study.ask() is None
    assert study.report(0, 2, GOOD) is Decision.CONTINUE  # what runs goes on
    ask(study, "unpause")
    assert not study.is_paused
    assert study.ask() is not None


def test_pauses_outlive_the_driver(study: Study) -> None:
    ask(study, "pause", 1)
    ask(study, "pause")
    study.close()
    with closing(Study.open(study.file, SyntheticSizes())) as again:
        assert states(again) == [State.RUNNING, State.PAUSED]
        resumed = next_trial(again)
        assert resumed.number == 0
        assert again.ask() is None
        assert again.is_paused


def test_everything_that_shows_a_study_says_that_it_is_paused_by_whom_and_what_ends_it(study: Study) -> None:
    ask(study, "pause", 1)
    assert study.waits_for is None  # a paused trial is no paused study
    ask(study, "pause", reason="for the weekend")
    told = rf"paused by {getpass.getuser()} since \d\d:\d\d \(for the weekend\); paretune unpause {study.file.study}"
    assert re.fullmatch(told, study.waits_for or "")
    assert re.fullmatch(told, show_status(study.folder)["paused"])
    listed = paretune("ls", cwd=study.folder.parent.parent, PARETUNE_STORAGE=str(study.folder.parent))
    assert re.search(rf"{study.file.study} +running, paused ", listed.stdout)
    study.close()
    with closing(Study.open(study.file, SyntheticSizes())) as again:
        shown = io.StringIO()
        with Progress(Terminal(file=shown))(again, "2 trials at a time", lambda: None):
            until(lambda: "paused by" in shown.getvalue())
        assert " left" not in shown.getvalue()
        ask(again, "unpause")
        assert again.waits_for is None
        assert "paused" not in show_status(study.folder)


def test_a_request_that_its_driver_did_not_live_to_see_is_carried_out_by_the_next(study: Study) -> None:
    user_requests.write_requests(study.folder, "prune", [1], {})
    study.close()
    with closing(Study.open(study.file, SyntheticSizes())) as again:
        again.handle_requests()
        assert states(again) == [State.RUNNING, State.PRUNED]


@pytest.mark.parametrize(
    ("verb", "number", "law"),
    [
        ("prune", 7, "no trial 7: this study has trials 0 to 1"),
        ("pause", 1, "cannot pause trial 1: it is COMPLETE (only RUNNING trials can be paused)"),
        ("prune", 1, "cannot prune trial 1: it is COMPLETE (only RUNNING or PAUSED trials can be pruned)"),
        ("unpause", 0, "cannot unpause trial 0: it is RUNNING (only PAUSED trials can be unpaused)"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(study: Study, verb: str, number: int, law: str) -> None:
    for epoch in (2, 3):
        study.report(1, epoch, GOOD)
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        before = (ledger.trials(), ledger.events())
        with pytest.raises(user_requests.Refused, match=re.escape(law)):
            user_requests.write_requests(study.folder, verb, [number] if verb == "unpause" else [0, number], {})
        study.handle_requests()
        assert (ledger.trials(), ledger.events()) == before


def test_a_trial_that_ends_before_its_request_is_seen_is_left_as_it_ended(study: Study) -> None:
    user_requests.write_requests(study.folder, "prune", [1], {})
    for epoch in (2, 3):
        study.report(1, epoch, GOOD)
    study.handle_requests()
    assert states(study)[1] is State.COMPLETE
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        assert str(ledger.requests()[0].refusal).startswith("cannot prune trial 1: it is COMPLETE")


@pytest.mark.parametrize("now", [False, True])
def test_a_stopped_study_starts_nothing_and_leaves_what_runs_only_when_told_now(study: Study, now: bool) -> None:
    ask(study, "stop", now=now)
    assert study.stopping is (Stopping.NOW if now else Stopping.WHEN_IDLE)
    assert study.ask() is None
    assert [flagged(study, number) for number in (0, 1)] == [now, now]
    assert study.report(0, 2, GOOD) is (Decision.STOP if now else Decision.CONTINUE)
    study.close()
    with closing(Study.open(study.file, SyntheticSizes())) as again:
        resumed = next_trial(again)
        assert (resumed.number, resumed.epochs) == (0, 2)


def test_wanted_are_the_trials_that_run_and_those_that_may_still_start(study: Study) -> None:
    assert study.n_wanted() == 6  # two at work, four of the budget
    ask(study, "pause", 1)
    assert study.n_wanted() == 5
    ask(study, "pause")
    assert study.n_wanted() == 1
    ask(study, "unpause")
    study.report(0, 2, GOOD)
    study.report(0, 3, GOOD)
    assert study.n_wanted() == 4  # it is complete
    ask(study, "unpause", 1)
    ask(study, "stop")
    assert study.n_wanted() == 1
    ask(study, "stop", now=True)
    assert study.n_wanted() == 0


def test_where_no_driver_runs_the_command_carries_it_out_itself(study: Study) -> None:
    study.close()
    numbers = user_requests.write_requests(study.folder, "prune", [0], {"reason": "enough"})
    answers = user_requests.read_answers(study.folder, numbers)
    assert answers is not None
    assert [answer.refusal for answer in answers] == [None]
    assert load(study.folder).history[0].reason == "pruned by a user: enough"
    with pytest.raises(user_requests.Refused, match="no driver is running the study: there is nothing to stop"):
        user_requests.write_requests(study.folder, "stop", [], {})


# -- drivers obey ------------------------------------------------------------------------------------------------------


def until(true: Callable[[], object], seconds: float = 60.0) -> None:
    """A bounded wait for something real."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.05)


def command(*arguments: str, cwd: Path) -> list[str]:
    return [sys.executable, "-m", "search.cli", *arguments, "--storage", str(cwd)]


SLOW = """
study: slow
data: {kind: synthetic, epoch_seconds: 20}
methods: [lora, arc, lily]
budget: {n_trials: 3, epochs: 2, max_params: 20_000}
"""


@contextmanager
def driver(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A real driver of a study whose epochs take 20 seconds, in 20 batches; at work on trial 0."""
    (folder / "slow.yaml").write_text(SLOW)
    run = command("run", str(folder / "slow.yaml"), "--back-end", "in-process", cwd=folder)
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            until(lambda: (folder / "slow" / "ledger.db").exists() and load(folder / "slow").history)
            yield process
        finally:
            process.kill()


def said(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments, cwd=cwd), capture_output=True, text=True, timeout=240, check=False)


def test_from_another_terminal_a_trial_is_pruned_within_an_epoch_of_20_seconds(tmp_path: Path) -> None:
    with driver(tmp_path) as process:
        done = said("prune", "slow", "0", "--reason", "by the way", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "slow: pruned trial 0\n"), done.stderr
        until(lambda: len(load(tmp_path / "slow").history) == 2)  # the slot is free
        with closing(SqlLedger.open(tmp_path / "slow" / "ledger.db")) as ledger:
            asked = ledger.requests()[0].time
            times = {(event.kind, event.trial): event.time for event in ledger.events()}
        assert times["pruned", 0] - asked < 10.0  # half the time of an epoch; measured: 1.5
        assert times["started", 1] - asked < 10.0
        refused = said("prune", "slow", "0", "1", cwd=tmp_path)
        assert refused.returncode == 2
        assert "trial 0: it is PRUNED" in refused.stderr
        assert load(tmp_path / "slow").history[1].state is State.RUNNING
        assert said("stop", "slow", "--now", cwd=tmp_path).returncode == 0
        _, complaint = process.communicate(timeout=240)
        assert process.returncode == 1
        assert "paretune resume slow" in complaint
        assert "Traceback" not in complaint
    saved = load(tmp_path / "slow")
    assert [trial.state for trial in saved.history] == [State.PRUNED, State.RUNNING]
    assert saved.state is StudyState.INTERRUPTED
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as mlflow:
        reason = "SELECT status, value FROM runs JOIN tags USING (run_uuid) WHERE key = 'paretune.reason'"
        assert mlflow.execute(reason).fetchall() == [("KILLED", "pruned by a user: by the way")]


@contextmanager
def beside(study: Study, interfere: Callable[[], None]) -> Iterator[None]:
    """Do something beside a driver in this process. If it goes wrong the driver is told to stop, and the reason is raised here."""
    problems: list[BaseException] = []

    def try_it() -> None:
        try:
            interfere()
        except BaseException as problem:
            problems.append(problem)
            user_requests.write_requests(study.folder, "stop", [], {"now": True})

    thread = threading.Thread(target=try_it)
    thread.start()
    yield
    thread.join(60)
    if problems:
        raise problems[0]


@pytest.mark.usefixtures("embedded_ray")
def test_a_search_that_has_no_room_for_any_trial_can_be_stopped(tmp_path: Path) -> None:
    study = Study.create(study_file(tmp_path), SyntheticSizes())
    with beside(study, lambda: user_requests.write_requests(study.folder, "stop", [], {})):
        ray_tune.run(study, n_slots=0)
    assert study.stopping is Stopping.WHEN_IDLE
    assert not study.trials


@pytest.mark.usefixtures("embedded_ray")
def test_ray_prunes_pauses_and_unpauses_running_trials_and_frees_their_slots(tmp_path: Path) -> None:
    slow = {"kind": "synthetic", "epoch_seconds": 1.0}
    study = Study.create(
        study_file(tmp_path, data=slow, budget={"n_trials": 5, "epochs": 2, "max_params": 20_000}), SyntheticSizes()
    )

    def interfere() -> None:
        until(lambda: all(trial.epochs for trial in study.trials[:2]) and len(study.trials) == 2)
        user_requests.write_requests(study.folder, "prune", [0], {"reason": "enough"})
        user_requests.write_requests(study.folder, "pause", [1], {})
        until(lambda: len(study.trials) == 4)  # both slots were free for others
        user_requests.write_requests(study.folder, "unpause", [1], {})

    with beside(study, interfere):
        ray_tune.run(study, n_slots=2)
    assert states(study) == [State.PRUNED, *[State.COMPLETE] * 4]
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        order = [(event.kind, event.trial) for event in ledger.events() if event.kind != "reported"]
    assert order.index(("resumed", 1)) < order.index(("started", 4))  # before anything new
    assert (study.trials[1].epochs, study.trials[1].n_attempts) == (2, 2)


def test_an_in_process_driver_waits_while_its_study_is_paused(tmp_path: Path) -> None:
    study = Study.create(study_file(tmp_path), SyntheticSizes())
    user_requests.write_requests(study.folder, "pause", [], {})

    def lift() -> None:
        with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
            until(lambda: not ledger.requests(waiting=True))  # the driver has seen it
        user_requests.write_requests(study.folder, "unpause", [], {})

    with beside(study, lift):
        in_process.run(study, SyntheticTrainable())
    assert states(study) == [State.COMPLETE] * 6
    with closing(SqlLedger.open(study.folder / "ledger.db")) as ledger:
        assert [event.kind for event in ledger.events()][1:4] == ["paused", "unpaused", "started"]
