"""Tuners of Hugging Face PEFT in a study, through the real command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

import trainables.backbones  # noqa: F401 - registers vit_glyphs
from trainables.export.adapter import load_adapter

from ..command_line import paretune
from ..mlflow_database import with_mlflow_database

STUDY = """\
study: bridged
data: {kind: digits}
methods: [lora, peft.vera]
space: {peft.vera.r: [16, 64], peft.vera.targets: qkvo, lora.rank: [1, 2], optim.lr: {low: 1e-3, high: 1e-2, log: true}}
budget: {n_trials: 3, epochs: 1}
"""
WITHOUT_PEFT = "import sys; sys.modules['peft'] = None; from search.cli import main; sys.argv[0] = 'paretune'; main()"


def without_peft(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_PEFT, *words], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )


@pytest.mark.slow
def test_a_search_over_our_lora_and_pefts_vera_trains_both_and_exports_vera(tmp_path: Path) -> None:
    with_mlflow_database(tmp_path / "paretune-studies")
    (tmp_path / "bridged.yaml").write_text(STUDY)
    done = paretune("run", "bridged.yaml", "--back-end", "in-process", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    trials = json.loads(paretune("trials", "bridged", "--json", cwd=tmp_path).stdout)
    assert {trial["method"] for trial in trials} == {"head_only", "lora", "peft.vera"}
    assert {trial["state"] for trial in trials} == {"COMPLETE"}
    vera = [trial for trial in trials if trial["method"] == "peft.vera"]
    for trial in vera:  # lambda_d, of r, and lambda_b, of the outputs, beside qkv (64 to 192) and proj (64 to 64) of each block
        layers = trial["config"]["peft.vera.layers"]
        n_blocks = 6 if layers == "all" else int(layers[-1])
        assert trial["adapter_params"] == n_blocks * (2 * trial["config"]["peft.vera.r"] + 192 + 64)
    number = str(vera[0]["trial"])
    for form in ([], ["--merge"]):
        exported = paretune("export-adapter", "bridged", number, "-".join(["home", *form]), *form, cwd=tmp_path)
        assert exported.returncode == 0, exported.stderr
    adapted = timm.create_model("vit_glyphs", pretrained=True, num_classes=10).eval()
    card = load_adapter(adapted, tmp_path / "home")
    assert card.method == "peft.vera"
    assert "peft" in card.packages
    merged = timm.create_model(
        "vit_glyphs", num_classes=10, checkpoint_path=str(tmp_path / "home---merge/model.safetensors")
    ).eval()
    x = torch.randn(4, 1, *card.preprocessing["size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(merged(x), adapted(x), rtol=1e-4, atol=1e-4)


def test_without_peft_a_study_of_a_tuner_is_refused_with_the_remedy_alone(tmp_path: Path) -> None:
    (tmp_path / "bridged.yaml").write_text(STUDY)
    refused = without_peft(tmp_path, "run", "bridged.yaml")
    assert refused.returncode == 2
    told = [line for line in refused.stderr.splitlines() if "at work" not in line]  # which a slow machine says after a second
    assert told == [
        "paretune: bridged.yaml:3: methods.1: peft.vera: needs Hugging Face PEFT, which is not installed; "
        "install it: pip install peft"
    ]
    assert not (tmp_path / "paretune-studies").exists()
    counted = without_peft(tmp_path, "count", "--method", "peft.vera")
    assert counted.returncode == 2
    assert "pip install peft" in counted.stderr
    listed = without_peft(tmp_path, "methods")
    assert "pip install peft" in " ".join(listed.stdout.split())
    assert "peft.vera" not in listed.stdout


def test_tuners_are_listed_and_their_study_file_read_without_importing_torch_or_peft(tmp_path: Path) -> None:
    (tmp_path / "bridged.yaml").write_text(STUDY)
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom search.cli.app import app\nfrom search.config import loading\n"
        "done = CliRunner().invoke(app, ['methods'])\n"
        "assert done.exit_code == 0 and 'peft.vera' in done.output, done.output\n"
        "assert 'peft.vera' in loading.load('bridged.yaml').methods\n"
        "assert not {'torch', 'peft', 'transformers', 'ray', 'mlflow'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr


def test_a_tuner_that_does_not_fit_or_is_misspelt_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "bridged.yaml").write_text(STUDY.replace("[lora, peft.vera]", "[peft.vbra, peft.poly, peft.vera]"))
    refused = paretune("validate", "bridged.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    first, second, third = refused.stderr.splitlines()
    assert "bridged.yaml:3: methods.0: peft.vbra: no such tuner in PEFT " in first
    assert "did you mean peft.v" in first
    assert second.endswith("methods.1: peft.poly: PEFT's poly does not fit a Vision Transformer: it needs the number of a task "
                           "for each image")  # fmt: skip
    assert third.endswith("lora.rank: is a knob of lora, which is not among the methods; add lora to them, or delete this line")
