"""A study that tests move forward by hand, and what MLflow should hold of it."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from search.front import front, hypervolume
from search.storage.sql_ledger import SqlLedger
from search.tracking.mlflow_client import tracking_uri
from search.tracking.sync import MlflowSync
from search.trial import State, Trial

N_EPOCHS = 3
HISTORY: dict[int, tuple[str, int, list[float], State]] = {  # trial -> method, size, accuracy of each epoch, how it ends
    0: ("head_only", 0, [0.5, 0.6, 0.7], State.COMPLETE),
    1: ("lora", 300, [0.4, 0.8, 0.85], State.COMPLETE),
    2: ("lora", 900, [0.4, 0.7], State.PRUNED),
    3: ("lily", 200, [0.6, math.nan], State.FAILED),
    4: ("arc", 300, [0.7, 0.8, 0.9], State.COMPLETE),  # beats trial 1 at the same size
}


class ScriptedStudy:
    """A real ledger that a test moves forward, with a clock of its own."""

    def __init__(self, storage: Path, name: str) -> None:
        tick = itertools.count(1_790_000_000.0, 0.25)
        self.storage = storage
        self.path = storage / name / "ledger.db"
        facts = {"n_classes": 10, "backbone_params": 600_000, "max_params": 9_999, "reference_point": [0.1, 9_999]}
        file = {
            "study": name,
            "backbone": {"name": "vit_glyphs", "weights": None},
            "data": {"kind": "digits"},
            "methods": ["lora", "arc", "lily"],
            "objectives": ["val/top1", "adapter_params"],
            "budget": {"n_trials": len(HISTORY), "epochs": N_EPOCHS},
        }
        self.ledger = SqlLedger.create(self.path, name=name, file=file, facts=facts, now=lambda: next(tick))
        self.trials: dict[int, Trial] = {}

    def start(self, number: int) -> None:
        """The next trial begins."""
        method, size, _, _ = HISTORY[number]
        config = {"method": method, "optim.lr": 1e-3} | ({f"{method}.rank": 2} if size else {})
        with self.ledger.decision() as writer:
            self.trials[number] = writer.start(Trial(number, State.RUNNING, config, 10 + number, size, 970))

    def step(self, number: int) -> None:
        """One more epoch, and the end if it is the last."""
        _, _, accuracies, end = HISTORY[number]
        epoch = self.trials[number].epochs + 1
        metrics = {"val/top1": accuracies[epoch - 1], "val/loss": 1.0 / epoch, "cost/train_seconds": 0.5}
        with self.ledger.decision() as writer:
            trial = writer.report(self.trials[number], epoch, metrics)
            if epoch == len(accuracies):
                reason = {State.FAILED: "val/top1 is nan at epoch 2", State.PRUNED: "by hand"}.get(end)
                trial = writer.finish(trial, end, reason=reason, rung=2 if end is State.PRUNED else None)
            self.trials[number] = trial

    def finish(self, *numbers: int) -> None:
        """Run trials to their ends, one after the other."""
        for number in numbers:
            if number not in self.trials:
                self.start(number)
            while not self.trials[number].state.finished:
                self.step(number)

    def record(self, uri: str | None = None) -> MlflowSync:
        """What MLflow holds of it, looked up afresh."""
        return MlflowSync(self.path, uri or tracking_uri(self.storage))


# -- what MLflow holds, read by its own client, and what it should hold, told by the ledger ----------------------------


def recorded(uri: str, scripted: ScriptedStudy) -> dict[int | None, dict[str, Any]]:
    """Trial (None for the study) to everything that MLflow holds of its one run."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(scripted.ledger.study().name)
    assert experiment is not None
    found: dict[int | None, dict[str, Any]] = {}
    for run in client.search_runs([experiment.experiment_id], max_results=1000):
        tags = {key: value for key, value in run.data.tags.items() if key.startswith("paretune.")}
        number = int(tags["paretune.trial"]) if "paretune.trial" in tags else None
        assert number not in found, f"two runs of {number}"
        history = {
            (key, point.step): (point.value, point.timestamp)
            for key in run.data.metrics
            for point in client.get_metric_history(run.info.run_id, key)
        }
        n_points = sum(len(client.get_metric_history(run.info.run_id, key)) for key in run.data.metrics)
        assert n_points == len(history), "a point was recorded twice"
        found[number] = {
            "id": run.info.run_id,
            "name": run.info.run_name,
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "params": dict(run.data.params),
            "tags": tags,
            "parent": run.data.tags.get("mlflow.parentRunId"),
            "note": run.data.tags.get("mlflow.note.content"),
            "metrics": history,
        }
    return found


