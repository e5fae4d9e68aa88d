"""Extensions of a study: more trials, more time, more epochs for one trial, a wider space.

An extension is one event. The original study file stays unchanged, unless the space is widened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search.config.loading import check_request
from search.config.study_file import StudyFile
from search.errors import StudyFileError
from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.trial import State, Trial, find_trial

_MAY_GROW = ("n_trials", "max_hours", "until", "stall_trials")  # keys of a budget


@dataclass(frozen=True)
class Extension:
    """The requested changes, which are made together or not at all.

    Attributes:
        more_trials: Number to add to `budget.n_trials`.
        max_hours: New `budget.max_hours`, over all drivers of the study; None for no change.
        until: New `budget.until`, with its time zone; None for no change.
        trial: Number of a trial to continue from its checkpoint, as a new trial.
        epochs: Total epochs of that trial, counted from its beginning.
        file: Resolved study file with a wider space and budget.
    """

    more_trials: int = 0
    max_hours: float | None = None
    until: str | None = None
    trial: int | None = None
    epochs: int | None = None
    file: Mapping[str, Any] | None = None

    def detail(self) -> dict[str, Any]:
        """Return the changes as JSON values, for a request; `Extension(**detail)` restores them."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value for key, value in given.items() if (key, value) != ("more_trials", 0)}

    def __bool__(self) -> bool:
        return bool(self.detail())

    def changes(self, budget: Mapping[str, Any], *, spent: float, now: float) -> dict[str, Any]:
        """Return the new values of the budget.

        Args:
            budget: Current budget.
            spent: Hours spent so far.
            now: Unix time.

        Raises:
            ValueError: If a value would shrink, or is already in the past.
        """
        if self.more_trials < 0 or (self.max_hours is not None and self.max_hours <= spent):
            raise ValueError(f"a budget can only grow: more_trials >= 0, max_hours above the {spent:.2f} h already spent")
        if self.more_trials and budget["n_trials"] is None:
            raise ValueError("the study has no budget.n_trials, only hours end it; give more of them with --max-hours")
        n_trials = budget["n_trials"]
        changes: dict[str, Any] = {"n_trials": None if n_trials is None else n_trials + self.more_trials}
        if self.max_hours is not None:
            changes["max_hours"] = self.max_hours
        if self.until is not None:
            if moment(self.until).timestamp() <= now:
                raise ValueError(f"until {self.until} is in the past; give a later date")
            changes["until"] = moment(self.until).isoformat()
        return changes


def moment(text: str) -> datetime:
    """Parse a date, with or without a time of day; the default time zone is this machine's.

    Raises:
        ValueError: If it is not a date; the message shows the format.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError(f"{text!r} is not a date; write 2026-12-24 or 2026-12-24T18:00") from None


# -- one trial with more epochs ------------------------------------------------------------------------------------------


def extended_trial(trials: list[Trial], number: int, epochs: int | None, *, usual: int) -> Trial:
    """Return the trial that continues an ended one, with its configuration, seed and checkpoint, and more epochs.

    Args:
        trials: All trials of the study.
        number: Number of the ended trial.
        epochs: Total epochs, counted from its beginning.
        usual: Budget `budget.epochs`: a pruned trial that is extended to it becomes a normal trial of the search again.

    Raises:
        ValueError: If the trial cannot continue, or already has as many epochs.
    """
    ended = find_trial(trials, number).first_run(usual)
    if ended.state not in (State.COMPLETE, State.PRUNED):
        raise ValueError(
            f"cannot extend trial {number}: it is {ended.state.value} (only COMPLETE or PRUNED trials can be extended)"
        )
    if epochs is None or epochs <= ended.epochs:
        raise ValueError(f"trial {number} already has {ended.epochs} epochs; give a larger number with --epochs")
    return replace(
        ended,
        number=len(trials),
        state=State.RUNNING,
        reason=None,
        rung=None,
        n_attempts=0,  # no worker has had it yet
        finished=None,
        extends=number,
        planned_epochs=None if epochs == usual else epochs,
    )


def copy_checkpoint(study: Folder, source: int, to: int) -> None:
    """Copy the checkpoint of a trial to a new trial, atomically.

    Raises:
        ValueError: If the checkpoint no longer exists.
    """
    origin, target = checkpoints.trial_folder(study, source), checkpoints.trial_folder(study, to)
    if not checkpoints.has_checkpoint(study, source):
        raise ValueError(f"trial {source} no longer has a checkpoint (deleted by `paretune gc`), so it cannot be extended")
    checkpoints.copy_folder(origin, target, leave=checkpoints.FLAG)


# -- a wider space -------------------------------------------------------------------------------------------------------


def widened_file(old: StudyFile, new: Mapping[str, Any]) -> StudyFile:
    """Check that the new study file allows everything that the old one does; return it.

    Raises:
        StudyFileError: If something is narrower, or is another question; the message lists every such key.
    """
    file = check_request(new).kept_like(old)
    if added := sorted(file.own_methods.keys() - old.own_methods.keys()):
        raise StudyFileError(f"methods: {added[0]} is a method of your own; it needs a study of another name (study: ...)")
    problems = [*_other(old, file), *_narrower(old, file)]
    if problems:
        raise StudyFileError(
            f"study {old.study} can only be widened:\n" + "\n".join(f"  {problem}" for problem in problems) + "\n"
            "Give another question another name (study: ...)."
        )
    return file


def _other(old: StudyFile, new: StudyFile) -> Iterator[str]:
    then, now = old.resolved(), new.resolved()
    for key in then.keys() - {"space", "methods", "budget"}:
        if then[key] != now.get(key):
            yield f"{key}: {then[key]} -> {now.get(key)}: is fixed"
    for key, before in then["budget"].items():
        after = now["budget"][key]
        if key not in _MAY_GROW and before != after:
            yield f"budget.{key}: {before} -> {after}: is fixed"
        elif key in _MAY_GROW and after is not None and (before is None or _less(after, before)):
            yield f"budget.{key}: {before} -> {after}: is less"


def _less(after: Any, before: Any) -> bool:
    return bool(moment(after) < moment(before)) if isinstance(after, str) else bool(after < before)


def _narrower(old: StudyFile, new: StudyFile) -> Iterator[str]:
    for method in old.methods:
        if method not in new.methods:
            yield f"methods: {method} is missing"
            continue
        after = new.joint_space().distributions(method)
        for key, before in old.joint_space().distributions(method).items():
            if not _within(before, after[key]):
                yield f"space.{key}: {before} is not within {after[key]}"


def _within(before: BaseDistribution, after: BaseDistribution) -> bool:
    if type(before) is not type(after):
        return False
    if isinstance(before, CategoricalDistribution) and isinstance(after, CategoricalDistribution):
        return set(before.choices) <= set(after.choices)
    then, now = vars(before), vars(after)
    same = all(then[key] == now[key] for key in then if key not in ("low", "high"))  # logarithm and step
    return bool(same and now["low"] <= then["low"] and now["high"] >= then["high"])
