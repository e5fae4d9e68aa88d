"""The content of a study's runs in MLflow: names, tags, parameters, metrics. Pure functions of the ledger's content.

There is one parent run for the study and one child run per trial. `search.tracking.sync` sends the content, and
`search.tracking.verify` compares it with MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from search.costs import epoch_seconds
from search.front import front, hypervolume
from search.metrics import Metric
from search.results.study_state import StudyState
from search.results.words import METHOD_NAMES, describe_knobs
from search.storage.events import EventKind
from search.storage.rows import Event, Report, StudyRow
from search.storage.runs import is_repeated
from search.trial import PARAMETERS, Metrics, State, Trial

MAX_TAG_CHARACTERS = 5000
VIEW = "paretune"  # name of our layout of the table of runs in MLflow's pages
_STATUS = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAILED: "FAILED"}  # RUNNING for the rest
_STUDY_STATUS = {StudyState.FINISHED: "FINISHED", StudyState.INTERRUPTED: "KILLED", StudyState.RUNNING: "RUNNING"}


@dataclass(frozen=True)
class Step:
    """The metrics of one epoch of a trial, or those of a study after one more of its trials has ended."""

    number: int  # counts from 1
    time: float  # Unix time
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class RunContent:
    """The content of one run.

    Attributes:
        name: Name of the run.
        status: Status in MLflow.
        started: Unix time of the start.
        ended: Unix time of the end, None before it.
        tags: Tags that MLflow's own pages read, and ours under `paretune.`.
        counter: Name of the tag that counts the steps in the run.
        steps: Metrics with a history, in order; those that the run is known to have may be left out.
        params: Values that were fixed when the run began.
        sizes: Metrics without a history.
        optional: Tags to delete from the run if they are not among `tags`.
    """

    name: str
    status: str
    started: float
    ended: float | None
    tags: Mapping[str, str]
    counter: str
    steps: Sequence[Step]
    params: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    optional: tuple[str, ...] = ()


def trial_content(study: StudyRow, trial: Trial, reports: Iterable[Report], *, rank: int | None, parent: str) -> RunContent:
    """Return the content of a trial's run.

    Args:
        study: Study of the trial.
        trial: Current state of the trial.
        reports: Epochs of the trial, in order.
        rank: Rank: 1 on the front, 2 on the front of the rest, ...; None if it is not compared (see `search.front.ranks`).
        parent: Id of the study's run.
    """
    tags = _identity(study) | {
        "paretune.trial": str(trial.number),
        "paretune.method": trial.method,
        "paretune.state": trial.state.value,
        "paretune.front": "true" if rank == 1 else "false",
        "paretune.attempts": str(trial.n_attempts),
        "mlflow.note.content": trial_note(trial, rank),
        "mlflow.parentRunId": parent,
    }
    if trial.extends is not None:
        tags["paretune.extends"] = str(trial.extends)
    if rank is not None:
        tags["paretune.rank"] = str(rank)
    if trial.rung is not None:
        tags["paretune.rung"] = str(trial.rung)
    if trial.reason is not None:
        tags["paretune.reason"] = trial.reason[:MAX_TAG_CHARACTERS]
    return RunContent(
        trial.label,
        _STATUS.get(trial.state, "RUNNING"),
        trial.started,
        trial.finished,
        tags,
        "paretune.epochs",
        [Step(report.epoch, report.time, _shown(study, trial, report)) for report in reports],
        params={key: str(value) for key, value in {**trial.config, "trial": trial.number, "seed": trial.seed}.items()},
        sizes={key: float(trial.cost(key)) for key in dict.fromkeys(("adapter_params", "head_params", *_counted(trial)))},
        optional=("paretune.rank", "paretune.rung", "paretune.reason"),
    )


def _shown(study: StudyRow, trial: Trial, report: Report) -> Metrics:
    """Return the metrics of an epoch, as MLflow shows them.

    Those of a further run have names of their own, `fold-2/val/top1` or `run-2/val/top1`. Its last epoch also has the mean of the
    study's metric over the runs until then.
    """
    length = int(study.budget["epochs"])
    if trial.planned_epochs is not None or report.epoch <= length or not is_repeated(study.file):
        return report.metrics
    run = (report.epoch - 1) // length + 1
    word = "run" if trial.n_folds is None else "fold"
    own = {f"{word}-{run}/{key}": value for key, value in report.metrics.items() if not key.startswith("cost/")}
    if report.epoch % length == 0 and run <= len(trial.runs):
        own[trial.objective] = trial.with_runs(trial.runs[:run]).quality
    return own


def trial_note(trial: Trial, rank: int | None) -> str:
    """Write what a trial was, how it ended and why, in Markdown."""
    lines = [f"**{METHOD_NAMES.get(trial.method, trial.method)}** {describe_knobs(trial)}", "", f"- {_standing(trial, rank)}"]
    if trial.adapter_params or trial.head_params:
        lines.append(f"- {trial.adapter_params:,} parameters of the adapter, {trial.head_params:,} of the head")
    if trial.extends is not None:
        lines.append(f"- it continues trial {trial.extends} with more epochs")
    if trial.n_attempts > 1:
        lines.append(f"- started {trial.n_attempts} times, each time from its checkpoint")
    return "\n".join(lines)[:MAX_TAG_CHARACTERS]


def _standing(trial: Trial, rank: int | None) -> str:
    if trial.state is State.PRUNED:
        return f"stopped after {trial.epochs} epochs, which is no failure: {trial.reason}"
    if trial.state is State.FAILED:
        return f"failed after {trial.epochs} epochs: {trial.reason}"
    if trial.state is State.COMPLETE:
        where = "" if rank is None else ", on the front" if rank == 1 else f", on front {rank} of the ranking"
        runs = f", the mean of {len(trial.runs)} runs" if len(trial.runs) > 1 else ""
        return f"complete after {trial.epochs} epochs with {trial.metric.words(trial.quality)}{runs}{where}"
    return trial.state.value.lower()


def study_content(
    study: StudyRow, trials: Sequence[Trial], state: StudyState, steps: Sequence[Step], description: str
) -> RunContent:
    """Return the content of the study's own run.

    Args:
        study: The study.
        trials: All of its trials.
        state: State of the study.
        steps: Steps from `Progress`.
        description: Description in Markdown.
    """
    ended = max((trial.finished for trial in trials if trial.finished is not None), default=None)
    tags = {
        "paretune.state": state.value,
        "paretune.n_trials": str(len(trials)),
        "mlflow.note.content": description,
    }
    return RunContent(study.name, _STUDY_STATUS[state], study.created, ended, _identity(study) | tags, "paretune.n_ended", steps)


def _counted(trial: Trial) -> tuple[str, ...]:
    """Return the study's second objective if it is a number of parameters; other costs are reported with every epoch."""
    return (trial.against,) if trial.against in PARAMETERS else ()


