"""Watched data sets: loaded with the study's classes, scored after the last epoch, and refused where they do not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from search.backends import in_process
from search.config.loading import check
from search.errors import RequestError, StudyFileError
from search.results import tables
from search.results.arrow_tables import trials_arrow
from search.results.saved_study import load as load_study
from search.study.study import Study
from search.workflows import finalize, validation
from trainables import audit, make, measure
from trainables.backbones import Preprocessing
from trainables.data import watched
from trainables.protocol import Changed
from trainables.workers.retrainer import Retrainer

from .pictures import CLASSES, image_folder, picture, vtab, write_parquet
from .test_many_labels import labelled_folder

WANTED = Preprocessing(3, (32, 32), (0.5,) * 3, (0.5,) * 3, "bicubic")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))


def section(tmp_path: Path, *watch: Path, **more: Any) -> dict[str, Any]:
    """A study's data on an image folder, which watches other ones."""
    root = tmp_path / "study"
    if not root.exists():
        image_folder(root, splits=("train", "val", "test"))
    return {"kind": "imagefolder", "path": str(root), "watch": {path.stem: {"path": str(path)} for path in watch}, **more}


def other(root: Path, classes: dict[str, int], n: int = 3) -> Path:
    """root/CLASS/*.png of the given directions of stripes."""
    for name, label in classes.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            (root / name / f"{i}.png").write_bytes(picture(label, 5000 + 10 * label + i))
    return root


def test_all_labelled_images_of_any_layout_count_with_the_studys_numbers(tmp_path: Path) -> None:
    flat = other(tmp_path / "flat", {"slanted": 2, "down": 1})  # without a class, in another order
    only_test = other(tmp_path / "only" / "test", dict(zip(CLASSES, range(3), strict=True))).parent
    write_parquet(table := tmp_path / "rows.parquet", range(9000, 9012))
    data = section(tmp_path, flat, only_test, table)
    found = watched.load(data, WANTED)
    labels = {name: one.split.labels.tolist() for name, one in found.items()}
    assert labels == {"flat": [1, 1, 1, 2, 2, 2], "only": [0, 0, 0, 1, 1, 1, 2, 2, 2], "rows": labels["rows"]}
    assert sorted(labels["rows"]) == [0] * 4 + [1] * 4 + [2] * 4
    assert [found[name].n_images for name in found] == [6, 9, 12]
    with pytest.raises(ValueError, match=r"data\.watch\.v: .*class '0': .* images; the study has no such class"):
        watched.load(section(tmp_path, vtab(tmp_path / "v")), WANTED)  # its labels are numbers


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda root: root, r"data\.watch\.w: .*/w: it does not exist"),
        (
            lambda root: other(root, {"down": 1, "round": 2}),
            r"1 problem in .*\n  data\.watch\.w: class .round.: 3 images; the",
        ),
        (lambda root: other(root, {"round": 1, "square": 2}), r"it has no image of the study's classes \(across; down; slanted\)"),
        (labelled_folder, r"in no folder of a class"),
        (
            lambda root: shutil.copytree(root.parent / "study" / "val", root),
            r"has the same bytes as an image of the study's split val",
        ),
    ],
)
def test_a_watched_set_that_does_not_fit_is_one_error(tmp_path: Path, make_it: Any, message: str) -> None:
    data = section(tmp_path, tmp_path / "w")
    make_it(tmp_path / "w")
    with pytest.raises(ValueError, match=message):
        watched.load(data, WANTED)


def test_skip_leaves_out_and_lists_what_would_be_refused(tmp_path: Path) -> None:
    watch = other(tmp_path / "w", {"down": 1, "round": 2})
    shutil.copy(tmp_path / "w" / "down" / "0.png", tmp_path / "w" / "down" / "again.png")
    (watch / "down" / "bad.png").write_bytes(b"no image")
    data = section(tmp_path, watch, on_problem="skip")
    shutil.copy(next((tmp_path / "study" / "train" / "down").iterdir()), watch / "down" / "seen.png")
    found = watched.load(data, WANTED)["w"]
    assert found.n_images == 4  # the same image twice within the set is the user's choice
    assert [line.split(": ")[1].split(" ")[0] for line in found.skipped] == ["class", "down/bad.png", "down/seen.png"]


def test_another_watched_set_is_refused_once_a_study_stands_on_it(tmp_path: Path) -> None:
    watch = other(tmp_path / "w", {"down": 1})
    data = section(tmp_path, watch)
    data["watch"]["w"]["digest"] = watched.load(data, WANTED)["w"].digest
    watched.refuse_changed(data)
    (watch / "down" / "new.png").write_bytes(picture(1, 7777))
    with pytest.raises(Changed, match=r"data\.watch\.w: .* it has 4 images now"):
        watched.refuse_changed(data)


def study_file(tmp_path: Path, watch: Path) -> dict[str, Any]:
    data = {"kind": "imagefolder", "path": str(section(tmp_path)["path"]), "watch": {"site-b": str(watch)}}
    return {
        "study": "w",
        "backbone": {"name": "vit_glyphs"},
        "data": data,
        "methods": ["bitfit"],
        "budget": {"n_trials": 2, "epochs": 2},
        "storage": str(tmp_path / "studies"),
    }


def test_a_trial_is_scored_on_it_after_its_last_epoch_and_the_front_and_finalize_show_it(tmp_path: Path) -> None:
    watch = other(tmp_path / "b", {"across": 0, "down": 1, "slanted": 2}, n=5)
    file = check(study_file(tmp_path, watch))
    worker = file.worker()
    assert audit(worker["backbone"], worker["data"]).watched["site-b"][0] == 15  # type: ignore[union-attr]
    study = Study.create(file, measure(worker["backbone"], worker["data"]))
    trainable = make(**worker)
    in_process.run(study, trainable)
    study.close()
    saved = load_study(file.folder)
    assert [["watch/site-b/top1" in report.metrics for report in saved.epochs]] == [[False, True, False, True]]
    head = saved.history[0]
    trainable.start(head.config, seed=head.seed, epochs=2, folder=None)
    for _ in range(2):
        trainable.step()
    own = trainable._watched["site-b"]  # type: ignore[attr-defined]
    with torch.no_grad():
        found = trainable.model.eval()(trainable._normalise(own.images)).argmax(-1)  # type: ignore[attr-defined]
    assert own.labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert head.metrics["watch/site-b/top1"] == pytest.approx((found == own.labels).double().mean().item())
    assert "site-b" in tables.front_markdown(saved.history).splitlines()[0]
    unit = trials_arrow(saved.history).schema.field("watch/site-b/loss").metadata
    assert unit == {b"unit": b"nats"}
    retrained = Retrainer(**file.worker())(head.config, seed=1, epochs=2, folder=tmp_path / "final")
    assert {"test/top1", "watch/site-b/top1"} <= retrained.metrics.keys()
    model = saved.history[0].__class__(0, head.state, head.config, 1, 0, 0, metrics=retrained.metrics)
    row = finalize.row(finalize.Member(head, (model,), 1.0))
    assert row["watch/site-b/top1_mean"] == retrained.metrics["watch/site-b/top1"]


def test_validate_refuses_unknown_classes_and_odd_names(tmp_path: Path) -> None:
    file = study_file(tmp_path, other(tmp_path / "b", {"down": 1, "round": 2}))
    with pytest.raises(RequestError, match=r"data\.watch\.site-b: 1 problem"):
        validation.validate(check(file))
    with pytest.raises(StudyFileError, match=r"data\.watch"):
        check(file | {"data": file["data"] | {"watch": {"a/b": "x"}}})
