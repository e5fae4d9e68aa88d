"""Unbiased evaluation: front members are retrained on train and validation together, with several seeds, and tested once each.

The search has chosen among many configurations by their validation accuracy, which is biased towards the winners. Here nothing is
chosen: the members are retrained from new seeds, and each retrained model is tested once. Trials that are named take the place of
the front. The sibling ledger in `<study>/final/` has one trial per member and seed, so finalizing can be interrupted, resumed, and
extended by more seeds, other trials or members that an extended search has found. The correctness of each model on each test image
is stored with it; if the study is judged by another metric than accuracy, the probabilities that it gives to the classes.
"""

from __future__ import annotations

import io
import json
import logging
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search.backends.base import BackEnd, Order, Outcome
from search.config.loading import check_stored
from search.errors import RequestError
from search.metrics import TOP1
from search.results.saved_study import SavedStudy
from search.seeds import seed_for
from search.storage import checkpoints, location
from search.storage.checkpoints import Folder
from search.storage.sql_ledger import SqlLedger
from search.storage.whole_file import write_whole
from search.tracking.mlflow_client import tracking_uri
from search.tracking.sync import record_final
from search.trial import State, Trial
from search.workflows.front_odds import Answers, p_front, p_front_by

_log = logging.getLogger(__name__)
Retrain = Callable[[Iterable[Order]], Iterator[Outcome]]  # trains and tests models, and yields outcomes as they arrive
_CORRECT = "correct.npy"  # correctness of a model on each test image
_ANSWERS = "answers.npz"  # its probabilities, and the labels; not if the study is judged by accuracy
OF, REPEAT = "finalize.trial", "finalize.repeat"  # keys of a final trial's configuration, in addition to the member's own


@dataclass(frozen=True)
class Member:
    """One front member, or trial that was named, with its test results.

    Attributes:
        trial: Trial of the search.
        models: Trials of the sibling ledger, one for each retrained model, with its metrics.
        p_front: Probability, over seeds and test images, that no other member beats it in both accuracy and size.
    """

    trial: Trial
    models: tuple[Trial, ...]
    p_front: float

    @property
    def tested(self) -> tuple[float, ...]:
        """The study's metric of each retrained model on the test split."""
        return tuple(model.metrics[self.trial.metric.on_test] for model in self.models)

    @property
    def mean(self) -> float:
        """The mean of the metric over the seeds."""
        return float(np.mean(self.tested))

    @property
    def watched(self) -> dict[str, float]:
        """The mean of the metric on each watched data set, by its name."""
        scores = [self.trial.metric.on_watched(model.metrics) for model in self.models]
        return {name: float(np.mean([each[name] for each in scores])) for name in scores[0] if all(name in each for each in scores)}

    @property
    def deviation(self) -> float:
        """The standard deviation (n - 1) over the seeds; NaN for one seed."""
        return float(np.std(self.tested, ddof=1)) if len(self.tested) > 1 else float("nan")


def finalize_and_record(
    study: SavedStudy,
    *,
    n_seeds: int,
    back_end: BackEnd,
    numbers: Sequence[int] = (),
    on_done: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = _log.warning,
) -> list[Member]:
    """Retrain and test a study's front on a back end, write the result to the study's folder, and record it in MLflow.

    Args:
        study: Study in any state, with a front.
        n_seeds: Number of models for each member.
        back_end: Back end for the retraining.
        numbers: Numbers of COMPLETE trials to retrain instead of the front; empty for the front.
        on_done: Callback that receives (finished models, all models).
        say: Callback for problems that the user should know although the retraining succeeded (MLflow does not show it).

    Raises:
        RequestError: If there is no front or no test split, a named trial is not COMPLETE, or a model could not be trained;
            finished models are kept.
        LedgerError: If another process is finalizing the study.
    """
    file = check_stored(study.row.file)
    members = finalize(
        study,
        n_seeds=n_seeds,
        retrain=lambda orders: back_end.retrain(file, study.row.facts, orders),
        numbers=numbers,
        on_done=on_done,
    )
    write_views(study, members)
    try:
        record_final(location.ledger_in(study.folder), tracking_uri(study.folder.parent), [row(member) for member in members])
    except Exception as error:  # MLflow is only a view: the numbers are already in the ledger
        say(f"MLflow does not show the test accuracies ({type(error).__name__}); finalize again to record them")
    return members


