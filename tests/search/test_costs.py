"""Costs as limits and as the objective that accuracy is weighed against, on a surface whose costs follow from the size."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from search import pareto
from search.backends import in_process
from search.config.study_file import StudyFile
from search.costs import COSTS, KNOWN, MEASURED
from search.errors import StudyFileError
from search.front import front
from search.results.saved_study import load
from search.storage.sql_ledger import SqlLedger
from search.study.study import Study
from search.trial import Decision, State
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable, costs

from . import studies

CHANCE = 0.1
WIDE = {"lora.rank": [1, 2, 4, 8, 16], "arc.rank": [2, 5, 10, 25, 50], "lily.rank": [2, 4, 8, 16]}


def study_file(storage: Path, *, n_trials: int = 12, limits: Mapping[str, float] = {}, **changes: Any) -> StudyFile:
    budget = {"n_trials": n_trials, "epochs": 3, "limits": dict(limits)}
    return studies.study_file(storage, **{"space": WIDE, "budget": budget, "search": {"sampler": "random"}} | changes)


def searched(storage: Path, **changes: Any) -> Study:
    study = Study.create(study_file(storage, **changes), SyntheticSizes())
    in_process.run(study, SyntheticTrainable())
    study.close()
    return study


def history(folder: Path) -> list[tuple[str, int | None, str]]:
    return [(event.kind, event.trial, json.dumps(dict(event.detail))) for event in SqlLedger.open(folder / "ledger.db").events()]


# -- limits ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "limit"), [("cost/gflops", 1.05), ("trainable_params", 5_650.0), ("adapter_params", 5_000.0)])
@pytest.mark.parametrize("sampler", ["random", "auto"])
def test_what_is_known_to_cost_too_much_is_never_trained(tmp_path: Path, key: str, limit: float, sampler: str) -> None:
    study = searched(tmp_path, limits={key: limit}, search={"sampler": sampler})
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 12
    assert max(trial.adapter_params for trial in study.trials) <= 5_000  # each of the limits comes to that
    rejections = load(study.folder).rejections
    words = "adapter parameters are more than budget.max_params = 5,000" if key == "adapter_params" else f"{key} "
    assert sampler == "auto" or [reason for _, reason in rejections if words in reason]  # auto knows sizes before it proposes


def test_a_method_of_which_nothing_keeps_the_limits_is_refused_before_anything_runs(tmp_path: Path) -> None:
    file = study_file(tmp_path, limits={"cost/gflops": 1.009}, space={"arc.rank": [2]})
    with pytest.raises(StudyFileError, match=r"methods: lora: nothing to train: cost/gflops 1\.[0-9]+ is more than budget\.limits"):
        Study.create(file, SyntheticSizes())


def test_a_trial_found_to_cost_too_much_is_stopped_by_its_first_epoch_with_the_reason(tmp_path: Path) -> None:
    limit = costs(5_000)["cost/peak_memory_bytes"]
    study = searched(tmp_path, limits={"cost/peak_memory_bytes": limit}, n_trials=20)
    over = [trial for trial in study.trials if trial.adapter_params > 5_000]
    assert over
    for trial in study.trials:
        assert trial.state is (State.PRUNED if trial in over else State.COMPLETE)
    for trial in over:
        assert (trial.epochs, trial.rung) == (1, None)
        assert f"is more than budget.limits allows ({limit:,.6g}), at epoch 1" in str(trial.reason)
    pruned = [event for event in SqlLedger.open(study.folder / "ledger.db").events() if event.kind == "pruned"]
    assert {event.detail["limit"] for event in pruned} == {"cost/peak_memory_bytes"}


def test_times_count_from_the_second_epoch_because_the_first_warms_up(tmp_path: Path) -> None:
    study = Study.create(study_file(tmp_path, limits={"cost/step_seconds": 0.1}), SyntheticSizes())
    assert study.ask() is not None
    good = {"val/top1": 0.5, "cost/step_seconds": 0.05}
    assert study.report(0, 1, good | {"cost/step_seconds": 0.5}) is Decision.CONTINUE
    assert study.report(0, 2, good) is Decision.CONTINUE
    assert study.report(0, 3, good | {"cost/step_seconds": 0.11}) is Decision.STOP
    assert study.trials[0].state is State.PRUNED
    assert study.front() == []


def test_a_trial_that_does_not_tell_a_cost_that_the_study_names_fails_with_the_reason(tmp_path: Path) -> None:
    study = Study.create(study_file(tmp_path, limits={"cost/latency_merged_ms": 20.0}), SyntheticSizes())
    assert study.ask() is not None
    assert study.report(0, 1, {"val/top1": 0.5}) is Decision.STOP
    assert study.trials[0].state is State.FAILED
    assert study.trials[0].reason == "the epoch does not report cost/latency_merged_ms, which the study uses"


class Unmergeable(SyntheticSizes):
    """Lily cannot be merged."""

    def unmergeable(self, config: Mapping[str, Any]) -> str | None:
        return "its router cannot be merged" if config["method"] == "lily" else None


def test_where_the_merged_latency_counts_what_cannot_be_merged_is_refused(tmp_path: Path) -> None:
    file = study_file(tmp_path, limits={"cost/latency_merged_ms": 20.0})
    with pytest.raises(StudyFileError, match="lily: nothing to train: its router cannot be merged; the study uses"):
        Study.create(file, Unmergeable())
    assert file.worker()["recipe"]["latency"] is True
    assert "latency" not in study_file(tmp_path, limits={"cost/gflops": 2.0}).worker()["recipe"]


def test_a_trial_beyond_a_limit_is_nobodys_rival_at_a_rung(tmp_path: Path) -> None:
    rungs = {"grace": 1, "factor": 2, "epsilon": 0.0, "promote": False}
    limits = {"cost/peak_memory_bytes": 2e8}
    study = Study.create(study_file(tmp_path, limits=limits, search={"sampler": "random", "rungs": rungs}), SyntheticSizes())
    for _ in range(2):
        assert study.ask() is not None
    first, second = study.trials[0].number, study.trials[1].number
    assert study.report(first, 1, {"val/top1": 0.9, "cost/peak_memory_bytes": 3e8}) is Decision.STOP
    assert study.report(second, 1, {"val/top1": 0.5, "cost/peak_memory_bytes": 1e8}) is Decision.CONTINUE
    study.close()
    reopened = Study.open(study.file, SyntheticSizes())
    assert reopened.state.rungs is not None
    verdict = reopened.state.rungs.verdict(1, 1e9, 0.4)
    assert verdict is not None
    assert verdict.n_peers == 2  # the one within the limit, and itself


@pytest.mark.parametrize("sampler", ["auto", "tpe"])
def test_the_sampler_learns_where_a_limit_lies_that_only_training_can_tell(tmp_path: Path, sampler: str) -> None:
    limit = {"cost/peak_memory_bytes": costs(3_000)["cost/peak_memory_bytes"]}
    n_over = {}
    for kind in ("random", sampler):
        study = searched(tmp_path / kind, limits=limit, n_trials=48, search={"sampler": kind})
        n_over[kind] = sum(trial.state is State.PRUNED for trial in study.trials[24:])
    assert n_over[sampler] < 0.75 * n_over["random"]


# -- the second objective ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("against", [key for key in COSTS if key not in ("head_params", "cost/train_seconds", "cost/eval_seconds")])
def test_the_front_and_its_hypervolume_are_those_of_accuracy_against_the_cost(tmp_path: Path, against: str) -> None:
    limit = {"adapter_params": 20_000.0, "trainable_params": 20_650.0}.get(against, costs(20_000).get(against, math.nan))
    study = searched(tmp_path, objectives=["val/top1", against], limits={against: limit})
    points = {}
    for trial in study.trials:
        if trial.state is State.COMPLETE:
            own = {"adapter_params": trial.adapter_params, "trainable_params": trial.adapter_params + 650}
            points[trial.number] = (trial.metrics["val/top1"], float(own.get(against, costs(trial.adapter_params).get(against, 0))))
    members = {n for n, p in points.items() if not any(q != p and q[0] >= p[0] and q[1] <= p[1] for q in points.values())}
    assert {trial.number for trial in study.front()} == members
    assert [trial.size for trial in study.front()] == sorted(points[n][1] for n in members)
    saved = load(study.folder)
    assert {trial.number for trial in saved.members} == members
    assert saved.reference_point == (CHANCE, limit)
    area, right = 0.0, 1.0 if against.startswith("cost/") else math.log10(1.0 + limit)
    for top1, size in sorted((points[n] for n in members), key=lambda point: -point[1]):
        left = size / limit if against.startswith("cost/") else math.log10(1.0 + size)
        area, right = area + max(0.0, right - left) * (top1 - CHANCE), min(left, right)
    assert study.hypervolume() == pytest.approx(area)
    assert saved.hypervolume == pytest.approx(area)


@pytest.mark.parametrize(
    ("against", "sampler"),
    [
        ("cost/gflops", "tpe"),
        ("cost/latency_ms", "nsga2"),
        ("trainable_params", "auto"),
        ("cost/step_seconds", "auto"),
    ],
)
def test_a_study_interrupted_in_the_middle_ends_as_if_it_had_not_been(tmp_path: Path, against: str, sampler: str) -> None:
    changes: dict[str, Any] = {
        "objectives": ["val/top1", against],
        "limits": {against: 30_000.0 if against == "trainable_params" else 12.0, "cost/peak_memory_bytes": 1e8 + 16 * 8_000},
        "search": {"sampler": sampler, "rungs": {"grace": 1, "factor": 3}},
        "n_trials": 20,
    }
    whole = searched(tmp_path / "whole", **changes)
    study = Study.create(study_file(tmp_path / "cut", **changes), SyntheticSizes())
    for _ in range(9):
        trial = study.ask()
        assert trial is not None
        in_process._attempt(study, SyntheticTrainable(), trial)
    study.close()
    resumed = Study.open(study.file, SyntheticSizes())
    in_process.run(resumed, SyntheticTrainable())
    resumed.close()
    assert [event for event in history(study.folder) if event[0] != "opened"] == [
        e for e in history(whole.folder) if e[0] != "opened"
    ]
    assert resumed.hypervolume() == whole.hypervolume()
    assert any(trial.state is State.PRUNED and trial.rung is None for trial in resumed.trials)


def test_a_study_learns_sizes_of_its_own_objective_from_others(tmp_path: Path) -> None:
    searched(tmp_path)
    file = study_file(
        tmp_path / "second",
        objectives=["val/top1", "cost/gflops"],
        limits={"cost/gflops": 1.4},
        search={"sampler": "auto", "learn_from": [str(tmp_path / "s")]},
    )
    learnt = Study.create(file, SyntheticSizes()).row.facts.learned
    complete = [trial for trial in load(tmp_path / "s").history if trial.method != "head_only"]
    assert [trial.size for trial in learnt] == [costs(trial.adapter_params)["cost/gflops"] for trial in complete]


def test_a_ledger_from_before_costs_could_be_named_opens_unchanged(tmp_path: Path) -> None:
    study = searched(tmp_path)
    facts, file = study.row.stored_facts, dict(study.row.file)
    del file["objectives"]
    file["budget"] = {key: value for key, value in file["budget"].items() if key != "limits"}
    old = SqlLedger.create(tmp_path / "old" / "s" / "ledger.db", name="s", file=file, facts=facts)
    old.close()
    reopened = Study.open(study_file(tmp_path / "old"), SyntheticSizes())
    in_process.run(reopened, SyntheticTrainable())
    reopened.close()
    assert history(reopened.folder)[1:] == history(study.folder)[1:]
    assert {trial.against for trial in load(reopened.folder).history} == {"adapter_params"}


def test_shares_of_a_reference_do_not_depend_on_the_unit() -> None:
    points = [(0.5, 2.0), (0.7, 3.0), (0.6, 5.0), (0.9, 8.0), (0.95, 11.0)]
    area = pareto.hypervolume(points, (0.1, 10.0), linear=True)
    assert area == pytest.approx(0.1 * 0.4 + 0.5 * 0.6 + 0.2 * 0.8)
    assert pareto.hypervolume([(a, 1e9 * s) for a, s in points], (0.1, 1e10), linear=True) == pytest.approx(area)
    kept = pareto.Front((0.1, 10.0), linear=True)
    for number, point in enumerate(points):
        kept.add(*point, number)
    assert kept.hypervolume == pytest.approx(area)


# -- in the study file -------------------------------------------------------------------------------------------------------------


def test_every_cost_can_be_a_limit_and_all_but_the_heads_an_objective(tmp_path: Path) -> None:
    assert set(KNOWN) | set(MEASURED) == set(COSTS)
    for key in COSTS:
        limits = {key: 1e6}
        assert study_file(tmp_path, limits=limits).budget.max_params == (1_000_000 if key == "adapter_params" else None)
        if key != "head_params":
            assert study_file(tmp_path, limits=limits, objectives=["val/top1", key]).objectives[1] == key


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ["val/top1", "cost/gflop"]}, "objectives: 'cost/gflop' is not a cost; did you mean cost/gflops?"),
        ({"objectives": ["val/top1", "head_params"]}, "head_params is the same for every configuration"),
        (
            {"objectives": ["val/top1", "cost/gflops"]},
            r"cost/gflops needs a limit, which is .*; write budget.limits: \{cost/gfl",
        ),
        ({"limits": {"cost/images_per_second": 9}}, "cost/images_per_second is a speed, not a cost: use cost/step_seconds"),
        ({"limits": {"cost/gflops": 0}}, "budget.limits.cost/gflops: must be above 0"),
        ({"budget": {"n_trials": 3, "epochs": 1, "max_params": 5, "limits": {"adapter_params": 5}}}, "are the same limit"),
    ],
)
def test_what_is_wrong_with_a_named_cost_is_told_with_its_place(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyFileError, match=message):
        study_file(tmp_path, **changes)


def test_members_of_a_front_are_sorted_by_what_accuracy_is_weighed_against(tmp_path: Path) -> None:
    study = searched(tmp_path, objectives=["val/top1", "cost/gflops"], limits={"cost/gflops": 1.4})
    sizes = [trial.size for trial in front(study.trials)]
    assert sizes == sorted(sizes)
    assert len(sizes) > 1
