"""What a quick start relies on of Ray: trials run in the workers that waited for them, with their imports done."""

import subprocess
import sys
from pathlib import Path

import pytest

SEARCH = """
import sys, threading, time
from pathlib import Path

import psutil

from cluster.connect import embedded
from search.config.loading import check
from search.study.study import Study
from trainables.simulated.plain import SyntheticSizes


def workers(*names):
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            title = process.cmdline()[0]
        except (psutil.Error, IndexError):  # it has just ended
            continue
        if title.startswith(names):
            found.add(process.pid)
    return found


raw = {"study": "s", "data": {"kind": "synthetic", "epoch_seconds": 0.2}, "methods": ["lora"], "storage": sys.argv[1]}
file = check(raw | {"budget": {"n_trials": 3, "epochs": 2}})
with embedded(n_cpus=1, preload=("colorsys",)):
    from search.backends import ray_tune

    deadline = time.monotonic() + 240
    while not (waiting := workers("ray::IDLE")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    at_work, ended = set(), threading.Event()

    def watch():
        while not ended.wait(0.05):
            at_work.update(workers("ray::TuneTrial", "ray::ResourceTrainable"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    study = Study.create(file, SyntheticSizes())
    ray_tune.run(study, n_slots=1)
    ended.set()
    watcher.join()
    assert study.finished
print(sorted(waiting), sorted(at_work))
assert at_work
assert at_work <= waiting
"""


@pytest.mark.slow
def test_trials_run_in_the_workers_that_wait_for_them(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SEARCH, str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
