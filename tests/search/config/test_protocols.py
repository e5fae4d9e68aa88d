"""A protocol is a published recipe: a study file follows it wherever it says nothing itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import spaces
from search.config import loading, protocols
from search.config.study_file import StudyFile
from search.errors import StudyFileError

STUDY = """study: s
data: {kind: vtab, path: images}
methods: [lora]
budget: {n_trials: 3}
protocol: noah
"""


def loaded(tmp_path: Path, text: str, *overrides: str) -> StudyFile:
    path = tmp_path / "s.yaml"
    path.write_text(text)
    return loading.load(path, overrides)


def test_a_study_has_what_its_protocol_sets_and_keeps_what_it_says_itself(tmp_path: Path) -> None:
    file = loaded(tmp_path, STUDY + "recipe: {decay: all}\n", "space.optim.lr=[1e-3, 1e-2]", "budget.epochs=30")
    assert file.backbone.name == "vit_base_patch16_224.orig_in21k"
    assert (file.data.normalize, file.data.interpolation) == ("imagenet", "bicubic")  # type: ignore[union-attr]
    assert (file.recipe.schedule, file.recipe.decay, file.recipe.final_lr) == ("epoch", "all", 1e-5)
    assert (file.budget.epochs, file.budget.n_trials) == (30, 3)
    assert file.joint_space().default("lora")["optim.batch_size"] == 64
    assert [(d.key, d.protocol, d.study) for d in protocols.differences(file.resolved())] == [
        ("recipe.decay", "matrices", "all"),
        ("space.optim.lr", 0.001, [1e-3, 1e-2]),
        ("budget.epochs", 100, 30),
    ]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("protocol: noha", "s.yaml:5: protocol: no such protocol; did you mean noah? There are adapter_plus, arc"),
        ("protocol: noah\nspace: 3", "space: must be a section"),
        ("protocol: noah\nbackbone: {nme: x}", "s.yaml:6: backbone.nme: no such key; did you mean name?"),
    ],
)
def test_what_is_wrong_is_told_with_its_place(written: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(StudyFileError) as error:
        loaded(tmp_path, STUDY.replace("protocol: noah", written))
    assert message in str(error.value)


def test_data_that_are_not_images_have_no_protocol(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match=r"s.yaml:5: protocol: noah is a recipe for images on a disk, and data.kind: digits"):
        loaded(tmp_path, STUDY.replace("{kind: vtab, path: images}", "{kind: digits}"))


def test_a_key_of_the_protocol_that_fails_is_told_with_the_protocol(tmp_path: Path) -> None:
    file = loaded(tmp_path, STUDY)
    with pytest.raises(StudyFileError, match=r"s.yaml:5: protocol noah: backbone.name: cannot be read"), file.naming_lines():
        raise StudyFileError("backbone.name: cannot be read")


def test_a_study_that_names_a_protocol_goes_on_as_it_began_after_a_correction_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    raw: dict[str, Any] = {"study": "s", "data": {"kind": "vtab", "path": "x"}, "methods": ["lora"], "budget": {"n_trials": 3}}
    raw |= {"protocol": "noah", "recipe": {"decay": "all"}}
    stored = loading.check_stored(loading.check(raw).resolved())
    now = protocols.protocol("noah")
    recipe = {**now.settings["recipe"], "schedule": "step", "decay": "matrices"}
    corrected = {**now.settings, "recipe": recipe, "space": {"optim.lr": 0.002, "lora.scale": 1.0}}
    monkeypatch.setattr(protocols, "protocol", lambda name: now.model_copy(update={"settings": corrected}))
    file = loading.check(raw)
    assert (file.recipe.schedule, file.space["optim.lr"], file.space["lora.scale"]) == ("step", 0.002, 1.0)
    began = file.with_protocol_of(stored)
    assert began.recipe == stored.recipe
    assert began.space == {"optim.lr": 0.001}  # what the protocol no longer sets is told as a change
    assert loading.check(raw | {"protocol": "lily"}).with_protocol_of(stored).recipe.head_init == "linear"


@pytest.mark.parametrize("name", protocols.packaged_names())
def test_a_packaged_protocol_is_a_valid_study_of_each_row_that_was_published_under_it(name: str) -> None:
    known = protocols.protocol(name)
    assert known.published
    for row in known.published:
        raw = {"study": "s", "data": {"kind": "vtab", "path": "x"}, "methods": [row.method], "budget": {"n_trials": 3}}
        file = loading.check(raw | {"protocol": name, "space": row.space})
        assert list(protocols.differences(file.resolved())) == []
        assert file.joint_space().holds(file.joint_space().default(row.method))
        assert row.groups is not None
    for key, value in known.settings["space"].items():
        method = key.rpartition(".")[0]
        knob = next((k for k in spaces.SHARED if k.key == key), None) or next(
            k for k in spaces.space_of(method).knobs if k.key == key
        )
        knob.overridden(knob.typed(value))
