"""The bridge to Hugging Face PEFT: every tuner that fits keeps the laws of every method, and computes what PEFT alone computes."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from optuna.distributions import CategoricalDistribution
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import spaces
from trainables import make
from trainables.adapters import LoRA, adapt, method_of, peft_method, trainable_parameters
from trainables.adapters.peft_bridge import TARGETS, PeftMethod, _config_class
from trainables.costs.counting import count_parameters

from ..short import shortened
from .adapter_laws import LAWS, METHOD_ALONE, TOKEN, AdapterLaws, Backbone, Case, adapted, images
from .test_families import FAMILIES

SWIN = next(family for family in FAMILIES if family.name == "Swin")
PLAIN = dataclasses.replace(TOKEN, depth=2)  # enough blocks to share between

# tuner -> knobs that fit widths of 8, 12 and 16; what is not here is PEFT's
SMALL: dict[str, dict[str, Any]] = {
    "adamss": {"r": 4, "num_subspaces": 2},
    "beft": {},
    "boft": {"boft_block_size": 4},
    "c3a": {"block_size": 4},
    "deft": {"r": 2},
    "delora": {"r": 2},
    "fourierft": {"n_frequency": 10},
    "frod": {"sparse_rate": 0.1},
    "glora": {"r": 2},
    "gralora": {"r": 4},
    "hira": {"r": 2},
    "hra": {"r": 2},
    "ia3": {},
    "lily": {"r": 2, "stride_A": 2},
    "loha": {"r": 2},
    "lokr": {"r": 2},
    "lora": {"r": 2},
    "miss": {"r": 4},
    "oft": {"oft_block_size": 4},
    "osf": {},
    "peanut": {"r": 2},
    "psoft": {"r": 2},
    "pvera": {"r": 4},
    "randlora": {"r": 2},
    "road": {"group_size": 4},
    "shira": {"r": 1},
    "supertuning": {"sparsity": 0.9},
    "tinylora": {"u": 4},
    "unilora": {"theta_d_length": 32},
    "vblora": {"vector_length": 4, "num_vectors": 16},
    "vera": {"r": 4},
    "waveft": {"n_frequency": 10},
}
MOVED_AT_START = {"c3a", "fourierft", "unilora", "vblora"}  # do not start as the pretrained model
NONLINEAR = {"lily"}
SINGLE = {"c3a": 1e-5, "deft": 1e-5, "frod": 1e-5, "psoft": 1e-5}  # compute in single precision -> relative error


def method(tuner: str, targets: str = "qkvo_mlp") -> PeftMethod:
    return peft_method(tuner)(targets=targets, **SMALL[tuner])


def alone(model: nn.Module, chosen: PeftMethod) -> nn.Module:
    """The model with PEFT's layers, put in by PEFT alone: on a Swin in each stage, elsewhere in the whole."""
    tuner = chosen.tuner
    kind = _config_class(tuner)
    trees = [model]
    if hasattr(model, "layers"):
        trees = [nn.ModuleDict({"layers": nn.ModuleDict({str(i): stage})}) for i, stage in enumerate(cast(Any, model).layers)]
    model.requires_grad_(False)
    for tree in trees:
        knobs = {f.name: getattr(chosen, f.name) for f in dataclasses.fields(chosen) if f.name not in ("targets", "layers")}
        extra: dict[str, Any] = {
            "ia3": {"feedforward_modules": [t for t in TARGETS[chosen.targets] if t == "mlp.fc2"]},
            "shira": {"random_seed": 0},
        }.get(tuner, {})
        config = kind(target_modules=list(TARGETS[chosen.targets]), **knobs | extra)
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")  # of what PEFT says while it builds
            PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](tree, config, "default")
    return model


def n_trained(backbone: Backbone, chosen: PeftMethod) -> int:
    """What PEFT alone trains in a plain ViT of this width and depth."""
    plain = Backbone(backbone.name, backbone.d, backbone.depth, backbone.m, {"num_heads": 2})
    return sum(p.numel() for p in alone(plain.build(torch.float32), chosen).parameters() if p.requires_grad)


def row(tuner: str, targets: str) -> Case:
    chosen = method(tuner, targets)
    return Case(
        chosen,
        n_params=lambda backbone: n_trained(backbone, chosen),
        exact_start=tuner not in MOVED_AT_START,
        unmergeable="its update is not linear in its input" if tuner in NONLINEAR else None,
        per_batch=tuner in NONLINEAR,
        noise=SINGLE.get(tuner, 0.0),
    )


def rows(law: str) -> list[Any]:
    """Every tuner on a plain ViT or on a Swin, in turn, and by the next law on the other; on the ViT where that has no part."""
    n = LAWS.index(law)
    found = []
    for i, tuner in enumerate(SMALL):
        backbone: Any = PLAIN if law in METHOD_ALONE or (i + n) % 2 else SWIN
        case = row(tuner, "qkv" if backbone is SWIN else "qkvo_mlp")  # a Swin has two stages
        found.append(pytest.param(Single(backbone) if tuner == "psoft" else backbone, case, id=f"{backbone.name}-{tuner}"))
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"backbone", "case"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("backbone", "case"), rows(metafunc.function.__name__))


