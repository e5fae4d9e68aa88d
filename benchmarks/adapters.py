"""What a training step of each method costs against the floor, and LoRA and Lily against Hugging Face PEFT.

The floor is the same frozen backbone on the same batch: forward, and backward through the activations down to the input of the
first block, without the gradient of any weight, without optimiser. A step of a method is forward, loss, backward and the
optimiser (AdamW), with the method's defaults on all blocks. All arms are built once and run in one process, in a new random order
in every round; a round gives each arm's time over the floor's of the same round. Beside it stands the arithmetic: floating-point
operations of the step over those of the floor's, counted by PyTorch (matrix products, convolutions and attention).

    python benchmarks/adapters.py [--rounds 30] [--depth 12] [--batch 64]

ViT-B/16 at 224 px: on a GPU 12 blocks, batch 64, bfloat16; elsewhere 4 blocks, batch 4, float32.

Writes results/adapters-<device>.md.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import platform
import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from trainables.adapters import METHODS, Lily, LoRA, Method, adapt, regulariser

RESULTS = Path(__file__).parent / "results"
FLOOR = "floor"
Step = Callable[[], None]


class Bench:
    """One backbone, one batch, and the steps on them."""

    def __init__(self, depth: int, batch: int, device: torch.device) -> None:
        torch.manual_seed(0)
        self.device, self.depth, self.batch = device, depth, batch
        self.backbone = VisionTransformer(depth=depth, num_classes=100).to(device).train()
        self.images = torch.randn(batch, 3, 224, 224, device=device)
        self.labels = torch.randint(0, 100, (batch,), device=device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 on a GPU, nothing elsewhere."""
        return torch.autocast("cuda", torch.bfloat16) if self.device.type == "cuda" else contextlib.nullcontext()

    def floor(self) -> Step:
        """Forward, and backward through activations only."""
        model = copy.deepcopy(self.backbone).requires_grad_(False)
        model.blocks[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].detach().requires_grad_(), *inputs[1:]))

        def step() -> None:
            with self.autocast():
                loss = F.cross_entropy(model(self.images), self.labels)
            loss.backward()

        return step

    def training(self, model: nn.Module) -> Step:
        """Forward, loss, backward, AdamW on what requires a gradient."""
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=1e-4, fused=self.device.type == "cuda")

        def step() -> None:
            with self.autocast():
                loss: Tensor = F.cross_entropy(model(self.images), self.labels)
                if (term := regulariser(model)) is not None:
                    loss = loss + term
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()

        return step

    def ours(self, method: Method) -> Step:
        """A method of ours on a copy of the backbone."""
        model = copy.deepcopy(self.backbone)
        adapt(model, method)
        return self.training(model.train())

    def peft(self, config: Any) -> Step:
        """A tuner of Hugging Face PEFT on a copy of the backbone, with a head that trains."""
        from peft import inject_adapter_in_model

        model = copy.deepcopy(self.backbone).requires_grad_(False)
        inject_adapter_in_model(config, model)
        model.head.requires_grad_(True)
        return self.training(model.train())


def rivals(bench: Bench) -> dict[str, tuple[Step, Step]]:
    """The same adapter by us and by PEFT."""
    from peft import LoraConfig

    pairs = {
        "LoRA r=8, fused qkv": (
            bench.ours(LoRA(rank=8, scale=1.0, targets="qkv_fused", dropout=0.0)),
            bench.peft(LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], lora_dropout=0.0)),
        ),
        "LoRA r=8, fused qkv, dropout 0.1": (
            bench.ours(LoRA(rank=8, scale=1.0, targets="qkv_fused", dropout=0.1)),
            bench.peft(LoraConfig(r=8, lora_alpha=8, target_modules=["qkv"], lora_dropout=0.1)),
        ),
        "LoRA r=8, all linears": (
            bench.ours(LoRA(rank=8, scale=1.0, targets="qkvo_mlp", dropout=0.0)),
            bench.peft(LoraConfig(r=8, lora_alpha=8, target_modules=["qkv", "attn.proj", "fc1", "fc2"], lora_dropout=0.0)),
        ),
    }
    with contextlib.suppress(ImportError):
        from peft import LilyConfig

        n = min(4, bench.depth)
        pairs[f"Lily r=16, {n} experts: ours on k, v and the MLP, PEFT's on qkv, fc1 and fc2"] = (
            bench.ours(Lily(rank=16, n_experts=n, n_downs=n)),
            bench.peft(LilyConfig(r=16, num_B=n, stride_A=bench.depth // n, target_modules=["qkv", "fc1", "fc2"])),
        )
    return pairs


def seconds(step: Step, device: torch.device) -> float:
    """Wall time of a step, the device's queue emptied before and after."""
    synchronise(device)
    begun = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - begun


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def flops(step: Step) -> int:
    """Floating-point operations of a step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def interval(values: list[float]) -> tuple[float, float, float]:
    """Median with a 95 % bootstrap interval."""
    rng = random.Random(0)  # noqa: S311 - a bootstrap
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(2000))
    return statistics.median(values), medians[50], medians[1949]


def rounds(arms: dict[str, Step], n: int, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds of every arm, in a new order each round; two rounds to warm up are not given."""
    order, rng = list(arms), random.Random(0)  # noqa: S311 - an order
    for i in range(n + 2):
        rng.shuffle(order)
        times = {name: seconds(arms[name], device) for name in order}
        if i >= 2:
            yield times
            print(f"round {i - 1} of {n}: floor {1000 * times[FLOOR]:.0f} ms", flush=True)


def main() -> None:
    """Runs all arms and writes the table."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=50 if cuda else 15)
    parser.add_argument("--depth", type=int, default=12 if cuda else 4)
    parser.add_argument("--batch", type=int, default=64 if cuda else 4)
    arguments = parser.parse_args()
    device = torch.device("cuda" if cuda else "cpu")
    bench = Bench(arguments.depth, arguments.batch, device)

    arms = {FLOOR: bench.floor()} | {name: bench.ours(kind()) for name, kind in METHODS.items()}
    pairs = rivals(bench)
    for name, (ours, theirs) in pairs.items():
        arms |= {f"ours: {name}": ours, f"PEFT: {name}": theirs}
    operations = {name: flops(step) for name, step in arms.items()}
    table = list(rounds(arms, arguments.rounds, device))

    where = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads ({platform.machine()})"
    lines = [
        f"# A training step of each method, {where}",
        "",
        f"ViT-B/16's width, {arguments.depth} blocks, 224 px, batch {arguments.batch}, "
        f"{'bfloat16 autocast' if cuda else 'float32'}, {arguments.rounds} interleaved rounds; median and 95 % bootstrap interval",
        "of the ratio of times within a round. Made by `python benchmarks/adapters.py`.",
        "",
        "| method, at its defaults | time over the floor's | operations over the floor's | time beyond the operations |",
        "|---|---:|---:|---:|",
    ]
    for name in METHODS:
        middle, low, high = interval([times[name] / times[FLOOR] for times in table])
        arithmetic = operations[name] / operations[FLOOR]
        lines.append(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {arithmetic:.2f} | {middle / arithmetic:.2f} |")
    lines += ["", "| the same adapter by us and by PEFT | our time over PEFT's | our operations over PEFT's |", "|---|---:|---:|"]
    for name in pairs:
        middle, low, high = interval([times[f"ours: {name}"] / times[f"PEFT: {name}"] for times in table])
        arithmetic = operations[f"ours: {name}"] / operations[f"PEFT: {name}"]
        lines.append(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | {arithmetic:.2f} |")
    text = "\n".join(lines) + "\n"
    (RESULTS / f"adapters-{device.type}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
