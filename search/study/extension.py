"""What makes a study larger than it was made: more trials, more time, more epochs for one trial, a wider space.

An extension is one event. The study file that the study was made from stays what it was, unless the space was widened.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution

from search.config.loading import check
from search.config.study_file import StudyFile
from search.errors import StudyFileError
from search.storage import checkpoints
from search.storage.checkpoints import Folder
from search.trial import State, Trial, find_trial

_MAY_GROW = ("n_trials", "max_hours", "until", "stall_trials")  # of a budget


@dataclass(frozen=True)
class Extension:
    """What is asked for; all of it together or nothing.

    Attributes:
        more_trials: Added to `budget.n_trials`.
        max_hours: The new `budget.max_hours`, over all drivers of the study; None leaves it.
        until: The new `budget.until`, with its time zone; None leaves it.
        trial: This one goes on, as a trial of its own, from its checkpoint.
        epochs: Up to this many, counted from the trial's beginning.
        file: A resolved study file whose space and budget are wider.
    """

    more_trials: int = 0
    max_hours: float | None = None
    until: str | None = None
    trial: int | None = None
    epochs: int | None = None
    file: Mapping[str, Any] | None = None

    def detail(self) -> dict[str, Any]:
        """As JSON values, for a request; `Extension(**detail)` is the same again."""
        given = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: value for key, value in given.items() if (key, value) != ("more_trials", 0)}

    def __bool__(self) -> bool:
        return bool(self.detail())

    def changes(self, budget: Mapping[str, Any], *, spent: float, now: float) -> dict[str, Any]:
        """The new values of the budget.

        Args:
            budget: As it is.
            spent: Hours.
            now: Unix time.

        Raises:
            ValueError: if something of it would be less than it is, or is over already.
        """
        if self.more_trials < 0 or (self.max_hours is not None and self.max_hours <= spent):
            raise ValueError(f"a budget is extended, not cut: more_trials >= 0, max_hours above the {spent:.2f} h that are spent")
        changes: dict[str, Any] = {"n_trials": budget["n_trials"] + self.more_trials}
        if self.max_hours is not None:
            changes["max_hours"] = self.max_hours
        if self.until is not None:
            if moment(self.until).timestamp() <= now:
                raise ValueError(f"until {self.until} is over already; name a later date")
            changes["until"] = moment(self.until).isoformat()
        return changes


def moment(text: str) -> datetime:
    """A date, with or without a time of the day; without a time zone it is this machine's.

    Raises:
        ValueError: if it is none; the message shows how one is written.
    """
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        raise ValueError(f"{text!r} is no date; write 2026-12-24 or 2026-12-24T18:00") from None


# -- one trial with more epochs ------------------------------------------------------------------------------------------


def extended_trial(trials: list[Trial], number: int, epochs: int | None, *, usual: int) -> Trial:
    """The trial that goes on where another one has ended: its configuration, seed and checkpoint, and more epochs.

    Args:
        trials: All of the study.
        number: Of the one that has ended.
        epochs: Counted from its beginning.
        usual: `budget.epochs`: a trial that was pruned and gets so many is one of the search's again.

    Raises:
        ValueError: if the trial cannot go on, or has as many epochs.
    """
    ended = find_trial(trials, number)
    if ended.state not in (State.COMPLETE, State.PRUNED):
        raise ValueError(f"trial {number} is {ended.state.value}; only a trial that is COMPLETE or PRUNED can be extended")
    if epochs is None or epochs <= ended.epochs:
        raise ValueError(f"trial {number} has {ended.epochs} epochs; extend it with --epochs, to more than these")
    return replace(
        ended,
        number=len(trials),
        state=State.RUNNING,
        reason=None,
        rung=None,
        n_attempts=0,  # it waits for its first
        finished=None,
        extends=number,
        planned_epochs=None if epochs == usual else epochs,
    )


def copy_checkpoint(study: Folder, source: int, to: int) -> None:
    """Give a new trial the checkpoint of another, whole or not at all.

    Raises:
        ValueError: if there is none any more.
    """
    origin, target = checkpoints.trial_folder(study, source), checkpoints.trial_folder(study, to)
    if not checkpoints.has_checkpoint(study, source):
        raise ValueError(f"trial {source} has no checkpoint any more (`paretune gc`): there is nothing to go on from")
    checkpoints.copy_folder(origin, target, leave=checkpoints.FLAG)


# -- a wider space -------------------------------------------------------------------------------------------------------


def widened_file(old: StudyFile, new: Mapping[str, Any]) -> StudyFile:
    """The new study file, if everything that the old one could try, the new one can.

    Raises:
        StudyFileError: listing what is narrower, or is another question.
    """
    file = check(new).kept_like(old)
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
        if then[key] != now[key]:
            yield f"{key}: {then[key]} -> {now[key]}: is fixed"
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
