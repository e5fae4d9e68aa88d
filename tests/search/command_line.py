"""`paretune` as a person or another program meets it: what it prints, and its exit code."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from search.cli.app import exit_code


def paretune(*words: str, cwd: Path, columns: int = 200, **environment: str) -> CompletedProcess[str]:
    """A command in this process, which has imported everything: a fresh one takes seconds for that. Not for Ray."""
    printed, complaint = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
        patch.chdir(cwd)
        for name, value in _environment(columns, environment).items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["paretune", *words])
        code = exit_code()
    return CompletedProcess(words, code, printed.getvalue(), complaint.getvalue())


def paretune_process(
    *words: str, cwd: Path, columns: int = 200, preexec_fn: Callable[[], None] | None = None, **environment: str
) -> CompletedProcess[str]:
    """The same in a process of its own: for Ray, and for laws about processes."""
    command = [sys.executable, "-m", "search.cli", *words]
    known = os.environ | _environment(columns, environment)
    return subprocess.run(
        command, cwd=cwd, env=known, capture_output=True, text=True, timeout=240, check=False, preexec_fn=preexec_fn
    )


def _environment(columns: int, more: dict[str, str]) -> dict[str, str]:
    return {"COLUMNS": str(columns), "NO_COLOR": "1"} | more
