"""Every count that the papers allow us to check on ViT-B/16, from the real model without its weights."""

from __future__ import annotations

from typing import Any

import pytest
import timm

import spaces
from trainables import measure
from trainables.adapters import Adapter, adapt
from trainables.costs.counting import forward_gflops, kept_bytes
from trainables.costs.memory import PREFIX_BYTES
from trainables.protocol import Sizes


@pytest.fixture(scope="module")
def vit_b() -> Sizes:
    return measure({"name": "vit_base_patch16_224"}, {"kind": "none", "n_classes": 100})


def _grid(method: str, knob: str, knobs: dict[str, Any], values: dict[int, int]) -> list[Any]:
    return [pytest.param({"method": method, f"{method}.{knob}": v, **knobs}, n) for v, n in values.items()]


LORA = {
    "qv": {1: 36_864, 4: 147_456, 8: 294_912, 16: 589_824, 32: 1_179_648},
    "qkv_fused": {1: 36_864, 4: 147_456, 8: 294_912, 16: 589_824, 32: 1_179_648},
    "qkv": {1: 55_296, 4: 221_184, 8: 442_368, 16: 884_736, 32: 1_769_472},
    "qkvo": {1: 73_728, 4: 294_912, 8: 589_824, 16: 1_179_648, 32: 2_359_296},
    "qkvo_mlp": {1: 165_888, 4: 663_552, 8: 1_327_104, 16: 2_654_208, 32: 5_308_416},
}
SERIAL_LORA = {4: 73_728, 8: 147_456, 16: 294_912, 32: 589_824, 64: 1_179_648}
FACT = {"tt": {4: 8_448, 8: 21_504, 16: 61_440}, "tk": {8: 13_952, 16: 30_976, 32: 86_528}}
HOUSEHOLDER = {0: 110_592, 1: 184_320, 2: 258_048, 4: 405_504}
SNELL = {8: 1_327_104, 16: 2_654_208, 32: 5_308_416}
CLORA = {  # modules: count at 1, 2, 3, 4, 6 and 8 spaces of rank 8, without biases; then the biases
    12: ((13_056, 26_112, 39_168, 52_224, 78_336, 104_448), 9_216),
    24: ((13_824, 27_648, 41_472, 55_296, 82_944, 110_592), 18_432),
    36: ((14_592, 29_184, 43_776, 58_368, 87_552, 116_736), 27_648),
    48: ((15_360, 30_720, 46_080, 61_440, 92_160, 122_880), 36_864),
}
INSERTIONS = {"serial_att": 12, "parallel_qv": 24, "parallel_qkv": 36, "parallel_qkvo": 48}
ADAPTER = {8: 156_768, 32: 599_424, 64: 1_189_632}
RANDLORA = {
    "qv": {32: 460_800},
    "fused_mlp": {32: 921_600},
    "qkvo_mlp": {6: 7_133_184, 16: 2_709_504, 32: 1_382_400, 64: 718_848},
}
HEART_LORA = {0: 294_912, 1: 282_624, 2: 270_336, 3: 258_048, 4: 245_760, 6: 221_184, 8: 196_608, 11: 159_744}  # heads off
LILY = {  # n_experts = n_downs: count at rank 8, 16, 32 and 64
    1: (49_536, 99_072, 198_144, 396_288),
    2: (99_072, 198_144, 396_288, 792_576),
    3: (148_608, 297_216, 594_432, 1_188_864),
    4: (198_144, 396_288, 792_576, 1_585_152),
    6: (297_216, 594_432, 1_188_864, 2_377_728),
    12: (594_432, 1_188_864, 2_377_728, 4_755_456),
}
ADAPTER_PLUS = {1: 36_876, 2: 55_320, 4: 92_208, 8: 165_984, 16: 313_536, 32: 608_640}
REP_ADAPTER = {4: 129_120, 8: 239_808, 16: 461_184, 32: 903_936}  # the last three as Mai et al. print them


