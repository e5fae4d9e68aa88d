"""A study on images with masks: searched, finalized, exported; and what it refuses before anything trains."""

from __future__ import annotations

import warnings
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from search.backends import in_process
from search.config.loading import check
from search.config.loading import load as from_path
from search.errors import RequestError, StudyFileError
from search.results.saved_study import load
from search.storage.facts import Pinned
from search.study.study import Study
from search.workflows.export_adapter import Format, export_adapter
from search.workflows.finalize import finalize, finalized, row
from search.workflows.validation import validate
from trainables import backbones, make, measure, measure_latency
from trainables.data import Normaliser
from trainables.data import load as load_data
from trainables.export.adapter import load_adapter
from trainables.export.predict import predict
from trainables.protocol import DATA_RULES
from trainables.tasks.segmentation import SEGMENTATION

from ...trainables.tasks.scenes import scenes

FILE: dict[str, Any] = {
    "study": "scenes",
    "task": "segmentation",
    "backbone": {"name": "vit_emoji"},
    "data": {"kind": "masks", "path": "set"},
    "methods": ["lora"],
    "space": {"lora.rank": 2, "optim.lr": 1e-2, "optim.batch_size": 8},
    "budget": {"n_trials": 2, "epochs": 8},
    "search": {"sampler": "random"},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    scenes(tmp_path / "set", {"train": 24, "val": 8, "test": 8})
    (tmp_path / "scenes.yaml").write_text(yaml.safe_dump(FILE))
    return tmp_path


def test_a_study_on_masks_learns_and_its_front_is_tested_and_exported(here: Path) -> None:
    file = from_path("scenes.yaml")
    assert file.objectives == ("val/miou", "adapter_params")
    worker = file.worker()
    with closing(Study.create(file, measure(worker["backbone"], worker["data"]), pinned=Pinned(rules=DATA_RULES))) as made:
        in_process.run(made, make(**worker))
    saved = load(made.folder)
    best = saved.members[-1]
    assert (best.method, best.head_params) == ("lora", 2 * 96 + 96 * 3 + 3)
    assert best.quality > saved.members[0].quality + 0.05
    assert saved.reference_point[0] == pytest.approx(1 / 5)  # of a random answer among three classes
    back_end = in_process.InProcessBackEnd()
    members = finalize(saved, n_seeds=1, retrain=lambda orders: back_end.retrain(file, saved.row.facts, orders))
    assert 0.3 < row(members[-1])["test/miou_mean"] < 1.0
    assert members[0].p_front == 1.0
    assert finalized(saved) == members
    to = here / "adapter"
    card = export_adapter(saved, best.number, to)
    model = backbones.create("vit_emoji")
    load_adapter(model, to)
    split = load_data(worker["data"], backbones.preprocessing(model), ("validation",))["validation"]
    with torch.inference_mode():
        normalise = Normaliser(backbones.preprocessing(model), torch.device("cpu"))
        logits = torch.cat([model.eval()(normalise(batch)) for batch in split.batches(8)])
    own = SEGMENTATION.scores(SEGMENTATION.keep(logits, split.targets), split.targets)
    assert own["miou"] == pytest.approx(best.quality, abs=1e-6)
    assert "num_classes=0" in card.lines(to)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow reads type hints as a schema, and warns
        from trainables.export.mlflow_model import Served
    served = Served()
    served.load_context(SimpleNamespace(artifacts={"adapter": to}))
    told = served.predict(None, split.images.numpy())
    assert told.shape == (8, 3, 32, 32)
    assert np.allclose(told.sum(1), 1.0, atol=1e-5)
    with pytest.raises(ValueError, match="answers with a class of each pixel, and predict answers with classes of images"):
        predict(to, [here / "set/images/val/0.png"])
    for form in ("merged", "peft", "onnx"):
        with pytest.raises(RequestError, match=f"a model for segmentation has the format paretune; got {form}"):
            export_adapter(saved, best.number, here / form, form=Format(form))
        assert not (here / form).exists()
    found = measure_latency(worker["backbone"], worker["data"], worker["recipe"], best.config, n_classes=3)
    assert found["cost/latency_merged_ms"] > 0


@pytest.mark.parametrize(
    ("changes", "law"),
    [
        ({"task": "classification"}, "task: data.kind masks has masks; write task: segmentation"),
        (
            {"data": {"kind": "digits"}},
            "task: segmentation needs data with masks, of data.kind masks, voc, ade20k, scenes; got digits",
        ),
        ({"data": FILE["data"] | {"watch": {"a": "b"}}}, "watch is for images with labels, and these have masks; leave it out"),
        ({"data": FILE["data"] | {"ignore_index": 256}}, "data.ignore_index"),
    ],
)
def test_a_task_and_data_that_do_not_fit_are_refused(changes: dict[str, Any], law: str) -> None:
    with pytest.raises(StudyFileError, match=law):
        check(FILE | changes)


@pytest.mark.parametrize(
    ("override", "law"),
    [
        ("objectives=[val/top1,adapter_params]", "val/top1 does not fit these labels, because each image has a mask; choose"),
        ("recipe.class_weights=balanced", "balanced needs one label for each image, and these have masks; use none"),
        ("backbone.name=resnet18", "a supported backbone must be one of timm's"),
    ],
)
def test_what_masks_do_not_allow_is_refused_before_anything_trains(here: Path, override: str, law: str) -> None:
    with pytest.raises(RequestError, match=law):
        validate(from_path("scenes.yaml", (override,)))


def test_validate_counts_images_with_each_class_and_refuses_a_mask_of_another_size(here: Path) -> None:
    found = validate(from_path("scenes.yaml"))
    assert found is not None
    assert found.n_images == {"train": 24, "validation": 8, "test": 8}
    assert found.classes["ground"] == {"train": 24, "validation": 8}
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(here / "set/masks/val/3.png")
    with pytest.raises(RequestError, match=r"its mask masks/val/3\.png has 5 x 5 pixels, and the image 32 x 32"):
        validate(from_path("scenes.yaml"))
