"""The tokens in front of everything that a trial trains are computed once, and no number depends on who computed them."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from trainables import backbones, make
from trainables.adapters import METHODS, adapt, remove, supported_blocks, transformer_blocks
from trainables.backbones import Preprocessing
from trainables.data import load
from trainables.data.batches import Normaliser, Split
from trainables.data.shared_files import folder, made
from trainables.protocol import STOP_FLAG, Stopped
from trainables.recipe.cut import after, before, deepest_cut, hold_frozen_blocks, last_cut, shape_at
from trainables.recipe.step import logits
from trainables.training.prefix import Inputs
from trainables.training.trial import AdapterWorker

from .. import small_models  # noqa: F401 - timm then knows them
from ..short import shortened

BACKBONE = {"name": "test_vit", "weights": "random", "img_size": 32}
SHARED = {"optim.lr": 3e-3, "optim.weight_decay": 1e-2, "optim.batch_size": 32, "recipe.drop_path": 0.2}
LAST = {"method": "lora", "lora.rank": 2, "lora.layers": "last-2", "lora.dropout": 0.2, **SHARED}
HEAD = {"method": "head_only", **SHARED}
HEART = {"method": "heart_lora", "heart_lora.rank": 2, "heart_lora.layers": "last-2", "heart_lora.warmup_epochs": 1, **SHARED}
EMBEDDED = {"method": "ssf", **SHARED}
CUTS = (4, 7)  # of six blocks: in front of the last two, and of the classifier
MACHINE = ("cost/train_seconds", "cost/eval_seconds", "cost/images_per_second", "cost/step_seconds", "cost/peak_memory_bytes")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of files that workers share."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def worker(cuts: tuple[int, ...] | None = CUTS, *, augment: str = "none", **recipe: Any) -> AdapterWorker:
    """One that trains on 64 images, two batches, and evaluates 32."""
    fixed = {"device": "cpu", "prefix_cuts": cuts, "prefix_bytes": 2**30, **recipe}
    found = shortened(make(BACKBONE, {"kind": "digits"}, fixed), n_train=64)
    found._splits["train"] = replace(found._splits["train"], augment=augment)
    return found


def run(trial: AdapterWorker, config: dict[str, Any], epochs: int = 2, at: Path | None = None) -> list[dict[str, float]]:
    """The metrics of the epochs, without those of the machine."""
    begun = trial.start(config, seed=0, epochs=epochs, folder=at)
    found = [{key: value for key, value in trial.step().items() if key not in MACHINE} for _ in range(begun, epochs)]
    trial.finish()
    return found


def files() -> list[Path]:
    return sorted(folder("tokens").glob("*.tokens"))


# -- the cut -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3", "small_vit_without_qkv_bias"])
def test_in_float64_a_cut_pass_has_the_logits_and_gradients_of_the_whole_one(name: str) -> None:
    model = backbones.create(name, "random", 32).double()
    backbones.set_head(model, 5, torch.Generator().manual_seed(0))
    n_channels, size = (wanted := backbones.preprocessing(model)).channels, wanted.size
    images = torch.randn(3, n_channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    n_blocks = len(transformer_blocks(model))
    for cut in range(1, n_blocks + 2):
        method = METHODS["head_only"]() if cut > n_blocks else METHODS["adapter"](layers=f"last-{n_blocks + 1 - cut}")
        adapt(model, method, generator=torch.Generator().manual_seed(2))
        for parameter in (p for p in model.parameters() if p.requires_grad):
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
        at = deepest_cut(model)
        assert at == (last_cut(model) if cut > n_blocks else cut - 1)
        if at > 0:
            with torch.no_grad():
                *_, tokens = before(model, images, sorted({1, at}), "float32")
            assert tokens.shape[1:] == shape_at(model, at)
            found = []
            for inputs, forward in ((images, None), (tokens, after(model, at))):
                model.zero_grad()
                answers = logits(model, inputs, "float32", forward)
                answers.square().sum().backward()
                found.append([answers.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
            assert len(found[0]) > 2
            for whole, rest in zip(*found, strict=True):
                torch.testing.assert_close(rest, whole, rtol=1e-10, atol=1e-10)
        remove(model)


@pytest.mark.parametrize("name", ["small_beit", "small_swin", "eva02_tiny_patch14_224"])
def test_other_families_are_cut_in_front_of_the_classifier_only(name: str) -> None:
    size = 28 if "eva" in name else 32
    model = backbones.create(name, "random", size).double()
    backbones.set_head(model, 5, torch.Generator().manual_seed(0))
    adapt(model, METHODS["lora"](layers="last-1"))
    assert deepest_cut(model) == 0
    remove(model)
    adapt(model, METHODS["head_only"]())
    at = deepest_cut(model)
    assert at == last_cut(model)
    images = torch.randn(2, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        [pooled] = before(model, images, [at], "float32")
        assert pooled.shape[1:] == shape_at(model, at)
        found = logits(model, pooled, "float32", after(model, at))
        torch.testing.assert_close(found, model(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "layers", "cut"),
    [
        ("ssf", "all", 0),
        ("ssf", "last-2", 4),
        ("full", None, 0),
        ("bitfit", None, 0),
        ("adapter_plus", "last-1", 5),
        ("lily", "first-2", 0),
    ],
)
def test_nothing_that_is_trained_is_in_front_of_a_cut(method: str, layers: str | None, cut: int) -> None:
    model = backbones.create("test_vit", "random", 32)
    adapt(model, METHODS[method]() if layers is None else METHODS[method](layers=layers))
    assert deepest_cut(model) == cut


def test_stochastic_depth_and_dropout_do_not_act_in_blocks_that_nothing_trains() -> None:
    model = backbones.create("test_vit", "random", 32)
    paths = list(supported_blocks(model))
    adapt(model, METHODS["adapter_plus"](layers="last-2"))  # a layer around the whole block
    model.train()
    hold_frozen_blocks(model)
    assert [model.get_submodule(path).training for path in paths] == [False] * 4 + [True] * 2


# -- a batch -----------------------------------------------------------------------------------------------------------


def test_mirrored_images_are_rows_of_a_second_set_and_drawn_like_images() -> None:
    images = torch.randint(256, (9, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = Split(images, torch.arange(9), (4, 4), "flip")
    normalise = Normaliser(Preprocessing(1, (4, 4), (0.5,), (0.25,), "bicubic"), torch.device("cpu"))
    sets = [normalise(batch) for mirrored in (False, True) for batch in split.batches(4, mirrored=mirrored)]
    kept, index = Inputs(split, 1, normalise, torch.cat(sets)), torch.arange(9).repeat(4)
    torch.manual_seed(3)
    taken, labels = Inputs(split, 0, normalise).take(index)
    torch.manual_seed(3)
    assert all(map(torch.equal, kept.take(index), (taken, labels)))
    assert torch.equal(torch.cat(list(kept.batches(4))), torch.cat(list(Inputs(split, 0, normalise).batches(4))))
    with pytest.raises(ValueError, match="random crops"):
        replace(split, augment="crop").draw(index)


@pytest.mark.parametrize("augment", ["none", "flip"])
def test_training_with_the_tokens_kept_is_training_without_within_rounding(augment: str) -> None:
    config = {**LAST, "recipe.drop_path": 0.0}
    kept, never = (run(worker(cuts, augment=augment), config) for cuts in (CUTS, ()))
    for with_tokens, without in zip(kept, never, strict=True):
        assert with_tokens["train/loss"] == pytest.approx(without["train/loss"], rel=1e-4)
        assert with_tokens["val/loss"] == pytest.approx(without["val/loss"], rel=1e-3)


def test_random_crops_are_never_kept(cache: Path) -> None:
    trial = worker(augment="crop")
    trial.start(LAST, seed=0, epochs=1, folder=None)
    assert trial._inputs("train").cut == 0
    assert not files()
    assert trial._inputs("validation").cut == 4
    assert len(files()) == 1


# -- whoever computes it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "configs"), [("float32", [HEAD, LAST, HEART, EMBEDDED]), ("bfloat16", [LAST])])
def test_metrics_do_not_depend_on_the_worker_nor_on_whether_files_can_be_written(
    cache: Path, precision: str, configs: list[dict[str, Any]]
) -> None:
    first = worker(augment="flip", precision=precision)
    expected = [run(first, config) for config in configs]
    assert len(files()) == 2 * len({_about(path)["cut"] for path in files()})  # training and validation
    again = [run(first, config) for config in reversed(configs)]
    assert again[::-1] == expected
    assert [run(worker(augment="flip", precision=precision), config) for config in configs] == expected  # from the files
    cache.rename(cache.with_name("away"))
    cache.write_text("a file, where no folder can be made")
    without = worker(augment="flip", precision=precision)
    assert [run(without, config) for config in configs] == expected
    assert not without._prefixes._of_this_trial


def test_all_cuts_of_a_study_take_one_pass() -> None:
    trial = worker()
    passed = []
    trial.model.patch_embed.register_forward_hook(lambda *_: passed.append(1))
    run(trial, HEAD, epochs=1)
    assert len(files()) == 4
    n_passes = len(passed)
    run(trial, LAST, epochs=2)
    assert len(passed) - n_passes == 1  # of the first count of operations


def test_interrupted_and_resumed_on_another_worker_equals_uninterrupted_and_a_trained_adapter_is_in_no_file(tmp_path: Path) -> None:
    head, expected = run(worker(), HEAD), run(worker(), LAST, epochs=3)
    interrupted = worker()
    interrupted.start(LAST, seed=0, epochs=3, folder=tmp_path / "t")
    interrupted.step()
    for path in files():
        path.unlink()
    assert run(worker(), LAST, epochs=3, at=tmp_path / "t") == expected[1:]
    assert {_about(path)["cut"] for path in files()} == {4}  # what is behind it passed through the adapter
    assert run(worker(), HEAD) == head


def test_a_trial_stops_while_its_tokens_are_computed_and_leaves_no_draft(tmp_path: Path, cache: Path) -> None:
    trial = worker()
    trial.start(LAST, seed=0, epochs=1, folder=tmp_path)
    (tmp_path / STOP_FLAG).touch()
    with pytest.raises(Stopped):
        trial.step()
    assert not [path for path in folder("tokens").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize(("cuts", "modes"), [(None, {True, False}), ((), {False})])
def test_a_study_that_began_before_keeps_no_training_images_and_goes_on_with_stochastic_depth_in_all_blocks(
    cuts: tuple[int, ...] | None, modes: set[bool]
) -> None:
    trial = worker(cuts)
    trial.start(LAST, seed=0, epochs=1, folder=None)
    found = set()
    trial.model.get_submodule("blocks.3").register_forward_pre_hook(lambda block, _: found.add(block.training))
    assert trial._inputs("train").cut == 0
    assert trial._inputs("validation").cut == 4
    trial.step()
    assert found == modes
    assert not folder("tokens").exists()


# -- files that are not to be read -------------------------------------------------------------------------------------


def _about(path: Path) -> dict[str, Any]:
    content = path.read_bytes()
    about: dict[str, Any] = json.loads(content[-8 - int.from_bytes(content[-8:], "little") : -8])["about"]
    return about


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _empty(path: Path) -> None:
    os.truncate(path, 0)


def _flip_a_bit(path: Path) -> None:
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))


def _exchange(path: Path) -> None:
    """Put another cut's file in its place."""
    (other,) = (file for file in files() if _about(file) == {**_about(path), "cut": 3})
    path.write_bytes(other.read_bytes())