class Single:
    """A backbone in single precision whatever is asked for, because PEFT's PSOFT takes no other; it takes double images."""

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def build(self, dtype: torch.dtype = torch.float64) -> VisionTransformer:
        model = self._backbone.build(torch.float32)
        model.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(),))
        return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # FRoD multiplies by sparse matrices
class TestEveryTuner(AdapterLaws):
    """The laws of every method; PEFT itself is the oracle of values and gradients."""

    test_dropout_acts_in_training_only = None  # type: ignore[assignment]  # the cases have none

    def compare(self, case: Case, backbone: Backbone, *, training: bool) -> None:
        """The function and its derivatives, against PEFT's."""
        model, x = adapted(backbone, case.method).train(training), images(3)
        theirs = alone(backbone.build(), cast(PeftMethod, case.method)).train(training)
        cast(Any, theirs).head.requires_grad_(True)
        own = dict(theirs.named_parameters())
        pairs = [(name, p, own[name.replace(".tuner.", ".")]) for name, p in trainable_parameters(model)]
        assert {id(p) for _, _, p in pairs} == {id(p) for p in own.values() if p.requires_grad}
        with torch.no_grad():
            for _, ours, other in pairs:
                other.copy_(ours)
        torch.manual_seed(0)  # of what is sampled in training
        values = model(x)
        torch.manual_seed(0)
        expected = theirs(x)
        torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
        ours_ = torch.autograd.grad(values.square().sum(), [p for _, p, _ in pairs])
        theirs_ = torch.autograd.grad(expected.square().sum(), [p for _, _, p in pairs])
        for (name, _, _), a, b in zip(pairs, ours_, theirs_, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_tuner_acts_and_merges_on_every_family_of_backbones(family: Backbone) -> None:
    laws, case = TestEveryTuner(), row("oft", "qkvo_mlp")
    laws.test_every_trainable_moves_within_three_steps_and_nothing_else_does(case, family)
    laws.test_merging_keeps_the_function_and_leaves_a_plain_timm_model(case, family)


def test_every_tuner_of_peft_either_keeps_the_laws_or_is_refused_by_name_with_the_reason() -> None:
    known = {kind.value.lower() for kind in PEFT_TYPE_TO_TUNER_MAPPING}
    assert set(SMALL) | set(spaces.peft.REFUSED) == known
    assert {f"peft.{tuner}" for tuner in SMALL} == set(spaces.peft.tuners())
    for tuner, reason in spaces.peft.REFUSED.items():
        assert spaces.unknown_method(f"peft.{tuner}") == f"peft.{tuner}: PEFT's {tuner} does not fit a Vision Transformer: {reason}"


def test_the_page_tells_of_every_tuner_what_the_laws_found() -> None:
    lines = (Path(__file__).parents[3] / "docs/peft.md").read_text().splitlines()
    told = {line.split("`")[1]: line for line in lines if line.startswith("| `peft.")}
    assert list(told) == [f"peft.{tuner}" for tuner in SMALL]
    for tuner in SMALL:
        told_of = told[f"peft.{tuner}"]
        assert ("does not start as the pretrained model" in told_of) == (tuner in MOVED_AT_START)
        assert ("cannot be merged" in told_of) == (tuner in NONLINEAR)
        assert ("single precision" in told_of) == (tuner in SINGLE)
    assert all(f"`{tuner}`" in "\n".join(lines) for tuner in spaces.peft.REFUSED)


@pytest.mark.parametrize("tuner", SMALL)
def test_every_knob_of_a_space_is_a_field_of_the_method_and_its_values_are_of_its_type(tuner: str) -> None:
    space = spaces.space_of(f"peft.{tuner}")
    defaults = {f"peft.{tuner}.{field.name}": field.default for field in dataclasses.fields(peft_method(tuner))}
    assert len({knob.key for knob in space.knobs}) == len(space.knobs)
    for knob in space.knobs:
        assert knob.default == defaults[knob.key]
        assert knob.meaning.endswith(".")
        assert knob.source
        assert isinstance(knob.distribution, CategoricalDistribution)
        assert knob.default in knob.distribution.choices
        for value in knob.distribution.choices:  # `layers` and PEFT's own laws are checked on a backbone
            method_of({"method": f"peft.{tuner}", knob.key: value})


@pytest.mark.parametrize("targets", ["qkv", "qkvo_mlp"])
@pytest.mark.parametrize("training", [False, True])
def test_lora_of_peft_is_our_lora_in_count_function_and_gradients(targets: str, training: bool) -> None:
    """Ours has stacks of one pair where it adapts one slice, and s where PEFT has alpha / r."""
    theirs = adapted(TOKEN, peft_method("lora")(r=2, lora_alpha=3, targets="qkv"))
    ours = adapted(TOKEN, LoRA(rank=2, scale=1.5, targets="qkv_fused", dropout=0.0))
    assert count_parameters(ours) == count_parameters(theirs)
    renamed = {".tuner.lora_A.default.weight": ".a", ".tuner.lora_B.default.weight": ".b"}
    pairs = []
    for name, p in trainable_parameters(theirs):
        for old, new in renamed.items():
            name = name.replace(old, new)  # noqa: PLW2901
        pairs.append((p, ours.get_parameter(name)))
    with torch.no_grad():
        for p, own in pairs:
            own.copy_(p.view_as(own))
    x = images(3)
    values, expected = ours.train(training)(x), theirs.train(training)(x)
    torch.testing.assert_close(values, expected, rtol=1e-12, atol=1e-12)
    a = torch.autograd.grad(values.square().sum(), [own for _, own in pairs])
    b = torch.autograd.grad(expected.square().sum(), [p for p, _ in pairs])
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right.view_as(left), rtol=1e-10, atol=1e-12)


