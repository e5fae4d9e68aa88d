"""The sections of benchmarks/gpu.py: each compares arms on one device and returns rows of a table."""

from __future__ import annotations

import copy
import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.adapters import Bench
from benchmarks.prefix import measure as measure_prefix
from trainables import make, measure
from trainables.adapters import ARC, METHODS, CLoRA, Lily, LoRA, Method, adapt, trainable_parameters
from trainables.costs.memory import forget_peak, peak_bytes
from trainables.costs.work import step_work
from trainables.recipe.recipe import Recipe

DENSE_BFLOAT16 = {"H100": 989e12, "H200": 989e12}  # operations per second, by a part of the device's name
TOLERANCE = 2e-3  # of the largest value: float32 without TF32 on both sides
IMAGES_MUST, IMAGES_STRETCH, OVER_PEFT_MUST, TRIAL_STRETCH = 4_000.0, 6_900.0, 2.5, 15.0
LORA = LoRA(rank=8, scale=1.0, targets="qkv_fused", dropout=0.0)  # the form that PEFT has too
Rows = list[dict[str, Any]]
Step = Callable[[], object]


class NotRun(Exception):
    """The reason why a section, or the rest of one, was not run; with the rows that it has."""

    def __init__(self, why: str, rows: Rows) -> None:
        super().__init__(why)
        self.rows = rows


@dataclasses.dataclass(frozen=True)
class Setup:
    """The device, the size of what runs, and the end of the section's time."""

    device: torch.device
    small: bool
    until: float

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.until - time.monotonic()

    def bench(self, *, half: bool) -> Bench:
        """A frozen ViT-B/16 at 224 px and a batch of 64; in the small form a tiny one and two images."""
        if not self.small:
            return Bench(12, 64, self.device, half=half)
        bench = Bench(1, 2, self.device, half=half)
        bench.backbone = VisionTransformer(img_size=32, patch_size=8, depth=1, embed_dim=66, num_heads=3, num_classes=100)
        bench.backbone.to(self.device).train()
        bench.images = torch.randn(2, 3, 32, 32, device=self.device)
        return bench

    def tiny(self) -> VisionTransformer:
        """A ViT whose gradients are compared; its values are the same on every device."""
        torch.manual_seed(0)
        depth, width = (1, 66) if self.small else (4, 192)
        return VisionTransformer(img_size=32, patch_size=8, depth=depth, embed_dim=width, num_heads=3, num_classes=10)


# -- timing ------------------------------------------------------------------------------------------------------------------------


def seconds(step: Step, device: torch.device, n: int) -> float:
    """The seconds of one of n steps, by CUDA events on a GPU."""
    if device.type != "cuda":
        begun = time.perf_counter()
        for _ in range(n):
            step()
        return (time.perf_counter() - begun) / n
    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()
    for _ in range(n):
        step()
    last.record()
    torch.cuda.synchronize(device)
    return float(first.elapsed_time(last)) / 1e3 / n


def in_turns(arms: Mapping[str, Step], setup: Setup, share: float = 1.0) -> dict[str, list[float]]:
    """The seconds of a step of each arm, round by round, until that share of the time that is left is over."""
    n, until = (1 if setup.small else 5), time.monotonic() + share * setup.left
    for step in arms.values():
        for _ in range(1 if setup.small else 3):
            step()
    found: dict[str, list[float]] = {name: [] for name in arms}
    while len(next(iter(found.values()))) < (2 if setup.small else 12):
        if time.monotonic() > until and all(found.values()):
            break
        for name, step in arms.items():
            found[name].append(seconds(step, setup.device, n))
    return found


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """How many times as fast: the median over the rounds."""
    return statistics.median(one / other for one, other in zip(slow, fast, strict=True))


# -- sections ----------------------------------------------------------------------------------------------------------------------


