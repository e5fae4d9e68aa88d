"""An export answers images: the same classes and probabilities from every form, with few libraries."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainables import data
from trainables.backbones import Preprocessing
from trainables.export.predict import predict
from trainables.pixels import transform_of

from .alone import run_alone
from .test_formats import CONFIGS, Made, logits, made, run_lines

FORMS = ("adapter", "merged", "peft", "onnx")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return made(CONFIGS["lora"], tmp_path_factory.mktemp("made") / "trial")


def pictures(folder: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"{name}.png" for name in ("a", "b", "c")]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (30, 20, 3), np.uint8)).save(path)
    return paths


def test_every_form_gives_the_probabilities_of_the_model(own: Made, tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    card = own.export(tmp_path / "adapter", "adapter")
    model = run_lines(card, tmp_path / "adapter")["model"]
    wanted = Preprocessing(**{key: tuple(v) if isinstance(v, list) else v for key, v in card.preprocessing.items()})
    decode = transform_of(
        {"kind": "x", "resize": "squash"}, channels=wanted.channels, size=wanted.size, interpolation=wanted.interpolation
    )  # a packaged data set's images are whole
    pixels = torch.from_numpy(np.stack([decode(path.read_bytes()).values for path in paths]))
    expected = logits(model, data.Normaliser(wanted, torch.device("cpu"))(pixels)).softmax(-1).numpy()
    for form in FORMS:
        if form != "adapter":
            own.export(tmp_path / form, form)
        answers = predict(tmp_path / form, paths)
        assert [answer.path for answer in answers] == paths
        assert list(answers[0].probabilities) == [str(digit) for digit in range(10)]
        found = np.array([list(answer.probabilities.values()) for answer in answers])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
        assert answers[0].best(1)[0][0] == str(expected[0].argmax())


def test_an_onnx_model_that_normalises_inside_answers_the_same(own: Made, tmp_path: Path) -> None:
    paths = pictures(tmp_path)
    outer, inner = own.export(tmp_path / "outer", "onnx"), own.export(tmp_path / "inner", "onnx", normalize_inside=True)
    assert outer.conversion["normalize_inside"] != inner.conversion["normalize_inside"]
    for one, other in zip(predict(tmp_path / "outer", paths), predict(tmp_path / "inner", paths), strict=True):
        assert one.probabilities == pytest.approx(dict(other.probabilities), abs=1e-5)


def test_images_that_cannot_be_read_are_named_together(own: Made, tmp_path: Path) -> None:
    own.export(tmp_path / "out", "adapter")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"(?s)text\.png: not an image.*none\.png: .*No such file"):
        predict(tmp_path / "out", [*pictures(tmp_path), tmp_path / "text.png", tmp_path / "none.png"])


COMMAND = """
import json, sys
sys.argv = ["paretune", "predict", "onnx", "a.png", "--json"]
from search.cli.app import exit_code
assert exit_code() == 0
assert not {"ray", "mlflow", "optuna", "torch", "sqlalchemy"} & sys.modules.keys()
"""


@pytest.mark.slow
def test_the_command_answers_from_onnx_without_torch_ray_mlflow_or_the_study(own: Made, tmp_path: Path) -> None:
    pictures(tmp_path)
    own.export(tmp_path / "onnx", "onnx")
    libraries = ("onnxruntime", "numpy", "pillow", "typer", "rich", "pyyaml", "pydantic")
    printed = run_alone(COMMAND, *libraries, ours=("search", "spaces", "cluster", "trainables"), folder=tmp_path)
    (answer,) = json.loads(printed)
    assert answer["path"] == "a.png"
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["class"] == max(answer["probabilities"], key=answer["probabilities"].__getitem__)
