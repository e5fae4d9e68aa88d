"""Killing real searches: what is lost when driver, worker or raylet die by SIGKILL at random moments, several times per search.

Each search is a real `paretune run` on the synthetic surface, in a process of its own, killed and started again until it has ended.
Three more accidents: `interrupt` sends the driver one or two signals of those that end it properly. `restore` kills it, and puts a
copy of the ledger from an earlier death in the ledger's place, which forgets what was decided since then. `power` cuts the power of
a disk: the study is on a file system in a file, and what that file holds at a moment is what a disk would hold, without what the
kernel has not yet written to it. It needs root, and a kernel with ext4 and loop devices.
After every death and at the end the ledger and MLflow are held against the laws of docs/reliability.md:

    lost        events that the ledger held before a death and does not hold after it
    rerun       trials that started, resumed or reported after they had ended
    behind      running trials whose checkpoint was older than what was reported of them: more than the epoch in flight is repeated
    zombies     trials RUNNING in a ledger whose study has ended, and runs RUNNING in MLflow
    different   trials of a one-worker search (state, configuration, epochs, metrics) that differ from an uninterrupted twin's
    gave_up     drivers that nobody had killed, nor their raylet, and that ended with an exit code other than 0; and drivers whose
                raylet was killed, and that did not end within ten seconds, with exit code 1 and the reason

A search with a flaw leaves its folder for inspection: what each of its drivers printed is in driver-NN.txt, one file a driver.

Seeded and resumable: search number n is the same in every run, and results go to one JSON line per search, which are not run again.

    python benchmarks/chaos.py [--kills 200] [--seed 0] [--results benchmarks/results/chaos.jsonl] [--ledger ADDRESS] [--table]

With the address of an empty PostgreSQL database the ledgers lie there; results then want a file of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.append(sys.path.pop(0))  # where `search` would be benchmarks/search.py

from chaos_disk import Disk
from chaos_laws import Outcome, behind, different, events_of, ledger_of, lost, recorded_running, rerun, study_folder, table

from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage.sql_ledger import SqlLedger
from search.trial import State

STUDY = """
study: s
data: {{kind: synthetic, noise: 0.01, diverges_above_lr: 0.015, epoch_seconds: {epoch_seconds}, folds: {folds}}}
methods: [lora, arc, lily]
budget: {{n_trials: {n_trials}, epochs: 5, max_params: 20_000, confirm: {confirm}}}
search: {{seed: {seed}, rungs: {{grace: 2, factor: 3}}}}
"""
PATIENCE_SECONDS = 120.0
_MOST_AFTER_RAYLET = 10.0  # seconds until its driver has ended
MOST_GIVEN_UP = 5  # drivers of one search; then there is no more to be learnt from it


def search(
    folder: Path,
    number: int,
    *,
    back_end: str,
    victims: list[str],
    n_trials: int,
    epoch_seconds: float,
    seed: int,
    server: str | None = None,
) -> Outcome:
    """Run one search to its end, killing the victims one after the other.

    Args:
        folder: An empty folder for it.
        number: Of the search, for its seed.
        back_end: `ray` or `in-process`.
        victims: `driver`, `interrupt`, `restore` (of an SQLite file), `power`, `worker` (with Ray) or `raylet` (with Ray), in the
            order of their deaths.
        n_trials: The budget.
        epoch_seconds: How long an epoch takes.
        seed: Of the series.
        server: Where the ledger lies; None for a file.

    Raises:
        NotPermitted: If the power is to be cut, and this process may not mount a disk.
    """
    with Disk(folder, "paretune-studies") if "power" in victims else nullcontext() as disk:
        return _search(
            folder,
            number,
            disk,
            back_end=back_end,
            victims=victims,
            n_trials=n_trials,
            epoch_seconds=epoch_seconds,
            seed=seed,
            server=server,
        )


def _search(
    folder: Path,
    number: int,
    disk: Disk | None,
    *,
    back_end: str,
    victims: list[str],
    n_trials: int,
    epoch_seconds: float,
    seed: int,
    server: str | None,
) -> Outcome:
    chance = random.Random(f"{seed}/{number}")  # noqa: S311 - not cryptography
    outcome, kills, begun = Outcome(number, back_end), Counter[str](), time.monotonic()
    folds, confirm = (3, 0.4) if number % 4 in (1, 2) else ("null", "null")  # half of the searches train their best trials again
    study = STUDY.format(n_trials=n_trials, epoch_seconds=epoch_seconds, seed=seed + number, folds=folds, confirm=confirm)
    (folder / "s.yaml").write_text(study if server is None else study.replace("study: s", f"study: s{number}\nledger: {server}"))
    left, process, n_known, copies = list(victims), None, 0, list[bytes]()
    try:
        while True:
            if process is None:
                process = _start(folder, "s.yaml", back_end)
                n_known = len(events_of(folder))
            if not left or not _await_progress(folder, process, n_known):
                if process.wait(PATIENCE_SECONDS) == 0:
                    break
                outcome.gave_up += 1
                if outcome.gave_up > MOST_GIVEN_UP:
                    raise RuntimeError(f"the search does not come to its end; see {folder}/driver-*.txt")
                process = None  # as a person would: the same command again
                continue
            threading.Event().wait(chance.uniform(0.0, 5 * epoch_seconds))
            before = events_of(folder)
            if left[0] == "power" and disk is not None:
                before = disk.cut(process, lambda: events_of(folder))
            elif not (interrupt(process, chance) if left[0] == "interrupt" else kill(process, left[0])):
                continue
            victim = left.pop(0)
            kills[victim] += 1
            n_known = len(before)
            if victim != "worker":  # its death is not the driver's
                died = time.monotonic()
                process.wait(PATIENCE_SECONDS)
                told = "Ray's process on this machine (raylet) has died" in _printed(folder)
                outcome.gave_up += victim == "raylet" and not (
                    time.monotonic() - died < _MOST_AFTER_RAYLET and process.returncode == 1 and told
                )
            outcome.behind += behind(folder)
            if process.poll() is not None:
                outcome.gave_up += victim == "worker" and process.returncode != 0
                outcome.gave_up += victim == "interrupt" and process.returncode not in (0, 1)
                process = None
            outcome.lost += lost(before, events_of(folder))
            if victim == "restore" and copies:
                n_known = _restore(ledger_of(folder), chance.choice(copies))
            if server is None and victim != "worker":
                copies.append(_copy(ledger_of(folder)))
    finally:
        if process is not None:
            process.kill()
    if "is behind" in _printed(folder):  # MLflow was too slow; a finished study that is run again catches up
        _start(folder, "s.yaml", "in-process").wait(PATIENCE_SECONDS)
    saved = load(study_folder(folder))
    outcome.kills, outcome.n_trials = dict(kills), len(saved.history)
    outcome.rerun = rerun(events_of(folder))
    outcome.zombies = sum(trial.state is State.RUNNING for trial in saved.history) + recorded_running(folder)
    outcome.zombies += saved.state is not StudyState.FINISHED
    if back_end == "in-process":
        (folder / "twin.yaml").write_text(study.replace("study: s", "study: twin"))
        if _start(folder, "twin.yaml", "in-process").wait(PATIENCE_SECONDS) != 0:
            raise RuntimeError(f"the uninterrupted twin failed; see {folder}/driver-*.txt")
        outcome.different = different(saved.history, load(folder / "paretune-studies" / "twin").history)
    outcome.seconds = round(time.monotonic() - begun, 1)
    return outcome


def _start(folder: Path, file: str, back_end: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "search.cli", "run", file, "--back-end", back_end]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    environment.pop("PARETUNE_STORAGE", None)
    with (folder / f"driver-{len(list(folder.glob('driver-*.txt'))):02d}.txt").open("x") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)


def _printed(folder: Path) -> str:
    """What all drivers of a search have printed."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("driver-*.txt")))


