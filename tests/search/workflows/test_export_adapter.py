"""A trial's adapter leaves its study as it was there: loaded as docs/export.md says, it has the recorded accuracy."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import mlflow
import pytest
import torch
import yaml
from mlflow import MlflowClient
from torch import nn
from typer.testing import CliRunner

import search
from search.cli.app import app
from search.errors import RequestError
from search.results.saved_study import SavedStudy
from search.tracking.mlflow_client import tracking_uri
from search.trial import State
from search.workflows.export_adapter import Format, export_adapter, keep_adapters
from search.workflows.hub_folder import write_hub_files
from trainables import data
from trainables.backbones import Preprocessing
from trainables.export.adapter import Card, read_card

from .. import command_line

SNIPPETS = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[3] / "docs" / "export.md").read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SavedStudy:
    """The packaged backbone on the digits: head only and LoRA, one epoch each."""
    budget = {"n_trials": 2, "epochs": 1, "max_params": 50_000}
    file = {"study": "small", "data": {"kind": "digits"}, "methods": ["lora"], "budget": budget}
    return search.run({**file, "storage": str(tmp_path_factory.mktemp("studies"))}, back_end="in-process")


def paretune(*words: str, cwd: Path) -> CompletedProcess[str]:
    return command_line.paretune("export-adapter", *words, cwd=cwd, columns=80)


def top1(model: nn.Module, card: Card) -> float:
    """Accuracy on the validation split, with the preprocessing that the card says."""
    told = {key: tuple(value) if isinstance(value, list) else value for key, value in card.preprocessing.items()}
    wanted = Preprocessing(**told)
    split = data.load(card.data, wanted)["validation"]
    with torch.no_grad():
        found = model(data.Normaliser(wanted, torch.device("cpu"))(split.images)).argmax(1)
    return float((found == split.labels).double().mean())


def executed(program: str) -> nn.Module:
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102
    model = names["model"]
    assert isinstance(model, nn.Module)
    return model


def test_both_forms_load_as_documented_and_reproduce_the_recorded_accuracy(
    study: SavedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [trial.method for trial in study.history] == ["head_only", "lora"]
    for trial in study.history:
        folder = tmp_path / trial.method
        folder.mkdir()
        monkeypatch.chdir(folder)
        for to, form, snippet in (
            ("my-adapter", "paretune", SNIPPETS[0]),
            ("my-model", "merged", SNIPPETS[1]),
            ("my-peft", "peft", SNIPPETS[2]),
        ):
            card = export_adapter(study, trial.number, Path(to), form=Format(form))
            assert card.metrics["val/top1"] == trial.metrics["val/top1"]
            assert (card.params["adapter"], card.params["head"]) == (trial.adapter_params, trial.head_params)
            assert card.origin == {"study": "small", "trial": trial.number, "state": "COMPLETE"}
            for program in (snippet, card.lines(Path(to))):
                assert top1(executed(program), card) == pytest.approx(trial.metrics["val/top1"], abs=1e-12)


def test_an_onnx_model_runs_as_documented(study: SavedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    card = export_adapter(study, 1, Path("my-onnx"), form=Format("onnx"))
    for program in (SNIPPETS[3], card.lines(Path("my-onnx"))):
        names: dict[str, Any] = {}
        exec(program, names)  # noqa: S102
        assert names["logits"].shape == (1, 10)


def test_a_folder_for_the_hub_has_a_card_whose_lines_run_and_tells_nothing_of_this_machine(
    study: SavedStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = export_adapter(study, 1, tmp_path / "hub", form=Format("merged"))
    write_hub_files(study, card, tmp_path / "hub")
    monkeypatch.chdir(tmp_path / "hub")
    readme = Path("README.md").read_text()
    front, _, text = readme.removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert f"| `val/top1` | {study.trial(1).metrics['val/top1']:.4g} |" in text
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(program.splitlines()) <= 5
    assert top1(executed(program), card) == pytest.approx(study.trial(1).metrics["val/top1"], abs=1e-12)
    assert Path("front.png").read_bytes().startswith(b"\x89PNG")
    kept = yaml.safe_load(Path("study.yaml").read_text())
    assert kept["methods"] == study.row.file["methods"]
    assert not {"storage", "ledger", "resources"} & kept.keys()
    assert str(study.folder.parent) not in readme + Path("study.yaml").read_text()


def test_the_command_writes_the_files_and_prints_the_lines_that_load_them(study: SavedStudy, tmp_path: Path) -> None:
    made = paretune(str(study.folder), "1", "home", cwd=tmp_path)
    assert (made.returncode, made.stderr) == (0, "")
    card = read_card(tmp_path / "home")
    assert made.stdout.endswith(card.lines(Path("home")) + "\n")
    merged = paretune(study.name, "1", "merged", "--merge", "--json", "--storage", str(study.folder.parent), cwd=tmp_path)
    assert merged.returncode == 0, merged.stderr
    told = json.loads(merged.stdout)
    assert (tmp_path / told["path"] / told["file"]).name == "model.safetensors"
    assert told["card"] == json.loads((tmp_path / "merged" / "card.json").read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "merged"]
    with pytest.raises(RequestError, match="home must not exist or be an empty folder"):
        export_adapter(study, 1, tmp_path / "home")


@pytest.mark.parametrize(
    ("arguments", "message"), [(["nothing", "0"], "does not exist"), (["STUDY", "9"], "no trial 9: study small has trials 0 to 1")]
)
def test_a_wrong_request_is_one_clear_message_and_exit_code_two(
    study: SavedStudy, tmp_path: Path, arguments: list[str], message: str
) -> None:
    name, number = arguments
    refused = paretune(str(study.folder) if name == "STUDY" else name, number, "out", cwd=tmp_path)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert "Traceback" not in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_trial_without_a_checkpoint_is_exported_and_a_pruned_one_says_how_far_it_came(study: SavedStudy, tmp_path: Path) -> None:
    def with_trial(**changes: Any) -> SavedStudy:
        changed = dataclasses.replace(study.history[1], **changes)
        return dataclasses.replace(study, history=(study.history[0], changed))

    with pytest.raises(RequestError, match="has FAILED \\(the loss is not finite\\)"):
        export_adapter(with_trial(state=State.FAILED, reason="the loss is not finite"), 1, tmp_path / "out")
    fresh = with_trial(number=1, state=State.RUNNING, epochs=0)
    with pytest.raises(RequestError, match="is RUNNING after 0 epochs and has no checkpoint"):
        export_adapter(dataclasses.replace(fresh, folder=tmp_path), 1, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    card = export_adapter(with_trial(state=State.PRUNED), 1, tmp_path / "out")
    assert (card.origin["state"], card.epochs["done"]) == ("PRUNED", 1)


def test_the_fronts_adapters_are_kept_beside_the_study_and_as_artifacts_of_their_runs(study: SavedStudy) -> None:
    members = {trial.number for trial in study.members}
    assert {int(place.name) for place in (study.folder / "adapters").iterdir()} == members
    assert keep_adapters(study) == []
    client = MlflowClient(tracking_uri=tracking_uri(study.folder.parent))
    experiment = client.get_experiment_by_name(study.name)
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id], "tags.`paretune.trial` != ''"):
        number = int(run.data.tags["paretune.trial"])
        files = {Path(file.path).name: file.file_size for file in client.list_artifacts(run.info.run_id, "adapter")}
        kept = study.folder / "adapters" / f"{number:04d}"
        assert files == ({file.name: file.stat().st_size for file in kept.iterdir()} if number in members else {})


@pytest.mark.filterwarnings("ignore::UserWarning")  # MLflow warns of type hints of its own
def test_mlflow_loads_a_registered_adapter_without_a_pickle_at_the_recorded_accuracy(
    study: SavedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    member, storage = study.members[-1], study.folder.parent
    done = CliRunner().invoke(app, ["register", str(study.folder), str(member.number), "--name", "digits-adapter"])
    printed = done.stdout.splitlines()
    assert printed[:3] == [
        "import mlflow.pyfunc, numpy",
        f"mlflow.set_tracking_uri({tracking_uri(storage).reveal()!r})",
        'model = mlflow.pyfunc.load_model("models:/digits-adapter/1")  # where Paretune is installed',
    ]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(storage))  # as the second line does, for this test only
    for module in ("pickle", "cloudpickle"):
        for verb in ("load", "loads"):
            monkeypatch.setattr(f"{module}.{verb}", refuse_to_unpickle)
    works: dict[str, Any] = {}
    exec("\n".join([printed[0], *printed[2:]]).replace("model.predict", "found = model.predict"), works)  # noqa: S102 - our own lines
    monkeypatch.undo()
    assert works["found"].shape == (1, 10)
    model = works["model"]
    wanted = Preprocessing(**read_card(study.folder / "adapters" / f"{member.number:04d}").preprocessing)
    split = data.load({"kind": "digits"}, wanted)["validation"]
    found = model.predict(split.images.numpy()).argmax(1)
    uri = tracking_uri(storage)
    needed = MlflowClient(tracking_uri=uri, registry_uri=uri).get_model_version("digits-adapter", "1")
    requirements = Path(mlflow.artifacts.download_artifacts(f"{needed.source}/requirements.txt")).read_text()
    assert "torch==" in requirements
    assert "paretune" not in requirements  # a name that no index holds as ours
    assert (found == split.labels.numpy()).mean() == pytest.approx(member.metrics["val/top1"], abs=1e-9)


def refuse_to_unpickle(*_: Any, **__: Any) -> None:
    raise AssertionError("something was unpickled")
