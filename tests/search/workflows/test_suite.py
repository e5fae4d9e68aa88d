"""A suite: one study over many tasks, and the means that papers print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from search.config.loading import check_stored
from search.errors import StudyFileError
from search.results.saved_study import load as load_study
from search.workflows.suite import Task, load, packaged_names
from search.workflows.suite_tables import standings
from trainables.backbones import RANDOM, create, preprocessing
from trainables.data import Normaliser
from trainables.data import load as load_data

from ...trainables.data import pictures
from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

SMALL = """
suite: small
study:
  methods: [lora, arc]
  budget: {n_trials: 6, epochs: 3}
  search: {sampler: random}
data: {kind: synthetic}
tasks:
  left:
    a: {instance: 0}
    b: {instance: 1, noise: 0.01}
  right:
    c: {noise: 0.02}
"""


@pytest.fixture
def small(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    with_mlflow_database(tmp_path / "paretune-studies")
    return str(path)


def test_the_packaged_suites_are_the_protocols_of_the_papers() -> None:
    assert packaged_names() == ["fgvc", "vtab1k"]
    _, vtab = load("vtab1k", root=Path("/data"))
    groups = {group: [t for t in vtab if t.group == group] for group in ("natural", "specialized", "structured")}
    assert {group: len(tasks) for group, tasks in groups.items()} == {"natural": 7, "specialized": 4, "structured": 8}
    n_classes = [task.file.data.n_classes for task in vtab]  # type: ignore[union-attr]
    assert 769 * sum(n_classes) / 19 == pytest.approx(38_045, abs=1)  # METHODS: the average VTAB head on ViT-B, measured
    assert vtab[0].file.worker()["data"]["path"] == "/data/cifar"
    assert len(load("fgvc")[1]) == 5


def test_means_are_over_tasks_and_over_groups_and_only_where_nothing_is_missing(small: str) -> None:
    tasks = load(small)[1]
    best = {"a": {"lora": 0.9, "arc": 0.5}, "b": {"lora": 0.7, "arc": 0.6}, "c": {"lora": 0.2}}
    lora, arc = standings(tasks, best)
    assert lora.group_means == {"left": pytest.approx(0.8), "right": pytest.approx(0.2)}
    assert lora.mean_of_tasks == pytest.approx(0.6)
    assert lora.mean_of_groups == pytest.approx(0.5)
    assert arc.group_means == {"left": pytest.approx(0.55)}
    assert (arc.mean_of_tasks, arc.mean_of_groups) == (None, None)


def test_the_order_of_tasks_changes_no_mean(small: str) -> None:
    tasks: list[Task] = load(small)[1]
    best = {"a": {"lora": 0.9}, "b": {"lora": 0.7}, "c": {"lora": 0.2}}
    [one], [other] = standings(tasks, best), standings(tasks[::-1], best)
    assert one.mean_of_tasks == pytest.approx(other.mean_of_tasks)
    assert one.mean_of_groups == pytest.approx(other.mean_of_groups)


def test_overrides_reach_every_task_and_leave_the_others_sections_alone(small: str) -> None:
    tasks = load(small, overrides=["budget.epochs=7", "search.seed=3"], storage=Path("elsewhere"))[1]
    assert [task.file.study for task in tasks] == ["small-a", "small-b", "small-c"]
    assert {task.file.budget.epochs for task in tasks} == {7}
    assert {task.file.budget.n_trials for task in tasks} == {6}
    assert {str(task.file.storage) for task in tasks} == {"elsewhere"}
    assert [task.name for task in load(small, only=["c"])[1]] == ["c"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("suite: small", "suit: small", "suit: Extra inputs are not permitted"),
        ("{n_trials: 6, epochs: 3}", "{n_trials: 6}", "small: c: budget.epochs: is missing"),
        ("    c: {noise: 0.02}", "    a: {noise: 0.02}", "tasks: a occurs twice"),
        ("methods: [lora, arc]", "methods: [lora, ark]", "did you mean arc"),
    ],
)
def test_what_is_wrong_is_told(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(StudyFileError, match=message):
        load(str(path))


def test_unknown_suites_and_tasks_are_told_with_what_there_is(small: str) -> None:
    with pytest.raises(StudyFileError, match=r"packaged: fgvc, vtab1k"):
        load("vtab")
    with pytest.raises(StudyFileError, match=r"the suite has no task d; it has a, b, c"):
        load(small, only=["d"])


def test_the_command_runs_every_task_and_again_only_shows_them_also_after_its_file_has_a_newer_version(
    small: str, tmp_path: Path
) -> None:
    done = paretune("suite", small, "--back-end", "in-process", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mean of groups" in done.stdout
    kept = SMALL.replace("suite: small\n", "").partition("data:")[0].replace("\n", "\n    ")
    newer = SMALL.replace("n_trials: 6", "n_trials: 7") + f"earlier:\n  -{kept.rstrip()[4:]}\n    data: {{kind: synthetic}}\n"
    Path(small).write_text(newer)
    again = paretune("suite", small, "--back-end", "in-process", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "small continues as it began, with an earlier version" in again.stderr
    found = json.loads(again.stdout)
    assert {row["method"] for row in found["standings"]} == {"head_only", "lora", "arc"}
    assert "chosen by this accuracy" in found["measure"]
    kept_rows = pq.read_table(tmp_path / "paretune-studies" / "suite-small.parquet").to_pylist()
    assert {row["method"]: row["a"] for row in kept_rows} == {row["method"]: row["top1"]["a"] for row in found["standings"]}
    assert {task.file.budget.n_trials for task in load(small, storage=tmp_path / "paretune-studies")[1]} == {6}
    assert {task.file.budget.n_trials for task in load(small, storage=tmp_path / "new")[1]} == {7}


def test_two_protocols_that_differ_in_normalisation_give_other_pixels_and_other_results(tmp_path: Path) -> None:
    with_mlflow_database(tmp_path / "paretune-studies")
    for task in ("one", "two"):
        pictures.vtab(tmp_path / "data" / task)
    suite = {
        "suite": "tiny",
        "study": {
            "backbone": {"name": "test_vit", "weights": "random", "img_size": 32},
            "methods": ["lora"],
            "space": {"lora.rank": 2, "optim.batch_size": 8},
            "recipe": {"precision": "float32"},
            "budget": {"n_trials": 2, "epochs": 1},
            "search": {"sampler": "random"},
        },
        "data": {"kind": "vtab"},
        "tasks": {"stripes": {"one": {"path": "one"}, "two": {"path": "two"}}},
    }
    losses, pixels = {}, {}
    for name in ("petl_vit", "lily"):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(suite | {"suite": name.replace("_", "-")}))
        overrides = ["--set", f"protocol={name}", "--root", str(tmp_path / "data"), "--back-end", "in-process", "--json"]
        done = paretune("suite", "tiny.yaml", *overrides, cwd=tmp_path, PARETUNE_CACHE=str(tmp_path / "cache"))
        assert done.returncode == 0, done.stderr
        for task in ("one", "two"):
            study = load_study(tmp_path / "paretune-studies" / f"{name.replace('_', '-')}-{task}")
            losses[name, task] = [trial.metrics["val/loss"] for trial in study.history]
            worker = check_stored(study.row.file).worker()
            model = create("test_vit", RANDOM, 32)
            wanted = preprocessing(model, worker["data"]["normalize"])
            images = load_data(worker["data"], wanted)["train"].take(torch.arange(8))
            pixels[name, task] = Normaliser(wanted, torch.device("cpu"))(images)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    for task in ("one", "two"):
        raw, normalised = pixels["lily", task], pixels["petl_vit", task]
        assert (raw.min() >= 0, raw.max() <= 1) == (True, True)
        assert torch.allclose(normalised, (raw - mean) / std, atol=1e-5)
        assert len(losses["lily", task]) == len(losses["petl_vit", task]) == 2
        assert all(a != b for a, b in zip(losses["lily", task], losses["petl_vit", task], strict=True))


def test_a_finalized_suite_shows_retrained_models_on_images_that_no_search_saw(tmp_path: Path) -> None:
    with_mlflow_database(tmp_path / "paretune-studies")
    for task in ("one", "two"):
        pictures.vtab(tmp_path / "data" / task)
    suite = {
        "suite": "tiny",
        "study": {
            "methods": ["lora"],
            "protocol": "adapter_plus",
            "backbone": {"name": "vit_glyphs"},
            "recipe": {"precision": "float32"},
            "space": {"lora.rank": 2, "lora.layers": "last-2", "optim.lr": 5e-3, "optim.batch_size": 8},
            "budget": {"n_trials": 2, "epochs": 2},
            "search": {"sampler": "random"},
        },
        "data": {"kind": "vtab"},
        "tasks": {"stripes": {"one": {"path": "one"}, "two": {"path": "two"}}},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(suite))
    command = ["suite", "tiny.yaml", "--root", str(tmp_path / "data"), "--finalize", "2", "--back-end", "in-process", "--json"]
    done = paretune(*command, cwd=tmp_path, PARETUNE_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measure"].startswith("mean test accuracy of each method's best front member after retraining")
    for task in ("one", "two"):
        folder = tmp_path / "paretune-studies" / f"tiny-{task}"
        front = {member.number: member for member in load_study(folder).members}
        rows = pq.read_table(folder / "final.parquet").to_pylist()
        assert [(row["trial"], row["n"]) for row in rows] == [(number, 2) for number in front]
        models = [np.load(path) for path in sorted((folder / "final" / "trials").glob("*/correct.npy"))]
        assert [len(correct) for correct in models] == [12] * 2 * len(front)  # n // 2 test images of each of three classes
        assert {row["method"]: row["test/top1_mean"] for row in rows} == {
            row["method"]: row["top1"][task] for row in found["standings"] if task in row["top1"]
        }
    lines = (tmp_path / "paretune-studies" / "suite-tiny.md").read_text().splitlines()
    assert lines[0].startswith("Protocol `adapter_plus` (Steitz and Roth, CVPR 2024, arXiv 2406.06820; visinf/adapter_plus), ")
    assert "space.optim.lr 5e-3 instead of 1e-3" in lines[0]
    assert lines[4] == "| method | one | two | mean of tasks | mean of groups |"
    assert {line.split(" | ")[0] for line in lines[6:]} <= {"| head only", "| LoRA"}
    files = sorted((tmp_path / "paretune-studies" / "suite-tiny-peft").glob("*.json"))
    retrained = {task: [row for row in rows_of(tmp_path, task) if row["method"] == "lora"] for task in ("one", "two")}
    assert len(files) == 2 * sum(map(len, retrained.values()))
    for path in files:
        summary = as_peft_reads_it(json.loads(path.read_text()))
        assert (summary["peft_type"], summary["model_id"]) == ("LORA", "vit_glyphs")
        assert summary["train_samples"] == 2 * 32  # drop_last: 36 images, batches of 8
        [row] = [row for task, rows in retrained.items() for row in rows if f"-{task}-" in summary["experiment_name"]]
        assert summary["num_trainable_params"] == row["adapter_params"] + row["head_params"]


def rows_of(tmp_path: Path, task: str) -> list[dict[str, Any]]:
    """Read what `finalize` wrote for a task."""
    return pq.read_table(tmp_path / "paretune-studies" / f"tiny-{task}" / "final.parquet").to_pylist()


def as_peft_reads_it(row: dict[str, Any]) -> dict[str, Any]:
    """Summarise a result with the keys that PEFT's method_comparison/processing.py reads."""
    run, train, meta = row["run_info"], row["train_info"], row["meta_info"]
    assert train["status"] == "success"
    assert meta["package_info"].keys() >= {"peft-version", "transformers-version", "datasets-version", "torch-version"}
    assert {"accelerator_memory_reserved_avg", "accelerator_memory_max", "accelerator_memory_reserved_99th"} <= train.keys()
    last = train["metrics"][-1]
    return {
        "experiment_name": run["experiment_name"],
        "model_id": run["train_config"]["model_id"],
        "peft_type": run["peft_config"]["peft_type"] if run["peft_config"] else "full-finetuning",
        "total_time": run["total_time"],
        "train_time": train["train_time"],
        "file_size": train["file_size"],
        "num_trainable_params": train["num_trainable_params"],
        "train_loss": last["train loss"],
        "train_samples": last["train samples"],
        "test_accuracy": last["test accuracy"],
        "system_info": json.dumps(meta["system_info"]),
        "created_at": run["created_at"],
        "peft_branch": run["peft_branch"],
    }
