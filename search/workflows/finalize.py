"""Honest selection: every member of a front retrained on train and validation together, with several seeds, and tested once each.

The search has chosen among many configurations by their validation accuracy, which flatters the winners. Here nothing is chosen any
more: the members are retrained from fresh seeds and each retrained model meets the test split once. The sibling
ledger in `<study>/final/` holds one trial per member and seed, so that finalizing can be interrupted, resumed, and extended by
more seeds or by members that an extended search has found; beside it lies which test images each model gets right.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from search import pareto
from search.backends.base import BackEnd, Order, Outcome
from search.config.loading import check
from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.seeds import seed_for
from search.storage import checkpoints, location
from search.storage.checkpoints import Folder
from search.storage.sql_ledger import SqlLedger
from search.storage.whole_file import write_whole
from search.tracking.mlflow_client import tracking_uri
from search.tracking.sync import record_final
from search.trial import State, Trial

_log = logging.getLogger(__name__)
Retrain = Callable[[Iterable[Order]], Iterator[Outcome]]  # trains and tests models; outcomes as they come
N_BOOTSTRAP = 2000
_CORRECT = "correct.npy"  # which test images a model gets right
OF, REPEAT = "finalize.trial", "finalize.repeat"  # keys of a final trial's configuration, beside the member's own


@dataclass(frozen=True)
class Member:
    """One member of a front, finalized.

    Attributes:
        trial: As the search left it.
        top1: Test accuracy (fraction) of each retrained model.
        p_front: Probability, over seeds and test images, that no other member beats it in accuracy and size.
    """

    trial: Trial
    top1: tuple[float, ...]
    p_front: float

    @property
    def mean(self) -> float:
        """Mean test accuracy over the seeds."""
        return float(np.mean(self.top1))

    @property
    def deviation(self) -> float:
        """Standard deviation (n - 1) over the seeds; NaN for one."""
        return float(np.std(self.top1, ddof=1)) if len(self.top1) > 1 else float("nan")


def finalize_and_record(
    study: SavedStudy,
    *,
    n_seeds: int,
    back_end: BackEnd,
    on_done: Callable[[int, int], None] = lambda done, of: None,
    say: Callable[[str], None] = _log.warning,
) -> list[Member]:
    """Retrain and test a study's front on a back end, write the result beside the study, and record it in MLflow.

    Args:
        study: The study, in any state, with a front.
        n_seeds: The number of models for each member.
        back_end: The back end.
        on_done: Gets (models done, models in all).
        say: Gets what a person should know although the retraining succeeded (MLflow does not show it).

    Raises:
        RequestError: There is no front or no test split, or a model could not be trained; what is done is kept.
        LedgerError: Another process finalizes the study.
    """
    file = check(study.row.file)
    members = finalize(
        study, n_seeds=n_seeds, retrain=lambda orders: back_end.retrain(file, study.row.facts, orders), on_done=on_done
    )
    write_views(study, members)
    try:
        record_final(location.ledger_in(study.folder), tracking_uri(study.folder.parent), [row(member) for member in members])
    except Exception as error:  # MLflow is a view: whatever it fails with, the numbers are in the ledger
        say(f"MLflow does not show the test accuracies ({type(error).__name__}); finalize again to record them")
    return members


def finalize(
    study: SavedStudy, *, n_seeds: int, retrain: Retrain, on_done: Callable[[int, int], None] = lambda done, of: None
) -> list[Member]:
    """Retrain and test what is missing of a study's front, and sum it up.

    Args:
        study: Of any state, with a front.
        n_seeds: How many models of each member.
        retrain: The back end.
        on_done: Told how many models are done, and of how many.

    Raises:
        RequestError: The front is empty, or a model could not be trained; what is done is kept.
        LedgerError: Another process finalizes the study.
    """
    if not study.members:
        raise RequestError(f"study {study.name} has no front yet: no trial is complete")
    ledger = _ledger(study)
    try:
        wanted = [(member.number, repeat) for repeat in range(n_seeds) for member in study.members]
        done = {(t.config[OF], t.config[REPEAT]) for t in ledger.trials() if t.state is State.COMPLETE}
        known = len(done.intersection(wanted))
        on_done(known, len(wanted))
        failures = []
        started: dict[int, tuple[Trial, Order]] = {}
        for n_done, outcome in enumerate(retrain(_orders(ledger, study, wanted, started)), start=known + 1):
            trial, order = started[outcome.number]
            if outcome.correct is not None:
                checkpoints.write_file(order.folder, _CORRECT, _as_bytes(outcome.correct))
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
    return finalized(study)


def finalized(study: SavedStudy) -> list[Member]:
    """The members that have been retrained, smallest first, with what the test split says.

    Raises:
        LedgerError: Nothing has been finalized.
    """
    place = location.location_below(study.folder, "final")
    ledger = SqlLedger.open(place.find() or place.path)
    try:
        done = [trial for trial in ledger.trials() if trial.state is State.COMPLETE]
    finally:
        ledger.close()
    by_member: dict[int, list[Trial]] = {}
    for trial in done:
        by_member.setdefault(cast(int, trial.config[OF]), []).append(trial)
    members = [member for member in study.members if member.number in by_member]
    correct = [np.stack([_read(_folder(study, t.number)) for t in by_member[m.number]]) for m in members]
    odds = p_front([member.size for member in members], correct, seed=study.row.file["search"]["seed"])
    return [
        Member(member, tuple(t.metrics["test/top1"] for t in by_member[member.number]), p)
        for member, p in zip(members, odds, strict=True)
    ]


def p_front(sizes: Sequence[float], correct: Sequence[NDArray[np.bool_]], *, seed: int, n: int = N_BOOTSTRAP) -> list[float]:
    """Probability of each member of being non-dominated, by bootstrap over its seeds and over the test images.

    The images drawn are the same for all members (they met the same ones), the seeds are drawn for each on its own.

    Args:
        sizes: Adapter parameters of each member, or what the study weighs accuracy against instead.
        correct: Of each member (seeds, images): which test images each of its models gets right.
        seed: Of the draws.
        n: How many draws.
    """
    rng = np.random.default_rng(seed)
    if not correct:
        return []
    n_images, hits = correct[0].shape[1], np.zeros(len(correct))
    for _ in range(n):
        weights = np.bincount(rng.integers(n_images, size=n_images), minlength=n_images) / n_images
        top1 = [float(models[rng.integers(len(models), size=len(models))].mean(axis=0) @ weights) for models in correct]
        hits += pareto.non_dominated([(a, float(size)) for a, size in zip(top1, sizes, strict=True)])
    return [float(hit) for hit in hits / n]


def write_views(study: SavedStudy, members: Sequence[Member]) -> None:
    """`final.parquet` beside the study's other views: a row per member, its configuration as JSON."""
    rows = [row(member) for member in members]
    table = pa.Table.from_pylist(rows, metadata={"paretune.schema_version": "1", "paretune.study": study.name})
    write_whole(study.folder / "final.parquet", lambda draft: pq.write_table(table, draft))


