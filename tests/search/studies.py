"""Small studies on the synthetic surface: their file, the study itself, a clock that a test moves, and asking for a trial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.config.loading import check
from search.config.study_file import StudyFile
from search.study.study import Study
from search.trial import Trial
from trainables import measure

FILE: dict[str, Any] = {
    "study": "s",
    "data": {"kind": "synthetic"},
    "methods": ["lora", "arc", "lily"],
    "budget": {"n_trials": 12, "epochs": 3, "max_params": 20_000},
}


def study_file(storage: Path | None = None, /, **changes: Any) -> StudyFile:
    """A checked study file; `changes` replace whole sections."""
    return check(FILE | ({} if storage is None else {"storage": str(storage)}) | changes)


def new_study(storage: Path, /, *, now: Callable[[], float] | None = None, **changes: Any) -> Study:
    """A study of that file, just made."""
    file = study_file(storage, **changes)
    worker = file.worker()
    return Study.create(file, measure(worker["backbone"], worker["data"]), now=now)


def next_trial(study: Study) -> Trial:
    """What the study asks for next; it must ask for something."""
    trial = study.ask()
    assert trial is not None, "the study asks for nothing more"
    return trial


class Clock:
    """Stands still until a test moves it."""

    def __init__(self, time: float = 1_790_000_000.0) -> None:
        self.time = time

    def __call__(self) -> float:
        """Unix seconds."""
        return self.time
