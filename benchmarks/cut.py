"""A worker node behind a cable that is pulled out: for a second, for half a minute, and for good.

    python benchmarks/cut.py 1 30 forever              # as root: it makes a network name space for the node
    python benchmarks/cut.py 1 30 forever --driver     # the driver is on that node

A search on a real Ray cluster of two nodes: the head on this machine's own network, the worker node in a name space of its own at
the other end of a pair of virtual interfaces, one end of which is set down while both train. A table and a line per search in
`benchmarks/results/cut.jsonl`. A driver that is cut off and ends is followed by the next attempt, beside the head. Of each search
is counted what should be 0:

    lost       events that were readable before the cut and are not there, or are others, at the end
    again      trials that started, resumed or reported after their end
    zombies    RUNNING at the end
    different  trials that do not have each epoch of the budget once
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

from search.results.saved_study import load
from search.storage.rows import Event
from search.storage.sql_ledger import SqlLedger
from search.trial import State

RESULTS = Path(__file__).parent / "results" / "cut.jsonl"
HOST, NODE = "10.77.31.1", "10.77.31.2"
QUICK = {  # a node that does not answer is given up after some five seconds, instead of half a minute
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "6",
}
STUDY = """
study: cut
data: {{kind: synthetic, epoch_seconds: {epoch_seconds}}}
methods: [lora]
budget: {{n_trials: {n_trials}, epochs: {epochs}, max_params: 50_000}}
search: {{sampler: random}}
"""
_ENDS = ("completed", "pruned", "failed")


@dataclass
class Outcome:
    """What became of one search.

    Attributes:
        cuts: Seconds of each; None for good.
        losses: Workers that were lost.
        ended: Exit code of each driver, and seconds from the last cut to its end.
        others: See the head of this file.
    """

    cuts: Sequence[float | None]
    seconds: float = 0.0
    losses: int = 0
    ended: list[tuple[int, float]] = field(default_factory=list)
    lost: int = 0
    again: int = 0
    zombies: int = 0
    different: int = 0
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def flaws(self) -> int:
        """The sum of all that should be 0."""
        return self.lost + self.again + self.zombies + self.different


class NotPermitted(RuntimeError):
    """Network name spaces cannot be made here."""


class Cable:
    """A name space with an address of its own at the other end of a cable."""

    def __init__(self) -> None:
        self.name = f"paretune-{os.getpid()}"
        self._host, self._node = f"pth{os.getpid()}"[:15], f"ptn{os.getpid()}"[:15]

    def __enter__(self) -> Cable:
        try:
            _ip("netns", "add", self.name)
            _ip("link", "add", self._host, "type", "veth", "peer", "name", self._node)
            _ip("link", "set", self._node, "netns", self.name)
            _ip("addr", "add", f"{HOST}/30", "dev", self._host)
            _ip("link", "set", self._host, "up")
            self._inside("addr", "add", f"{NODE}/30", "dev", self._node)
            self._inside("link", "set", "lo", "up")
            self.mend()
        except (OSError, subprocess.CalledProcessError) as error:
            self.__exit__()
            raise NotPermitted(str(getattr(error, "stderr", None) or error)) from error
        return self

    def __exit__(self, *_: object) -> None:
        for words in (("netns", "del", self.name), ("link", "del", self._host)):
            with contextlib.suppress(OSError, subprocess.CalledProcessError):
                _ip(*words)

    def cut(self) -> None:
        """Pull the cable out, at the node's end."""
        self._inside("link", "set", self._node, "down")

    def mend(self) -> None:
        """Put it in again."""
        self._inside("link", "set", self._node, "up")

    def command(self, *words: str) -> list[str]:
        """Words that run in the name space."""
        return ["ip", "netns", "exec", self.name, *words]

    def _inside(self, *words: str) -> None:
        _ip("-n", self.name, *words)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


