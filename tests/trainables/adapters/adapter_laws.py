"""What every adapter method must keep, as a reusable suite.

A method joins with one row, a `Case`, and a dense oracle: its paper's equation written out by hand, one image and one linear at a
time. `AdapterLaws` holds the laws; a test module inherits it and chooses the rows and small backbones of each. A law of
`METHOD_ALONE` needs one backbone for each row, and one of `HOLDING` not every row of a method.
"""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from trainables.adapters import (
    Layer,
    Method,
    adapt,
    laws,
    merge,
    regulariser,
    supported_blocks,
    trainable_parameters,
    transformer_blocks,
)
from trainables.adapters.base import chosen_blocks
from trainables.costs.counting import count_parameters

N_CLASSES = 5
METHOD_ALONE = frozenset(  # laws that hold or break by what a method computes and holds, whatever it is put into
    {
        "test_counts_on_the_meta_device_are_those_of_the_real_model",
        "test_the_state_is_the_trainables_only_and_restores_the_function",
        "test_a_prediction_does_not_depend_on_its_batch_mates",
        "test_bfloat16_autocast_gives_every_trainable_a_finite_gradient",
        "test_gradient_checkpointing_changes_no_gradient",
        "test_dropout_acts_in_training_only",
        "test_merging_in_single_precision_keeps_the_function",
        "test_in_training_values_and_gradients_are_those_of_the_dense_equation",
        "test_the_regulariser_and_its_gradients_are_those_of_the_dense_formula",
        "test_copies_share_what_the_original_shares",
    }
)
HOLDING = METHOD_ALONE - {  # laws about what a method holds, which its knobs only make larger or smaller
    "test_in_training_values_and_gradients_are_those_of_the_dense_equation",
    "test_the_regulariser_and_its_gradients_are_those_of_the_dense_formula",
} | {"test_removing_gives_the_pretrained_model_back_bit_for_bit"}
Tensors = Mapping[str, Tensor]
_BUILT: dict[tuple[str, torch.dtype], Mould] = {}  # to copy from, which takes a small part of the time of building


class Mould:
    """A model to copy from, in a seventh of the time that `copy.deepcopy` takes: all but its tensors is pickled once."""

    def __init__(self, model: nn.Module) -> None:
        self._tensors: list[Tensor] = []
        numbers: dict[int, int] = {}

        class Pickler(pickle.Pickler):
            def persistent_id(_, value: object) -> int | None:  # noqa: N805 - `self` is the mould
                if not isinstance(value, Tensor):
                    return None
                if id(value) not in numbers:
                    numbers[id(value)] = len(self._tensors)
                    self._tensors.append(value)
                return numbers[id(value)]

        pickled = io.BytesIO()
        Pickler(pickled).dump(model)
        self._pickled = pickled.getvalue()

    def copy(self) -> nn.Module:
        """A model of its own, with tensors of its own; what the original shares is shared."""
        copies: dict[int, Tensor] = {}

        class Unpickler(pickle.Unpickler):
            def persistent_load(_, number: int) -> Tensor:  # noqa: N805
                if number not in copies:
                    tensor = self._tensors[number]
                    copy = tensor.detach().clone()
                    copies[number] = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
                return copies[number]

        return cast(nn.Module, Unpickler(io.BytesIO(self._pickled)).load())


@dataclass(frozen=True)
class Backbone:
    """Arguments of a small random VisionTransformer.

    Attributes:
        d: Width.
        depth: Blocks.
        m: Width of the MLP.
        kwargs: The rest.
    """

    name: str
    d: int
    depth: int
    m: int
    kwargs: Mapping[str, object]

    def new(self) -> nn.Module:
        """A model of timm's with its initial values."""
        return VisionTransformer(
            img_size=8, patch_size=4, embed_dim=self.d, depth=self.depth, mlp_ratio=self.m / self.d, num_classes=N_CLASSES,
            **self.kwargs,
        )  # fmt: skip

    def build(self, dtype: torch.dtype = torch.float64) -> VisionTransformer:
        """A copy of the model, far from timm's small initial values, so that every term matters."""
        key = (repr(self), dtype)
        if key not in _BUILT:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                model = self.new()
                for parameter in model.parameters():
                    nn.init.normal_(parameter, std=0.3)
            _BUILT[key] = Mould(model.to(dtype).eval())
        return cast(VisionTransformer, _BUILT[key].copy())

    @property
    def n_features(self) -> int:
        """Width of what the head reads."""
        return self.d

    def n_params(self, case: Case) -> int:
        return case.n_params(self)

    def oracle(self, model: nn.Module, plain: Tensors, case: Case, images: Tensor) -> Tensor:
        return oracle(cast(VisionTransformer, model), plain, case, images)


