"""A search with a method of the user's own: trained, resumed, refused when changed, read without its code, exported, sent."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import search
from search.backends import ray_tune
from search.cli.cluster import _staged
from search.config.loading import check_stored, load
from search.storage.facts import Pinned
from search.study.study import Study
from search.trial import State
from trainables import measure, method_files
from trainables.adapters import adapted_layers
from trainables.backbones import create
from trainables.export.adapter import load_adapter, read_card
from trainables.protocol import DATA_RULES

from ...own_methods import GAIN, changed
from ..command_line import paretune

STUDY = {
    "study": "s",
    "data": {"kind": "digits"},
    "methods": ["lora", "./gain.py"],
    "budget": {"n_trials": 3, "epochs": 1},
    "search": {"sampler": "random"},
}
HERE = ("--storage", "studies", "--back-end", "in-process")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study's file and its method; a process that has named nothing."""
    (tmp_path / "gain.py").write_text(GAIN)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(STUDY))
    monkeypatch.setattr(method_files, "_named", {})
    return tmp_path


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the study has been searched."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "gain.py").write_text(GAIN)
    (folder / "s.yaml").write_text(yaml.safe_dump(STUDY))
    done = paretune("run", "s.yaml", *HERE, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def searched(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, in a process to which the user has named nothing."""
    forget(monkeypatch)
    return shutil.copytree(template, tmp_path / "copy")


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go on as another process, to which the user has named nothing."""
    monkeypatch.setattr(method_files, "_named", {})


def test_a_search_trains_resumes_and_exports_it_and_refuses_a_changed_file(
    template: Path, searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, began = searched, template / "gain.py"
    study = search.load(folder / "studies" / "s")
    trained = next(trial for trial in study.history if trial.method == "gain")
    assert (trained.state, trained.adapter_params) == (State.COMPLETE, 6 * 3 * 64)  # blocks, q k v, width
    digest = method_files.read_file(folder / "gain.py").digest
    assert study.row.facts.pinned is not None
    assert study.row.facts.pinned.methods == {"gain": digest}

    unnamed = paretune("resume", "s", "--more-trials", "1", *HERE, cwd=folder)
    assert unnamed.returncode == 2
    assert f"paretune --method-file {began}" in unnamed.stderr
    again = paretune("--method-file", "gain.py", "resume", "s", "--more-trials", "1", *HERE, cwd=folder)
    assert again.returncode == 0, again.stderr
    assert paretune("--method-file", "gain.py", "rerun", "s", str(trained.number), *HERE[:2], cwd=folder).returncode == 0
    sent = paretune("--method-file", "gain.py", "export-adapter", "s", str(trained.number), "out", *HERE[:2], cwd=folder)
    assert sent.returncode == 0, sent.stderr
    assert read_card(folder / "out").origin["code"] == {"source": str(folder / "gain.py"), "digest": digest}

    forget(monkeypatch)
    model = create("vit_glyphs")
    with pytest.raises(ValueError, match="gain is code"):
        load_adapter(model, folder / "out")
    method_files.name_file(folder / "gain.py")
    load_adapter(model, folder / "out")
    assert len(adapted_layers(model)) == 6

    (folder / "gain.py").write_text(GAIN + "# changed\n")
    now = method_files.read_file(folder / "gain.py").digest
    for command in (
        ("--method-file", "gain.py", "resume", "s", "--more-trials", "1", *HERE),
        ("--method-file", "gain.py", "rerun", "s", str(trained.number), *HERE[:2]),
        ("--method-file", "gain.py", "export-adapter", "s", str(trained.number), "out2", *HERE[:2]),
        ("--method-file", "gain.py", "finalize", "s", *HERE),
        ("--method-file", "gain.py", "cost", "s", str(trained.number), *HERE[:2]),
    ):
        forget(monkeypatch)
        refused = paretune(*command, cwd=folder)
        assert refused.returncode == 2, command
        assert f"gain.py) is not that with which the study began: its digest was {digest[:12]} and is {now[:12]}" in refused.stderr

    pupil = STUDY | {"study": "pupil", "search": {"learn_from": [str(folder / "studies" / "s")]}}
    (folder / "pupil.yaml").write_text(yaml.safe_dump(pupil))
    taught = paretune("run", "pupil.yaml", *HERE, cwd=folder)
    assert taught.returncode == 2
    assert "has a method gain whose code is not this study's" in taught.stderr
    widened = STUDY | {"methods": ["lora", "./other.py", "./gain.py"]}
    (folder / "wider.yaml").write_text(yaml.safe_dump(widened))
    (folder / "gain.py").write_text(GAIN)
    (folder / "other.py").write_text(GAIN.replace('"gain', '"other'))
    wider = paretune("--method-file", "gain.py", "resume", "s", "--file", "wider.yaml", *HERE, cwd=folder)
    assert wider.returncode == 2
    assert "other is a method of your own; it needs a study of another name" in wider.stderr


def test_reading_commands_run_no_code(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = searched
    monkeypatch.setattr("trainables.adapters.own.run_file", lambda file: pytest.fail(f"{file.source} ran"))
    for command in (
        ("front", "s"),
        ("status", "s"),
        ("show", "s", "0"),
        ("importance", "s"),
        ("export", "s", "--format", "optuna"),
    ):
        read = paretune(*command, "--storage", "studies", cwd=folder)
        assert read.returncode == 0, read.stderr
    study = search.load(folder / "studies" / "s")
    assert study.trials().schema.field("gain.scale").metadata == {b"unit": b"factor"}
    assert check_stored(study.row.file).joint_space().methods == ("lora", "gain")


def test_a_law_that_is_broken_is_refused_before_anything_is_trained(folder: Path) -> None:
    (folder / "gain.py").write_text(
        changed(("    def adapted_bias", "    def forward(self, x):\n        return self.base(x)\n\n    def adapted_bias"))
    )
    refused = paretune("run", "s.yaml", *HERE, cwd=folder)
    assert refused.returncode == 2
    assert "methods: gain breaks gradients reach every trainable (no gradient reaches" in refused.stderr
    assert f"paretune check-method {folder / 'gain.py'}" in refused.stderr
    assert not (folder / "studies" / "s" / "ledger.db").exists()
    checked = paretune("check-method", "./gain.py", "--json", cwd=folder)
    assert checked.returncode == 1
    told = json.loads(checked.stdout)
    assert not told["kept"]
    assert {law["law"] for law in told["laws"] if not law["kept"]} == {"gradients reach every trainable", "merge equals forward"}


@pytest.mark.parametrize(
    ("change", "law"),
    [
        (("block.attn.qkv, self.scale", "block.attention.qkv, self.scale"), r"gain breaks builds its layers \(AttributeError"),
        (
            ("like=base.weight)", "like=base.weight)\n        base.weight.sum().item()"),
            r"counts on the meta device \(it reads values",
        ),
    ],
)
def test_a_method_that_cannot_be_counted_is_one_clear_error(folder: Path, change: tuple[str, str], law: str) -> None:
    (folder / "gain.py").write_text(changed(change))
    for command in (("run", "s.yaml", *HERE), ("validate", "s.yaml")):
        refused = paretune(*command, cwd=folder)
        assert refused.returncode == 2, refused.stderr
        assert re.search(law, refused.stderr), refused.stderr


def test_check_method_prints_a_table_and_refuses_what_is_no_method(folder: Path) -> None:
    kept = paretune("check-method", "./gain.py", cwd=folder)
    assert kept.returncode == 0, kept.stderr
    assert kept.stdout.count(" kept ") == 6
    assert paretune("check-method", "./nowhere.py", cwd=folder).returncode == 2
    unknown = paretune("check-method", "./gain.py", "--backbone", "vit_nowhere", cwd=folder)
    assert unknown.returncode == 2
    assert "vit_nowhere" in unknown.stderr


@pytest.mark.usefixtures("embedded_ray")
def test_ray_workers_run_the_text_of_a_resumed_study_and_need_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = load(folder / "s.yaml", storage=folder / "studies")
    worker = file.worker()
    [argument] = worker["methods"]
    pinned = Pinned(rules=DATA_RULES, methods={"gain": argument["digest"]})
    Study.create(file, measure(worker["backbone"], worker["data"], worker["methods"]), pinned=pinned).close()
    forget(monkeypatch)
    (folder / "gain.py").rename(folder / "moved.py")
    method_files.name_file(folder / "moved.py")
    stored = check_stored(search.load(file.folder).row.file).kept_like(file)
    with closing(Study.open(stored, measure(worker["backbone"], worker["data"], worker["methods"]))) as study:
        study.file.worker(study.row.facts)
        (folder / "moved.py").write_text("1 / 0  # edited while the search runs\n")
        ray_tune.run(study, n_slots=1)
        assert {trial.method: trial.state for trial in study.trials}["gain"] is State.COMPLETE


def test_a_job_takes_the_file_along_where_it_hides_no_module_and_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _staged(load(folder / "s.yaml")) as (sent, environment):
        (folder / "gain.py").unlink()
        assert environment == {"PARETUNE_METHODS": "methods/gain.py"}
        assert (Path(sent) / "methods" / "gain.py").read_text() == GAIN
        there = load(Path(sent) / "study.yaml")
        assert there.methods == ("lora", "gain")
        forget(monkeypatch)
        monkeypatch.chdir(sent)
        monkeypatch.setenv("PARETUNE_METHODS", environment["PARETUNE_METHODS"])
        assert check_stored(there.resolved()).worker()["methods"][0]["text"] == GAIN
    assert not Path(sent).exists()
