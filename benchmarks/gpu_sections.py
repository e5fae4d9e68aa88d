"""The sections of benchmarks/gpu.py: each compares arms on one device and returns rows of a table."""

from __future__ import annotations

import copy
import multiprocessing
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
from benchmarks.gpu_setup import NotRun, Rows, Setup, Step, device_name, in_turns, one_line, ratio, seconds
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


def equality(setup: Setup) -> Rows:
    """Logits and gradients of every method against the CPU's, in eval mode and away from their initial values."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: Rows = []
    tiny = setup.tiny()  # once: another thread may draw from the same generator
    for name, method in METHODS.items():
        if setup.left < 0:
            rows.append({"method": name, "equal": None, "why": "no time was left"})
            continue
        try:
            here, there = (_logits_and_gradients(tiny, method(), device) for device in (torch.device("cpu"), setup.device))
            error = largest_difference(here, there)
            rows.append({"method": name, "equal": error < TOLERANCE, "largest difference": error})
        except (RuntimeError, ValueError) as failed:
            rows.append({"method": name, "equal": False, "why": one_line(failed)})
    return rows


def _logits_and_gradients(tiny: nn.Module, method: Method, device: torch.device) -> dict[str, Tensor]:
    model = copy.deepcopy(tiny)
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
            model.forward_features = torch.compile(model.forward_features, backend=backend, dynamic=False)  # type: ignore[method-assign]
            step = bench.training(model)
            begun = time.perf_counter()
            seconds(step, setup.device, 1)
            words = "kept" if kept else "forgotten after each trial"
            rows.append({"arm": f"first step, code {words}: trial {trial}", "seconds": time.perf_counter() - begun})
    taken = in_turns({"eager, stored": steps["stored in bfloat16"], f"compiled ({backend}), stored": step}, setup, 0.8)
    rows += _against(taken, "eager, stored", len(bench.images))
    if setup.device.type == "cuda":
        model = _stored(_lora(bench))
        model.forward_features = torch.compile(model.forward_features, mode="reduce-overhead", dynamic=False)  # type: ignore[method-assign]
        taken = in_turns({"compiled, stored": step, "CUDA graphs, stored": bench.training(model)}, setup)
        rows += _against(taken, "compiled, stored", len(bench.images))
    else:
        rows.append({"arm": "CUDA graphs", "why": "not run: they need a GPU"})
    torch.compiler.reset()
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
    return rows


def shares(setup: Setup) -> Rows:
    """Trials of LoRA at a time in one device, each in a process with its share of the memory, against one after the other."""
    rows: Rows = []
    alone = 0.0
    for n in (1, 2) if setup.small else (1, 2, 4):
        if setup.left < 0:
            raise NotRun("no time was left for more trials at a time", rows)
        rates = _at_once(n, setup)
        alone = alone or sum(rates)
        rows.append({"trials at a time": n, "images/s, all together": sum(rates), "times one after the other": sum(rates) / alone})
    return rows


def _at_once(n: int, setup: Setup) -> list[float]:
    """The images per second of n processes that train at the same time."""
    context = multiprocessing.get_context("spawn")  # a GPU cannot be shared with a forked process
    together, found = context.Barrier(n), context.SimpleQueue()
    workers = [context.Process(target=_train_a_share, args=(n, setup.device, setup.small, together, found)) for _ in range(n)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(max(60.0, setup.left))
        if worker.exitcode != 0:
            raise RuntimeError(f"a trial of {n} at a time ended with exit code {worker.exitcode}")
    return [found.get() for _ in workers]


def _train_a_share(n: int, device: torch.device, small: bool, together: Any, found: Any) -> None:
    """Train in a process of its own for a while, together with the others, and tell the images per second."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(1.0 / n)
    bench = Setup(device, small, 0.0).bench(half=device.type == "cuda")
    step, n_steps = bench.ours(LORA), 2 if small else 30
    seconds(step, device, n_steps)  # warms up
    together.wait(60.0)
    found.put(len(bench.images) / seconds(step, device, n_steps))


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


SECTIONS: dict[str, tuple[Callable[[Setup], Rows], float]] = {  # with seconds, without imports; 345 together
    "equality": (equality, 40.0),
    "speed": (speed, 60.0),
    "trunk": (trunk, 110.0),
    "prefix": (prefix, 30.0),
    "memory": (memory, 30.0),
    "shares": (shares, 35.0),
    "trial": (trial, 40.0),
}