def equality(setup: Setup) -> Rows:
    """Logits and gradients of every method against the CPU's, in eval mode and away from their initial values."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: Rows = []
    for name, method in METHODS.items():
        if setup.left < 0:
            rows.append({"method": name, "equal": None, "why": "no time was left"})
            continue
        try:
            here, there = (_logits_and_gradients(setup, method(), device) for device in (torch.device("cpu"), setup.device))
            error = largest_difference(here, there)
            rows.append({"method": name, "equal": error < TOLERANCE, "largest difference": error})
        except (RuntimeError, ValueError) as failed:
            rows.append({"method": name, "equal": False, "why": one_line(failed)})
    return rows


def _logits_and_gradients(setup: Setup, method: Method, device: torch.device) -> dict[str, Tensor]:
    model = setup.tiny()
    adapt(model, method, generator=torch.Generator().manual_seed(0))
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=rng))
    images, labels = torch.randn(4, 3, 32, 32, generator=rng).to(device), torch.arange(4, device=device)
    model = model.to(device).eval()
    found = model(images)
    F.cross_entropy(found, labels).backward()
    gradients = {name: p.grad.cpu() for name, p in trainable_parameters(model) if p.grad is not None}
    return {"logits": found.detach().cpu(), **gradients}


def largest_difference(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> float:
    """The largest difference of two tensors of one name, in units of its largest value; infinite if one is missing."""
    if here.keys() != there.keys():
        return float("inf")
    floor = 1e-6  # a gradient that is zero but for rounding
    return max(float((here[key] - there[key]).abs().max() / here[key].abs().max().clamp_min(floor)) for key in here)


def speed(setup: Setup) -> Rows:
    """Training steps in the study's way (autocast to bfloat16 on a GPU), the frozen floor, and PEFT's eager LoRA."""
    bench = setup.bench(half=setup.device.type == "cuda")
    batch = len(bench.images)
    methods = {"lora": LORA, "arc": ARC(), "lily": Lily(), "clora": CLoRA()}
    arms: dict[str, Step] = {"floor": bench.floor(), **{name: bench.ours(method) for name, method in methods.items()}}
    try:
        from peft import LoraConfig

        arms["peft lora, eager"] = bench.peft(LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], lora_dropout=0.0))
    except ImportError:
        pass
    found = in_turns(arms, setup)
    peak = next((value for part, value in DENSE_BFLOAT16.items() if part in device_name(setup.device)), None)
    rows: Rows = []
    for name, taken in found.items():
        row: dict[str, Any] = {
            "arm": name,
            "images/s": batch / statistics.median(taken),
            "floor's time": ratio(taken, found["floor"]),
        }
        if name in methods:
            operations = _operations(bench, methods[name])
            row["GFLOP per image"] = operations / batch / 1e9
            row["MFU"] = None if peak is None else operations / statistics.median(taken) / peak
        rows.append(row)
    of_lora = batch / statistics.median(found["lora"])
    rows.append({"arm": f"lora reaches {IMAGES_MUST:,.0f} images/s", "met": of_lora >= IMAGES_MUST})
    rows.append({"arm": f"lora reaches {IMAGES_STRETCH:,.0f} images/s (stretch)", "met": of_lora >= IMAGES_STRETCH})
    if "peft lora, eager" in found:
        times = ratio(found["peft lora, eager"], found["lora"])
        rows.append({"arm": f"lora is {OVER_PEFT_MUST} times as fast as PEFT", "times": times, "met": times >= OVER_PEFT_MUST})
    else:
        rows.append({"arm": "PEFT", "why": "not run: peft is not installed"})
    return rows


def _operations(bench: Bench, method: Method) -> float:
    model = copy.deepcopy(bench.backbone).requires_grad_(False).to("meta")
    adapt(model, method)
    return step_work(model, len(bench.images), Recipe(drop_path=0.0)).operations


def trunk(setup: Setup) -> Rows:
    """LoRA's step as it is, with the trunk stored in bfloat16, and compiled; and what a second trial of one structure pays."""
    bench = setup.bench(half=True)
    plain, stored = (_lora(bench) for _ in range(2))
    store_in_bfloat16(stored)
    steps: dict[str, Step] = {"cast in every step": bench.training(plain), "stored in bfloat16": bench.training(stored)}
    taken = in_turns(steps, setup, 0.2)
    with torch.no_grad(), torch.autocast(setup.device.type, torch.bfloat16):
        difference = float((_lora(bench)(bench.images) - _stored(_lora(bench))(bench.images)).abs().max())
    rows: Rows = _against(taken, "cast in every step", len(bench.images))
    rows.append({"arm": "stored in bfloat16: largest difference of a logit", "value": difference})
    backend = "inductor" if setup.device.type == "cuda" else "eager"  # the latter needs no compiler
    for kept in (False, True):
        torch.compiler.reset()
        for trial in (1, 2):
            if setup.left < 0:
                raise NotRun("no time was left for compiled steps", rows)
            if not kept:
                torch.compiler.reset()
            model = _stored(_lora(bench))
            model.forward_features = torch.compile(model.forward_features, backend=backend)  # type: ignore[method-assign]
            step = bench.training(model)
            begun = time.perf_counter()
            seconds(step, setup.device, 1)
            words = "kept" if kept else "reset after each trial, as today"
            rows.append({"arm": f"first step, code {words}: trial {trial}", "seconds": time.perf_counter() - begun})
    taken = in_turns({"eager, stored": steps["stored in bfloat16"], f"compiled ({backend}), stored": step}, setup, 0.8)
    rows += _against(taken, "eager, stored", len(bench.images))
    torch.compiler.reset()
    rows.append({"arm": "CUDA graphs", "why": "not run: not written yet"})
    return rows


def _lora(bench: Bench) -> VisionTransformer:
    model = bench.frozen().train()
    adapt(model, LORA, generator=torch.Generator().manual_seed(0))
    return model


