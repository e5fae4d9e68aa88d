"""A quick run starts no Ray, no server, no browser and no process of Paretune: a test that is about to is skipped there."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

OURS = {"search.cli", "search.tracking.recorder", "paretune"}
RAY = {"ray", "raylet", "gcs_server"}
SERVERS = {"mlflow", "moto.server", "initdb", "pg_ctl", "postgres", "munged", "slurmctld", "uvicorn"}
OTHERS = {"chromium", "ip", "build", "pip", "mount"}
LEFT_OUT = OURS | RAY | SERVERS | OTHERS


def start_nothing() -> None:
    """From now on, and for as long as this process lives."""
    sys.addaudithook(_look)


def _look(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "subprocess.Popen":
        return
    executable, words, *_ = arguments
    words = [words] if isinstance(words, str | bytes | os.PathLike) else words
    names = {Path(os.fsdecode(word)).name for word in (executable, *words) if word}
    if found := sorted(names & LEFT_OUT):
        pytest.skip(f"a quick run starts no {found[0]}")
