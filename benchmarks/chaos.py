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
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

from search.results.saved_study import load
from search.results.study_state import StudyState
from search.storage.location import ledger_in
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.trial import State, Trial

STUDY = """
study: s
data: {{kind: synthetic, noise: 0.01, diverges_above_lr: 0.015, epoch_seconds: {epoch_seconds}}}
methods: [lora, arc, lily]
budget: {{n_trials: {n_trials}, epochs: 5, max_params: 20_000}}
search: {{seed: {seed}, rungs: {{grace: 2, factor: 3}}}}
"""
PATIENCE_SECONDS = 120.0
_MOST_AFTER_RAYLET = 10.0  # seconds until its driver has ended
MOST_GIVEN_UP = 5  # drivers of one search; then there is no more to be learnt from it
_ENDS = ("completed", "pruned", "failed")


@dataclass
class Outcome:
    """What became of one search.

    Attributes:
        number: Which search of the series.
        back_end: `ray` or `in-process`.
        kills: How often which victim was killed.
        n_trials: How many trials it has in the end.
        lost, rerun, behind, zombies, different, gave_up: See the head of this file; all should be 0.
        seconds: From the first start to the end.
    """

    number: int
    back_end: str
    kills: dict[str, int] = field(default_factory=dict)
    n_trials: int = 0
    lost: int = 0
    rerun: int = 0
    behind: int = 0
    zombies: int = 0
    different: int = 0
    gave_up: int = 0
    seconds: float = 0.0

    @property
    def flaws(self) -> int:
        """The sum of all that should be 0."""
        return self.lost + self.rerun + self.behind + self.zombies + self.different + self.gave_up


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
    study = STUDY.format(n_trials=n_trials, epoch_seconds=epoch_seconds, seed=seed + number)
    (folder / "s.yaml").write_text(study if server is None else study.replace("study: s", f"study: s{number}\nledger: {server}"))
    left, process, n_known, copies = list(victims), None, 0, list[bytes]()
    try:
        while True:
            if process is None:
                process = _start(folder, "s.yaml", back_end)
                n_known = len(_events(folder))
            if not left or not _await_progress(folder, process, n_known):
                if process.wait(PATIENCE_SECONDS) == 0:
                    break
                outcome.gave_up += 1
                if outcome.gave_up > MOST_GIVEN_UP:
                    raise RuntimeError(f"the search does not come to its end; see {folder}/driver-*.txt")
                process = None  # as a person would: the same command again
                continue
            threading.Event().wait(chance.uniform(0.0, 5 * epoch_seconds))
            before = _events(folder)
            if left[0] == "power" and disk is not None:
                before = disk.cut(process, lambda: _events(folder))
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
            outcome.behind += _behind(folder)
            if process.poll() is not None:
                outcome.gave_up += victim == "worker" and process.returncode != 0
                outcome.gave_up += victim == "interrupt" and process.returncode not in (0, 1)
                process = None
            outcome.lost += _lost(before, _events(folder))
            if victim == "restore" and copies:
                n_known = _restore(_ledger(folder), chance.choice(copies))
            if server is None and victim != "worker":
                copies.append(_copy(_ledger(folder)))
    finally:
        if process is not None:
            process.kill()
    if "is behind" in _printed(folder):  # MLflow was too slow; a finished study that is run again catches up
        _start(folder, "s.yaml", "in-process").wait(PATIENCE_SECONDS)
    saved = load(_study(folder))
    outcome.kills, outcome.n_trials = dict(kills), len(saved.history)
    outcome.rerun = rerun(_events(folder))
    outcome.zombies = sum(trial.state is State.RUNNING for trial in saved.history) + recorded_running(folder)
    outcome.zombies += saved.state is not StudyState.FINISHED
    if back_end == "in-process":
        outcome.different = _different(folder, study)
    outcome.seconds = round(time.monotonic() - begun, 1)
    return outcome


class Disk:
    """A file system in a file, which is mounted in a folder; as a context manager, it is gone at the end of the block.

    Args:
        folder: Folder of the file.
        name: Name of the folder in it where the disk is mounted.
        megabytes: Size of the disk.

    Raises:
        NotPermitted: If this process may not mount it.
    """

    def __init__(self, folder: Path, name: str, *, megabytes: int = 64) -> None:
        self._image, self._place = folder / f"{name}.ext4", folder / name
        with self._image.open("wb") as file:
            file.truncate(megabytes * 2**20)
        self._place.mkdir()
        self._do("mkfs.ext4", "-q", str(self._image))
        self._mount()

    def __enter__(self) -> Disk:
        return self

    def __exit__(self, *_: object) -> None:
        self._unmount()

    def cut(self, process: subprocess.Popen[bytes], read: Callable[[], list[Event]]) -> list[Event]:
        """Stop the driver and all its processes, keep what the disk holds, kill them, and start with that disk.

        Returns:
            The events that another process could read just before.
        """
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        readable = read()
        held = self._image.read_bytes()
        while (now := self._image.read_bytes()) != held:  # the kernel has written in the meantime
            held = now
        for one in family:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        self._unmount()
        self._image.unlink()  # the kernel still writes what it has to the old one
        self._image.write_bytes(held)
        self._mount()
        return readable

    def _mount(self) -> None:
        self._do("mount", "-o", "loop", str(self._image), str(self._place))

    def _unmount(self) -> None:
        self._do("umount", "--lazy", str(self._place))

    @staticmethod
    def _do(*command: str) -> None:
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            raise NotPermitted(str(error)) from error
        if done.returncode:
            raise NotPermitted(f"{' '.join(command)}: {done.stderr.strip()}")


