"""What a study of 100,000 trials costs who looks at it or steers it: `python benchmarks/large.py`.

A study with 100,000 trials, 500,000 reports and 20,000 rejected configurations is written. A real driver opens it and continues: it
asks, reports, and carries out requests. At the same time each command runs as a process of its own, several times, interleaved. For
each command: seconds from start to end, and the largest memory of its process. For the driver: its longest decision while no
command ran, and while each ran. The target: every command within 1 s and 200 MiB, and no decision held up for more than 100 ms.

    python benchmarks/large.py [--trials 100000] [--repeats 5] [--keep FOLDER]

With `--keep` the study stays in that folder and is used again. results/large.md holds what it printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

EPOCHS, REJECTED = 5, 0.2
PER_DECISION = 2_000  # trials that one transaction writes here; a driver writes one epoch in each
COMMANDS = {
    "front": ("front", "large"),
    "status": ("status", "large"),
    "trials --top": ("trials", "large", "--top", "20"),
    "show": ("show", "large", "70000"),
    "ls": ("ls",),
    "prune": ("prune", "large", "RUNNING"),
    "stop": ("stop", "large"),
}
EMPTY = ("methods",)  # what starting a command costs that reads no study


def write(storage: Path, n_trials: int) -> None:
    """The study, as its driver would have written it, in fewer transactions."""
    from dataclasses import replace

    from search.config.loading import check
    from search.storage.sql_ledger import SqlLedger
    from search.study.study import Study
    from search.trial import State, Trial
    from trainables import measure

    budget = {"n_trials": 10 * n_trials, "epochs": EPOCHS, "max_params": 50_000}
    raw = {"study": "large", "data": {"kind": "synthetic"}, "methods": ["lora", "arc", "lily"], "budget": budget}
    file = check(raw | {"search": {"sampler": "random"}, "storage": str(storage)})
    worker = file.worker()
    sizes = measure(worker["backbone"], worker["data"])
    study = Study.create(file, sizes)
    configs, draws = [], random.Random(0)  # noqa: S311 - no secret
    while len(configs) < 500:
        if (trial := study.ask()) is None:
            raise RuntimeError("the study asks for nothing more")
        configs.append((trial.config, trial.adapter_params, trial.head_params))
        study.tell(trial.number, State.FAILED, "only its configuration is wanted here")
    study.close()
    first = len(configs)
    with SqlLedger.open(file.folder / "ledger.db") as ledger:
        ledger.claim()
        for begin in range(first, n_trials, PER_DECISION):
            with ledger.decision() as writer:
                for number in range(begin, min(begin + PER_DECISION, n_trials)):
                    config, adapter_params, head_params = configs[number % len(configs)]
                    if draws.random() < REJECTED:
                        writer.reject([(config, "adapter of 60,000 parameters, over the limit of 50,000")])
                    trial = writer.start(Trial(number, State.RUNNING, config, number, adapter_params, head_params))
                    top1 = draws.gauss(0.7, 0.05)
                    for epoch in range(1, EPOCHS + 1):
                        metrics = {"val/top1": top1 * (1 - 0.5 / epoch), "val/loss": 1 - top1, "train/loss": 0.9 - top1}
                        metrics |= {"cost/train_seconds": 1.0, "cost/step_seconds": 0.01, "cost/gpu_bytes": 1e8}
                        trial = writer.report(trial, epoch, metrics)
                    writer.finish(replace(trial), State.COMPLETE)
            print(f"\r{number + 1:,} of {n_trials:,} trials written", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)


def drive(storage: Path) -> None:
    """Go on with the study until a signal; print the time and length of each decision."""
    from search.config.loading import check_stored
    from search.storage.sql_ledger import open_ledger
    from search.study.study import Study
    from trainables import measure

    with open_ledger(storage / "large") as ledger:
        file = check_stored(dict(ledger.study().file) | {"storage": str(storage)})
    worker = file.worker()
    begun = time.monotonic()
    study = Study.open(file, measure(worker["backbone"], worker["data"]))
    going = True

    def end(*_: object) -> None:
        nonlocal going
        going = False

    signal.signal(signal.SIGTERM, end)
    with study.heartbeat():
        trials = []
        while len(trials) < 4:
            trial = study.ask()
            if trial is None:
                break
            trials.append(trial.number)
        print(json.dumps({"opened": time.monotonic() - begun, "trials": trials}), flush=True)
        number, epoch = trials[0], 1
        while going:
            since = time.monotonic()
            study.handle_requests()
            study.report(number, epoch, {"val/top1": 0.1, "val/loss": 2.0, "train/loss": 2.0})
            epoch += 1
            if epoch == EPOCHS or study.stopping:  # its last epoch stays open: `prune` is for running trials
                epoch = 1
                study.tell(number, *_failed())
                trial = study.ask()
                if trial is not None:
                    number = trial.number
            print(json.dumps([time.time(), time.monotonic() - since]), flush=True)
            time.sleep(0.01)
    study.close()


def _failed() -> tuple[Any, str]:
    from search.trial import State

    return State.FAILED, "the next one"


@contextlib.contextmanager
def driving(storage: Path) -> Iterator[tuple[list[int], list[tuple[float, float]]]]:
    """A driver beside the block: numbers of running trials, and (end, seconds) of its decisions, complete after the block."""
    command = [sys.executable, str(Path(__file__)), "--drive", str(storage)]
    decisions: list[tuple[float, float]] = []
    with tempfile.TemporaryFile("w+") as printed, subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        printing = cast(IO[str], process.stdout)
        opened = json.loads(printing.readline())
        copy = subprocess.Popen(["cat"], stdin=printing, stdout=printed)
        try:
            yield opened["trials"], decisions
        finally:
            process.terminate()
            process.wait(60)
            copy.wait(60)
        printed.seek(0)
        decisions += [(end, seconds) for end, seconds in map(json.loads, printed)]


def timed(storage: Path, words: tuple[str, ...]) -> tuple[float, float, float, float]:
    """(start, end, seconds, MiB) of a command."""
    command = [sys.executable, "-m", "search.cli", *words]
    environment = os.environ | {"PARETUNE_STORAGE": str(storage), "COLUMNS": "100"}
    start = time.time()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = cast(IO[str], process.stdout).read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    end = time.time()
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)}: exit code {process.returncode}\n{said}")
    return start, end, end - start, used.ru_maxrss / 1024


def main() -> None:
    """Write the study, run the commands beside a driver, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive is not None:
        drive(options.drive)
        return
    with tempfile.TemporaryDirectory() as made:
        storage = options.keep or Path(made)
        if not (storage / "large" / "ledger.db").exists():
            write(storage, options.trials)
        print("\n".join(measured(storage, options.trials, options.repeats)))


