"""docs/developing.md, carried out: a toy of every kind is added as the guide says, and works."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
import torch
import typer
import yaml
from optuna.distributions import CategoricalDistribution
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import search
from search.backends import choose, in_process
from search.backends.in_process import InProcessBackEnd
from search.cli.app import app
from search.cli.options import DEFAULT_STORAGE, Storage, StudyName, folder_of
from search.config.loading import check
from search.results.saved_study import load
from search.samplers import sampler as samplers
from search.samplers.base import Answer, Done, NewConfig, Result, SamplerContext, Wait
from search.study.study import Study
from search.trial import State
from search.workflows import run
from spaces import SPACES, Config, Knob, Space
from spaces.shared import layers
from trainables.adapters import METHODS
from trainables.adapters.base import Layer, Method
from trainables.adapters.families import Blocks
from trainables.data import layouts
from trainables.data.packaged import PACKAGED
from trainables.simulated.plain import SyntheticSizes, SyntheticTrainable
from trainables.tasks.classification import OneLabel
from trainables.training.trial import AdapterWorker

from .own_methods import GAIN

SYNTHETIC = {"study": "s", "data": {"kind": "synthetic"}, "methods": ["lora"], "budget": {"n_trials": 4, "epochs": 2}}


# -- a method of one's own ---------------------------------------------------------------------------------------------


def test_a_method_of_ones_own_is_a_file_of_about_forty_lines(tmp_path: Path) -> None:
    assert len(GAIN.splitlines()) <= 50
    (tmp_path / "gain.py").write_text(GAIN)
    study = {"study": "s", "data": {"kind": "digits"}, "methods": ["./gain.py"], "budget": {"n_trials": 2, "epochs": 1}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(study | {"storage": str(tmp_path)}))
    saved = search.run(tmp_path / "s.yaml", back_end="in-process")
    assert [(trial.method, trial.state) for trial in saved.history] == [
        ("head_only", State.COMPLETE),
        ("gain", State.COMPLETE),
    ]


# -- a method ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scaling(Method):
    """A toy: every output of q, k and v is multiplied by a trained factor."""

    name: ClassVar[str] = "scaling"
    start: float = 1.0
    layers: str = "all"

    def build(self, blocks: Blocks, rng: torch.Generator) -> dict[str, Layer]:
        return {f"{path}.attn.qkv": ScalingLayer(block.get_submodule("attn.qkv"), self) for path, block in blocks.items()}


class ScalingLayer(Layer):
    """W' = diag(s) W."""

    def __init__(self, base: nn.Module, method: Scaling) -> None:
        super().__init__(base)
        self.factor = nn.Parameter(torch.full((cast(nn.Linear, base).out_features,), method.start))

    def adapted_weight(self) -> Tensor:
        return self.factor[:, None] * self.linear.weight


START = CategoricalDistribution((0.9, 1.0))
SCALING = Space(
    "scaling",
    (
        Knob("scaling.start", START, default=1.0, meaning="First value of every factor.", unit="", source="a toy"),
        layers("scaling"),
    ),
)


def test_a_method_is_a_file_of_adapters_and_a_file_of_spaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "scaling", Scaling)
    monkeypatch.setitem(SPACES, "scaling", SCALING)
    file = {"study": "s", "methods": ["scaling"], "data": {"kind": "digits"}, "budget": {"n_trials": 2, "epochs": 1}}
    study = search.run({**file, "storage": str(tmp_path)}, back_end="in-process")
    assert [(trial.method, trial.state) for trial in study.history] == [
        ("head_only", State.COMPLETE),
        ("scaling", State.COMPLETE),
    ]
    assert study.history[1].adapter_params == 6 * 3 * 64  # blocks, q k v, width


# -- a task ------------------------------------------------------------------------------------------------------------


class Squared(OneLabel):
    """A toy: squared errors of the probabilities instead of the cross-entropy, and the share of wrong answers as a score."""

    def loss(
        self, logits: Tensor, labels: Tensor, n_images: int, label_smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        aims = torch.nn.functional.one_hot(labels, logits.shape[-1])
        return (self.probabilities(logits) - aims).square().sum() / n_images

    def scores(self, kept: Tensor, labels: Tensor) -> dict[str, float]:
        accuracy = super().scores(kept, labels)["top1"]
        return {"top1": accuracy, "loss": self.loss(kept, labels, len(labels)).item(), "wrong": 1 - accuracy}


def test_a_task_is_one_object_and_the_search_does_not_know_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Any], PACKAGED), "digits", replace(PACKAGED["digits"], task=Squared()))
    file = {"study": "s", "methods": ["lora"], "data": {"kind": "digits"}, "budget": {"n_trials": 2, "epochs": 2}}
    study = search.run({**file, "storage": str(tmp_path)}, back_end="in-process")
    assert [trial.state for trial in study.history] == [State.COMPLETE, State.COMPLETE]
    for trial in study.history:
        assert trial.metrics["val/wrong"] == 1 - trial.metrics["val/top1"]
        assert 0 < trial.metrics["val/loss"] < 1  # a guess of ten classes has 0.9


# -- a sampler ---------------------------------------------------------------------------------------------------------