def _await_progress(folder: Path, process: subprocess.Popen[bytes], n_known: int) -> bool:
    """Wait until something was reported since; False if the driver ends first, however."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if any(event.kind == "reported" for event in events_of(folder)[n_known:]):
            return True
        if process.poll() is not None:
            return False
        threading.Event().wait(0.05)
    raise RuntimeError(f"no progress within {PATIENCE_SECONDS:g} s; see {folder}/driver-*.txt")


def interrupt(process: subprocess.Popen[bytes], chance: random.Random) -> bool:
    """One or two of the signals that end a driver properly."""
    for number in chance.choices([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], k=chance.choice([1, 1, 2])):
        process.send_signal(number)
        threading.Event().wait(chance.uniform(0.0, 0.5))
    return True


def _copy(ledger: Path) -> bytes:
    """A copy of an SQLite ledger, as a careful person makes one."""
    with closing(sqlite3.connect(ledger)) as source, closing(sqlite3.connect(":memory:")) as target:
        source.backup(target)
        return target.serialize()


def _restore(ledger: Path, copy: bytes) -> int:
    """Put a copy in the place of the ledger; return the number of its events."""
    (draft := ledger.with_name("restored.db")).write_bytes(copy)
    for end in ("-wal", "-shm"):
        ledger.with_name(ledger.name + end).unlink(missing_ok=True)
    draft.replace(ledger)
    with closing(SqlLedger.open(ledger)) as restored:
        return len(restored.events())


def kill(process: subprocess.Popen[bytes], victim: str) -> bool:
    """SIGKILL; False if there is none to be killed just now."""
    if victim in ("driver", "restore"):
        process.kill()
        return True
    names = {"raylet": ("raylet",), "worker": ("ray::ResourceTrainable", "ray::TuneTrial", "ray::ImplicitFunc")}[victim]
    with suppress(psutil.NoSuchProcess):
        for one in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if one.name().startswith(names) or (one.cmdline() or [""])[0].startswith(names):
                    one.send_signal(signal.SIGKILL)
                    return True
    return False


def plan(number: int, seed: int, *, accidents: bool = False) -> dict[str, Any]:
    """What search `number` of a series is: every second one with Ray; `accidents` for restored ledgers and signals, too."""
    chance = random.Random(f"plan {seed}/{number}")  # noqa: S311 - not cryptography
    if number % 2:
        victims = ["driver"] * 10
        if accidents:
            victims = chance.choices([*(["driver", "restore", "interrupt"] if number % 4 == 1 else ["power"])], k=10)
        return {"back_end": "in-process", "victims": victims, "n_trials": 40, "epoch_seconds": 0.05}
    kinds = ["driver", "worker", "worker", "raylet"] + ["restore", "interrupt"] * accidents
    victims = [chance.choice(kinds) for _ in range(8)]
    return {"back_end": "ray", "victims": victims, "n_trials": 60, "epoch_seconds": 0.2}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "chaos.jsonl")
    parser.add_argument("--ledger", metavar="ADDRESS", help="of a PostgreSQL database")
    parser.add_argument("--accidents", action="store_true", help="restored ledgers and signals, too; wants results of its own")
    parser.add_argument("--table", action="store_true", help="only print what is known")
    arguments = parser.parse_args()
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which `nohup` would have the drivers ignore
    known = (
        [Outcome(**json.loads(line)) for line in arguments.results.read_text().splitlines()] if arguments.results.exists() else []
    )
    number = max((outcome.number for outcome in known), default=-1) + 1
    while not arguments.table and sum(sum(outcome.kills.values()) for outcome in known) < arguments.kills:
        folder = Path(tempfile.mkdtemp(prefix="paretune-chaos-"))
        planned = plan(number, arguments.seed, accidents=arguments.accidents)
        outcome = search(folder, number, seed=arguments.seed, server=arguments.ledger, **planned)
        if outcome.flaws:
            print(f"look into {folder}", flush=True)
        else:
            shutil.rmtree(folder)
        known.append(outcome)
        with arguments.results.open("a") as file:
            file.write(json.dumps(asdict(outcome)) + "\n")
        print(outcome, flush=True)
        number += 1
    print(table(known))
    sys.exit(any(outcome.flaws for outcome in known))


if __name__ == "__main__":
    main()
