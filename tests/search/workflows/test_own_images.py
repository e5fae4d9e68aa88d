"""A search on a user's own images, in every layout; and what a user is told when images are wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import yaml

from search.backends import in_process
from search.config.loading import load
from search.results import saved_study
from search.study.study import Study
from trainables import make, measure
from trainables.data import layouts

from ...trainables.data import pictures
from .. import command_line

pytestmark = pytest.mark.slow

LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "imagefolder": pictures.image_folder,
    "vtab": pictures.vtab,
    "fgvc": pictures.fgvc,
    "parquet": pictures.parquet,
}


def paretune(*words: str, cwd: Path) -> CompletedProcess[str]:
    return command_line.paretune(*words, cwd=cwd, PARETUNE_CACHE=str(cwd / "cache"))


def study(folder: Path, **data: object) -> None:
    file = {
        "study": "own",
        "data": data,
        "methods": ["lora"],
        "space": {"lora.rank": 2, "optim.lr": 5e-3, "optim.batch_size": 8, "lora.targets": "qv"},
        "budget": {"n_trials": 2, "epochs": 12},
        "search": {"sampler": "random"},
    }
    (folder / "own.yaml").write_text(yaml.safe_dump(file))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_search_runs_on_images_of_every_layout_and_learns(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    LAYOUTS[kind](tmp_path / "set")
    study(tmp_path, kind=kind, path="set")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    file = load("own.yaml")
    worker = file.worker()
    made = Study.create(file, measure(worker["backbone"], worker["data"]))
    in_process.run(made, make(**worker))
    best = max(member.metrics["val/top1"] for member in made.front())
    made.close()
    assert best > 1 / 3 + 0.2  # chance is one in three


def test_another_study_on_the_same_images_decodes_nothing_and_finds_the_same(tmp_path: Path) -> None:
    pictures.vtab(tmp_path / "set")
    study(tmp_path, kind="vtab", path="set")
    found = []
    for name in ("one", "two"):
        small = ["--set", f"study={name}", "--set", "budget.epochs=1", "--set", "recipe.precision=float32"]
        done = paretune("run", "own.yaml", "--back-end", "in-process", *small, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert ("decoding images, once for this machine" in done.stdout) is (name == "one")
        trials = json.loads(paretune("trials", name, "--json", cwd=tmp_path).stdout)
        found.append([{key: value for key, value in t["metrics"].items() if not key.startswith("cost/")} for t in trials])
    assert found[0] == found[1]


def test_problems_end_the_command_before_anything_runs_and_are_skipped_on_request(tmp_path: Path) -> None:
    root = pictures.image_folder(tmp_path / "set")
    drawn = layouts.listing({"kind": "imagefolder", "path": root, "val_fraction": 0.2, "test_fraction": 0.0, "seed": 0})
    one = drawn.splits["validation"][0].path
    for path in (one, "down/001.png"):
        (root / path).write_bytes((root / path).read_bytes()[:100])
    study(tmp_path, kind="imagefolder", path="set")
    for command in (["run", "own.yaml", "--back-end", "in-process"], ["validate", "own.yaml"]):
        refused = paretune(*command, cwd=tmp_path)
        assert refused.returncode == 2
        assert "down/001.png: " in refused.stderr
        assert "fix them, or set data.on_problem: skip" in refused.stderr
        assert "Traceback" not in refused.stderr
    assert not (tmp_path / "paretune-studies" / "own" / "ledger.db").exists()
    skip = ["--set", "data.on_problem=skip", "--set", "budget.epochs=1"]
    done = paretune("run", "own.yaml", "--back-end", "in-process", *skip, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "data: skipped, as data.on_problem requests (2):" in done.stderr
    assert "down/001.png: " in done.stderr
    log = tmp_path / "paretune-studies" / "own" / "paretune.log"
    assert "down/001.png: " in log.read_text()
    resumed = paretune("resume", "own", "--more-trials", "1", "--back-end", "in-process", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    shown_log = log.relative_to(tmp_path)
    assert f"data: 2 skipped, as data.on_problem requests; listed in {shown_log}" in resumed.stderr
    assert "down/001.png" not in resumed.stderr
    assert (
        saved_study.load(tmp_path / "paretune-studies" / "own").n_validation == len(drawn.splits["validation"]) - 1
    )  # standard errors use it


def test_validating_tells_what_the_data_set_holds(tmp_path: Path) -> None:
    pictures.image_folder(tmp_path / "set")
    study(tmp_path, kind="imagefolder", path="set")
    done = paretune("validate", "own.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert "data: 19 train, 5 validation images of 3 classes" in done.stderr
    assert "normalisation: (pixel - mean) / std with mean" in done.stderr
    assert yaml.safe_load(done.stdout)["data"]["kind"] == "imagefolder"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "imagefolder"}, "own.yaml:4: data.path: is missing, but required"),
        ({"kind": "imagefolder", "path": "nowhere"}, "nowhere does not exist"),
        ({"kind": "vtab", "path": "x", "augment": "crop"}, "it needs resize: crop and a crop_fraction below 1"),
        (
            {"kind": "imagenet", "path": "x"},
            "own.yaml:5: data.kind: must be one of digits, emoji, imagefolder, vtab, fgvc, parquet, masks, voc",
        ),
        ({"kind": "imagefolder", "path": "x", "val_fractoin": 0.3}, "data.val_fractoin: no such key; did you mean val_fraction?"),
    ],
)
def test_a_wrong_data_section_is_told_with_its_place(data: dict[str, object], message: str, tmp_path: Path) -> None:
    study(tmp_path, **data)
    done = paretune("run", "own.yaml", "--back-end", "in-process", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
