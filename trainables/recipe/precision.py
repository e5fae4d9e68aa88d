"""The choice between float32 and bfloat16 for a study, made once by timing both.

Trainable parameters, optimiser and checkpoint are always float32; `trainables.recipe.step.logits` lists what bfloat16 applies to.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from trainables import backbones
from trainables.adapters import LoRA, adapt, trainable_parameters
from trainables.recipe.recipe import Recipe, optimiser
from trainables.recipe.step import backward

SPEEDUP: Final = 1.15  # least ratio of step times at which bfloat16 is chosen
LOSS_TOLERANCE: Final = 0.02  # largest relative difference of the two losses on one batch
N_CLASSES: Final = 10
BATCH_PIXELS: Final = 2**16  # approximate pixels of a probed batch: 32 images of 32 x 32, one of 224 x 224
MAX_IMAGES: Final = 32
SMALL_WITHOUT_AMX: Final = (
    4_000_000  # parameters; on smaller backbones AVX-512's bfloat16 gains too little (1.1 times) for a probe at each start
)
MIN_PAIRS: Final = 3
MAX_PAIRS: Final = 9
SECONDS: Final = 0.6  # no further pair starts after this time


def explicit_attention(model: nn.Module) -> list[nn.Module]:
    """Make every attention module compute its softmax explicitly; return the changed modules for `fused_attention`.

    On a CPU the backward pass of torch's fused attention takes a third to a half of a bfloat16 step.
    """
    changed = [module for module in model.modules() if getattr(module, "fused_attn", False) is True]
    for module in changed:
        module.fused_attn = False  # type: ignore[assignment]
    return changed


def fused_attention(modules: Iterable[nn.Module]) -> None:
    """Undo `explicit_attention`."""
    for module in modules:
        module.fused_attn = True  # type: ignore[assignment]


def without_trying(device: torch.device, backbone_params: int) -> str | None:
    """Return why bfloat16 cannot be faster, or None if only a probe can tell. Takes no time."""
    if device.type == "cuda":
        return None if torch.cuda.is_bf16_supported(including_emulation=False) else "the GPU has no bfloat16 units"
    if device.type == "cpu":
        if torch.cpu._is_amx_tile_supported():
            return None
        if not torch.cpu._is_avx512_bf16_supported():
            return "the CPU has no bfloat16 units"
        small = backbone_params < SMALL_WITHOUT_AMX
        return f"the backbone has fewer than {SMALL_WITHOUT_AMX:,} parameters and the CPU has no AMX" if small else None
    return f"bfloat16 is not probed on {device.type}"


def probe(backbone: Mapping[str, Any], *, backbone_params: int, n_threads: int, gpu: bool) -> dict[str, Any]:
    """Choose the precision of a study's trials on this machine.

    Args:
        backbone: Mapping with `name`, `weights` and `img_size`, as for `trainables.make`.
        backbone_params: Number of parameters of the backbone.
        n_threads: Number of threads of a trial.
        gpu: True if trials have a GPU.

    Returns:
        `chosen` ("float32" or "bfloat16") and `why`; if both were timed also `speedup` (median over pairs of steps) and
        `loss_difference` (relative).
    """
    device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")
    if (reason := without_trying(device, backbone_params)) is not None:
        return {"chosen": "float32", "why": reason}
    threads = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        model = backbones.create(backbone["name"], backbone.get("weights"), backbone.get("img_size"), device)
        return try_both(model, device)
    finally:
        torch.set_num_threads(threads)


def try_both(model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Train LoRA for a few steps on noise, alternating between the two precisions; see `probe`. The model is modified."""
    wanted = backbones.preprocessing(model)
    height, width = wanted.size
    n_images = min(MAX_IMAGES, max(1, BATCH_PIXELS // (height * width)))
    generator = torch.Generator().manual_seed(0)
    backbones.set_head(model, N_CLASSES, generator)
    adapt(model, LoRA(), generator=generator)
    images = torch.randn(n_images, wanted.channels, height, width, generator=generator).to(device)
    labels = torch.randint(N_CLASSES, (n_images,), generator=generator).to(device)
    model.train()
    first = {name: _step(model, images, labels, name)[0] for name in ("float32", "bfloat16")}  # also warms up
    difference = abs(first["bfloat16"] - first["float32"]) / abs(first["float32"])
    adamw = optimiser([parameter for _, parameter in trainable_parameters(model)], Recipe())
    ratios: list[float] = []
    begun = time.perf_counter()
    while len(ratios) < MIN_PAIRS or (len(ratios) < MAX_PAIRS and time.perf_counter() - begun < SECONDS):
        order = ("float32", "bfloat16") if len(ratios) % 2 == 0 else ("bfloat16", "float32")
        seconds = {name: _step(model, images, labels, name, adamw)[1] for name in order}
        ratios.append(seconds["float32"] / seconds["bfloat16"])
    return choice(statistics.median(ratios), difference)


def choice(speedup: float, difference: float) -> dict[str, Any]:
    """Decide from two measurements: bfloat16 if it is clearly faster and its loss agrees with that of float32.

    Args:
        speedup: Seconds of a step in float32 divided by those in bfloat16.
        difference: Relative difference of the losses on one batch; may be NaN.
    """
    found = {"speedup": round(speedup, 3)}
    if not math.isfinite(difference):
        return {"chosen": "float32", "why": "the loss is not finite in bfloat16", **found}
    found["loss_difference"] = float(f"{difference:.2g}")
    if difference > LOSS_TOLERANCE:
        return {"chosen": "float32", "why": f"in bfloat16 the loss differs by {difference:.1%}", **found}
    chosen = "bfloat16" if speedup >= SPEEDUP else "float32"
    return {"chosen": chosen, "why": f"a step in bfloat16 is {speedup:.2f} times as fast", **found}


def _step(
    model: nn.Module, images: Tensor, labels: Tensor, precision: str, adamw: torch.optim.Optimizer | None = None
) -> tuple[float, float]:
    """Run one step and return its loss and its seconds. Without an optimiser the weights do not change.

    A step in one thread of a CPU counts by the processor time of that thread: on a busy machine a step waits, and by the clock the
    slower precision may seem the faster one.
    """
    on_one_core = images.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.thread_time if on_one_core else time.perf_counter
    explicit = explicit_attention(model) if precision == "bfloat16" and images.device.type == "cpu" else []
    begun = clock()
    loss = backward(model, [(images, labels)], len(images), Recipe(precision=precision)).item()
    if adamw is not None:
        adamw.step()
    model.zero_grad()
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = clock() - begun
    fused_attention(explicit)
    return loss, seconds