class NotPermitted(Exception):
    """This machine lets us mount no file system."""


def _start(folder: Path, file: str, back_end: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "search.cli", "run", file, "--back-end", back_end]
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    environment.pop("PARETUNE_STORAGE", None)
    with (folder / f"driver-{len(list(folder.glob('driver-*.txt'))):02d}.txt").open("x") as output:
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=output, env=environment)


def _printed(folder: Path) -> str:
    """What all drivers of a search have printed."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("driver-*.txt")))


def _study(folder: Path) -> Path:
    """The study's folder: the only one but its twin's."""
    return next((path for path in (folder / "paretune-studies").glob("s*") if path.is_dir()), folder / "paretune-studies" / "s")


def _ledger(folder: Path) -> Path:
    return ledger_in(_study(folder))


def _events(folder: Path) -> list[Event]:
    if not _ledger(folder).exists():
        return []
    with closing(SqlLedger.open(_ledger(folder))) as ledger:
        return ledger.events()


def _await_progress(folder: Path, process: subprocess.Popen[bytes], n_known: int) -> bool:
    """Wait until something was reported since; False if the driver ends first, however."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if any(event.kind == "reported" for event in _events(folder)[n_known:]):
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


# -- the laws ------------------------------------------------------------------------------------------------------------


def _lost(before: list[Event], after: list[Event]) -> int:
    """Events that were durable before a death and are not there, or not the same, after it."""
    return sum(event not in after[event.number : event.number + 1] for event in before)


def rerun(events: list[Event]) -> int:
    """Trials to which anything happened after their end."""
    ended: set[int | None] = set()
    again: set[int | None] = set()
    for event in events:
        if event.kind == "promoted":  # a trial that a rung had stopped goes on
            ended.discard(event.trial)
        if event.trial in ended and event.kind in ("started", "resumed", "reported"):
            again.add(event.trial)
        if event.kind in _ENDS:
            ended.add(event.trial)
    return len(again)


def _behind(folder: Path) -> int:
    """Running trials whose checkpoint holds fewer epochs than are reported. It is read last: it may be newer, never older."""
    with closing(SqlLedger.open(_ledger(folder))) as ledger:
        again = {event.trial for event in ledger.events() if event.kind == "restarted"}  # from the first epoch, their reports stay
        running = [t for t in ledger.trials() if t.state is State.RUNNING and t.epochs and t.number not in again]
    return sum(_checkpoint(folder, trial) < trial.epochs for trial in running)


def _checkpoint(folder: Path, trial: Trial) -> int:
    path = _ledger(folder).parent / "trials" / f"{trial.number:04d}" / "epoch.json"
    return int(json.loads(path.read_text())["epoch"]) if path.exists() else 0


def recorded_running(folder: Path) -> int:
    """Runs that MLflow shows as RUNNING, read from its own tables."""
    with closing(sqlite3.connect(folder / "paretune-studies" / "mlflow.db")) as connection:
        (count,) = connection.execute(
            "SELECT count(*) FROM runs WHERE status = 'RUNNING' AND lifecycle_stage = 'active'"
        ).fetchone()
    return int(count)


def _different(folder: Path, study: str) -> int:
    """Trials that an uninterrupted twin has otherwise."""
    (folder / "twin.yaml").write_text(study.replace("study: s", "study: twin"))
    if _start(folder, "twin.yaml", "in-process").wait(PATIENCE_SECONDS) != 0:
        raise RuntimeError(f"the uninterrupted twin failed; see {folder}/driver-*.txt")
    ours, twins = load(_study(folder)).history, load(folder / "paretune-studies" / "twin").history
    return abs(len(ours) - len(twins)) + sum(_essence(a) != _essence(b) for a, b in zip(ours, twins, strict=False))


def _essence(trial: Trial) -> tuple[Any, ...]:
    return trial.number, trial.state, trial.config, trial.seed, trial.epochs, {k: str(v) for k, v in trial.metrics.items()}


# -- the long form -------------------------------------------------------------------------------------------------------


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


def table(outcomes: list[Outcome]) -> str:
    """The counts as Markdown."""
    lines = [
        "| back end | searches | trials | kills | lost | run again | behind | zombies | different | gave up |",
        "|---" * 10 + "|",
    ]
    for back_end in dict.fromkeys(outcome.back_end for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.back_end == back_end]
        kills = sum((Counter(outcome.kills) for outcome in mine), Counter[str]())
        shown = ", ".join(f"{n} {victim}" for victim, n in sorted(kills.items()))
        sums = [sum(getattr(one, law) for one in mine) for law in ("lost", "rerun", "behind", "zombies", "different", "gave_up")]
        different = sums[4] if back_end == "in-process" else "-"
        n_trials = sum(one.n_trials for one in mine)
        counts = f"{sums[0]} | {sums[1]} | {sums[2]} | {sums[3]} | {different} | {'-' if back_end.startswith('plain') else sums[5]}"
        lines.append(f"| {back_end} | {len(mine)} | {n_trials} | {kills.total()} ({shown}) | {counts} |")
    return "\n".join(lines)


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