class OneByOne:
    """A toy: the default of each method with another learning rate each time, one trial at a time, three in all."""

    def __init__(self, context: SamplerContext) -> None:
        self._space, self._running, self._drawn = context.space, 0, 0

    def ask(self, seed: int) -> Answer:
        if self._drawn == 3:
            return Done("three were enough")
        if self._running:
            return Wait()
        return NewConfig(self._space.default(self._space.methods[0]) | {"optim.lr": 1e-3 * (2 + self._drawn)})

    def add(self, config: Config, *, drawn: bool) -> int:
        self._running += 1
        self._drawn += drawn
        return self._running + self._drawn

    def report(self, ticket: int, epoch: int, top1: float, size: float | None, seconds: float | None) -> None: ...

    def tell(self, ticket: int, result: Result, *, top1: float | None = None, size: float | None = None) -> None:
        self._running -= 1

    def promote(self, ticket: int) -> None: ...


def test_a_sampler_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Any], samplers.SAMPLERS), "random", OneByOne)
    budget = {"n_trials": 9, "epochs": 2}
    file = check({**SYNTHETIC, "budget": budget, "search": {"sampler": "random", "rungs": None}, "storage": str(tmp_path)})
    with closing(Study.create(file, SyntheticSizes())) as study:
        anchor, default = study.ask(), study.ask()
        assert anchor is not None
        assert default is not None
        assert study.ask() is None  # the sampler waits for the default to end
        assert study.ended is None
        study.report(anchor.number, 1, {"val/top1": 0.5})
        for epoch in (1, 2):
            study.report(default.number, epoch, {"val/top1": 0.5})
        first = study.ask()
        assert first is not None
        assert first.config["optim.lr"] == 2e-3
        assert study.ask() is None
    with closing(Study.open(file, SyntheticSizes())) as again:
        in_process.run(again, SyntheticTrainable())
        assert again.ended == "the sampler is done: three were enough"
        assert [trial.config["optim.lr"] for trial in again.trials[2:]] == [2e-3, 3e-3, 4e-3]
        assert all(trial.state is State.COMPLETE for trial in again.trials)


# -- a back end --------------------------------------------------------------------------------------------------------


class Counting(InProcessBackEnd):
    """A toy: the in-process back end, which counts the studies that it has scripted."""

    n_driven = 0

    def run(self, study: Study) -> None:
        Counting.n_driven += 1
        super().run(study)


def test_a_back_end_is_a_class_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cast(dict[str, Any], choose.BACK_ENDS), "counting", lambda n_cpus, n_slots: Counting())
    saved = run.run(check({**SYNTHETIC, "storage": str(tmp_path)}), back_end="counting")
    assert (Counting.n_driven, len(saved.history)) == (1, 4)


# -- a data layout -----------------------------------------------------------------------------------------------------


def flat(root: Path, data: Mapping[str, Any]) -> layouts.Draft:
    """A toy: PATH/CLASS-NUMBER.png, without splits of its own."""
    images = [(path.name, path.stem.partition("-")[0], (0, 0)) for path in sorted(root.glob("*.png"))]
    return layouts.Draft(root, {"train": images}, declared=False)


def test_a_data_layout_is_a_function_and_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(layouts.LAYOUTS, "flat", flat)
    for label in ("cat", "dog"):
        for number in range(10):
            Image.new("RGB", (8, 8), (25 * number, 0, 0)).save(tmp_path / f"{label}-{number}.png")
    found = layouts.listing({"kind": "flat", "path": str(tmp_path), "val_fraction": 0.2, "test_fraction": 0.0, "seed": 0})
    assert found.classes == ("cat", "dog")
    assert {split: len(images) for split, images in found.splits.items()} == {"train": 16, "validation": 4}


# -- a metric ----------------------------------------------------------------------------------------------------------


class WithEntropy(AdapterWorker):
    """A toy: every epoch also reports the entropy of a uniform guess."""

    def step(self) -> dict[str, float]:
        return super().step() | {"val/entropy": math.log(self.n_classes)}


def test_a_metric_that_an_epoch_reports_is_kept_and_shown(tmp_path: Path) -> None:
    raw = {"study": "s", "methods": ["lora"], "data": {"kind": "digits"}, "budget": {"n_trials": 1, "epochs": 1}}
    file = check({**raw, "storage": str(tmp_path)})
    with closing(Study.create(file, SyntheticSizes())) as study:
        worker = file.worker()
        in_process.run(study, WithEntropy(worker["backbone"], worker["data"], worker["recipe"]))
    saved = load(tmp_path / "s")
    assert saved.history[0].metrics["val/entropy"] == pytest.approx(math.log(10))
    assert "val/entropy" in saved.reports().column_names


# -- a command ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def with_a_command() -> Iterator[None]:
    family = typer.Typer()

    @family.command()
    def best(study: StudyName, storage: Storage = DEFAULT_STORAGE) -> None:
        """A toy: print the best accuracy."""
        typer.echo(max(trial.metrics["val/top1"] for trial in load(folder_of(study, storage)).members))

    app.add_typer(family)
    yield
    app.registered_groups.pop()


@pytest.mark.usefixtures("with_a_command")
def test_a_command_is_a_function_in_a_file_of_the_command_line(tmp_path: Path) -> None:
    study = search.run({**SYNTHETIC, "storage": str(tmp_path)}, back_end="in-process")
    result = CliRunner().invoke(app, ["best", "s", "--storage", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert float(result.stdout) == max(trial.metrics["val/top1"] for trial in study.members)
