"""Searches on several machines, as far as one machine goes: processes or commands that take themselves for another machine's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from search.backends import in_process
from search.config.loading import check
from search.results.saved_study import load
from search.storage.location import ledger_in
from search.study.study import Study
from search.trial import Trial
from trainables import make
from trainables.simulated.plain import SyntheticSizes

from .command_line import paretune

STUDY = """
study: {name}
data: {{kind: synthetic, noise: 0.01, diverges_above_lr: 0.015, epoch_seconds: {epoch_seconds}}}
methods: [lora, arc, lily]
budget: {{n_trials: {n_trials}, epochs: 3, max_params: 20_000}}
search: {{rungs: {{grace: 1, factor: 2}}}}
"""
# A process that takes itself for one of another machine
ELSEWHERE = "import socket; socket.gethostname = lambda: 'elsewhere'; from search.cli import main; main()"


def write_study_file(folder: Path, name: str, server: str | None, *, n_trials: int = 12, epoch_seconds: float = 0.0) -> Path:
    path = folder / f"{name}.yaml"
    text = STUDY.format(name=name, n_trials=n_trials, epoch_seconds=epoch_seconds)
    path.write_text(text + (f"ledger: {server}\n" if server else ""))
    return path


def start(*arguments: object, cwd: Path, elsewhere: bool = False, **environment: str) -> subprocess.Popen[str]:
    program = ["-c", ELSEWHERE] if elsewhere else ["-m", "search.cli"]
    command = [sys.executable, *program, *map(str, arguments)]
    known = os.environ | {"COLUMNS": "100", "NO_COLOR": "1"} | environment
    return subprocess.Popen(command, cwd=cwd, env=known, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def said(*arguments: object, cwd: Path, elsewhere: bool = False, **environment: str) -> tuple[int, str, str]:
    """What a command answers; it runs in this process, which may take itself for another machine's until it ends."""
    with pytest.MonkeyPatch.context() as patch:
        if elsewhere:
            patch.setattr(socket, "gethostname", lambda: "elsewhere")
        done = paretune(*map(str, arguments), cwd=cwd, columns=100, **environment)
    return done.returncode, done.stdout, done.stderr


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """A bounded wait for something real."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.02)
    return found


def essence(trials: tuple[Trial, ...]) -> list[Any]:
    return [(t.number, t.state, t.config, t.seed, t.epochs, {k: str(v) for k, v in t.metrics.items()}) for t in trials]


def searched_here(folder: Path, name: str, server: str | None = None, *, n_trials: int = 12) -> Study:
    """The study that a driver in this process makes, undisturbed."""
    raw = yaml.safe_load(STUDY.format(name=name, n_trials=n_trials, epoch_seconds=0.0))
    with closing(Study.create(check(raw | {"storage": str(folder), "ledger": server}), SyntheticSizes())) as study:
        in_process.run(study, make(**study.file.worker(study.row.facts)))
        return study


@contextmanager
def driver(folder: Path, name: str, *, elsewhere: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A real driver that has reported its first epoch."""
    with start("run", f"{name}.yaml", "--back-end", "in-process", cwd=folder, elsewhere=elsewhere) as process:
        try:
            until(lambda: n_reported(folder / "paretune-studies" / name))
            yield process
        finally:
            process.kill()


def n_reported(folder: Path) -> int:
    return len(load(folder).epochs) if ledger_in(folder).exists() else 0