RAY = str(Path(sys.executable).parent / "ray")
USUAL = ["--block", "--num-cpus=1", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0"]


@contextlib.contextmanager
def cluster(cable: Cable, environment: Mapping[str, str]) -> Iterator[str]:
    """A head with one core here, and a node with one behind the cable; yields the address."""
    with head(environment) as address, node(cable, address, environment):
        yield address


@contextlib.contextmanager
def head(environment: Mapping[str, str]) -> Iterator[str]:
    """A head with one core here; yields its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pr", dir="/tmp", ignore_cleanup_errors=True) as folder:
        words = [RAY, "start", "--head", f"--port={port}", f"--node-ip-address={HOST}", f"--temp-dir={folder}"]
        with _going([*words, "--include-dashboard=false", *USUAL], environment):
            _until(lambda: _listens(HOST, port), 120)
            yield f"{HOST}:{port}"


@contextlib.contextmanager
def node(cable: Cable, address: str, environment: Mapping[str, str]) -> Iterator[None]:
    """A node with one core behind the cable, which joins."""
    words = cable.command(RAY, "start", f"--address={address}", f"--node-ip-address={NODE}", *USUAL)
    with _going(words, environment):
        yield


def two_nodes(address: str, environment: Mapping[str, str]) -> None:
    """Wait until the node has joined."""
    count = "import ray, sys; ray.init(sys.argv[1], logging_level=40); print(sum(n['Alive'] for n in ray.nodes()))"

    def joined() -> bool:
        done = subprocess.run(
            [sys.executable, "-c", count, address], env=dict(environment), capture_output=True, text=True, check=False, timeout=60
        )
        return done.stdout.strip().endswith("2")

    _until(joined, 120)


@contextlib.contextmanager
def _going(command: Sequence[str], environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process
    finally:
        import psutil

        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(family, timeout=10)
            for one in left:
                one.kill()
        process.kill()
        process.wait(30)


def search(
    folder: Path,
    address: str,
    cable: Cable,
    cuts: Sequence[float | None],
    environment: Mapping[str, str],
    *,
    n_trials: int = 4,
    epochs: int = 20,
    epoch_seconds: float = 1.0,
    behind: bool = False,
) -> Outcome:
    """One search, cut off as often as asked, each time while both nodes train; its driver may be on the node that is cut off."""
    begun, outcome = time.monotonic(), Outcome(cuts)
    (folder / "s.yaml").write_text(STUDY.format(n_trials=n_trials, epochs=epochs, epoch_seconds=epoch_seconds))
    study, before = folder / "paretune-studies" / "cut", list[Event]()
    command = [sys.executable, "-m", "search.cli", "run", "s.yaml"]
    known = {**environment, "RAY_ADDRESS": address}
    waiting = list(cuts)
    while not outcome.ended or outcome.ended[-1][0] != 0:
        if len(outcome.ended) > (len(cuts) if behind else 0):
            raise RuntimeError((folder / "driver.log").read_text()[-3000:])
        words = cable.command(*command) if behind and not outcome.ended else command
        with (folder / "driver.log").open("a") as log:
            driver = subprocess.Popen(words, cwd=folder, env=known, stdout=log, stderr=log)
            try:
                last = time.monotonic()
                while waiting:
                    _until(lambda driver=driver: driver.poll() is not None or _n_at_work(study) == 2, 240)
                    if driver.poll() is not None:
                        break
                    seconds, before, last = waiting.pop(0), _events(study), time.monotonic()
                    cable.cut()
                    if seconds is not None:
                        threading.Event().wait(seconds)
                        cable.mend()
                driver.wait(600)
            finally:
                driver.kill()
                driver.wait(30)
        outcome.ended.append((driver.returncode, round(time.monotonic() - last, 1)))
    saved, history = load(study), _events(study)
    kinds = Counter(event.kind for event in history)
    outcome.kinds, outcome.losses = dict(kinds), kinds["lost"]
    outcome.lost = sum(event not in history for event in before)
    outcome.again = _again(history)
    outcome.zombies = sum(trial.state is State.RUNNING for trial in saved.history)
    wanted = list(range(1, epochs + 1))
    outcome.different = sum(
        [report.epoch for report in saved.epochs if report.trial == trial.number] != wanted or trial.state is not State.COMPLETE
        for trial in saved.history
    )
    outcome.different += abs(n_trials - len(saved.history))
    outcome.seconds = time.monotonic() - begun
    return outcome


def _again(history: Sequence[Event]) -> int:
    ended, found = set[int | None](), 0
    for event in history:
        found += event.trial in ended and event.kind in ("started", "resumed", "reported")
        ended |= {event.trial} if event.kind in _ENDS else set()
    return found


def _n_at_work(study: Path) -> int:
    if not (study / "ledger.db").exists():
        return 0
    return sum(trial.state is State.RUNNING and trial.epochs > 0 for trial in load(study).history)


def _events(study: Path) -> list[Event]:
    with contextlib.closing(SqlLedger.open(study / "ledger.db")) as ledger:
        return ledger.events()


def _listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def _until(met: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not met():
        if time.monotonic() > end:
            raise RuntimeError("it has not come to that in time")
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cuts", nargs="+", metavar="SECONDS", help="or `forever`; a search of its own for each")
    parser.add_argument("--driver", action="store_true", help="the driver is on the node that is cut off")
    parser.add_argument("--quick", action="store_true", help="give a silent node up after five seconds; else as Ray does")
    arguments = parser.parse_args()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PARETUNE_"))}
    environment |= {"RAY_AUTH_MODE": "disabled", "PARETUNE_UNPROTECTED": "1", "OMP_NUM_THREADS": "1"}
    environment |= QUICK if arguments.quick else {}
    for word in arguments.cuts:
        with (
            tempfile.TemporaryDirectory(prefix="paretune-cut-") as folder,
            Cable() as cable,
            cluster(cable, environment) as address,
        ):
            two_nodes(address, environment)
            cut = None if word == "forever" else float(word)
            outcome = search(Path(folder), address, cable, [cut], environment, behind=arguments.driver)
        sys.stdout.write(f"{word:>8} {outcome.seconds:6.0f} s  flaws {outcome.flaws}  {outcome.kinds}  drivers {outcome.ended}\n")
        with RESULTS.open("a") as file:
            file.write(json.dumps(asdict(outcome) | {"quick": arguments.quick, "driver": arguments.driver}) + "\n")


if __name__ == "__main__":
    main()