@pytest.fixture(scope="module")
def expected() -> list[dict[str, float]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", os.environ["PARETUNE_CACHE"] + "/expected")
        return run(worker((3, 4)), LAST, epochs=1)


@pytest.mark.parametrize("damage", [_halve, _empty, _flip_a_bit, _exchange])
def test_a_file_that_is_torn_or_describes_something_else_is_made_again(damage: Any, expected: list[dict[str, float]]) -> None:
    run(worker((3, 4)), LAST, epochs=1)
    before_it = {path: path.read_bytes() for path in files()}
    for path in [path for path in files() if _about(path)["cut"] == 4]:
        damage(path)
    assert run(worker((3, 4)), LAST, epochs=1) == expected
    assert {path: path.read_bytes() for path in files()} == before_it


def test_the_file_of_another_user_is_neither_read_nor_deleted(expected: list[dict[str, float]]) -> None:
    if os.geteuid() != 0:
        pytest.skip("only the administrator can give files away")
    run(worker((3, 4)), LAST, epochs=1)
    for path in files():
        _flip_a_bit(path)
        os.chown(path, 12345, -1)
    contents = [path.read_bytes() for path in files()]
    assert run(worker((3, 4)), LAST, epochs=1) == expected
    assert [path.read_bytes() for path in files()] == contents


@pytest.mark.parametrize("full", ["at once", "halfway"])
def test_a_full_disk_costs_the_files_only(monkeypatch: pytest.MonkeyPatch, full: str, expected: list[dict[str, float]]) -> None:
    if full == "at once":
        monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
        assert run(worker((3, 4)), LAST, epochs=1) == expected
    else:
        trial = worker((3, 4))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            assert run(trial, LAST, epochs=1) == expected
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not [path for path in folder("tokens").iterdir() if path.suffix != ".lock"]


def test_a_worker_waits_for_the_one_that_makes_a_file_and_can_be_stopped_while_it_waits(tmp_path: Path) -> None:
    path = tmp_path / "x.tokens"
    other = path.with_suffix(".lock").open("w")
    fcntl.flock(other, fcntl.LOCK_EX)

    def stopped() -> None:
        raise Stopped

    with pytest.raises(Stopped), made(path, "tokens", waiting=stopped):
        pytest.fail("it has the lock of another process")
    with made(path, "tokens", waiting=other.close) as draft:
        assert draft is not None
        draft.write_bytes(b"tokens")
    assert path.read_bytes() == b"tokens"


def test_files_used_longest_ago_are_deleted_first() -> None:
    run(worker((4,)), LAST, epochs=1)
    old = files()
    for path in old:
        os.utime(path, (0, 0))
    n_bytes = sum(path.stat().st_size for path in old)
    run(worker((3,), prefix_bytes=n_bytes), LAST, epochs=1)
    assert len(files()) == len(old)
    assert not set(files()) & set(old)


def test_the_digest_of_a_split_follows_its_images() -> None:
    wanted = Preprocessing(1, (8, 8), (0.5,), (0.5,), "bicubic")
    splits = load({"kind": "digits"}, wanted, ("train", "validation"))
    again = load({"kind": "digits"}, wanted, ("train",))
    larger = load({"kind": "digits"}, replace(wanted, size=(16, 16)), ("train",))
    assert splits["train"].digest == again["train"].digest
    assert len({splits["train"].digest, splits["validation"].digest, larger["train"].digest}) == 3


def test_the_benchmark_measures_every_choice_of_blocks_and_the_head_alone_is_faster() -> None:
    spec = importlib.util.spec_from_file_location("prefix", Path(__file__).parents[3] / "benchmarks" / "prefix.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["prefix"] = benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    pairs = {pair.case: pair for pair in benchmark.measure(BACKBONE, epochs=1, threads=1)}
    assert pairs.keys() == benchmark.LEAST.keys()
    assert pairs["head only"].speedup > 2  # 30 on an idle machine
    assert len(benchmark.table(list(pairs.values()))) == 2 + len(pairs)