@pytest.mark.parametrize(
    ("config", "adapter_params"),
    [
        pytest.param({"method": "head_only"}, 0),
        pytest.param({"method": "lora"}, 294_912),
        pytest.param({"method": "arc"}, 96_432),
        pytest.param({"method": "arc", "arc.position": "att"}, 48_216),
        pytest.param({"method": "lily"}, 792_576),
        *(row for targets, counts in LORA.items() for row in _grid("lora", "rank", {"lora.targets": targets}, counts)),
        pytest.param({"method": "serial_lora"}, 294_912),
        *_grid("serial_lora", "rank", {}, SERIAL_LORA),
        *_grid("serial_lora", "rank", {"serial_lora.targets": "qkv_mlp"}, {r: 2 * n for r, n in SERIAL_LORA.items()}),
        pytest.param({"method": "householder"}, 184_320),
        *_grid("householder", "extra_rank", {}, HOUSEHOLDER),
        pytest.param({"method": "householder", "householder.targets": "qv"}, 92_160),
        pytest.param({"method": "householder", "householder.targets": "qv_mlp"}, 294_912),
        pytest.param({"method": "householder", "householder.targets": "mlp_output"}, 46_080),
        pytest.param({"method": "snell"}, 18 * 768 * 8 * 12),
        *_grid("snell", "rank", {}, SNELL),
        *_grid("snell", "rank", {"snell.sparsity": 0.0, "snell.kernel": "linear"}, SNELL),
        *_grid("snell", "rank", {"snell.targets": "qkvo"}, {r: n * 8 // 18 for r, n in SNELL.items()}),
        pytest.param({"method": "clora"}, 2 * 26_112 + 18_432),
        *(  # serially in front of attention and MLP, each with bases of its own: two rows of 12 modules
            pytest.param({"method": "clora", "clora.n_spaces": p}, 2 * (n + CLORA[12][1]))
            for p, n in zip((1, 2, 3, 4, 6, 8), CLORA[12][0], strict=True)
        ),
        *(
            pytest.param({"method": "clora", "clora.n_spaces": p, "clora.insertion": insertion}, n + CLORA[m][1])
            for insertion, m in INSERTIONS.items()
            for p, n in zip((1, 2, 3, 4, 6, 8), CLORA[m][0], strict=True)
        ),
        *(
            row
            for n, counts in LILY.items()
            for row in _grid("lily", "rank", {"lily.n_experts": n}, dict(zip((8, 16, 32, 64), counts, strict=True)))
        ),
        # where n does not divide 12 the released code has more down-projections than experts
        pytest.param({"method": "lily", "lily.rank": 8, "lily.n_experts": 5, "lily.n_downs": 6}, 272_256),
        pytest.param({"method": "lily", "lily.rank": 8, "lily.n_experts": 8, "lily.n_downs": 12}, 494_592),
        pytest.param({"method": "lily", "lily.rank": 16, "lily.n_experts": 5, "lily.n_downs": 6}, 544_512),
        pytest.param({"method": "lily", "lily.rank": 32, "lily.n_experts": 5, "lily.n_downs": 6}, 1_089_024),
        pytest.param({"method": "fact"}, 86_528),
        *(row for variant, counts in FACT.items() for row in _grid("fact", "rank", {"fact.variant": variant}, counts)),
        pytest.param({"method": "adapter"}, 156_768),
        pytest.param({"method": "adaptformer"}, 1_189_632),
        *(row for method in ("adapter", "adaptformer") for row in _grid(method, "rank", {}, ADAPTER)),
        *_grid("adapter", "rank", {"adapter.position": "ffn_parallel"}, ADAPTER),
        *_grid("adapter", "rank", {"adapter.position": "attn_ffn"}, {r: 2 * n for r, n in ADAPTER.items()}),
        pytest.param({"method": "randlora"}, 921_600),
        *(row for targets, counts in RANDLORA.items() for row in _grid("randlora", "rank", {"randlora.targets": targets}, counts)),
        pytest.param({"method": "heart_lora"}, 294_912 - 12_288 * 3),
        *(
            pytest.param({"method": "heart_lora", "heart_lora.active_head_ratio": (12 - n) / 12}, adapter_params)
            for n, adapter_params in HEART_LORA.items()
        ),
        pytest.param({"method": "ssf"}, 12 * 2 * (7 * 768 + 3072) + 2 * 2 * 768),
        pytest.param({"method": "ssf", "ssf.layers": "last-2"}, 2 * 2 * (7 * 768 + 3072)),
        pytest.param({"method": "layer_norm"}, 38_400),
        pytest.param({"method": "bitfit"}, 12 * (7 * 768 + 3072) + 2 * 768),
        pytest.param({"method": "full"}, 85_798_656),
        pytest.param({"method": "difffit"}, 140_544),
        pytest.param({"method": "adapter_plus"}, 165_984),
        *_grid("adapter_plus", "rank", {}, ADAPTER_PLUS),
        pytest.param({"method": "rep_adapter"}, 239_808),
        *_grid("rep_adapter", "rank", {}, REP_ADAPTER),
        *_grid("rep_adapter", "rank", {"rep_adapter.position": "att"}, {r: n // 2 for r, n in REP_ADAPTER.items()}),
        pytest.param({"method": "difffit", "difffit.layers": "last-2"}, 2 * (11 * 768 + 3072)),
        pytest.param({"method": "vpt"}, 460_800),
        *_grid("vpt", "length", {}, {p: 12 * 768 * p for p in (1, 5, 10, 50, 100, 200)}),
        *_grid("vpt", "length", {"vpt.depth": "shallow"}, {p: 768 * p for p in (1, 5, 10, 50, 100, 200)}),
        pytest.param({"method": "convpass"}, 327_552),
        pytest.param({"method": "convpass", "convpass.position": "attn"}, 163_776),
        # in the last k of 12 blocks
        pytest.param({"method": "lora", "lora.layers": "last-3"}, 294_912 // 4),
        pytest.param({"method": "arc", "arc.layers": "first-6"}, 2 * (768 * 50 + 6 * (50 + 768))),
        pytest.param({"method": "lily", "lily.rank": 16, "lily.layers": "last-2"}, 4 * 768 * 16 * (2 + 4) + 4 * 2 * 16 * 4),
    ],
)
def test_a_count_on_vit_b_16_is_the_papers(vit_b: Sizes, config: dict[str, Any], adapter_params: int) -> None:
    assert vit_b.count(config) == (adapter_params, 769 * 100)


def test_facts_counts_over_the_released_ranks_average_to_what_the_paper_prints() -> None:
    assert round((13 * FACT["tk"][32] + 6 * FACT["tk"][16]) / 19) == 68_985  # 0.07 M


@pytest.mark.parametrize(
    ("name", "d", "depth", "adapter_params"),
    [("vit_large_patch16_224", 1024, 24, 153_952), ("vit_huge_patch14_224", 1280, 32, 213_120)],
)
def test_arcs_counts_on_larger_backbones_are_the_codes(name: str, d: int, depth: int, adapter_params: int) -> None:
    sizes = measure({"name": name}, {"kind": "none", "n_classes": 2})
    assert adapter_params == 2 * (d * 50 + depth * (50 + d))
    assert sizes.count({"method": "arc"}) == (adapter_params, 2 * (d + 1))


def test_householders_count_on_vit_l_is_the_papers() -> None:
    sizes = measure({"name": "vit_large_patch16_224"}, {"kind": "none", "n_classes": 2})
    assert sizes.count({"method": "householder"}) == (491_520, 2 * 1025)


def test_the_backbone_is_counted_without_a_head(vit_b: Sizes) -> None:
    d, m, tokens, patch = 768, 3072, 197, 3 * 16 * 16
    block = 2 * 2 * d + 3 * d * (d + 1) + d * (d + 1) + m * (d + 1) + d * (m + 1)
    assert vit_b.backbone_params == patch * d + d + d + tokens * d + 12 * block + 2 * d


def test_full_fine_tuning_trains_all_of_the_backbone(vit_b: Sizes) -> None:
    assert vit_b.count({"method": "full"})[0] == vit_b.backbone_params


def test_counting_leaves_the_model_ready_for_the_next_count(vit_b: Sizes) -> None:
    first = vit_b.count({"method": "lily"})
    with pytest.raises(ValueError, match=r"lora\.rank must be at most 768"):
        vit_b.count({"method": "lora", "lora.rank": 769})
    assert vit_b.count({"method": "lily"}) == first


def test_a_count_refuses_what_a_trial_would_refuse(vit_b: Sizes) -> None:
    with pytest.raises(ValueError, match=r"optim\.lr must be positive and finite; got -1"):
        vit_b.count({"method": "head_only", "optim.lr": -1.0})


def test_classes_are_known_without_images() -> None:
    assert measure({"name": "test_vit"}, {"kind": "digits"}).n_classes == 10
    with pytest.raises(ValueError, match=r"data\.kind must be one of digits, .*synthetic; got 'digit'; did you mean digits"):
        measure({"name": "test_vit"}, {"kind": "digit"})
    with pytest.raises(ValueError, match=r"data\.n_classes must be a positive whole number"):
        measure({"name": "test_vit"}, {"kind": "none"})


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_gflops_are_twice_the_multiplications_of_the_matrix_products(device: str) -> None:
    model = timm.create_model("test_vit", num_classes=7, img_size=64).to(device)
    n, d, depth, rank = 16, 64, len(model.blocks), 3
    tokens, hidden = n + 1, model.blocks[0].mlp.fc1.out_features
    embedding, head = n * 3 * 16 * 16 * d, d * 7
    block = tokens * d * (3 * d + d + 2 * hidden) + 2 * tokens * tokens * d
    assert forward_gflops(model) == pytest.approx(2e-9 * (embedding + depth * block + head))
    assert model.blocks[0].attn.fused_attn
    assert model.training
    before = forward_gflops(model)
    adapt(model, Adapter(rank=rank, position="ffn"))
    added = depth * tokens * 2 * d * rank
    assert forward_gflops(model) - before == pytest.approx(2e-9 * added)


@pytest.mark.parametrize("n_images", [1, 7])
def test_a_step_of_the_head_alone_keeps_what_the_head_and_the_loss_look_at(n_images: int) -> None:
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, device="meta")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))
    tokens, log_probabilities, labels, n_labels = (
        4 * 197 * 192 * n_images,
        4 * 10 * n_images,
        8 * n_images,
        4,
    )  # the class token is a view
    assert kept_bytes(model, n_images) == tokens + log_probabilities + labels + n_labels


def test_what_a_step_keeps_grows_evenly_with_images_but_for_the_deltas_of_weights(vit_b: Sizes) -> None:
    lora = {"method": "lora", "lora.rank": 8, "lora.scale": 1.0, "lora.targets": "qv", "lora.layers": "all", "lora.dropout": 0.1}
    full = {"method": "full"}
    model = timm.create_model("vit_tiny_patch16_224", num_classes=10, device="meta")
    one, two, three = (kept_bytes(model, n) for n in (2, 4, 6))
    assert two - one == three - two > 0
    assert kept_bytes(model, 4) == two
    assert model.training
    few, many = vit_b.training_bytes(full, 64), vit_b.training_bytes(full, 128)
    assert many - few == pytest.approx(2 * 64 * (vit_b.training_bytes(full, 65) - few) / 2, rel=1e-6)
    assert few > 3 * 4 * 85_798_656
    assert vit_b.training_bytes(lora, 64) < few  # no gradients and moments of a whole backbone


def test_an_evaluation_needs_memory_for_the_tokens_that_a_method_adds(vit_b: Sizes) -> None:
    def evaluation(config: dict[str, Any]) -> int:
        lasting = 4 * (85_798_656 + 3 * sum(vit_b.count(config))) + PREFIX_BYTES
        return vit_b.training_bytes(config, 1) - lasting  # a step on one image needs less

    doubled = {"method": "vpt", "vpt.length": 1 + 14 * 14, "vpt.depth": "shallow"}
    assert evaluation(doubled) == 2 * evaluation({"method": "head_only"}) > 0


def test_memory_is_counted_by_full_fine_tuning_where_a_tuner_looks_at_values() -> None:
    sizes = measure({"name": "vit_tiny_patch16_224"}, {"kind": "none", "n_classes": 10})
    config = spaces.joint(["peft.waveft"]).default("peft.waveft")
    with pytest.raises(ValueError, match="cannot be counted"):
        sizes.gflops(config)
    assert sizes.training_bytes(config, 8) > 0
