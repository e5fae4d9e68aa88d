"""The simulated back end: the same decisions as in-process, on a clock of its own."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import spaces
from search.backends import in_process, simulated
from search.backends.simulated import VirtualClock, create
from search.config.loading import check
from search.samplers.sampler import SAMPLERS
from search.storage.sql_ledger import SqlLedger
from search.study.study import Study
from search.trial import State
from trainables import make, measure
from trainables.simulated.surfaces import Surface, SurfaceTrainable

from ..command_line import paretune

RAW: dict[str, object] = {
    "study": "s",
    "data": {"kind": "synthetic", "noise": 0.03, "diverges_above_lr": 0.015},
    "methods": ["lora", "arc", "lily"],
    "budget": {"n_trials": 30, "epochs": 4, "max_params": 20_000},
}


def history(ledger: SqlLedger) -> list[tuple[object, ...]]:
    """(event, trial, detail, metrics) without times; numbers that are not finite as text, to be comparable."""
    metrics = {report.event: str(dict(report.metrics)) for report in ledger.reports()}
    return [(e.kind, e.trial, json.dumps(dict(e.detail)), metrics.get(e.number)) for e in ledger.events()]


@pytest.mark.parametrize("sampler", [kind for kind in SAMPLERS if kind != "gp"])  # which takes a fifth of a second for a draw
def test_one_imaginary_worker_and_in_process_write_the_same_history(tmp_path: Path, sampler: str) -> None:
    file = check(RAW | {"storage": str(tmp_path), "search": {"sampler": sampler, "seed": 3, "rungs": {"grace": 1, "factor": 2}}})
    worker = file.worker()
    here = Study.create(file, measure(worker["backbone"], worker["data"]))
    in_process.run(here, make(**worker))
    written = {path: path.read_bytes() for path in here.folder.glob("trials/*/*")}
    there = create(file, measure(worker["backbone"], worker["data"]), clock := VirtualClock())
    simulated.run(there, lambda: make(**worker), clock, n_workers=1)
    assert history(SqlLedger.open(here.folder / "ledger.db")) == history(there._ledger)
    assert here.hypervolume() == there.hypervolume()
    assert there.finished
    assert any(trial.state is State.PRUNED for trial in there.trials)
    assert written
    assert written == {path: path.read_bytes() for path in here.folder.glob("trials/*/*")}  # the real study is not touched


@pytest.mark.parametrize("n_workers", [1, 3, 7, 50])
def test_the_clock_ends_when_the_last_of_the_workers_rounds_does(n_workers: int) -> None:
    """Epochs of one second, no rungs: ceil(n / workers) rounds of as many seconds as epochs."""
    file = check(RAW | {"data": {"kind": "synthetic"}, "search": {"sampler": "random"}})
    surface, clock = Surface("valley"), VirtualClock()
    study = create(file, surface, clock)
    simulated.run(study, lambda: SurfaceTrainable(surface), clock, n_workers=n_workers)
    assert clock.seconds == math.ceil(30 / n_workers) * 4
    assert [trial.state for trial in study.trials] == [State.COMPLETE] * 30
    for trial in study.trials:
        assert trial.started == (trial.number // n_workers) * 4
        assert trial.finished == trial.started + 4


def test_workers_with_dearer_epochs_report_later() -> None:
    class Costly(SurfaceTrainable):
        """Epochs that cost as many seconds as the trial's rank."""

        def start(self, config: dict[str, object], **others: object) -> int:  # type: ignore[override]
            self._seconds = float(str(config.get("arc.rank", 1)))
            return super().start(config, **others)  # type: ignore[arg-type]

        def step(self) -> dict[str, float]:
            return super().step() | {"cost/train_seconds": self._seconds, "cost/eval_seconds": 0.5}

    file = check(RAW | {"methods": ["arc"], "data": {"kind": "synthetic"}, "search": {"sampler": "random"}})
    surface, clock = Surface("valley"), VirtualClock()
    study = create(file, surface, clock)
    simulated.run(study, lambda: Costly(surface), clock, n_workers=5)
    for trial in study.trials:
        assert trial.started is not None
        assert trial.finished == trial.started + 4 * (float(str(trial.config.get("arc.rank", 1))) + 0.5)
    times = [event.time for event in study._ledger.events()]
    assert times == sorted(times)