@dataclass(frozen=True)
class Family(Backbone):
    """A small random model of another family.

    With gated MLPs of hidden width h, m is 3 h / 2: fc1 and fc2 then have 2 (d + m) rows and columns, as those of a plain MLP of
    width m.

    Attributes:
        make: The model with its classifier, from timm.
        last: Its second stage, where it has two; the first has three blocks.
    """

    make: Callable[[], nn.Module] = nn.Identity
    last: Backbone | None = None

    def new(self) -> nn.Module:
        return self.make()

    @property
    def n_features(self) -> int:
        return self.d if self.last is None else self.last.d

    def n_params(self, case: Case) -> int:
        """The paper's count in each stage that `layers` reaches."""
        layers = getattr(case.method, "layers", None)
        if self.last is None or layers is None or layers.startswith("first"):
            return case.n_params(self)
        return case.n_params(self.last) + (case.n_params(self) if layers == "all" else 0)

    def oracle(self, model: nn.Module, plain: Tensors, case: Case, images: Tensor) -> Tensor:
        """The untouched timm model, in which the dense equations stand for the outputs of linears, MLPs and blocks."""
        p = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
        plain = {name: p.get(name, tensor) for name, tensor in plain.items()}
        untouched = self.build()
        for path, block in supported_blocks(untouched).items():
            _hook(cast(Any, block), path, plain, p, case)
        if case.n_tokens:
            for path, block in chosen_blocks(case.method, supported_blocks(untouched)).items():
                _lengthen(cast(Any, block.attn), f"{path}.attn", plain, case.n_tokens)
        for path, module in untouched.named_modules():
            if isinstance(module, nn.LayerNorm | nn.Conv2d):
                axis = 1 if isinstance(module, nn.Conv2d) else -1

                def followed(_: nn.Module, __: Any, y: Tensor, path: str = path, axis: int = axis) -> Tensor:
                    return case.after(case.method, p, path, y.movedim(axis, -1)).movedim(-1, axis)

                module.register_forward_hook(followed)
        return cast(Tensor, torch.func.functional_call(untouched, plain, (images,)))


