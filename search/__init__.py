"""The search: the study, its ledger, its record in MLflow, and the command line.

The functions below are commands of the command line in Python. Importing this package imports none of torch, Ray, Optuna or MLflow.

    import search
    study = search.run("emoji")                  # or a path, or a mapping
    study.front().to_pandas()
    search.load("paretune-studies/emoji")
    search.compare("paretune-studies/emoji", "paretune-studies/flowers")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from search.results.comparison import SideBySide
    from search.results.saved_study import SavedStudy

__all__ = ["compare", "load", "run"]


def run(study: str | Path | Mapping[str, Any] | None = None, **options: Any) -> SavedStudy:
    """Run a study to its end: the path of a study file, the name of a packaged study, or a mapping with the content.

    `options` are those of `search.workflows.run.run`: `back_end`, `n_cpus`.

    Raises:
        search.errors.RequestError: If the request is wrong; the message names place, law and remedy.
    """
    from search.config import loading
    from search.workflows.run import run as run_file

    file = loading.check(study) if isinstance(study, Mapping) else loading.load(study)
    return run_file(file, **options)


def load(folder: str | Path) -> SavedStudy:
    """Load the current state of a study; see `search.results.saved_study.SavedStudy`."""
    from search.results.saved_study import load as load_folder

    return load_folder(folder)


def compare(*studies: SavedStudy | str | Path) -> SideBySide:
    """Compare studies, given as loaded ones or folders; see `search.results.comparison.SideBySide`."""
    from search.results.comparison import SideBySide
    from search.results.saved_study import SavedStudy

    return SideBySide(tuple(one if isinstance(one, SavedStudy) else load(one) for one in studies))