def finalize(
    study: SavedStudy,
    *,
    n_seeds: int,
    retrain: Retrain,
    numbers: Sequence[int] = (),
    on_done: Callable[[int, int], None] = lambda done, of: None,
) -> list[Member]:
    """Retrain and test the missing models of a study's front, and summarise all results.

    Args:
        study: Study in any state, with a front.
        n_seeds: Number of models for each member.
        retrain: Function that retrains models on a back end.
        numbers: Numbers of COMPLETE trials to retrain instead of the front; empty for the front.
        on_done: Callback that receives (finished models, all models).

    Raises:
        RequestError: If the front is empty, a named trial is not COMPLETE, or a model could not be trained; finished models are
            kept.
        LedgerError: If another process is finalizing the study, or its checkpoints are another study's.
    """
    chosen = chosen_trials(study, numbers)
    study.own_checkpoints()
    ledger = _ledger(study)
    try:
        wanted = [(member.number, repeat) for repeat in range(n_seeds) for member in chosen]
        done = {(t.config[OF], t.config[REPEAT]) for t in ledger.trials() if t.state is State.COMPLETE}
        known = len(done.intersection(wanted))
        on_done(known, len(wanted))
        failures = []
        started: dict[int, tuple[Trial, Order]] = {}
        for n_done, outcome in enumerate(retrain(_orders(ledger, study, wanted, started)), start=known + 1):
            trial, order = started[outcome.number]
            if outcome.correct is not None:
                checkpoints.write_file(order.folder, _CORRECT, _as_bytes(outcome.correct))
            if outcome.answers is not None:
                probabilities, labels = outcome.answers
                checkpoints.write_file(order.folder, _ANSWERS, _as_zip(probabilities=probabilities, labels=labels))
            with ledger.decision() as writer:
                if outcome.failure is not None:
                    writer.finish(trial, State.FAILED, reason=outcome.failure)
                    failures.append(f"trial {trial.config[OF]}: {outcome.failure}")
                else:
                    writer.finish(writer.report(trial, order.epochs, outcome.metrics), State.COMPLETE)
            on_done(n_done, len(wanted))
    finally:
        ledger.close()
    if failures:
        raise RequestError("a member could not be retrained: " + "; ".join(failures))
    return finalized(study, numbers)


def chosen_trials(study: SavedStudy, numbers: Sequence[int] = ()) -> list[Trial]:
    """Return the trials to retrain, smallest first: the named ones, each once, or the front.

    Raises:
        RequestError: If a named trial does not exist or is not COMPLETE, or there is no front.
    """
    named = [study.trial(number) for number in dict.fromkeys(numbers)]
    for trial in named:
        if trial.state is not State.COMPLETE:
            raise RequestError(
                f"cannot retrain trial {trial.number}: it is {trial.state}, and only a COMPLETE trial has an accuracy to test; "
                f"`paretune trials {study.name} --top 5` lists the best"
            )
    if not named and not study.members:
        raise RequestError(f"study {study.name} has no front yet: no trial is complete")
    return sorted(named, key=lambda trial: (trial.size, trial.number)) or list(study.members)


def finalized(study: SavedStudy, numbers: Sequence[int] = ()) -> list[Member]:
    """Return the retrained members, smallest first, with their test results.

    Args:
        study: Study that was finalized.
        numbers: Numbers of the trials that were named; empty for the front.

    Raises:
        LedgerError: If nothing has been finalized.
        RequestError: If `chosen_trials` raises it.
    """
    sibling = location.final_location(study.folder)
    ledger = SqlLedger.open(sibling.find() or sibling.path)
    try:
        done = [trial for trial in ledger.trials() if trial.state is State.COMPLETE]
    finally:
        ledger.close()
    by_member: dict[int, list[Trial]] = {}
    for trial in done:
        by_member.setdefault(cast(int, trial.config[OF]), []).append(trial)
    members = [member for member in chosen_trials(study, numbers) if member.number in by_member]
    sizes, seed = [member.size for member in members], study.row.file["search"]["seed"]
    folders = [[_folder(study, t.number) for t in by_member[m.number]] for m in members]
    if study.metric.key == TOP1:
        correct = [np.stack([_read(folder, _CORRECT) for folder in several]) for several in folders]
        odds = p_front(sizes, correct, seed=seed)
    else:
        answers = [[_read_answers(folder) for folder in several] for several in folders]
        odds = p_front_by(study.metric, sizes, answers, seed=seed)
    return [Member(member, tuple(by_member[member.number]), p) for member, p in zip(members, odds, strict=True)]