def _identity(study: StudyRow) -> dict[str, str]:
    return {"paretune.study": study.name, "paretune.study_uid": study.uid}


class Progress:
    """The front size, hypervolume, best metric, epochs and hours after each end of a trial, for events in any portions.

    The best values are those of all trials, and of trials with up to 100, 1,000, 10,000 ... parameters, up to the largest
    allowed adapter.
    """

    def __init__(self, metric: Metric, reference_point: tuple[float, float], largest: float, *, is_repeated: bool = False) -> None:
        self._is_repeated = is_repeated
        self._metric = metric
        self._reference_point = reference_point
        self._best: dict[str, float] = {}
        self._limits = [10**decade for decade in range(2, 10) if 10**decade <= largest]
        self._running: dict[int, Metrics] = {}  # metrics of the last epoch of each trial that has not ended
        self._complete: list[Trial] = []  # trials that may still be on the front
        self._every: dict[int, Trial] = {}  # all complete trials of a study in which they may be trained again
        self._n_ended = 0
        self._n_epochs, self._seconds = 0, 0.0  # of all trials, up to the last event

    @classmethod
    def of(cls, study: StudyRow) -> Progress:
        """Create the progress of a study, from its beginning."""
        largest = float(study.facts.max_params)
        return cls(study.metric, study.facts.reference_point, largest, is_repeated=is_repeated(study.file))

    def advance(self, events: Iterable[Event], reports: Iterable[Report], trials: Sequence[Trial]) -> list[Step]:
        """Return one step for each trial that ended among the events."""
        known = {r.event: r.metrics for r in reports}
        steps = []
        for event in events:
            if event.trial is None:
                continue
            if event.kind is EventKind.REPORTED:
                self._running[event.trial] = known[event.number]
                self._n_epochs += 1
                self._seconds += epoch_seconds(known[event.number]) or 0.0
            elif event.kind in (EventKind.COMPLETED, EventKind.PRUNED, EventKind.FAILED):
                self._n_ended += 1
                last = self._running.pop(event.trial, None)
                if event.kind is EventKind.COMPLETED and last is not None and trials[event.trial].planned_epochs is None:
                    self._completed(_as_it_was(trials[event.trial], last, event.detail.get("runs", 0)))
                values = {
                    "front/size": float(len(self._complete)),
                    "front/hypervolume": hypervolume(self._complete, self._reference_point),
                    "spent/epochs": float(self._n_epochs),
                    "spent/trained_hours": self._seconds / 3600.0,
                }
                steps.append(Step(self._n_ended, event.time, values | self._best))
        return steps

    @property
    def spent(self) -> tuple[int, float]:
        """The epochs of all trials, and their hours of training and validation."""
        return self._n_epochs, self._seconds / 3600.0

    def _completed(self, trial: Trial) -> None:
        if self._is_repeated:  # a mean may be less than the first run was
            self._every[trial.number] = trial
            self._complete, self._best = front(self._every.values()), {}
            for one in self._every.values():
                self._note_best(one)
            return
        self._complete = front([*self._complete, trial])
        self._note_best(trial)

    def _note_best(self, trial: Trial) -> None:
        best, metric = f"best/{self._metric.name}", self._metric
        small = [f"{best}_at_params_le_{limit}" for limit in self._limits if trial.adapter_params <= limit]
        for key in (best, *small):
            self._best[key] = max(trial.quality, self._best.get(key, trial.quality), key=metric.score)


def _as_it_was(trial: Trial, last: Metrics, n_runs: int) -> Trial:
    """Return the trial in its state at completion, with so many runs."""
    then = replace(trial, state=State.COMPLETE)
    return then.with_runs(trial.runs[:n_runs]) if n_runs and trial.runs else replace(then, metrics=last, runs=())
