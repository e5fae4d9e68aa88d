"""A study on images with any number of labels, from the command line; and data that deserve another metric than accuracy."""

from __future__ import annotations

import warnings
from contextlib import closing
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from search.backends import in_process
from search.config.loading import check
from search.config.loading import load as from_path
from search.metrics import METRICS
from search.results.saved_study import load
from search.storage.facts import Pinned
from search.study.checks import note_on_balance
from search.study.study import Study
from search.workflows.finalize import finalize, finalized, row
from search.workflows.front_odds import p_front, p_front_by
from trainables import make, measure
from trainables.export.adapter import Exporter, read_card
from trainables.protocol import DATA_RULES
from trainables.tasks.quality import measure as measured

from .. import command_line

NAMES = ("across", "down", "bright")


def paretune(*words: str, cwd: Path) -> CompletedProcess[str]:
    return command_line.paretune(*words, cwd=cwd, PARETUNE_CACHE=str(cwd / "cache"))


def many(root: Path, n: int = 48) -> None:
    """root/SPLIT/NNN.png with stripes across, stripes down and bright pixels, in any combination; and labels.csv."""
    rng = np.random.default_rng(0)
    lines = ["file_name,labels"]
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True)
        for i in range(n):
            has = rng.random(3) < 0.5
            y, x = np.mgrid[:32, :32]
            pixels = 60 + 110 * has[2] + 40 * has[0] * np.sin(y * 0.9 + i) + 40 * has[1] * np.sin(x * 0.9 + i)
            noisy = np.clip(pixels[..., None] + rng.normal(0, 10, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(noisy).save(root / split / f"{i:03d}.png")
            lines.append(f"{split}/{i:03d}.png,{'|'.join(name for name, present in zip(NAMES, has, strict=True) if present)}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def study(folder: Path, **changes: Any) -> None:
    file = {
        "study": "many",
        "data": {"kind": "imagefolder", "path": "set", "labels": "labels.csv"},
        "methods": ["lora"],
        "space": {"lora.rank": 2, "optim.lr": 1e-2, "optim.batch_size": 8},
        "objectives": ["val/map", "adapter_params"],
        "budget": {"n_trials": 2, "epochs": 4},
        "search": {"sampler": "random"},
    }
    (folder / "many.yaml").write_text(yaml.safe_dump(file | changes))


def test_a_study_on_images_with_many_labels_learns_and_its_front_is_tested(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many(tmp_path / "set")
    study(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    file = from_path("many.yaml")
    worker = file.worker()
    with closing(Study.create(file, measure(worker["backbone"], worker["data"]), pinned=Pinned(rules=DATA_RULES))) as made:
        in_process.run(made, make(**worker))
    saved = load(made.folder)
    best = saved.members[-1]
    assert best.quality > 0.8  # a guess has about 0.5
    assert "val/top1" not in best.metrics
    assert saved.reference_point[0] == 0.0
    back_end = in_process.InProcessBackEnd()
    members = finalize(saved, n_seeds=1, retrain=lambda orders: back_end.retrain(file, saved.row.facts, orders))
    assert [member.trial.number for member in members] == [member.number for member in saved.members]
    assert row(members[-1])["test/map_mean"] > 0.8
    assert members[0].p_front == 1.0
    answers = np.load(made.folder / "final" / "trials" / "0000" / "answers.npz")
    assert answers["probabilities"].shape == answers["labels"].shape == (48, 3)
    assert measured("map", answers["probabilities"], answers["labels"]) in members[0].tested
    assert finalized(saved) == members
    to = tmp_path / "adapter"
    exporter = Exporter(worker["backbone"], worker["data"])
    exporter.write(made.folder / "trials" / f"{best.number:04d}", to, config=best.config, seed=best.seed, origin={})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow reads type hints as a schema, and warns
        from trainables.export.mlflow_model import Served
    served = Served()
    served.load_context(SimpleNamespace(artifacts={"adapter": to}))
    card = read_card(to)
    told = served.predict(
        None, np.random.default_rng(0).integers(0, 255, (4, card.preprocessing["channels"], *card.preprocessing["size"]))
    )
    assert told.shape == (4, 3)
    assert ((told > 0) & (told < 1)).all()
    assert not np.allclose(told.sum(1), 1.0, atol=0.01)  # each label has a probability of its own
    for override, law in (
        ("objectives=[val/top1,adapter_params]", "objectives: val/top1 does not fit these labels, because each image has a list"),
        ("recipe.class_weights=balanced", "recipe.class_weights: balanced needs one label for each image"),
    ):
        done = paretune("validate", "many.yaml", "--set", override, cwd=tmp_path)
        assert done.returncode == 2
        assert f"paretune: --set {override}: {law}" in done.stderr


def test_one_label_for_each_image_does_not_allow_average_precision(tmp_path: Path) -> None:
    study(tmp_path, data={"kind": "digits"})
    done = paretune("validate", "many.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "many.yaml:" in done.stderr
    assert "objectives: val/map does not fit these labels, because each image has one label; choose one of val/top1" in done.stderr


def test_a_common_class_is_named_with_a_metric_that_is_not_fooled(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, name, n in (("train", "ill", 4), ("train", "well", 8), ("val", "ill", 2), ("val", "well", 18)):
        (tmp_path / "set" / split / name).mkdir(parents=True)
        for i in range(n):
            noise = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / "set" / split / name / f"{i}.png")
    study(tmp_path, data={"kind": "imagefolder", "path": "set"}, objectives=["val/top1", "adapter_params"])
    done = paretune("validate", "many.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: 90% of the validation images are of the class well, so always answering it has an accuracy of 90%" in done.stderr
    assert "objectives: [val/macro_f1, adapter_params]" in done.stderr
    done = paretune("validate", "many.yaml", "--set", "objectives=[val/macro_f1,adapter_params]", cwd=tmp_path)
    assert "always answering" not in done.stderr
    for image in (tmp_path / "set" / "val" / "ill").iterdir():
        image.unlink()
    done = paretune("validate", "many.yaml", "--set", "objectives=[val/auroc,adapter_params]", cwd=tmp_path)
    assert done.returncode == 2
    assert "objectives: val/auroc needs validation images with and without a class, and there are none" in done.stderr


@pytest.mark.parametrize(
    ("counts", "is_common"),
    [([50, 50], False), ([70, 30], False), ([80, 20], True), ([40, 30, 30], False), ([51, 25, 24], True), ([0, 0], False)],
)
def test_a_class_is_common_with_more_than_half_and_more_than_one_and_a_half_equal_shares(
    counts: list[int], is_common: bool
) -> None:
    file = check({"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 1, "epochs": 1}})
    classes = {str(n): {"train": 1, "validation": count} for n, count in enumerate(counts)}
    assert (note_on_balance(file, classes) is not None) == is_common


def test_the_odds_of_a_redrawn_metric_are_those_of_accuracy_where_it_is_accuracy() -> None:
    """The same draws of images and seeds: P(front) by redrawn answers is that by counting right images."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=60)
    answers = [
        [(rng.dirichlet(np.ones(3), size=60) + strength * np.eye(3)[labels], labels) for _ in range(2)] for strength in (0.2, 0.25)
    ]
    correct = [np.stack([p.argmax(1) == labels for p, _ in models]) for models in answers]
    assert p_front_by(METRICS["val/top1"], [1, 2], answers, seed=3, n=200) == p_front([1, 2], correct, seed=3, n=200)
    better = p_front_by(
        METRICS["val/log_loss"],
        [1, 2],
        [[(np.full((60, 3), 1 / 3), labels)], [(np.eye(3)[labels] * 0.7 + 0.1, labels)]],
        seed=0,
        n=20,
    )
    assert better == [1.0, 1.0]
    worse = p_front_by(
        METRICS["val/log_loss"],
        [1, 2],
        [[(np.eye(3)[labels] * 0.7 + 0.1, labels)], [(np.full((60, 3), 1 / 3), labels)]],
        seed=0,
        n=20,
    )
    assert worse == [1.0, 0.0]
