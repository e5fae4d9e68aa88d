"""Accidents in the first minute of a storage: kill -9 of the driver or its recorder, and Ctrl-C, at random moments.

python benchmarks/first_minute.py --accidents 30 [--slow-disk 20]

Each accident hits the first search in a new storage, while MLflow's database is made and filled. Then the same command is given
again. Counted are storages that are not whole afterwards: a study that does not finish, a record that `paretune sync --check` finds
different from the ledger, a traceback. All of them should be zero.

With `--slow-disk MS` every write of a file waits: MS milliseconds for fsync and fdatasync, a tenth of it for pwrite, with which
SQLite writes its pages. That needs Linux and a C compiler `cc`: a small library is built and preloaded.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path

import psutil

STUDY = """
study: s
data: {kind: synthetic, epoch_seconds: 0.1}
methods: [lora, arc, lily]
budget: {n_trials: 8, epochs: 3, max_params: 20_000}
"""
SLOW = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

static void wait_for(double share) {
    const char *ms = getenv("SLOW_DISK_MS");
    long ns = (long)((ms ? atof(ms) : 0) * share * 1e6);
    struct timespec t = {ns / 1000000000L, ns % 1000000000L};
    nanosleep(&t, 0);
}
#define SYNC(name) int name(int fd) { wait_for(1); return ((int (*)(int))dlsym(RTLD_NEXT, #name))(fd); }
#define WRITE(name) ssize_t name(int fd, const void *from, size_t n, off_t at) { \
    wait_for(0.1); return ((ssize_t (*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, #name))(fd, from, n, at); }
SYNC(fsync) SYNC(fdatasync) WRITE(pwrite) WRITE(pwrite64)
"""
COMMAND = [sys.executable, "-m", "search.cli"]


def recorder_of(driver: psutil.Process) -> psutil.Process | None:
    """The recorder, once it has started."""
    children = driver.children() if driver.is_running() else []
    return next((child for child in children if "search.tracking.recorder" in child.cmdline()), None)


def accident(folder: Path, seconds: float, victim: str) -> str:
    """Let one happen; return what is wrong afterwards, or ""."""
    (folder / "s.yaml").write_text(STUDY)
    run = [*COMMAND, "run", "s.yaml", "--back-end", "in-process"]
    driver = subprocess.Popen(run, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    threading.Event().wait(seconds)
    try:
        process = psutil.Process(driver.pid)
        if victim == "recorder":
            if (recorder := recorder_of(process)) is not None:
                recorder.kill()
        else:
            process.send_signal(signal.SIGKILL if victim == "driver" else signal.SIGINT)
    except psutil.NoSuchProcess:
        pass  # it was over
    _, said = driver.communicate(timeout=600)
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    for command in (run, [*COMMAND, "sync", "s"], [*COMMAND, "sync", "s", "--check"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode != 0:
            return f"{' '.join(command[3:])}: {done.returncode}: {(done.stdout + done.stderr)[-300:]}"
    left = [path.name for path in (folder / "paretune-studies").glob(".mlflow.db.*.new*")]
    return f"left behind: {left}" if left else ""


def slow_down(folder: Path, ms: float) -> float:
    """Let every process that is started from now on wait when it writes; return the seconds of a commit then."""
    if (compiler := shutil.which("cc")) is None or sys.platform != "linux":
        sys.exit("--slow-disk needs Linux and a C compiler `cc` (apt install gcc)")
    source, library = folder / "slow.c", folder / "slow.so"
    source.write_text(SLOW)
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    os.environ.update(LD_PRELOAD=str(library), SLOW_DISK_MS=str(ms))
    return seconds_of_a_commit(folder)


def seconds_of_a_commit(folder: Path) -> float:
    """Measure a commit of one row to an SQLite database, in a process of its own."""
    script = (
        "import sqlite3, sys, time; c = sqlite3.connect(sys.argv[1]); c.execute('CREATE TABLE IF NOT EXISTS t (x)'); c.commit()\n"
        "start = time.perf_counter()\nfor i in range(20): c.execute('INSERT INTO t VALUES (?)', (i,)); c.commit()\n"
        "print((time.perf_counter() - start) / 20)"
    )
    done = subprocess.run([sys.executable, "-c", script, folder / "t.db"], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Print one line for each accident, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accidents", type=int, default=30)
    parser.add_argument("--longest", type=float, default=9.0, help="seconds of the first minute, or until the search is over")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slow-disk", type=float, default=0.0, metavar="MS", help="milliseconds that fsync waits")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="slow-disk-") as folder:
        if options.slow_disk:
            plain, slow = seconds_of_a_commit(Path(folder)), slow_down(Path(folder), options.slow_disk)
            print(f"a commit to SQLite takes {1000 * plain:.1f} ms, and {1000 * slow:.1f} ms on the slowed disk", flush=True)
        happen(options)


def happen(options: argparse.Namespace) -> None:
    """Let the accidents happen, one after the other."""
    rng, wrong, counts = random.Random(options.seed), 0, Counter[str]()  # noqa: S311 - not cryptography
    os.environ["OMP_NUM_THREADS"] = "1"
    for _ in range(options.accidents):
        seconds, victim = rng.uniform(0.3, options.longest), rng.choice(("driver", "recorder", "Ctrl-C"))
        with tempfile.TemporaryDirectory(prefix="first-minute-") as folder:
            problem = accident(Path(folder), seconds, victim)
        counts[victim] += 1
        wrong += bool(problem)
        print(f"{victim:9} after {seconds:4.1f} s: {problem or 'whole'}", flush=True)
    print(
        f"{options.accidents} accidents ({', '.join(f'{n} {victim}' for victim, n in counts.items())}): {wrong} storages not whole"
    )


if __name__ == "__main__":
    main()