def test_a_study_that_spends_hours_is_ended_by_the_virtual_clock() -> None:
    budget = {"n_trials": 10_000, "epochs": 4, "max_params": 20_000, "max_hours": 0.1}
    file = check(RAW | {"data": {"kind": "synthetic"}, "budget": budget, "search": {"sampler": "random"}})
    surface, clock = Surface("valley"), VirtualClock()
    study = create(file, surface, clock)
    simulated.run(study, lambda: SurfaceTrainable(surface), clock, n_workers=1)
    assert len(study.trials) == 90
    assert study.ended == "budget.max_hours = 0.1 is spent"


def write_table(path: Path) -> None:
    """Twelve made-up runs of lora, of two epochs; the last one broke after one epoch."""
    space, rows = spaces.joint(["lora"]), []
    ranks, targets = (1, 2, 4), ("qv", "qkvo", "qkvo_mlp")
    for n in range(12):
        config = space.default("lora") | {
            "lora.rank": ranks[n % 3],
            "lora.targets": targets[n // 3 % 3],
            "optim.lr": 2e-3 / (n + 1),
        }
        curve = [0.5, 0.6 + n / 100][: 1 if n == 11 else 2]
        rows.append(
            {"config": json.dumps(config), "seed": 0, "adapter_params": 100 * n + 100, "head_params": 650}
            | {"problem": "loss is nan" if n == 11 else None, "val/top1": curve, "cost/train_seconds": [2.0] * len(curve)}
        )
    recipe = {"epochs": 2, "max_params": 5000, "n_classes": 10, "backbone_params": 100_000}
    pq.write_table(pa.Table.from_pylist(rows).replace_schema_metadata({"paretune.recipe": json.dumps(recipe)}), path)


def test_the_command_replays_a_table_and_a_surface(tmp_path: Path) -> None:
    write_table(tmp_path / "table.parquet")
    (tmp_path / "lora.yaml").write_text(
        "study: l\ndata: {kind: digits}\nmethods: [lora]\nspace: {lora.rank: [1, 2]}\nbudget: {n_trials: 40, epochs: 2}"
    )
    done = paretune("simulate", "lora.yaml", "--table", "table.parquet", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["n_trials"] == 8  # the rows of ranks 1 and 2; the default and head-only were not recorded
    assert found["n_epochs"] == 16
    assert found["virtual_seconds"] == 32.0
    assert [member["metrics"]["val/top1"] for member in found["members"]] == [0.6 + n / 100 for n in (0, 1, 3, 4, 6, 7, 9, 10)]
    done = paretune("simulate", "digits", "--surface", "crossing", "--workers", "4", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "40 trials" in done.stdout
    assert "on 4 workers" in done.stdout
    assert not (tmp_path / "paretune-studies").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "none.parquet"], "none.parquet must be a recorded table"),
        (["--table", "table.parquet"], "budget.epochs is 30, the recorded curves have 2; use as many"),
        (["--table", "table.parquet", "--set", "budget.epochs=2", "--set", "space.lora.rank=[16]"], "it has runs of lora"),
        (["--surface", "moon"], "a synthetic surface must be one of valley, crossing, got 'moon'"),
        (["--surface", "valley", "--table", "table.parquet"], "give only one of them"),
        (
            ["--set", "budget.limits={cost/gflops: 0.011}"],
            "the study uses cost/gflops, whose values on a synthetic surface do not predict",
        ),
    ],
)
def test_bad_requests_are_refused_with_the_remedy(tmp_path: Path, arguments: list[str], message: str) -> None:
    write_table(tmp_path / "table.parquet")
    done = paretune("simulate", "digits", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(message) == 1