def expected_trial(trial: Trial, ledger: SqlLedger) -> dict[str, Any]:
    """The run of a trial, as the ledger tells it."""
    study = ledger.study()
    started = round(trial.started * 1000)
    metrics: dict[tuple[str, int], tuple[float, int]] = {
        ("adapter_params", 0): (trial.adapter_params, started),
        ("head_params", 0): (trial.head_params, started),
    }
    for epoch in ledger.reports(trial=trial.number):
        for key, value in epoch.metrics.items():
            metrics[key, epoch.epoch] = (value, round(epoch.time * 1000))
    tags = {
        "paretune.study": study.name,
        "paretune.study_uid": study.uid,
        "paretune.trial": str(trial.number),
        "paretune.method": trial.method,
        "paretune.state": trial.state.value,
        "paretune.front": str(trial in front(ledger.trials())).lower(),
        "paretune.attempts": str(trial.n_attempts),
        "paretune.epochs": str(trial.epochs),
    }
    if trial.state is State.COMPLETE:
        tags["paretune.rank"] = str(rank(trial, ledger.trials()))
    if trial.rung is not None:
        tags["paretune.rung"] = str(trial.rung)
    if trial.reason is not None:
        tags["paretune.reason"] = trial.reason
    status = {State.COMPLETE: "FINISHED", State.PRUNED: "KILLED", State.FAILED: "FAILED", State.RUNNING: "RUNNING"}
    return {
        "name": trial.label,
        "status": status[trial.state],
        "times": (started, None if trial.finished is None else round(trial.finished * 1000)),
        "params": {k: str(v) for k, v in trial.config.items()} | {"trial": str(trial.number), "seed": str(trial.seed)},
        "tags": tags,
        "metrics": metrics,
    }


def rank(trial: Trial, trials: list[Trial]) -> int:
    """By its definition: fronts are taken away one after the other, until the trial is on one."""
    left, n_fronts = [t for t in trials if t.state is State.COMPLETE], 1
    while trial not in (members := front(left)):
        left, n_fronts = [t for t in left if t not in members], n_fronts + 1
    return n_fronts


def assert_equal_to_the_ledger(uri: str, scripted: ScriptedStudy) -> None:
    found = recorded(uri, scripted)
    parent = found.pop(None)
    trials = {trial.number: trial for trial in scripted.ledger.trials()}
    assert found.keys() == trials.keys()
    for number, run in found.items():
        wanted = expected_trial(trials[number], scripted.ledger)
        assert _comparable({key: run[key] for key in wanted}) == _comparable(wanted)
        assert run["parent"] == parent["id"]
    ends = [event for event in scripted.ledger.events() if event.kind in ("completed", "pruned", "failed")]
    complete: list[Trial] = []
    metrics = {}
    for n_ended, event in enumerate(ends, 1):
        complete += [trials[number] for number in [event.trial] if number is not None and event.kind == "completed"]
        at = round(event.time * 1000)
        metrics["front/size", n_ended] = (float(len(front(complete))), at)
        metrics["front/hypervolume", n_ended] = (hypervolume(complete, (0.1, 9_999)), at)
        before = [report.metrics for report in scripted.ledger.reports() if report.event < event.number]
        seconds = sum(one.get("cost/train_seconds", 0.0) + one.get("cost/eval_seconds", 0.0) for one in before)
        metrics["spent/epochs", n_ended] = (float(len(before)), at)
        metrics["spent/trained_hours", n_ended] = (pytest.approx(seconds / 3600), at)
        if complete:
            metrics["best/top1", n_ended] = (max(t.metrics["val/top1"] for t in complete), at)
        for limit in (100, 1000):  # the reference point lies at 9,999
            if small := [t.metrics["val/top1"] for t in complete if t.adapter_params <= limit]:
                metrics[f"best/top1_at_params_le_{limit}", n_ended] = (max(small), at)
    assert parent["metrics"] == metrics
    assert parent["tags"]["paretune.n_ended"] == str(len(ends))


def _comparable(run: dict[str, Any]) -> dict[str, Any]:
    points = {k: ("nan" if math.isnan(value) else value, at) for k, (value, at) in run["metrics"].items()}
    return run | {"metrics": points}