def _hook(block: Any, path: str, plain: Tensors, p: Tensors, case: Case) -> None:
    """Replaces what the block's linears, its MLP and itself give by the dense equations.

    Each linear's output becomes `case.linear` of its input, the MLP's becomes `case.mlp` of its input and of its output, that of
    attention and MLP behind LayerScale becomes `case.branch` of what their norm gives and of their output, and the block's becomes
    `case.block` of what the MLP's norm reads and of its output; where the case has no such oracle, all stays.
    A linear in parts (q, k, v; gate and value) is one for the equation: every part gives its chunk of the whole.
    BEiT keeps the biases of q and v beside the linear and adds them itself, after the hook: what is replaced comes without them.
    """

    def rows(f: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Image by image, in a Swin's attention window by window."""
        if case.per_batch:
            return f(*tensors)
        return torch.cat([f(*(t[i : i + 1] for t in tensors)) for i in range(len(tensors[0]))])

    def linear(whole: str, parts: list[str]) -> None:
        weights = [plain[f"{path}.{part}.weight"] for part in parts]
        biases = [
            plain.get(f"{path}.{part}.bias", torch.zeros(len(w), dtype=w.dtype)) for part, w in zip(parts, weights, strict=True)
        ]
        if whole == "attn.qkv" and f"{path}.attn.q_bias" in plain:
            q, v = plain[f"{path}.attn.q_bias"], plain[f"{path}.attn.v_bias"]
            biases = [torch.cat([q, torch.zeros_like(q), v])]
            block.attn.qkv_bias_separate = True  # so that qkv is called; timm adds these biases a second time
        else:
            q = None
        frozen = Frozen(f"{path}.{whole}", torch.cat(weights), torch.cat(biases))
        for i, part in enumerate(parts):

            def replaced(_: nn.Module, inputs: tuple[Tensor], __: Tensor, i: int = i) -> Tensor:
                y = rows(lambda x: case.linear(case.method, p, frozen, x), inputs[0])
                return y.chunk(len(parts), -1)[i] - (0 if q is None else frozen.bias)

            block.get_submodule(part).register_forward_hook(replaced)

    split = getattr(block.attn, "q_proj", None) is not None
    linear("attn.qkv", ["attn.q_proj", "attn.k_proj", "attn.v_proj"] if split else ["attn.qkv"])
    linear("attn.proj", ["attn.proj"])
    linear("mlp.fc1", ["mlp.fc1_g", "mlp.fc1_x"] if hasattr(block.mlp, "fc1_g") else ["mlp.fc1"])
    linear("mlp.fc2", ["mlp.fc2"])
    block.mlp.register_forward_hook(
        lambda _, inputs, y: rows(lambda x, y: case.mlp(case.method, p, f"{path}.mlp", x, y), inputs[0], y)
    )
    for branch, norm, end in (("attn", block.norm1, block.drop_path1), ("mlp", block.norm2, block.drop_path2)):
        normed: list[Tensor] = []
        norm.register_forward_hook(lambda _, __, h, normed=normed: normed.append(h))

        def beside(_: nn.Module, __: Any, y: Tensor, branch: str = branch, normed: list[Tensor] = normed) -> Tensor:
            h, whole = normed[-1].flatten(1, -2), y.flatten(1, -2)
            return rows(lambda h, y: case.branch(case.method, p, f"{path}.{branch}", h, y), h, whole).view_as(y)

        end.register_forward_hook(beside)
    stream: list[Tensor] = []
    block.norm2.register_forward_pre_hook(lambda _, inputs: stream.append(inputs[0]))
    block.register_forward_pre_hook(lambda _, inputs: (rows(lambda x: case.entering(case.method, p, path, x), inputs[0]),))
    block.register_forward_hook(
        lambda _, __, y: rows(lambda x, y: case.block(case.method, p, path, x, y), stream[-1], y.flatten(1, -2)).reshape(
            len(y), -1, *y.shape[2:]
        )
    )


def _lengthen(attention: Any, path: str, plain: dict[str, Tensor], n: int) -> None:
    """Makes an attention take n further tokens behind its prefix: not turned by EVA's rotations, and without BEiT's bias.

    BEiT's table gets a row of zeros, which the index has for every pair with one of these tokens.
    """
    if hasattr(attention, "num_prefix_tokens"):
        attention.num_prefix_tokens += n
    if getattr(attention, "relative_position_bias_table", None) is not None:
        table, index = plain[f"{path}.relative_position_bias_table"], attention.relative_position_index
        own = torch.tensor([0, *range(1 + n, len(index) + n)])
        longer = torch.full((len(index) + n, len(index) + n), len(table))
        longer[own[:, None], own] = index
        plain[f"{path}.relative_position_bias_table"] = torch.cat((table, table.new_zeros(1, table.shape[1])))
        attention.relative_position_index, attention.window_size = longer, (len(longer) - 1, 1)


TOKEN = Backbone("class token, qkv bias", d=12, depth=4, m=20, kwargs={"num_heads": 3})
AVERAGE = Backbone(
    "average, registers, LayerScale, no qkv bias", d=8, depth=3, m=24,
    kwargs={"num_heads": 2, "class_token": False, "reg_tokens": 1, "global_pool": "avg", "init_values": 0.5, "qkv_bias": False},
)  # fmt: skip


@dataclass(frozen=True)
class Frozen:
    """A frozen linear: its path in the model, weight (out, in) and bias (out,)."""

    path: str
    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


def plain_linear(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    return frozen(x)


def plain_mlp(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    return y


def plain_block(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    return y


def plain_entering(method: Method, p: Tensors, path: str, x: Tensor) -> Tensor:
    return x


def plain_branch(method: Method, p: Tensors, path: str, h: Tensor, y: Tensor) -> Tensor:
    return y


def plain_after(method: Method, p: Tensors, path: str, y: Tensor) -> Tensor:
    return y


@dataclass(frozen=True)
class Case:
    """One row of the laws.

    Attributes:
        method: With the dropout at zero.
        n_params: The paper's count for a backbone.
        linear: Oracle of a linear: its output for the tokens x of one image (or of the batch, where `per_batch`).
        mlp: Oracle of an MLP, given its input and its frozen output.
        entering: Oracle of the tokens that a block reads, given those that the model passes to it.
        branch: Oracle of what attention or MLP adds to the stream, given the output of its norm and what it adds when frozen.
        block: Oracle of a block, given the residual stream between attention and MLP and the block's frozen output.
        after: Oracle of what follows a norm or the patch embedding, given its path and its frozen output (..., width).
        exact_start: Starts as the pretrained model.
        unmergeable: Part of the reason why it cannot be merged, None if it can.
        per_batch: Predictions depend on their batch-mates.
        dropout: The same method with dropout, where it has any.
        regulariser: Oracle of the method's term in the loss from its trainables, None where it has none.
        n_tokens: Tokens that each adapted block has in addition; a Swin's windows have no place for them.
        noise: Relative error of what it computes in single precision whatever the model's is.
    """

    method: Method
    n_params: Callable[[Backbone], int]
    linear: Callable[[Method, Tensors, Frozen, Tensor], Tensor] = plain_linear
    mlp: Callable[[Method, Tensors, str, Tensor, Tensor], Tensor] = plain_mlp
    entering: Callable[[Method, Tensors, str, Tensor], Tensor] = plain_entering
    branch: Callable[[Method, Tensors, str, Tensor, Tensor], Tensor] = plain_branch
    block: Callable[[Method, Tensors, str, Tensor, Tensor], Tensor] = plain_block
    after: Callable[[Method, Tensors, str, Tensor], Tensor] = plain_after
    exact_start: bool = True
    unmergeable: str | None = None
    per_batch: bool = False
    dropout: Method | None = None
    regulariser: Callable[[Method, Tensors], Tensor] | None = None
    n_tokens: int = 0
    noise: float = 0.0

    def __str__(self) -> str:
        return repr(self.method).replace("'", "")

    def concerns(self, law: str) -> bool:
        """Whether the method has what the law is about."""
        return law != "test_dropout_acts_in_training_only" or self.dropout is not None


def oracle(model: VisionTransformer, plain: Tensors, case: Case, images: Tensor) -> Tensor:
    """Logits of the adapted model, from its plain state and its trainables: a Vision Transformer by hand, image by image."""
    p = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    plain = {**plain, **{name: tensor for name, tensor in p.items() if name in plain}}  # what is trained of the backbone itself
    if case.per_batch:
        return _logits(model, plain, p, case, images)
    return torch.cat([_logits(model, plain, p, case, image[None]) for image in images])


def _logits(model: VisionTransformer, w: Tensors, p: Tensors, case: Case, images: Tensor) -> Tensor:
    def norm(x: Tensor, path: str) -> Tensor:
        x = x - x.mean(-1, keepdim=True)
        y = x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{path}.weight"] + w[f"{path}.bias"]
        return case.after(case.method, p, path, y)

    def linear(x: Tensor, path: str) -> Tensor:
        bias = w.get(f"{path}.bias", torch.zeros(1, dtype=x.dtype))
        return case.linear(case.method, p, Frozen(path, w[f"{path}.weight"], bias), x)

    patches = [images[:, :, i : i + 4, j : j + 4].flatten(1) for i in (0, 4) for j in (0, 4)]
    x = torch.stack(patches, 1) @ w["patch_embed.proj.weight"].flatten(1).T + w["patch_embed.proj.bias"]
    x = case.after(case.method, p, "patch_embed.proj", x)
    for token in ("reg_token", "cls_token"):
        if token in w:
            x = torch.cat([w[token].expand(len(x), -1, -1), x], 1)
    x = x + w["pos_embed"]
    for i, block in enumerate(transformer_blocks(model)):
        path = f"blocks.{i}"
        x = case.entering(case.method, p, path, x)
        scale1, scale2 = w.get(f"{path}.ls1.gamma", 1.0), w.get(f"{path}.ls2.gamma", 1.0)
        inside = norm(x, f"{path}.norm1")
        qkv = linear(inside, f"{path}.attn.qkv")
        d = qkv.shape[-1] // 3
        heads = []
        for h in range(block.attn.num_heads):
            rows = slice(h * block.attn.head_dim, (h + 1) * block.attn.head_dim)
            q, k, v = qkv[..., :d][..., rows], qkv[..., d : 2 * d][..., rows], qkv[..., 2 * d :][..., rows]
            heads.append((q @ k.mT / math.sqrt(block.attn.head_dim)).softmax(-1) @ v)
        added = scale1 * linear(torch.cat(heads, -1), f"{path}.attn.proj")
        x = x + case.branch(case.method, p, f"{path}.attn", inside, added)
        inside = norm(x, f"{path}.norm2")
        hidden = linear(inside, f"{path}.mlp.fc1")
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        added = scale2 * case.mlp(case.method, p, f"{path}.mlp", inside, linear(hidden, f"{path}.mlp.fc2"))
        y = x + case.branch(case.method, p, f"{path}.mlp", inside, added)
        x = case.block(case.method, p, path, x, y)
    x = norm(x[:, 0], "norm") if "cls_token" in w else norm(x[:, model.num_prefix_tokens :].mean(1), "fc_norm")
    return x @ p["head.weight"].T + p["head.bias"]


def images(n: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(2)).to(dtype)


def adapted(backbone: Backbone, method: Method, dtype: torch.dtype = torch.float64, *, moved: bool = True) -> VisionTransformer:
    """A small adapted model; `moved`: with trainables away from their initial values and those gone that training drops."""
    model = backbone.build(dtype)
    adapt(model, method, generator=torch.Generator().manual_seed(3))
    if moved:
        generator = torch.Generator().manual_seed(4)
        with torch.no_grad():
            for _, parameter in trainable_parameters(model):
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        method.shrink_to_final_size(model)
    return model


def bench(backbone: Backbone) -> laws.Bench:
    """What the laws of the product are checked on."""
    return laws.Bench(backbone.build, images(4))


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    torch.manual_seed(6)  # of what is sampled in training
    names, parameters = zip(*trainable_parameters(model), strict=True)
    return dict(zip(names, torch.autograd.grad(model(x).square().sum(), parameters), strict=True))


class AdapterLaws:
    """The laws; each test is one."""

    def test_it_starts_as_the_pretrained_model_or_says_that_it_does_not(self, case: Case, backbone: Backbone) -> None:
        plain, model = backbone.build(), adapted(backbone, case.method, moved=False)
        difference = (model(images(3)) - plain(images(3))).abs().max()
        assert (difference <= max(1e-12, case.noise)) == case.exact_start

    def test_what_is_trained_is_what_the_paper_counts_and_the_head(self, case: Case, backbone: Backbone) -> None:
        n_adapter, n_head = count_parameters(adapted(backbone, case.method))
        assert n_adapter == backbone.n_params(case)
        assert n_head == (backbone.n_features + 1) * N_CLASSES

    def test_counts_on_the_meta_device_are_those_of_the_real_model(self, case: Case, backbone: Backbone) -> None:
        laws.counts_on_the_meta_device(bench(backbone), case.method)

    def test_every_trainable_moves_within_three_steps_and_nothing_else_does(self, case: Case, backbone: Backbone) -> None:
        laws.reaches_every_trainable(bench(backbone), case.dropout or case.method)

    def test_values_and_gradients_are_those_of_the_dense_equation(self, case: Case, backbone: Backbone) -> None:
        self.compare(case, backbone, training=False)

    def test_in_training_values_and_gradients_are_those_of_the_dense_equation(self, case: Case, backbone: Backbone) -> None:
        self.compare(case, backbone, training=True)

    def compare(self, case: Case, backbone: Backbone, *, training: bool) -> None:
        """The function and its derivatives, against the equation."""
        plain, model, x = backbone.build().state_dict(), adapted(backbone, case.method).train(training), images(3)
        names, parameters = zip(*trainable_parameters(model), strict=True)
        direction = torch.randn(3, N_CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        values, expected = model(x), backbone.oracle(model, plain, case, x)
        torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-10)
        ours = torch.autograd.grad((values * direction).sum(), parameters)
        theirs = torch.autograd.grad((expected * direction).sum(), parameters)
        for name, a, b in zip(names, ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")

    def test_merging_keeps_the_function_and_leaves_a_plain_timm_model(self, case: Case, backbone: Backbone) -> None:
        self.merge(case, backbone, torch.float64, 1e-10)

    def test_merging_in_single_precision_keeps_the_function(self, case: Case, backbone: Backbone) -> None:
        self.merge(case, backbone, torch.float32, 1e-5)

    def merge(self, case: Case, backbone: Backbone, dtype: torch.dtype, tolerance: float) -> None:
        """The function before and after, and what is left of the layers."""
        model, tolerance = adapted(backbone, case.method, dtype), max(tolerance, case.noise)
        before, x = copy.deepcopy(model.state_dict()), images(3, dtype)
        with torch.no_grad():
            expected = model(x)
            if case.unmergeable is not None:
                with pytest.raises(ValueError, match=case.unmergeable):
                    merge(model)
                assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
                return
            merge(model)
            torch.testing.assert_close(model(x), expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())
        plain = backbone.build(dtype)
        assert {name for name, _ in plain.named_modules()} == {name for name, _ in model.named_modules()}
        assert not any(isinstance(module, Layer) for module in model.modules())
        assert all(parameter.requires_grad for parameter in model.parameters())
        new, gone = (model.state_dict().keys() - plain.state_dict().keys(), plain.state_dict().keys() - model.state_dict().keys())
        assert all(
            name.endswith(("attn.qkv.bias", "attn.k_proj.bias", "patch_embed.proj.bias")) for name in new
        )  # where there was none
        assert all(name.endswith(("attn.q_bias", "attn.v_bias")) and name[:-6] + "qkv.bias" in new for name in gone)

    def test_removing_gives_the_pretrained_model_back_bit_for_bit(self, case: Case, backbone: Backbone) -> None:
        laws.leaves_nothing_behind(bench(backbone), case.method)

    def test_the_state_is_the_trainables_only_and_restores_the_function(self, case: Case, backbone: Backbone) -> None:
        laws.survives_a_checkpoint(bench(backbone), case.method)

    def test_a_prediction_does_not_depend_on_its_batch_mates(self, case: Case, backbone: Backbone) -> None:
        model = adapted(backbone, case.method)
        together, alone = model(images(4)), torch.cat([model(image[None]) for image in images(4)])
        tolerance = max(1e-10, case.noise)
        assert torch.allclose(together, alone, rtol=tolerance, atol=tolerance) != case.per_batch

    def test_bfloat16_autocast_gives_every_trainable_a_finite_gradient(self, case: Case, backbone: Backbone) -> None:
        model, x = adapted(backbone, case.method, torch.float32), images(3, torch.float32)
        for training in (False, True):
            torch.manual_seed(6)  # of what is sampled in training
            with torch.autocast("cpu", torch.bfloat16):
                loss = model.train(training)(x).square().mean()
            torch.manual_seed(6)
            torch.testing.assert_close(loss.float(), model(x).square().mean(), rtol=0.2, atol=0.0)
            names, parameters = zip(*trainable_parameters(model), strict=True)
            for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
                assert gradient.isfinite().all(), name
                assert gradient.abs().max() > 0, name

    def test_gradient_checkpointing_changes_no_gradient(self, case: Case, backbone: Backbone) -> None:
        model = adapted(backbone, case.method).train()
        expected = gradients(model, images(2))
        model.set_grad_checkpointing(True)
        for name, gradient in gradients(model, images(2)).items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-12, atol=1e-12)

    def test_dropout_acts_in_training_only(self, case: Case, backbone: Backbone) -> None:
        assert case.dropout is not None
        with_dropout, without = adapted(backbone, case.dropout), adapted(backbone, case.method)
        assert torch.equal(with_dropout(images(3)), without(images(3)))
        assert not torch.allclose(with_dropout.train()(images(3)), without.train()(images(3)))

    def test_the_regulariser_and_its_gradients_are_those_of_the_dense_formula(self, case: Case, backbone: Backbone) -> None:
        model = adapted(backbone, case.method)
        value = regulariser(model)
        if case.regulariser is None:
            assert value is None
            return
        assert value is not None
        names, parameters = zip(*trainable_parameters(model), strict=True)
        expected = case.regulariser(case.method, dict(model.named_parameters(remove_duplicate=False)))
        torch.testing.assert_close(value, expected, rtol=1e-10, atol=0.0)
        ours = torch.autograd.grad(value, parameters, allow_unused=True)
        theirs = torch.autograd.grad(expected, parameters, allow_unused=True)
        for name, a, b in zip(names, ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}")

    def test_copies_share_what_the_original_shares(self, case: Case, backbone: Backbone) -> None:
        model = adapted(backbone, case.method)
        twin = copy.deepcopy(model)
        assert count_parameters(twin) == count_parameters(model)
        assert torch.equal(twin(images(2)), model(images(2)))


# In the order in which rows take turns: those in which the backbone has a part come first.
LAWS = sorted((name for name in vars(AdapterLaws) if name.startswith("test_")), key=METHOD_ALONE.__contains__)