def _stored(model: VisionTransformer) -> VisionTransformer:
    store_in_bfloat16(model)
    return model


def store_in_bfloat16(model: nn.Module) -> None:
    """Store the frozen weights of linear layers and convolutions as autocast would cast them in every step."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            for name, parameter in list(module.named_parameters(recurse=False)):
                if not parameter.requires_grad:
                    setattr(module, name, nn.Parameter(parameter.to(torch.bfloat16), requires_grad=False))


def _against(taken: Mapping[str, Sequence[float]], first: str, batch: int) -> Rows:
    return [
        {"arm": name, "images/s": batch / statistics.median(found), f"times {first}": ratio(taken[first], found)}
        for name, found in taken.items()
    ]


def prefix(setup: Setup) -> Rows:
    """The training part of epochs with and without the tokens in front of the adapter, on the packaged digits."""
    backbone = {"name": "vit_glyphs"} if setup.small else {"name": "vit_base_patch16_224", "weights": "random"}
    rows: Rows = []
    for pair in measure_prefix(backbone, epochs=1 if setup.small else 3, threads=1, device=str(setup.device)):
        rows.append({"adapted": pair.case, "kept, times as fast": pair.speedup, "seconds of the first epoch": pair.first})
        if setup.left < 0:
            raise NotRun("no time was left for more choices of blocks", rows)
    return rows


def memory(setup: Setup) -> Rows:
    """The peak memory of two steps against the computed one; on a CPU that of the whole process."""
    name, batch = ("vit_glyphs", 2) if setup.small else ("vit_base_patch16_224", 64)
    sizes = measure({"name": name}, {"kind": "none", "n_classes": 100})
    rows: Rows = []
    for method in ("head_only", "lora", "full") if setup.small else ("head_only", "lora", "lily", "snell", "full"):
        if setup.left < 0:
            raise NotRun("no time was left for more methods", rows)
        forget_peak(setup.device)
        model = timm.create_model(name, num_classes=100).to(setup.device).train()
        adapt(model, METHODS[method]())
        trained = [parameter for _, parameter in trainable_parameters(model)]
        optimiser = torch.optim.AdamW(trained, lr=1e-4)
        images = torch.randn(batch, model.patch_embed.proj.in_channels, *model.patch_embed.img_size, device=setup.device)
        for _ in range(2):
            F.cross_entropy(model(images), torch.zeros(batch, dtype=torch.long, device=setup.device)).backward()
            optimiser.step()
            optimiser.zero_grad()
        measured, computed = peak_bytes(setup.device), sizes.training_bytes({"method": method}, batch)
        rows.append({"method": method, "measured GiB": measured / 2**30, "computed GiB": computed / 2**30})
        rows[-1]["computed / measured"] = computed / measured
        del model, optimiser, trained
    rows.append({"method": "two and four trials in one GPU by shares", "why": "not run: not written yet"})
    return rows


def trial(setup: Setup) -> Rows:
    """LoRA on ViT-B/16 as a worker trains it: 800 digits to train, 200 to validate, batch 64; 100 epochs."""
    name, epochs = ("vit_glyphs", 2) if setup.small else ("vit_base_patch16_224", 100)
    backbone = {"name": name, "weights": None if setup.small else "random"}
    precision = "bfloat16" if setup.device.type == "cuda" else "float32"
    recipe = {"device": str(setup.device), "precision": precision, "n_threads": 1}
    worker: Any = make(backbone, {"kind": "digits"}, recipe)
    worker._splits = {"train": worker._splits["validation"], "validation": worker._splits["train"]}
    begun, done = time.perf_counter(), 0
    worker.start({"method": "lora", "optim.batch_size": 64}, seed=0, epochs=epochs, folder=None)
    while done < epochs and (setup.left > 0 or done < 1):
        worker.step()
        done += 1
    taken = time.perf_counter() - begun
    worker.finish()
    whole = taken * epochs / done
    row = {"trial": f"lora, {name}, 1,000 images", "epochs": done, "seconds": taken, "seconds of a whole trial": whole}
    return [row | {f"met: {TRIAL_STRETCH:.0f} s (stretch)": whole <= TRIAL_STRETCH and not setup.small}]


def one_line(text: object) -> str:
    """A text in one line of at most 300 characters."""
    return " ".join(str(text).split())[:300]


def device_name(device: torch.device) -> str:
    """The name of a device, as files and pages give it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


SECTIONS: dict[str, tuple[Callable[[Setup], Rows], float]] = {  # with seconds, without imports; 330 together
    "equality": (equality, 50.0),
    "speed": (speed, 60.0),
    "trunk": (trunk, 110.0),
    "prefix": (prefix, 30.0),
    "memory": (memory, 40.0),
    "trial": (trial, 40.0),
}
