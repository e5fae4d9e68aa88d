"""The runs of a trial: its first one, and further ones on other folds or from other seeds, with seeds and epochs of their own."""

from __future__ import annotations

from dataclasses import replace

from search.config.study_file import StudyFile
from search.seeds import seed_for
from search.trial import Trial


def seed_of_run(file: StudyFile, trial: Trial, run: int) -> int:
    """Return the seed of a further run of a trial."""
    return seed_for(file.search.seed, f"run {run}", trial.number)


def fold_of_run(file: StudyFile, run: int) -> int:
    """Return the part of the pool that validates in a run; 0 in a study without folds."""
    return 0 if file.data.folds is None else run - 1


def in_its_run(file: StudyFile, trial: Trial) -> Trial:
    """Return a RUNNING trial with the epochs and the seed of its current run."""
    if not trial.runs:
        return trial
    done = trial.epochs - len(trial.runs) * file.budget.epochs
    return replace(trial, epochs=done, seed=seed_of_run(file, trial, trial.run))


def planned_epochs(file: StudyFile, trial: Trial) -> int:
    """Return the number of epochs of a trial's complete run."""
    return trial.planned_epochs or file.budget.epochs