def row(member: Member) -> dict[str, Any]:
    """A finalized member as plain values; accuracies are fractions."""
    trial = member.trial
    return {
        "trial": trial.number,
        "method": trial.method,
        "adapter_params": trial.adapter_params,
        "head_params": trial.head_params,
        "config": json.dumps(trial.config),
        "val/top1": trial.metrics["val/top1"],
        "test/top1_mean": member.mean,
        "test/top1_deviation": member.deviation,
        "n": len(member.top1),
        "p_front": member.p_front,
    }


# -- the sibling ledger ------------------------------------------------------------------------------------------------------------


def _ledger(study: SavedStudy) -> SqlLedger:
    place = location.location_below(study.folder, "final")
    if (path := place.find()) is None:
        facts, file = {"of": study.row.uid}, dict(study.row.file)
        return SqlLedger.create(place.path, address=place.address, name=f"{study.name}-final", file=file, facts=facts)
    ledger = SqlLedger.open(path)
    ledger.claim()
    if ledger.study().finalizes != study.row.uid:
        ledger.close()
        raise RequestError(f"{path.parent} belongs to another study of this name; move it away")
    return ledger


def _orders(
    ledger: SqlLedger, study: SavedStudy, wanted: Iterable[tuple[int, int]], started: dict[int, tuple[Trial, Order]]
) -> Iterator[Order]:
    """What is missing of the (member, repeat) that are wanted; each a RUNNING trial of the sibling ledger, noted in `started`."""
    file = check(study.row.file)
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


def _read(folder: Folder) -> NDArray[np.bool_]:
    if (blob := checkpoints.read_file(folder, _CORRECT)) is None:
        raise RequestError(f"{folder} holds no {_CORRECT}: it was removed, and with it what a finished training had found")
    found: NDArray[np.bool_] = np.load(io.BytesIO(blob))
    return found
