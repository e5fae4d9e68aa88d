"""The laws, for every method: its row and its equation, written out."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from typing import Any, cast

import pytest
import timm
import torch
from torch import Tensor

from trainables import measure
from trainables.adapters import (
    ARC,
    METHODS,
    SNELL,
    SSF,
    VPT,
    Adapter,
    AdapterPlus,
    AdaptFormer,
    BitFit,
    CLoRA,
    Convpass,
    DiffFit,
    FacT,
    Full,
    HeadOnly,
    HeartLoRA,
    Householder,
    LayerNormTuning,
    Lily,
    LoRA,
    Method,
    RandLoRA,
    RepAdapter,
    SerialLoRA,
    adapt,
    adapted_layers,
    merge,
    method_of,
    regulariser,
    remove,
    transformer_blocks,
)
from trainables.adapters.lora import LoRALayer
from trainables.backbones import create

from ..small_models import small_post_norm_eva
from .adapter_laws import AVERAGE, HOLDING, METHOD_ALONE, TOKEN, AdapterLaws, Backbone, Case, Frozen, Tensors, adapted, images


def lora(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """W' = W + s B A for each adapted slice of the output."""
    path, y = frozen.path, frozen(x)
    if f"{path}.a" not in p:
        return y
    a, b, scale = p[f"{path}.a"], p[f"{path}.b"], cast(LoRA, method).scale
    slices = {"qv": [0, 2], "qkv": [0, 1, 2], "qkvo": [0, 1, 2], "qkvo_mlp": [0, 1, 2]}.get(cast(LoRA, method).targets, [0])
    if not path.endswith("qkv"):
        slices = [0]
    n_rows = b.shape[1]
    delta = torch.zeros_like(y)
    for pair, i in enumerate(slices):
        delta[..., i * n_rows : (i + 1) * n_rows] = scale * (x @ (b[pair] @ a[pair]).T)
    return y + delta