def write_views(study: SavedStudy, members: Sequence[Member]) -> None:
    """Write `final.parquet` next to the study's other views: one row per member, with its configuration as JSON."""
    rows = [row(member) for member in members]
    table = pa.Table.from_pylist(rows, metadata={"paretune.schema_version": "1", "paretune.study": study.name})
    write_whole(study.folder / "final.parquet", lambda draft: pq.write_table(table, draft))


def row(member: Member) -> dict[str, Any]:
    """Return a finalized member as plain values; accuracies are fractions."""
    trial, metric = member.trial, member.trial.metric
    return {
        "trial": trial.number,
        "method": trial.method,
        "adapter_params": trial.adapter_params,
        "head_params": trial.head_params,
        "config": json.dumps(trial.config),
        metric.key: trial.quality,
        f"{metric.on_test}_mean": member.mean,
        f"{metric.on_test}_deviation": member.deviation,
        **{f"watch/{name}/{metric.name}_mean": mean for name, mean in member.watched.items()},
        "n": len(member.tested),
        "p_front": member.p_front,
    }


# -- the sibling ledger ------------------------------------------------------------------------------------------------------------


def _ledger(study: SavedStudy) -> SqlLedger:
    sibling = location.final_location(study.folder)
    if (path := sibling.find()) is None:
        facts, file = {"of": study.row.uid}, dict(study.row.file)
        return SqlLedger.create(sibling.path, address=sibling.address, name=f"{study.name}-final", file=file, facts=facts)
    ledger = SqlLedger.open(path)
    ledger.claim()
    if ledger.study().finalizes != study.row.uid:
        ledger.close()
        raise RequestError(f"{path.parent} belongs to another study of this name; move it elsewhere")
    return ledger


def _orders(
    ledger: SqlLedger, study: SavedStudy, wanted: Iterable[tuple[int, int]], started: dict[int, tuple[Trial, Order]]
) -> Iterator[Order]:
    """Yield the missing ones of the wanted (member, repeat); each becomes a RUNNING trial of the sibling ledger, in `started`."""
    file = check_stored(study.row.file)
    known = {(t.config[OF], t.config[REPEAT]): t for t in ledger.trials() if t.state is not State.FAILED}
    number = len(ledger.trials())
    for of, repeat in wanted:
        member, trial = study.history[of], known.get((of, repeat))
        if trial is not None and trial.state is State.COMPLETE:
            continue
        with ledger.decision() as writer:
            if trial is None:
                seed = seed_for(file.search.seed, "finalize", repeat)
                config = {**member.config, OF: of, REPEAT: repeat}
                trial = Trial(number, State.RUNNING, config, seed, member.adapter_params, member.head_params)
                trial, number = writer.start(trial), number + 1
            else:
                trial = writer.attempt(trial)
        epochs, folder = member.planned_epochs or file.budget.epochs, _folder(study, trial.number)
        started[trial.number] = trial, Order(trial.number, dict(member.config), trial.seed, epochs, folder)
        yield started[trial.number][1]


def _folder(study: SavedStudy, number: int) -> Folder:
    folder = study.checkpoints / "final" / "trials" / f"{number:04d}"
    return folder.absolute() if isinstance(folder, Path) else folder


def _as_bytes(correct: NDArray[np.bool_]) -> bytes:
    np.save(blob := io.BytesIO(), correct)
    return blob.getvalue()


def _as_zip(**arrays: NDArray[Any]) -> bytes:
    np.savez_compressed(blob := io.BytesIO(), **arrays)  # type: ignore[arg-type]
    return blob.getvalue()


def _read_answers(folder: Folder) -> Answers:
    stored = _read(folder, _ANSWERS)
    return stored["probabilities"], stored["labels"]


def _read(folder: Folder, name: str) -> Any:
    """Read an array, or a mapping of arrays, of a retrained model."""
    if (blob := checkpoints.read_file(folder, name)) is None:
        raise RequestError(f"{folder} has no {name}: the test results of a finished retraining were deleted; restore the file")
    try:
        found = np.load(io.BytesIO(blob))
        return dict(found) if name == _ANSWERS else found
    except (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error):
        raise RequestError(
            f"{folder}/{name} is not whole (a power cut leaves such files); restore it, or move the study's folder `final` "
            "away and finalize again"
        ) from None
