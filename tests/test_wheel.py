"""The built wheel holds everything it needs: the packaged study runs from it, outside the clone."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CLONE = Path(__file__).parents[1]


def build(folder: Path) -> Path:
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(CLONE)]
    subprocess.run(words, check=True, capture_output=True, text=True, env=os.environ | {"SOURCE_DATE_EPOCH": "1767225600"})
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheel"))


def test_the_wheel_of_one_commit_has_the_same_bytes_each_time(wheel: Path, tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_our_four_packages_and_their_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"search", "trainables", "spaces", "cluster"}
    assert "search/studies/digits.yaml" in names
    assert "search/studies/emoji.yaml" in names
    assert "search/studies/scenes.yaml" in names
    assert "search/study.schema.json" in names
    for name in ("vit_glyphs", "vit_emoji"):
        assert {f"trainables/weights/{name}.safetensors", f"trainables/weights/{name}.json"} <= set(names)
    assert {f"trainables/data/emoji{end}" for end in (".webp", ".json", "-NOTICE.md")} <= set(names)


def test_the_installed_wheel_runs_the_packaged_study_outside_the_clone(wheel: Path, tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    work.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}
    where = (
        "import search, spaces, trainables, cluster; print(search.__file__, spaces.__file__, trainables.__file__, cluster.__file__)"
    )
    printed = subprocess.run([sys.executable, "-c", where], cwd=work, env=environment, check=True, capture_output=True, text=True)
    assert all(path.startswith(str(site)) for path in printed.stdout.split())
    small = ["--set", "budget.n_trials=2", "--set", "budget.epochs=2", "--back-end", "in-process"]
    run = [sys.executable, str(site / "bin" / "paretune"), "run", *small]
    done = subprocess.run(run, cwd=work, env=environment, check=False, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    shown = [sys.executable, str(site / "bin" / "paretune"), "front", "emoji", "--json"]
    front = json.loads(subprocess.run(shown, cwd=work, env=environment, check=True, capture_output=True, text=True).stdout)
    assert front["members"]
    assert all(0.3 < member["metrics"]["val/top1"] <= 1.0 for member in front["members"])