def serial_lora(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """In front of the linear x' = x + s B A x."""
    path = frozen.path
    if f"{path}.a" in p:
        x = x + cast(SerialLoRA, method).scale * (x @ (p[f"{path}.b"] @ p[f"{path}.a"]).T)
    return frozen(x)


def arc(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """In front of the linear x' = x (I + U diag(c) U^T) + b."""
    path = frozen.path
    if f"{path}.u" in p:
        u, c, b = p[f"{path}.u"], p[f"{path}.c"], p[f"{path}.b"]
        x = x @ (torch.eye(len(u), dtype=u.dtype) + u @ torch.diag(c) @ u.T) + b
    return frozen(x)


def fact(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """Every d x d slice of W moves by s V S^T U; the last slice of the MLP's width is cut where it ends."""
    path, out, n_in = frozen.path, *frozen.weight.shape
    if f"{path}.own" not in p:
        return frozen(x)
    u, v, own, d = p[f"{path}.u"], p[f"{path}.v"], p[f"{path}.own"], len(p[f"{path}.v"])
    delta = torch.zeros_like(frozen.weight)
    for o in range(0, out, d):
        for i in range(0, n_in, d):
            s = own[o // d, i // d]
            if cast(FacT, method).variant == "tk":
                s = sum(p[f"{path}.core"][:, :, c] * s[c] for c in range(len(s)))
            rows, columns = min(d, out - o), min(d, n_in - i)
            delta[o : o + rows, i : i + columns] = (v @ s.T @ u)[:rows, :columns]
    return Frozen(path, frozen.weight + cast(FacT, method).scale * delta, frozen.bias)(x)


def _bottleneck(p: Tensors, path: str, activation: str, x: Tensor) -> Tensor:
    code = x @ p[f"{path}.down"].T + p[f"{path}.down_bias"]
    code = code.clamp(min=0) if activation == "relu" else code * 0.5 * (1 + torch.erf(code / math.sqrt(2)))
    return code @ p[f"{path}.up"].T + p[f"{path}.up_bias"]


def adapter_linear(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """After the attention's projection."""
    y, adapter = frozen(x), cast(Adapter, method)
    if f"{frozen.path}.down" in p:
        y = y + adapter.scale * _bottleneck(p, frozen.path, adapter.activation, y)
    return y


def adapter_mlp(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    """After the MLP, or beside it."""
    adapter = cast(Adapter, method)
    if f"{path}.down" not in p:
        return y
    return y + adapter.scale * _bottleneck(p, path, adapter.activation, x if adapter.position == "ffn_parallel" else y)


def adaptformer(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    """Beside layer norm, MLP and LayerScale, on the residual stream."""
    return y + cast(AdaptFormer, method).scale * _bottleneck(p, path, "relu", x) if f"{path}.down" in p else y


def randlora(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """W' = W + alpha / (r sqrt(n)) sum_i B_i diag(l_i) A diag(g_i) in each slice, transposed where it is wide."""
    path, randlora = frozen.path, cast(RandLoRA, method)
    if f"{path}.diag_a" not in p:
        return frozen(x)
    chosen = {"fused_mlp": [0], "qkvo_mlp": [0, 1, 2], "qv": [0, 2]}[randlora.targets] if path.endswith("qkv") else [0]
    rows = len(frozen.weight) // (3 if path.endswith("qkv") and randlora.targets != "fused_mlp" else 1)
    longer, shorter = max(rows, frozen.weight.shape[1]), min(rows, frozen.weight.shape[1])
    n, weight = math.ceil(shorter / randlora.rank), frozen.weight.clone()
    for which, i in enumerate(chosen):
        delta = torch.zeros(longer, shorter, dtype=weight.dtype)
        for j in range(n):
            b, a = p[f"{path}.bases.b"][:longer, j], p[f"{path}.bases.a"][:, :shorter]
            delta = delta + b @ torch.diag(p[f"{path}.diag_b"][which, j]) @ a @ torch.diag(p[f"{path}.diag_a"][which, j])
        delta = delta * randlora.alpha / (randlora.rank * math.sqrt(n))
        weight[i * rows : (i + 1) * rows] += delta if longer == rows else delta.T
    return Frozen(path, weight, frozen.bias)(x)


def heart_lora(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """The rows of an active head in q and v: W_i + s B_i A."""
    path, weight = frozen.path, frozen.weight.clone()
    active = [int(name.removeprefix(f"{path}.b.")) for name in p if name.startswith(f"{path}.b.")]
    for i in active:
        b, a = p[f"{path}.b.{i}"], p[f"{path}.a"]
        for which, start in enumerate((0, 2 * len(weight) // 3)):
            rows = slice(start + i * b.shape[1], start + (i + 1) * b.shape[1])
            weight[rows] += cast(HeartLoRA, method).scale * b[which] @ a[which]
    return Frozen(path, weight, frozen.bias)(x)


def _lily_delta(method: Method, p: Tensors, path: str, which: int, z: Tensor) -> Tensor:
    lily, experts = cast(Lily, method), p[f"{path}.experts"][which]
    if lily.router == "uniform":
        gate = torch.full((lily.n_experts,), 1 / lily.n_experts, dtype=z.dtype)
    else:
        logits = z @ p[f"{path}.router"][which].T / lily.temperature
        gate = (logits.exp() / logits.exp().sum(-1, keepdim=True)).mean((0, 1))  # z holds one image, or the batch
    mixed = torch.zeros_like(experts[0])
    for e in range(lily.n_experts):
        mixed = mixed + gate[e] * experts[e]
    return lily.scale * z @ mixed


def lily_linear(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """On k and v: z = x A, delta = s z (sum_e S_e B_e)."""
    path, y = frozen.path, frozen(x)
    if not path.endswith("qkv") or f"{path}.down" not in p:
        return y
    down, d = p[f"{path}.down"], y.shape[-1] // 3
    k, v = (_lily_delta(method, p, path, which, x @ down[which].T) for which in (0, 1))
    return torch.cat([y[..., :d], y[..., d : 2 * d] + k, y[..., 2 * d :] + v], -1)


def lily_mlp(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    """In parallel to the MLP, with z = relu(x A)."""
    if f"{path}.down" not in p:
        return y
    return y + _lily_delta(method, p, path, 0, (x @ p[f"{path}.down"][0].T).clamp(min=0))


def _clora_maps(p: Tensors, path: str, which: int) -> list[Tensor]:
    """E_h = D_h Q_h U_h, d x d, of one module, h = 1, ..., p."""
    return [d @ q @ u for d, q, u in zip(p[f"{path}.down"], p[f"{path}.q"][which], p[f"{path}.up"], strict=True)]


def clora(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """In front of the linear x (I + dW) + b, or x dW + b beside chosen slices of it; dW = sum_h E_h."""
    path, insertion = frozen.path, cast(CLoRA, method).insertion
    if f"{path}.q" not in p:
        return frozen(x)
    if insertion.startswith("serial"):
        delta = torch.stack(_clora_maps(p, path, 0)).sum(0)
        return frozen(x @ (torch.eye(len(delta), dtype=x.dtype) + delta) + p[f"{path}.b"])
    y, d = frozen(x).clone(), x.shape[-1]
    slices = {"parallel_qv": [0, 2]}.get(insertion, [0, 1, 2]) if path.endswith("qkv") else [0]
    for which, i in enumerate(slices):
        for e in _clora_maps(p, path, which):
            y[..., i * d : (i + 1) * d] += x @ e
        y[..., i * d : (i + 1) * d] += p[f"{path}.b"][which * d : (which + 1) * d]
    return y


def sade(method: Method, p: Tensors) -> Tensor:
    """The weight times the mean, over modules and pairs of spaces, of || E_h^T E_k ||_F^2."""
    terms = []
    for path in (name.removesuffix(".q") for name in p if name.endswith(".q")):
        for which in range(len(p[f"{path}.q"])):
            maps = _clora_maps(p, path, which)
            terms += [(maps[h].T @ maps[k]).square().sum() for k in range(len(maps)) for h in range(k)]
    return cast(CLoRA, method).sade_weight * torch.stack(terms).mean()


def householder(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """Adds x (H_l diag(delta) H_r + A B) to chosen slices; `mlp_output`: to y itself, from y."""
    path, hta, y = frozen.path, cast(Householder, method), frozen(x).clone()
    if f"{path}.delta" not in p:
        return y
    slices = [0]
    if path.endswith("qkv"):
        slices = [0, 2] if hta.targets.startswith("qv") else [0, 1, 2]
    source = frozen(x) if hta.targets == "mlp_output" else x
    for which, i in enumerate(slices):
        left, right, delta = (p[f"{path}.{name}"][which] for name in ("v_left", "v_right", "delta"))
        outer = []
        for v in (left, right):
            factor = 1.0 if hta.normalisation == "literal" else 2 / (v @ v + 1e-12)
            outer.append(torch.eye(len(v), dtype=v.dtype) - factor * torch.outer(v, v))
        middle = torch.zeros(len(left), len(right), dtype=x.dtype)
        for j, value in enumerate(delta):
            middle[j, j] = value
        update = outer[0] @ middle @ outer[1]
        if hta.extra_rank:
            update = update + p[f"{path}.a"][which] @ p[f"{path}.b"][which]
        y[..., i * len(right) : (i + 1) * len(right)] += source @ update
    return y


def snell(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """Adds x dW^T to chosen slices: dW from K_ij = kappa(b_i, a_j) by the ceil(s m n)-th smallest |K_ij|, slice by slice."""
    path, snell, y = frozen.path, cast(SNELL, method), frozen(x).clone()
    if f"{path}.a" not in p:
        return y
    slices = ([0, 2] if snell.targets == "qv" else [0, 1, 2]) if path.endswith("qkv") else [0]
    for which, i in enumerate(slices):
        a, b = p[f"{path}.a"][which], p[f"{path}.b"][which]  # (groups, in, r / groups), (groups, out, r / groups)
        if snell.kernel == "linear":
            k = b[0] @ a[0].T
        else:
            first, second = ((b[g][:, None] - a[g][None]).square().sum(-1).sqrt() for g in (0, 1))
            k = 0.1 * first - 0.1 * second
        if snell.sparsity > 0:
            size = k.abs().detach()
            t = size.flatten().sort().values[math.ceil(snell.sparsity * k.numel() - 1e-6) - 1]
            factor = {"code_gate": size, "paper_soft": k.abs() - t, "mask": torch.ones_like(k)}[snell.sparsify]
            k = torch.where(size > t, k * factor, torch.zeros_like(k))
        y[..., i * len(k) : (i + 1) * len(k)] += x @ k.T
    return y


def ssf_linear(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """Behind a linear: y = gamma * (x W^T + b) + beta."""
    return ssf_after(method, p, frozen.path, frozen(x))


def ssf_after(method: Method, p: Tensors, path: str, y: Tensor) -> Tensor:
    """Behind norms and patch embedding: gamma * y + beta."""
    return y * p[f"{path}.gamma"] + p[f"{path}.beta"] if f"{path}.gamma" in p else y


def ssf_params(backbone: Backbone) -> int:
    """Two values for each output of each norm, linear of a block and patch embedding; a Swin is counted as a whole."""
    if backbone.name == "second stage":
        return 0
    adapted = re.compile(r"(?!attn_pool).*(norm\w*|qkv|[qkv]_proj|proj|fc1|fc1_g|fc1_x|fc2)\.weight")
    return sum(2 * len(p) for name, p in backbone_parameters(backbone) if adapted.fullmatch(name))


def difffit(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """Behind the last linear of attention and MLP: y = gamma * (x W^T + b), b trained."""
    path = frozen.path
    if f"{path}.gamma" not in p:
        return frozen(x)
    return Frozen(path, frozen.weight, p.get(f"{path}.base.bias", frozen.bias))(x) * p[f"{path}.gamma"]


def difffit_params(backbone: Backbone) -> int:
    """Every bias, every weight of a norm, and a scale for each output of a branch; a Swin is counted as a whole."""
    if backbone.name == "second stage":
        return 0
    named, scaled = backbone_parameters(backbone), re.compile(r".*blocks\.\d+\.(attn\.proj|mlp\.fc2)\.weight")
    trained = sum(p.numel() for name, p in named if name.endswith("bias") or ("norm" in name and name.endswith("weight")))
    return trained + sum(len(p) for name, p in named if scaled.fullmatch(name))


def adapter_plus(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    """Behind the block: y + s * bottleneck(y)."""
    return y + p[f"{path}.scale"] * _bottleneck(p, path, "gelu", y) if f"{path}.down" in p else y


def rep_adapter(method: Method, p: Tensors, frozen: Frozen, x: Tensor) -> Tensor:
    """In front of the linear x' = x + s (B (A x + a) + b): each half of B reads its half of the code."""
    path = frozen.path
    if f"{path}.up" not in p:
        return frozen(x)
    code = x @ p[f"{path}.down"].T + p[f"{path}.down_bias"]
    halves = [half @ up.T for half, up in zip(code.chunk(2, -1), p[f"{path}.up"], strict=True)]
    return frozen(x + cast(RepAdapter, method).scale * (torch.cat(halves, -1) + p[f"{path}.up_bias"]))


def _quick_gelu(z: Tensor) -> Tensor:
    return z / (1 + torch.exp(-1.702 * z))


def convpass(method: Method, p: Tensors, path: str, h: Tensor, y: Tensor) -> Tensor:
    """Beside attention and MLP, tap by tap: a patch sees its neighbours in the square grid, a token before them only itself."""
    block, _, branch = path.rpartition(".")
    if f"{block}.beside.{branch}.down" not in p:
        return y
    own = {name: p[f"{block}.beside.{branch}.{name}"] for name in ("down", "down_bias", "kernel", "kernel_bias", "up", "up_bias")}
    code = _quick_gelu(h[0] @ own["down"].T + own["down_bias"])
    side = math.isqrt(len(code))
    n_prefix = len(code) - side * side
    convolved = []
    for i in range(len(code)):
        row, column = divmod(i - n_prefix, side)
        value = own["kernel_bias"]
        for a in (-1, 0, 1):
            for b in (-1, 0, 1):
                if i < n_prefix and (a, b) != (0, 0):
                    continue
                if i >= n_prefix and not (0 <= row + a < side and 0 <= column + b < side):
                    continue
                value = value + own["kernel"][:, :, a + 1, b + 1] @ code[i + a * side + b]
        convolved.append(value)
    update = _quick_gelu(torch.stack(convolved)) @ own["up"].T + own["up_bias"]
    return y + cast(Convpass, method).scale * update[None]


def convpass_case(n_params: Any, **knobs: Any) -> Case:
    reason, dropout = "cannot be merged: its activations", Convpass(dropout=0.3, **knobs)
    return Case(Convpass(dropout=0.0, **knobs), n_params, branch=convpass, unmergeable=reason, dropout=dropout)


def _n_prefix(n_tokens: int) -> int:
    """The class and register tokens in front of a square grid of patches."""
    return n_tokens - math.isqrt(n_tokens) ** 2


def vpt_entering(method: Method, p: Tensors, path: str, x: Tensor) -> Tensor:
    """[class and register tokens, prompts, patches], where a block has prompts of its own."""
    if f"{path}.prompts" not in p:
        return x
    n = _n_prefix(x.shape[1])
    return torch.cat([x[:, :n], p[f"{path}.prompts"].expand(len(x), -1, -1), x[:, n:]], 1)


def vpt_block(method: Method, p: Tensors, path: str, x: Tensor, y: Tensor) -> Tensor:
    """Without the prompts behind a deep block, and behind the last adapted one."""
    i, vpt = int(path.rpartition(".")[2]), cast(VPT, method)
    inside = [f"blocks.{j}.base.norm1.weight" in p for j in (i, i + 1)]
    if not inside[0] or (vpt.depth == "shallow" and inside[1]):
        return y
    n = _n_prefix(y.shape[1] - vpt.length)
    return torch.cat([y[:, :n], y[:, n + vpt.length :]], 1)


def vpt_case(n_params: Any, length: int, **knobs: Any) -> Case:
    method, dropout = VPT(length=length, dropout=0.0, **knobs), VPT(length=length, dropout=0.3, **knobs)
    oracles = {"entering": vpt_entering, "block": vpt_block}
    return Case(method, n_params, **oracles, exact_start=False, unmergeable="it adds tokens", dropout=dropout, n_tokens=length)  # type: ignore[arg-type]


def lily_case(n_params: Any, **knobs: Any) -> Case:
    method = Lily(**knobs)
    reason = None if method.router == "uniform" and method.targets == "kv" else "cannot be merged: it"
    return Case(method, n_params, lily_linear, lily_mlp, unmergeable=reason, per_batch=method.router == "batch")


def lora_case(n_params: Any, **knobs: Any) -> Case:
    return Case(LoRA(dropout=0.0, **knobs), n_params, lora, dropout=LoRA(dropout=0.3, **knobs))


def serial_lora_case(n_params: Any, **knobs: Any) -> Case:
    return Case(SerialLoRA(**knobs), n_params, serial_lora, dropout=SerialLoRA(dropout=0.3, **knobs))


def clora_case(n_params: Any, **knobs: Any) -> Case:
    method, dropout = CLoRA(dropout=0.0, **knobs), CLoRA(dropout=0.3, **knobs)
    return Case(method, n_params, clora, dropout=dropout, regulariser=sade if method.sade_weight and method.n_spaces > 1 else None)


def householder_case(n_params: Any, **knobs: Any) -> Case:
    return Case(Householder(dropout=0.0, **knobs), n_params, householder, dropout=Householder(dropout=0.3, **knobs))


def snell_case(n_params: Any, **knobs: Any) -> Case:
    method, dropout = SNELL(dropout=0.0, **knobs), SNELL(dropout=0.3, **knobs)
    return Case(method, n_params, snell, dropout=dropout, exact_start=False)


def arc_case(n_params: Any, *, exact_start: bool, **knobs: Any) -> Case:
    return Case(ARC(dropout=0.0, **knobs), n_params, arc, exact_start=exact_start, dropout=ARC(dropout=0.3, **knobs))


def fact_case(n_params: Any, **knobs: Any) -> Case:
    return Case(FacT(dropout=0.0, **knobs), n_params, fact, dropout=FacT(dropout=0.3, **knobs))


def backbone_parameters(backbone: Backbone) -> list[tuple[str, Tensor]]:
    return [(name, p) for name, p in backbone.build().named_parameters() if not name.startswith("head.")]


def heart_lora_case(n_params: Any, **knobs: Any) -> Case:
    def counted(backbone: Backbone) -> int:
        n_active = {3: 2, 2: 1 if "active_head_ratio" in knobs else 2}[cast(int, backbone.kwargs["num_heads"])]
        return cast(int, n_params(backbone, n_active))

    return Case(HeartLoRA(dropout=0.0, **knobs), counted, heart_lora, dropout=HeartLoRA(dropout=0.3, **knobs))


def adapter_case(n_params: Any, **knobs: Any) -> Case:
    reason, dropout = "cannot be merged: its activation", Adapter(dropout=0.3, **knobs)
    return Case(Adapter(**knobs), n_params, adapter_linear, adapter_mlp, unmergeable=reason, dropout=dropout)


def adaptformer_case(n_params: Any, **knobs: Any) -> Case:
    reason, dropout = "cannot be merged: its activation", AdaptFormer(dropout=0.3, **knobs)
    return Case(AdaptFormer(dropout=0.0, **knobs), n_params, block=adaptformer, unmergeable=reason, dropout=dropout)


def rep_adapter_case(n_params: Any, **knobs: Any) -> Case:
    return Case(RepAdapter(dropout=0.0, **knobs), n_params, rep_adapter, dropout=RepAdapter(dropout=0.3, **knobs))


def adapter_plus_case(n_params: Any, **knobs: Any) -> Case:
    reason, dropout = "cannot be merged: its activation", AdapterPlus(drop_path=0.5, **knobs)
    method = AdapterPlus(drop_path=0.0, **knobs)
    return Case(method, n_params, block=adapter_plus, exact_start=False, unmergeable=reason, dropout=dropout)


CASES = [
    Case(HeadOnly(), lambda b: 0),
    lora_case(lambda b: 4 * b.d * b.depth * 3, rank=3),
    lora_case(lambda b: 4 * b.d * b.depth * 2, rank=2, targets="qkv_fused", scale=2.0),
    lora_case(lambda b: 6 * b.d * b.depth * 2, rank=2, targets="qkv"),
    lora_case(lambda b: 8 * b.d * 2 * 2, rank=2, targets="qkvo", scale=0.5, layers="last-2"),
    lora_case(lambda b: b.depth * 2 * (8 * b.d + 2 * (b.d + b.m)), rank=2, targets="qkvo_mlp"),
    serial_lora_case(lambda b: 2 * b.d * b.depth * 3, rank=3),
    serial_lora_case(lambda b: 4 * b.d * 2 * 2, rank=2, targets="qkv_mlp", scale=0.5, layers="last-2"),
    arc_case(lambda b: b.d * 3 + b.depth * (3 + b.d), rank=3, position="att", exact_start=True),
    arc_case(lambda b: 2 * (b.d * 3 + b.depth * (3 + b.d)), rank=3, exact_start=False),
    arc_case(lambda b: 2 * (b.d * 4 + 1 * (4 + b.d)), rank=4, c_init="zeros", layers="first-1", exact_start=True),
    lily_case(lambda b: 4 * b.d * 3 * (2 + 2) + 4 * b.depth * 3 * 2, rank=3, n_experts=2),
    lily_case(lambda b: 4 * b.d * 2 * (3 + 2) + 4 * b.depth * 2 * 2, rank=2, n_experts=2, n_downs=3, temperature=0.3, scale=2.0),
    lily_case(lambda b: 2 * b.d * 2 * (1 + 3) + 2 * 2 * 2 * 3, rank=2, n_experts=3, n_downs=1, targets="kv", layers="last-2"),
    lily_case(lambda b: 4 * b.d * 3 * (2 + 2) + 4 * b.depth * 3 * 2, rank=3, n_experts=2, router="batch"),
    lily_case(lambda b: 4 * b.d * 2 * (2 + 2), rank=2, n_experts=2, router="uniform"),
    lily_case(lambda b: 2 * b.d * 2 * (2 + 2), rank=2, n_experts=2, router="uniform", targets="kv"),
    householder_case(lambda b: 4 * 5 * b.d * b.depth),
    householder_case(lambda b: 4 * 3 * b.d * 2, extra_rank=0, layers="last-2"),
    householder_case(lambda b: 3 * 7 * b.d * b.depth, extra_rank=2, normalisation="literal", targets="qkv"),
    householder_case(lambda b: b.depth * (2 * 5 * b.d + 2 * (2 * b.d + b.m + b.d + b.m)), targets="qv_mlp"),
    householder_case(
        lambda b: b.depth * (4 * 5 * b.d + 2 * (2 * b.d + b.m + b.d + b.m)), targets="qkvo_mlp", normalisation="literal"
    ),
    householder_case(lambda b: 5 * b.d, targets="mlp_output", layers="first-1"),
    snell_case(lambda b: b.depth * 4 * (8 * b.d + 2 * (b.d + b.m)), rank=4, sparsity=0.5),
    snell_case(lambda b: b.depth * 2 * (8 * b.d + 2 * (b.d + b.m)), rank=2, sparsity=0.0),
    snell_case(lambda b: 2 * 4 * 8 * b.d, rank=4, sparsity=0.3, sparsify="paper_soft", targets="qkvo", layers="last-2"),
    snell_case(lambda b: b.depth * 6 * 6 * b.d, rank=6, sparsity=0.7, sparsify="mask", targets="qkv"),
    snell_case(lambda b: b.depth * 3 * 4 * b.d, rank=3, sparsity=0.1, kernel="linear", targets="qv"),
    clora_case(lambda b: 2 * (2 * (2 * b.d * 3 + b.depth * 3**2) + b.depth * b.d), rank=3),
    clora_case(lambda b: 3 * (2 * b.d * 2 + 2 * 2**2) + 2 * b.d, rank=2, n_spaces=3, insertion="serial_att", layers="last-2"),
    clora_case(lambda b: 2 * b.d * 4 + b.depth * 4**2 + b.depth * b.d, rank=4, n_spaces=1, insertion="serial_att"),
    clora_case(lambda b: 3 * (2 * b.d * 2 + 2 * b.depth * 2**2) + 2 * b.depth * b.d, rank=2, n_spaces=3, insertion="parallel_qv"),
    clora_case(
        lambda b: 2 * (2 * b.d * 2 + 3 * b.depth * 2**2) + 3 * b.depth * b.d, rank=2, insertion="parallel_qkv", sade_weight=0.0
    ),
    clora_case(lambda b: 2 * (2 * b.d * 2 + 4 * 2**2) + 4 * b.d, rank=2, insertion="parallel_qkvo", layers="first-1"),
    fact_case(lambda b: 2 * b.d * 3 + b.depth * (4 + 2 * math.ceil(b.m / b.d)) * 9, variant="tt", rank=3, scale=2.0),
    fact_case(lambda b: 2 * b.d * 3 + b.depth * (4 + 2 * math.ceil(b.m / b.d)) * 3 + 27, rank=3),
    fact_case(lambda b: 2 * b.d * 2 + 2 * (4 + 2 * math.ceil(b.m / b.d)) * 2 + 8, rank=2, layers="last-2"),
    adapter_case(lambda b: b.depth * (2 * b.d * 3 + 3 + b.d), rank=3),
    adapter_case(lambda b: 2 * b.depth * (2 * b.d * 6 + 6 + b.d), rank=6, position="attn_ffn", activation="relu", scale=0.5),
    adapter_case(lambda b: 2 * (2 * b.d * 3 + 3 + b.d), rank=3, position="ffn_parallel", layers="first-2"),
    adaptformer_case(lambda b: b.depth * (2 * b.d * 6 + 6 + b.d), rank=6, scale=2.0),
    adaptformer_case(lambda b: 2 * (2 * b.d * 4 + 4 + b.d), rank=4, layers="last-2"),
    Case(RandLoRA(rank=3, alpha=6.0), lambda b: b.depth * 4 * math.ceil(b.d / 3) * (3 + b.d), randlora),
    Case(RandLoRA(rank=5, alpha=3.0, targets="qkvo_mlp", layers="last-2"), lambda b: 12 * math.ceil(b.d / 5) * (5 + b.d), randlora),
    Case(RandLoRA(rank=2, alpha=4.0, targets="qv", seed=7), lambda b: b.depth * b.d * (2 + b.d), randlora),
    heart_lora_case(lambda b, n: 2 * b.depth * 3 * (b.d + n * b.d // b.kwargs["num_heads"]), rank=3, active_head_ratio=0.5),
    heart_lora_case(lambda b, n: 2 * 2 * 2 * (b.d + n * b.d // b.kwargs["num_heads"]), rank=2, scale=2.0, layers="last-2"),
    Case(SSF(), ssf_params, ssf_linear, after=ssf_after, exact_start=False),
    Case(SSF(layers="last-2"), lambda b: 2 * 2 * (7 * b.d + b.m), ssf_linear, after=ssf_after, exact_start=False),
    Case(LayerNormTuning(), lambda b: sum(p.numel() for name, p in backbone_parameters(b) if "norm" in name)),
    Case(BitFit(), lambda b: sum(p.numel() for name, p in backbone_parameters(b) if name.endswith("bias"))),
    Case(Full(), lambda b: sum(p.numel() for _, p in backbone_parameters(b))),
    Case(DiffFit(), difffit_params, difffit),
    Case(DiffFit(layers="last-2"), lambda b: 2 * ((11 if b.kwargs.get("qkv_bias", True) else 8) * b.d + b.m), difffit),
    rep_adapter_case(lambda b: 2 * b.depth * (6 * b.d + 4 + b.d), rank=4, scale=2.0),
    rep_adapter_case(lambda b: 2 * (3 * b.d + 2 + b.d), rank=2, position="att", layers="last-2"),
    adapter_plus_case(lambda b: b.depth * (2 * b.d * 3 + 3 + 2 * b.d), rank=3),
    adapter_plus_case(lambda b: 2 * (2 * b.d * 4 + 4 + 2 * b.d), rank=4, layers="last-2"),
    convpass_case(lambda b: 2 * b.depth * (2 * b.d * 3 + 9 * 3**2 + 2 * 3 + b.d), rank=3),
    convpass_case(lambda b: 2 * (2 * b.d * 4 + 9 * 4**2 + 2 * 4 + b.d), rank=4, scale=0.5, position="attn", layers="last-2"),
    convpass_case(lambda b: 2 * b.depth * (2 * b.d * 2 + 9 * 2**2 + 2 * 2 + b.d), rank=2, kernel_init="xavier"),
    vpt_case(lambda b: b.depth * 3 * b.d, 3),
    vpt_case(lambda b: 3 * b.d, 3, depth="shallow"),
    vpt_case(lambda b: 2 * 4 * b.d, 4, layers="last-2"),
    vpt_case(lambda b: 2 * b.d, 2, depth="shallow", layers="first-2"),
    vpt_case(lambda b: b.d, 1, depth="shallow", layers="last-2"),
]


def ends() -> list[Case]:
    """Of each method the first row and the last, and every row in which an image depends on its batch-mates."""
    ends = {id(case) for rows in (CASES, CASES[::-1]) for case in {type(case.method): case for case in rows}.values()}
    return [case for case in CASES if id(case) in ends or case.per_batch]


def rows(law: str) -> list[Any]:
    """Every row with a class token; the ends of each method on the other backbone too, if that has a part in the law."""
    found = [pytest.param(TOKEN, case) for case in (ends() if law in HOLDING else CASES) if case.concerns(law)]
    if law not in METHOD_ALONE:
        found += [pytest.param(AVERAGE, case, marks=pytest.mark.slow) for case in ends()]
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if {"backbone", "case"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("backbone", "case"), rows(metafunc.function.__name__), ids=lambda one: getattr(one, "name", str(one)))


class TestEveryMethod(AdapterLaws):
    """Every row of the table above, as far as its knobs and the backbone have a part in the law."""


def test_every_registered_method_has_a_row_in_the_laws() -> None:
    assert {type(case.method) for case in CASES} == set(METHODS.values())


def test_the_released_arc_moves_the_mlps_input_by_about_nine_percent() -> None:
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    adapt(model, ARC())
    layer = model.blocks[0].mlp.fc1
    x = torch.randn(200, 768, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.layer_norm(x, (768,))
    moved = x @ (layer.u * layer.c) @ layer.u.T
    assert 0.07 < (moved.norm(dim=1) / x.norm(dim=1)).mean() < 0.11
    update = ((layer.u * layer.c) @ layer.u.T).detach()
    assert torch.linalg.matrix_norm(update, 2).item() == pytest.approx(0.68, abs=0.08)


def test_lily_groups_neighbouring_blocks_on_one_down_projection() -> None:
    model = adapted(TOKEN, Lily(rank=2, n_experts=2, n_downs=2))
    downs = [id(block.attn.qkv.down) for block in model.blocks]
    assert downs[0] == downs[1] != downs[2] == downs[3]
    assert len({id(block.mlp.experts) for block in model.blocks}) == 1


def test_householders_outer_factors_are_orthogonal_literal_ones_only_at_root_two() -> None:
    """With delta = 1 and no low-rank map dW is the product of the outer factors."""
    for normalisation, length, orthogonal in (("householder", 3.0, True), ("literal", 2**0.5, True), ("literal", 1.0, False)):
        model = adapted(TOKEN, Householder(extra_rank=0, normalisation=normalisation), moved=False)
        layer = model.blocks[0].attn.qkv
        with torch.no_grad():
            layer.delta.fill_(1.0)
            for v in (layer.v_left, layer.v_right):
                torch.testing.assert_close(v.norm(dim=1), torch.ones(3, dtype=v.dtype), rtol=1e-6, atol=0.0)  # as initialised
                v.mul_(length / v.norm(dim=1, keepdim=True))
            for product in (layer.adapted_weight() - layer.base.weight).unflatten(0, (3, 12)):
                defect = (product @ product.T - torch.eye(12, dtype=product.dtype)).abs().max()
                assert (defect < 1e-12) == orthogonal


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.93])
@pytest.mark.parametrize("sparsify", ["code_gate", "paper_soft", "mask"])
def test_snells_sparsity_is_the_part_of_each_projections_update_that_is_zero(sparsity: float, sparsify: str) -> None:
    layer = adapted(TOKEN, SNELL(rank=2, sparsity=sparsity, sparsify=sparsify)).blocks[0].attn.qkv
    update = (layer.adapted_weight() - layer.base.weight).unflatten(0, (3, 12))
    assert [(part == 0).sum().item() for part in update] == [math.ceil(sparsity * 144)] * 3


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_snells_step_keeps_nothing_of_a_weights_size_but_the_frozen_weight(dropout: float) -> None:
    layer = adapted(TOKEN, SNELL(rank=2, dropout=dropout)).train().blocks[0].mlp.fc1
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = layer(torch.randn(1, 2, 12, dtype=torch.float64, requires_grad=True))
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() >= layer.base.weight.numel()}
    assert large <= {layer.base.weight.data_ptr()}
    y.sum().backward()
    assert layer.a.grad.abs().max() > 0


def test_snell_starts_near_the_pretrained_weights() -> None:
    """At ViT-B/16's width, rank 32: K has entries of about 6e-4; nine tenths thinned out, a tenth of them squared is 2e-6."""
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    for method, size in ((SNELL(rank=32, sparsity=0.0, targets="qkvo"), 5e-4), (SNELL(rank=32, targets="qkvo"), 1.7e-7)):
        adapt(model, method)
        layer = model.blocks[0].attn.proj
        assert (layer._update().abs().mean().item()) == pytest.approx(size, rel=0.2)
        remove(model)


def test_sade_is_proportional_to_its_weight_and_vanishes_at_zero_and_with_one_space() -> None:
    one, two = (regulariser(adapted(TOKEN, CLoRA(rank=2, n_spaces=3, sade_weight=weight))) for weight in (0.5, 2.0))
    assert one is not None
    assert two is not None
    assert one > 0
    torch.testing.assert_close(two, 4 * one)
    assert regulariser(adapted(TOKEN, CLoRA(rank=2, sade_weight=0.0))) is None
    assert regulariser(adapted(TOKEN, CLoRA(rank=2, n_spaces=1, sade_weight=2.0))) is None


def test_cloras_modules_share_their_bases_at_a_place_and_own_their_small_matrices() -> None:
    serial, parallel = (adapted(TOKEN, CLoRA(rank=2, insertion=insertion)) for insertion in ("serial", "parallel_qkvo"))
    places = [[getattr(block, part) for block in serial.blocks] for part in ("attn", "mlp")]
    downs = [{id(layer.qkv.down) for layer in places[0]}, {id(layer.fc1.down) for layer in places[1]}]
    assert [len(place) for place in downs] == [1, 1]
    assert downs[0] != downs[1]
    assert len({id(layer.down) for block in parallel.blocks for layer in (block.attn.qkv, block.attn.proj)}) == 1
    assert len({id(block.attn.qkv.q) for block in parallel.blocks}) == len(parallel.blocks)


def test_randloras_bases_are_a_function_of_its_seed_shared_and_not_in_the_state() -> None:
    model, again, other = adapted(TOKEN, RandLoRA(rank=3)), TOKEN.build(), adapted(TOKEN, RandLoRA(rank=3, seed=1))
    adapt(again, RandLoRA(rank=3), generator=torch.Generator().manual_seed(99))
    bases = model.blocks[0].attn.qkv.bases
    assert all(block.mlp.fc2.bases is bases for block in model.blocks)
    assert not any("bases" in name for name in model.state_dict())
    assert torch.equal(again.blocks[1].mlp.fc1.bases.b, bases.b)
    assert not torch.equal(other.blocks[0].attn.qkv.bases.a, bases.a)
    assert bases.a.std().item() == pytest.approx(1.0, rel=1e-6)


def test_ssf_starts_near_the_pretrained_function_with_a_fiftieth_of_noise() -> None:
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    adapt(model, SSF())
    layers = [layer for _, layer in adapted_layers(model)]
    assert len(layers) == 2 + 6
    for values, mean in (("gamma", 1.0), ("beta", 0.0)):
        drawn = torch.cat([layer.get_parameter(values).detach() for layer in layers])
        assert drawn.mean().item() == pytest.approx(mean, abs=1e-3)
        assert drawn.std().item() == pytest.approx(0.02, rel=0.05)


def test_adapter_plus_starts_near_the_pretrained_function_with_both_matrices_of_a_hundredth() -> None:
    model = timm.create_model("vit_base_patch16_224", depth=1, num_classes=0)
    adapt(model, AdapterPlus())
    layer = model.blocks[0]
    for drawn in (layer.down, layer.up):
        assert drawn.abs().max() <= 0.02
        assert drawn.std().item() == pytest.approx(0.0088, rel=0.03)  # cut at two deviations
    assert not layer.down_bias.any()
    assert not layer.up_bias.any()
    assert torch.equal(layer.scale, torch.ones(768))


def test_stochastic_depth_drops_the_mlp_and_never_adaptformers_branch() -> None:
    class Dropped(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

    model = adapted(TOKEN, AdaptFormer(rank=3, layers="last-1"))
    layer, x = model.blocks[3], torch.randn(2, 5, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(6))
    transformer_blocks(model)[3].drop_path1 = transformer_blocks(model)[3].drop_path2 = Dropped()
    code = (x @ layer.down.T + layer.down_bias).clamp(min=0)
    torch.testing.assert_close(layer(x), x + 0.1 * (code @ layer.up.T + layer.up_bias), rtol=1e-12, atol=1e-12)


def test_a_method_that_was_merged_can_be_followed_by_another() -> None:
    model = adapted(TOKEN, LoRA(rank=2))
    expected = model(images(2))
    merge(model)
    adapt(model, ARC(rank=2, c_init="zeros"))
    torch.testing.assert_close(model(images(2)), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"method": "lora", "lora.rank": 0}, r"lora\.rank must be at least 1; got 0"),
        ({"method": "lora", "lora.rank": 13}, r"lora\.rank must be at most 12, .*blocks\.0\.attn\.qkv.*; got 13"),
        ({"method": "lora", "lora.rank": 8.0}, r"lora\.rank must be of type int; got 8\.0"),
        ({"method": "lora", "lora.rank": True}, r"lora\.rank must be of type int"),
        ({"method": "lora", "lora.scale": 0.0}, r"lora\.scale must be positive; got 0\.0"),
        ({"method": "lora", "lora.dropout": 1.0}, r"lora\.dropout must be in \[0, 1\); got 1\.0"),
        ({"method": "lora", "lora.targets": "vq"}, r"lora\.targets must be one of qv, qkv, .*; got 'vq'"),
        ({"method": "lora", "lora.layers": "last-0"}, r'lora\.layers must be "all", "first-K" or "last-K", K >= 1; got \'last-0\''),
        ({"method": "lora", "lora.layers": "last-5"}, r"lora\.layers must be at most the backbone's 4 blocks; got 'last-5'"),
        ({"method": "lora", "lora.ranks": 4}, r"lora has no knob 'ranks'; its knobs are rank, .*; did you mean rank\?"),
        ({"method": "lora", "arc.rank": 4}, r"lora may not have knobs of arc; got arc\.rank"),
        ({"method": "lorra"}, r"method must be one of head_only, .*; got 'lorra'; did you mean lora"),
        ({}, r"method must be one of"),
        ({"method": "head_only", "head_only.rank": 1}, r"head_only has no knob 'rank'; its knobs are none"),
        ({"method": "serial_lora", "serial_lora.rank": 13}, r"serial_lora\.rank must be at most 12, .*; got 13"),
        ({"method": "serial_lora", "serial_lora.targets": "qv"}, r"serial_lora\.targets must be one of qkv, qkv_mlp; got 'qv'"),
        ({"method": "clora", "clora.rank": 13}, r"clora\.rank must be at most 12, .*; got 13"),
        ({"method": "clora", "clora.n_spaces": 0}, r"clora\.n_spaces must be at least 1; got 0"),
        ({"method": "clora", "clora.sade_weight": -1.0}, r"clora\.sade_weight must be at least 0; got -1\.0"),
        ({"method": "clora", "clora.insertion": "parallel"}, r"clora\.insertion must be one of serial, .*; got 'parallel'"),
        ({"method": "householder", "householder.extra_rank": 13}, r"householder\.extra_rank must be at most 12, .*; got 13"),
        ({"method": "householder", "householder.extra_rank": -1}, r"householder\.extra_rank must be at least 0; got -1"),
        ({"method": "householder", "householder.normalisation": "none"}, r"normalisation must be one of householder, literal"),
        ({"method": "snell", "snell.rank": 3}, r"snell\.rank must be a multiple of 2 for the kernel piecewise_linear; got 3"),
        ({"method": "snell", "snell.rank": 14}, r"snell\.rank must be at most 12, .*; got 14"),
        ({"method": "snell", "snell.sparsity": 1.0}, r"snell\.sparsity must be in \[0, 1\); got 1\.0"),
        ({"method": "snell", "snell.sparsity": 0.999}, r"snell\.sparsity must be low enough to leave one of the 144 entries"),
        ({"method": "snell", "snell.kernel": "rbf"}, r"snell\.kernel must be one of piecewise_linear, linear; got 'rbf'"),
        ({"method": "snell", "snell.sparsify": "soft"}, r"snell\.sparsify must be one of code_gate, paper_soft, mask; got 'soft'"),
        ({"method": "arc", "arc.rank": 13}, r"arc\.rank must be at most 12, .*; got 13"),
        ({"method": "arc", "arc.position": "mlp"}, r"arc\.position must be one of att, att_mlp; got 'mlp'"),
        ({"method": "arc", "arc.c_init": "ones"}, r"arc\.c_init must be one of released, zeros"),
        ({"method": "fact", "fact.rank": 13}, r"fact\.rank must be at most 12, .*; got 13"),
        ({"method": "fact", "fact.variant": "cp"}, r"fact\.variant must be one of tt, tk; got 'cp'"),
        ({"method": "adapter", "adapter.rank": 13}, r"adapter\.rank must be at most 12, .*blocks\.0.*; got 13"),
        ({"method": "adapter", "adapter.position": "mlp"}, r"adapter\.position must be one of ffn, attn_ffn, ffn_parallel; got"),
        ({"method": "adapter", "adapter.activation": "tanh"}, r"adapter\.activation must be one of gelu, relu; got 'tanh'"),
        ({"method": "adaptformer", "adaptformer.rank": 13}, r"adaptformer\.rank must be at most 12, .*; got 13"),
        ({"method": "adaptformer", "adaptformer.scale": 0.0}, r"adaptformer\.scale must be positive; got 0\.0"),
        ({"method": "randlora"}, r"randlora\.rank must be at most 12, .*blocks\.0\.attn\.qkv.*; got 32"),
        ({"method": "randlora", "randlora.alpha": 0.0}, r"randlora\.alpha must be positive; got 0\.0"),
        ({"method": "randlora", "randlora.targets": "o"}, r"randlora\.targets must be one of qv, fused_mlp, qkvo_mlp; got 'o'"),
        ({"method": "heart_lora", "heart_lora.rank": 13}, r"heart_lora\.rank must be at most 12, .*; got 13"),
        ({"method": "heart_lora", "heart_lora.active_head_ratio": 0.0}, r"active_head_ratio must be in \(0, 1\]; got 0\.0"),
        ({"method": "heart_lora", "heart_lora.warmup_epochs": 0}, r"heart_lora\.warmup_epochs must be at least 1; got 0"),
        ({"method": "heart_lora", "heart_lora.level": "head"}, r"heart_lora\.level must be one of global, layer; got 'head'"),
        ({"method": "heart_lora", "heart_lora.criterion": "square"}, r"heart_lora\.criterion must be one of abs, signed; got"),
        ({"method": "adapter_plus", "adapter_plus.rank": 13}, r"adapter_plus\.rank must be at most 12, .*blocks\.0.*; got 13"),
        ({"method": "adapter_plus", "adapter_plus.drop_path": 1.0}, r"adapter_plus\.drop_path must be in \[0, 1\); got 1\.0"),
        ({"method": "rep_adapter", "rep_adapter.rank": 3}, r"rep_adapter\.rank must be a positive multiple of 2; got 3"),
        ({"method": "rep_adapter", "rep_adapter.rank": 14}, r"rep_adapter\.rank must be at most 12, .*; got 14"),
        ({"method": "rep_adapter", "rep_adapter.position": "mlp"}, r"rep_adapter\.position must be one of att, att_mlp; got"),
        ({"method": "lily", "lily.rank": 7}, r"lily\.rank must be at most 6 for blocks\.0\.mlp on this backbone; lower it; got 7"),
        ({"method": "lily", "lily.n_experts": 0}, r"lily\.n_experts must be at least 1; got 0"),
        (
            {"method": "lily", "lily.rank": 2, "lily.n_downs": 5},
            r"lily\.n_downs must be at most 4, one for each adapted block of blocks,",
        ),
        ({"method": "convpass", "convpass.rank": 13}, r"convpass\.rank must be at most 12, .*; got 13"),
        ({"method": "convpass", "convpass.scale": 0.0}, r"convpass\.scale must be positive; got 0\.0"),
        ({"method": "convpass", "convpass.position": "mlp"}, r"convpass\.position must be one of attn_mlp, attn; got 'mlp'"),
        ({"method": "convpass", "convpass.kernel_init": "zeros"}, r"convpass\.kernel_init must be one of identity, xavier; got"),
        ({"method": "vpt", "vpt.length": 0}, r"vpt\.length must be at least 1; got 0"),
        ({"method": "vpt", "vpt.depth": "all"}, r"vpt\.depth must be one of shallow, deep; got 'all'"),
        ({"method": "vpt", "vpt.dropout": 1.0}, r"vpt\.dropout must be in \[0, 1\); got 1\.0"),
        ({"method": "lily", "lily.temperature": 0.0}, r"lily\.temperature must be positive"),
        ({"method": "lily", "lily.router": "token"}, r"lily\.router must be one of sample, batch, uniform"),
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


def test_a_whole_number_is_a_good_value_for_a_real_knob() -> None:
    assert method_of({"method": "lora", "lora.scale": 10}) == LoRA(scale=10.0)


def test_a_model_carries_one_adapter_at_a_time() -> None:
    model = adapted(TOKEN, LoRA(rank=2))
    with pytest.raises(ValueError, match="this one has lora; merge or remove it first"):
        adapt(model, ARC(rank=2))
    remove(model)
    adapt(model, ARC(rank=2))


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "vit_base_patch14_dinov2", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224"]
)
def test_plain_vision_transformers_of_other_recipes_are_adapted(name: str) -> None:
    model = create(name, device="meta")
    adapt(model, LoRA())
    assert [type(block.attn.qkv) for block in model.blocks] == [LoRALayer] * len(model.blocks)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("swinv2_tiny_window8_256", "got SwinTransformerV2: its attention reads `qkv.weight` itself"),
        ("swinv2_cr_tiny_224", "got SwinTransformerV2Cr: it may read the weights of its linears itself"),
        ("deit_tiny_distilled_patch16_224", "got VisionTransformerDistilled: it has two heads, and the methods train one"),
        ("resnet18", "got ResNet: it may read the weights of its linears itself"),
        (
            "vit_base_patch16_rpn_224",
            "the block of a supported VisionTransformer must be timm's plain Block; blocks.0 has ResPostBlock",
        ),
        (
            small_post_norm_eva.__name__,
            "the block of a supported Eva must be timm's plain EvaBlock; blocks.0 has EvaBlockPostNorm",
        ),
        (
            "vit_pe_core_tiny_patch16_384",
            "attention of a supported Eva must be timm's plain EvaAttention; blocks.0 has AttentionRope",
        ),
    ],
)
def test_every_other_backbone_is_refused_by_name_before_anything_is_counted_or_trained(name: str, reason: str) -> None:
    model = create(name, device="meta")
    with pytest.raises(ValueError, match=f"{reason}.*; choose a plain ViT"):
        adapt(model, LoRA())
    with pytest.raises(ValueError, match=reason):
        measure({"name": name}, {"kind": "none", "n_classes": 2})


@pytest.mark.slow
def test_adapters_need_neither_ray_nor_a_study() -> None:
    code = (
        "import sys, trainables; assert 'torch' not in sys.modules, 'import trainables imports torch'\n"
        "import timm\nfrom trainables.adapters import LoRA, adapt, merge\n"
        "model = timm.create_model('test_vit', num_classes=10); adapt(model, LoRA(rank=4)); merge(model)\n"
        "assert not {'ray', 'optuna', 'mlflow', 'search', 'spaces'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