def test_a_trainable_set_lies_in_the_chosen_blocks() -> None:
    model = adapted(TOKEN, peft_method("vera")(r=4, layers="last-2"), moved=False)
    assert {name.split(".")[1] for name, _ in trainable_parameters(model) if name.startswith("blocks")} == {"2", "3"}


@pytest.mark.parametrize("tuner", SMALL)
def test_what_is_frozen_in_a_layer_does_not_depend_on_the_seed(tuner: str) -> None:
    """A checkpoint holds the trainables; all else must come again from the configuration."""
    models = [(Single(PLAIN) if tuner == "psoft" else PLAIN).build() for _ in range(2)]
    for seed, model in enumerate(models):
        adapt(model, method(tuner), generator=torch.Generator().manual_seed(seed))
    states = [model.state_dict(keep_vars=True) for model in models]
    frozen = [{name: t for name, t in state.items() if ".tuner." in name and not t.requires_grad} for state in states]
    assert frozen[0].keys() == frozen[1].keys()
    for name, tensor in frozen[0].items():
        assert torch.equal(tensor.to_dense(), frozen[1][name].to_dense()), name


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "peft.vbra"}, r"peft\.vbra is not a tuner of PEFT; choose one of "),
        ({"method": "peft.prefix_tuning"}, r"peft\.prefix_tuning is a tuner of PEFT that adapts no linears"),
        ({"method": "peft.vera", "peft.vera.rank": 4}, r"peft\.vera has no knob 'rank'; its knobs are targets, layers, r, "),
        ({"method": "peft.vera", "peft.vera.r": "4"}, r"peft\.vera\.r must be of type int; got '4' of type str"),
        ({"method": "peft.lora", "peft.lora.use_dora": 1}, r"peft\.lora\.use_dora must be of type bool; got 1 of type int"),
        (
            {"method": "peft.lora", "peft.vera.r": 4},
            r"a configuration of peft\.lora may not have knobs of peft\.vera; got peft\.vera\.r",
        ),
        ({"method": "lora", "peft.lora.r": 4}, r"a configuration of lora may not have knobs of peft\.lora"),
        (
            {"method": "peft.lora", "peft.lora.targets": "qv"},
            r"peft\.lora\.targets must be one of qkv, qkvo, mlp, qkvo_mlp; got 'qv'",
        ),
        ({"method": "peft.lora", "peft.lora.layers": "last-5"}, r"peft\.lora\.layers must be at most the backbone's 4 blocks"),
        (
            {"method": "peft.lora", "peft.lora.r": 0},
            r"peft\.lora does not fit blocks\.0\.attn\.qkv \(12 in, 36 out\).*positive integer",
        ),
        (
            {"method": "peft.c3a", "peft.c3a.block_size": 5},
            r"peft\.c3a does not fit .*block size should be a factor of the input size",
        ),
        (
            {"method": "peft.osf", "peft.osf.effective_rank": True},
            r"peft\.osf\.effective_rank must be of type int \| float \| None",
        ),
    ],
)
def test_bad_input_is_refused_with_the_law_and_the_value_and_leaves_the_model_untouched(
    config: dict[str, Any], message: str
) -> None:
    model = TOKEN.build()
    modules = dict(model.named_modules())
    with pytest.raises(ValueError, match=message):
        adapt(model, method_of(config))
    assert dict(model.named_modules()) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_a_worker_trains_and_resumes_every_tuner_in_turn_and_leaves_nothing_behind(tmp_path: Path) -> None:
    worker = shortened(make({"name": "vit_glyphs"}, {"kind": "digits"}, {"n_threads": 1}), n_train=16, n_validation=16)
    for tuner, knobs in SMALL.items():
        config = {"method": f"peft.{tuner}"} | {f"peft.{tuner}.{knob}": value for knob, value in knobs.items()}
        config |= {f"peft.{tuner}.layers": "last-2", "optim.lr": 1e-3, "optim.batch_size": 8}
        worker.start(config, seed=1, epochs=2, folder=tmp_path / tuner)
        told = worker.step()
        worker.finish()  # proves that no frozen weight has changed
        assert worker.start(config, seed=1, epochs=2, folder=tmp_path / tuner) == 1
        assert worker.replay() == told
        worker.finish()