def measured(storage: Path, n_trials: int, repeats: int) -> list[str]:
    """The rows of the table."""
    runs: dict[str, list[tuple[float, float, float, float]]] = {}
    with driving(storage) as (running, decisions):
        time.sleep(3)  # no command runs: the driver alone
        alone_until = time.time()
        for _ in range(repeats):
            for name, words in {"methods (reads no study)": EMPTY, **COMMANDS}.items():
                if name == "stop":
                    continue
                if name == "prune" and len(running) < 2:
                    continue
                chosen = tuple(str(running.pop()) if word == "RUNNING" else word for word in words)
                runs.setdefault(name, []).append(timed(storage, chosen))
                print(f"{name}: {runs[name][-1][2]:.2f} s", file=sys.stderr, flush=True)
        runs["stop"] = [timed(storage, COMMANDS["stop"])]
    size = (storage / "large" / "ledger.db").stat().st_size / 2**20
    alone = max(seconds for end, seconds in decisions if end < alone_until)
    lines = [f"{n_trials:,} trials, {EPOCHS * n_trials:,} reports, ledger of {size:,.0f} MiB; the driver alone: "]
    lines[0] += f"longest decision {1000 * alone:.0f} ms"
    lines += ["", "| command | seconds (least to most) | MiB | longest decision beside it, ms |", "|---|---|---|---|"]
    for name, found in runs.items():
        seconds = sorted(one[2] for one in found)
        held = max((d for end, d in decisions for a, b, *_ in found if a <= end <= b + d), default=0.0)
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} ({seconds[0]:.2f} to {seconds[-1]:.2f}) "
            f"| {max(one[3] for one in found):.0f} | {1000 * held:.0f} |"
        )
    return lines


if __name__ == "__main__":
    main()
