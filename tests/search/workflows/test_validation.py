"""The promise of `validate`: what it accepts reaches its first training step, what it refuses is told with its place."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import spaces
from search.backends import simulated
from search.config import loading
from search.errors import RequestError, StudyFileError
from search.workflows.validation import refuse_what_is_not_meant, validate
from trainables import make, measure
from trainables.backbones import WEIGHTS

from ..command_line import paretune

N_FILES = int(os.environ.get("PARETUNE_TEST_FILES", "300"))  # docs/developing.md; 2,000 before a release
METHODS = ("lora", "arc", "lily", "head_only", "bitfit", "fact", "peft.vera", "lorra")
KEYS = sorted({knob.key for method in METHODS[:6] for knob in spaces.space_of(method).knobs} | {knob.key for knob in spaces.SHARED})
number = st.one_of(st.integers(-2, 70), st.floats(-1, 2), st.sampled_from([1e-4, 0.5, 1e9, 1e-300, float("nan"), float("inf")]))
value = st.one_of(
    number,
    number,
    st.sampled_from(["qkv", "qv", "nope", "first-2", "last-0", "all", "1e-4", "8", "", "tk"]),
    st.booleans(),
    st.none(),
)
a_range = st.fixed_dictionaries(
    {"low": value, "high": value}, optional={"log": st.one_of(st.booleans(), value), "step": value, "base": value}
)
override = st.one_of(value, value, st.lists(value, max_size=4), a_range, st.just({}))
good_override = {
    "optim.lr": [1e-3, {"low": 1e-4, "high": 1e-2, "log": True}],
    "optim.weight_decay": [0, {"low": 0, "high": 1}],
    "recipe.drop_path": [{"low": 0, "high": 0.2, "step": 0.1}],
    "lora.rank": [4, [1, 2], {"low": 1, "high": 8}, {"low": 1, "high": 9, "step": 4}],
    "lora.targets": [["qkv", "qv"]],
}
space = st.one_of(
    st.just({}),
    st.dictionaries(st.sampled_from(KEYS), override, max_size=2),
    st.sampled_from([{key: one} for key, many in good_override.items() for one in many]),
)
whole = st.integers(-1, 30)


def mostly(good: st.SearchStrategy[Any], bad: st.SearchStrategy[Any] = value) -> st.SearchStrategy[Any]:
    return st.integers(0, 19).flatmap(lambda n: bad if n == 0 else good)


files = st.fixed_dictionaries(
    {
        "study": mostly(st.just("s")),
        "data": st.fixed_dictionaries(
            {"kind": mostly(st.just("synthetic"))},
            optional={"noise": mostly(st.floats(0, 1)), "surface": mostly(st.sampled_from(["plain", "valley", "crossing"]))},
        ),
        "methods": mostly(
            st.lists(st.sampled_from(METHODS[:3]), min_size=1, max_size=3), st.lists(st.sampled_from(METHODS), max_size=4)
        ),
        "budget": st.fixed_dictionaries(
            {"n_trials": mostly(st.integers(1, 30), whole), "epochs": mostly(st.integers(1, 8), whole)},
            optional={
                "max_params": mostly(st.integers(5_000, 10**6), whole),
                "max_hours": mostly(st.floats(0.1, 9)),
                "limits": mostly(
                    st.just({}), st.dictionaries(st.sampled_from(["cost/gflops", "cost/nope", "adapter_params"]), number)
                ),
                "stall_trials": mostly(whole),
            },
        ),
    },
    optional={
        "space": space,
        "objectives": mostly(st.just(["val/top1", "adapter_params"]), st.lists(st.sampled_from(["val/top1", "cost/gflops", "x"]))),
        "search": st.fixed_dictionaries(
            {},
            optional={
                "sampler": mostly(st.sampled_from(["auto", "tpe", "nsga2", "random", "grid", "gp"])),
                "seed": mostly(st.integers(0, 5)),
                "rungs": mostly(st.one_of(st.none(), st.fixed_dictionaries({"grace": whole, "factor": whole}))),
                "points": st.lists(
                    st.fixed_dictionaries({"method": st.sampled_from(METHODS)}, optional={"lora.rank": value}), max_size=1
                ),
            },
        ),
        "recipe": st.dictionaries(st.sampled_from(["warmup_fraction", "clip_norm", "precision", "nope"]), value, max_size=1),
        "resources": st.dictionaries(st.sampled_from(["cpus_per_trial", "gpus_per_trial", "memory_per_trial"]), value, max_size=1),
    },
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "law"),
    [
        (
            {"name": "test_vit", "img_size": 100},
            "img_size: 100 is no multiple of the patch size 16; nearest: 96 or 112",
        ),
        (
            {"name": "test_vit", "img_size": 65},
            "img_size: 65 is no multiple of the patch size 16; nearest: 64 or 80",
        ),
        ({"name": "test_vit", "img_size": 8}, "img_size: 8 is no multiple of the patch size 16; nearest: 16"),
        (
            {"name": "vit_glyphs", "weights": "zeros.safetensors", "img_size": 2},
            "img_size: 2 is no multiple of the patch size 4; nearest: 4",
        ),
        ({"weights": "zeros.safetensors"}, "gives the same numbers for every image: its weights"),
        ({"weights": "nan.safetensors"}, "gives numbers that are not finite for an ordinary image: its weights"),
    ],
)
def test_a_backbone_that_takes_no_image_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: dict[str, Any], law: str
) -> None:
    monkeypatch.chdir(tmp_path)
    state = load_file(WEIGHTS / "vit_glyphs.safetensors")
    save_file({name: 0 * tensor for name, tensor in state.items()}, "zeros.safetensors")
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_file(state, "nan.safetensors")
    known = {"name": "vit_glyphs"} if "weights" in backbone else {"name": "test_vit", "weights": "random"}
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(raw | {"backbone": known | backbone}))
    for words in (("validate", "s.yaml"), ("run", "s.yaml", "--back-end", "in-process")):
        done = paretune(*words, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert law in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
    assert not (tmp_path / "paretune-studies").exists()


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"space": {"lora.rank": [4, 2, 4]}}, "space.lora.rank: 4 is listed twice; keep one"),
        ({"budget": {"n_trials": 2, "epochs": 1, "until": "2020-01-01"}}, "budget.until: 2020-01-01 00:00 is in the past"),
        (
            {"data": {"kind": "vtab", "path": "x", "normalize": {"mean": [127], "std": [58]}}},
            "data.normalize: pixels are numbers from 0 to 1 here, so a mean cannot be 127; divide mean and std by 255",
        ),
    ],
)
def test_what_is_surely_not_meant_is_refused(change: dict[str, Any], law: str) -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    with pytest.raises(StudyFileError) as refused:
        refuse_what_is_not_meant(loading.check(raw | change))
    assert str(refused.value).startswith(law)


def test_a_value_that_no_method_takes_is_refused(tmp_path: Path) -> None:
    raw = {"study": "s", "data": {"kind": "digits"}, "methods": ["lora"], "budget": {"n_trials": 2, "epochs": 1}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(raw | {"space": {"lora.rank": [4, 5000]}}, sort_keys=False))
    for words in (("validate", "s.yaml"), ("run", "s.yaml", "--back-end", "in-process")):
        done = paretune(*words, cwd=tmp_path)
        assert done.returncode == 2
        assert "s.yaml:10: space.lora.rank: 5000: lora.rank must be at most 64" in done.stderr


def first_step(file: Any) -> Mapping[str, float]:
    """Train the first trial of the study for one epoch."""
    worker = file.worker()
    study = simulated.create(file, measure(worker["backbone"], worker["data"]), simulated.VirtualClock())
    trial = study.ask()
    assert trial is not None
    trainable = make(**worker)
    trainable.start(trial.config, seed=trial.seed, epochs=file.budget.epochs, folder=None)
    return trainable.step()


@pytest.fixture(scope="module")
def outcomes() -> Iterator[Counter[str]]:
    """How many generated files were accepted and refused, printed at the end."""
    counts = Counter[str]()
    yield counts
    print(f"\ngenerated study files: {counts['accepted']:,} accepted, {counts['refused']:,} refused")


@pytest.mark.slow
@settings(max_examples=N_FILES, suppress_health_check=list(HealthCheck))
@given(files)
def test_what_is_accepted_starts_and_what_is_refused_has_a_place(outcomes: Counter[str], raw: dict[str, Any]) -> None:
    text = yaml.safe_dump(raw)
    try:
        typed = loading.parse(text, "s.yaml")[0]
        file = loading.check(typed, "s.yaml")
        validate(file)
    except RequestError as refusal:
        outcomes["refused"] += 1
        for line in str(refusal).splitlines():
            place, colon, law = line.partition(":")
            assert place, line
            assert colon, line
            assert law.strip(), line
    else:
        outcomes["accepted"] += 1
        assert "val/top1" in first_step(file)
