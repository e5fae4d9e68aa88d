"""A folder for the Hub tells nothing of the machine that wrote it, and what it holds still works on another one."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import search
from search.config import loading
from search.results.saved_study import SavedStudy
from search.workflows.export_adapter import Format, export_adapter
from search.workflows.hub_folder import write_hub_files
from trainables import method_files
from trainables.backbones import WEIGHTS
from trainables.export.predict import predict

from ...own_methods import GAIN
from ...trainables.data import pictures
from ..mlflow_database import with_mlflow_database

CLONE = Path(__file__).parents[3]
ABSOLUTE = re.compile(rb"""(?:^|[\s"'(=\[])(/[\w.-]+/[\w./-]+)""", re.MULTILINE)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SavedStudy:
    """A study that names paths wherever a study can: images, weights, a method's file, another study."""
    folder = tmp_path_factory.mktemp("hub")
    pictures.image_folder(folder / "set", splits=("train", "val"))
    for label, name in enumerate(pictures.CLASSES):
        (folder / "other" / "val" / name).mkdir(parents=True)
        (folder / "other" / "val" / name / "0.png").write_bytes(pictures.picture(label, 900 + label))
    shutil.copy(WEIGHTS / "vit_glyphs.safetensors", folder / "w.safetensors")
    (folder / "gain.py").write_text(GAIN)
    file = {
        "study": "s",
        "backbone": {"name": "vit_glyphs", "weights": str(folder / "w.safetensors")},
        "data": {"kind": "imagefolder", "path": str(folder / "set"), "watch": {"other": str(folder / "other")}},
        "methods": [str(folder / "gain.py")],
        "budget": {"n_trials": 2, "epochs": 1},
        "storage": str(folder / "studies"),
    }
    with_mlflow_database(folder / "studies")
    return search.run(file, back_end="in-process")


@pytest.mark.parametrize("form", ["paretune", "merged", "peft", "onnx"])
def test_no_file_of_the_folder_names_a_path_of_this_machine(study: SavedStudy, form: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_hub_files(study, export_adapter(study, 1, folder, form=Format(form, loses=100 if form == "peft" else None)), folder)
    files = sorted(folder.iterdir())
    assert {"README.md", "card.json", "front.png", "study.yaml"} < {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        for here in (study.folder.parents[1], tmp_path, CLONE, Path(sys.prefix)):
            assert str(here).encode() not in content, path.name
        if path.suffix in (".md", ".json", ".yaml"):
            assert not ABSOLUTE.findall(content), path.name


def test_the_lines_run_and_images_are_answered_with_the_named_files_in_the_folder(
    study: SavedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, folder = study.folder.parents[1], tmp_path / "out"
    image = place / "set" / "val" / "down" / "000.png"
    export_adapter(study, 1, tmp_path / "here")
    expected = predict(tmp_path / "here", [image])[0].probabilities
    write_hub_files(study, export_adapter(study, 1, folder), folder)
    readme = (folder / "README.md").read_text()
    assert "and the weights `w.safetensors` of the backbone in it" in readme
    shutil.copy(place / "w.safetensors", folder)
    shutil.copy(place / "gain.py", folder)
    assert predict(folder, [image])[0].probabilities == expected
    monkeypatch.setattr(method_files, "_named", {})
    monkeypatch.setenv("PARETUNE_METHODS", re.findall(r"PARETUNE_METHODS=([\w.]+)", readme)[0])
    monkeypatch.chdir(folder)
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - our own file
    with torch.inference_mode():
        assert names["model"](torch.zeros(1, 1, 16, 16)).shape == (1, 3)
    again = loading.load("study.yaml")
    assert (again.study, again.methods) == ("s", ("gain",))
    assert yaml.safe_load(Path("study.yaml").read_text())["backbone"]["weights"] == "w.safetensors"
