"""What a training step of each method costs against the floor, and LoRA and Lily against Hugging Face PEFT.

The floor is the same frozen backbone on the same batch: forward, and backward through the activations down to the input of the
first block, without the gradient of any weight, without optimiser. A step of a method is forward, loss, backward and the
optimiser (AdamW), with the method's defaults on all blocks. All arms are built once, on the same frozen tensors, and run in one
process, in a new random order in every round; a round gives each arm's time over the floor's of the same round. The floor runs
twice in a round: the second against the first shows what noise is. Beside the times stands the arithmetic: floating-point
operations of the step over those of the floor's, counted by PyTorch (matrix products, convolutions and attention).

    python benchmarks/adapters.py [--minutes 8] [--depth 12] [--batch 64] [--only lora lily] [--to FOLDER]

ViT-B/16 at 224 px: on a GPU 12 blocks, batch 64, bfloat16; elsewhere 2 blocks, batch 4, float32 (`--bfloat16` for the other).

Writes adapters-cpu.md, or on a GPU adapters-<its name>.md, to benchmarks/results.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import itertools
import platform
import random
import re
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
FLOOR, AGAIN, OURS, THEIRS = "floor", "floor, again", "ours: ", "PEFT: "
AIMED = ("lora", "serial_lora", "arc", "clora")
AIMS = {"cpu": 1.25, "cuda": 1.15}  # of the time over the floor's, for these methods
LEFT = """\
What is left beyond the operations, by the profiler and the code: SNELL makes distances, square
roots, threshold and gate of every entry of every adapted weight, and again in the backward pass
instead of keeping them; Householder passes over inputs and outputs once more for dropout and
diagonal; FacT and Lily add a term as wide as the output of each linear or MLP that they adapt;
SSF passes over the output of each linear and norm once more, and twice in the backward pass; full
fine-tuning steps AdamW over every weight.
"""
Step = Callable[[], None]


class Bench:
    """One backbone, one batch, and the steps on them."""

    def __init__(self, depth: int, batch: int, device: torch.device, *, half: bool) -> None:
        torch.manual_seed(0)
        self.device, self.depth, self.half = device, depth, half
        self.backbone = VisionTransformer(depth=depth, num_classes=100).to(device).train()
        self.images = torch.randn(batch, 3, 224, 224, device=device)
        self.labels = torch.randint(0, 100, (batch,), device=device)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16, where it is asked for."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.half else contextlib.nullcontext()

    def frozen(self) -> VisionTransformer:
        """The backbone again: the same frozen tensors, a head of its own."""
        in_head = {id(parameter) for parameter in self.backbone.head.parameters()}
        shared = {id(parameter): parameter for parameter in self.backbone.parameters() if id(parameter) not in in_head}
        return copy.deepcopy(self.backbone, shared).requires_grad_(False)

    def floor(self) -> Step:
        """Forward, and backward through activations only."""
        model = self.frozen()
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
        """A method of ours; one that trains the backbone itself has a copy."""
        model = copy.deepcopy(self.backbone) if method.own_parameters(self.backbone) else self.frozen()
        adapt(model, method)
        return self.training(model.train())

    def peft(self, config: Any) -> Step:
        """A tuner of Hugging Face PEFT, with a head that trains."""
        from peft import inject_adapter_in_model

        model = self.frozen()
        inject_adapter_in_model(config, model)
        model.head.requires_grad_(True)
        return self.training(model.train())


def rivals(bench: Bench) -> dict[str, tuple[Step, Step]]:
    """The same LoRA by us and by PEFT, and Lily beside PEFT's, whose gate is of the batch and which adapts whole linears."""
    from peft import LilyConfig, LoraConfig

    n = min(4, bench.depth)
    stride = bench.depth // n
    return {
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
        f"Lily r=16, {n} experts: ours on k and v, PEFT's on the fused qkv": (
            bench.ours(Lily(rank=16, n_experts=n, n_downs=n, targets="kv")),
            bench.peft(LilyConfig(r=16, num_B=n, stride_A=stride, target_modules=["qkv"])),
        ),
        f"Lily r=16, {n} experts: ours on k, v and beside the MLP, PEFT's on qkv, fc1 and fc2": (
            bench.ours(Lily(rank=16, n_experts=n, n_downs=n)),
            bench.peft(LilyConfig(r=16, num_B=n, stride_A=stride, target_modules=["qkv", "fc1", "fc2"])),
        ),
    }


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


def rounds(arms: dict[str, Step], minutes: float, device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds of every arm, in a new order each round, for so long; a first round to warm up is not given."""
    order, rng, until = list(arms), random.Random(0), time.monotonic() + 60 * minutes  # noqa: S311 - an order
    for i in itertools.count():
        rng.shuffle(order)
        times = {name: seconds(arms[name], device) for name in order}
        if i:
            yield times
            print(f"round {i}: floor {1000 * times[FLOOR]:.0f} ms", flush=True)
        if i and time.monotonic() > until:
            return


def report(bench: Bench, title: str, table: list[dict[str, float]], operations: dict[str, int]) -> str:
    """The Markdown page."""
    aim = AIMS[bench.device.type]

    def ratio(arm: str, of: str) -> tuple[str, float, float]:
        middle, low, high = interval([times[arm] / times[of] for times in table])
        return f"{middle:.2f} ({low:.2f} to {high:.2f})", middle, operations[arm] / operations[of]

    lines = [
        f"# A training step of each method, {title}",
        "",
        f"ViT-B/16's width, {bench.depth} blocks, 224 px, batch {len(bench.images)}, "
        f"{'bfloat16 autocast' if bench.half else 'float32'}, {len(table)} interleaved rounds; median and 95 % bootstrap interval",
        "of the ratio of times within a round. Made by `python benchmarks/adapters.py`.",
        "",
        f"The floor takes {1000 * statistics.median(times[FLOOR] for times in table):.0f} ms; measured twice in each round, its "
        f"second time over its first is {ratio(AGAIN, FLOOR)[0]}.",
        "",
        f"| method, at its defaults | time over the floor's | operations over the floor's | time over operations | at most {aim} |",
        "|---|---:|---:|---:|---|",
    ]
    for name in (name for name in METHODS if name in operations):
        shown, middle, arithmetic = ratio(name, FLOOR)
        verdict = ("yes" if middle <= aim else "no") if name in AIMED else "-"
        lines.append(f"| {name} | {shown} | {arithmetic:.2f} | {middle / arithmetic:.2f} | {verdict} |")
    lines += ["", "| by us and by PEFT | our time over PEFT's | our operations over PEFT's |", "|---|---:|---:|"]
    for ours in (name for name in operations if name.startswith(OURS)):
        pair = ours.removeprefix(OURS)
        shown, _, arithmetic = ratio(ours, THEIRS + pair)
        lines.append(f"| {pair} | {shown} | {arithmetic:.2f} |")
    return "\n".join(lines) + "\n\n" + LEFT


def main() -> None:
    """Runs all arms and writes the page."""
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=8, help="of rounds, beside some for building and counting")
    parser.add_argument("--depth", type=int, default=12 if cuda else 2)
    parser.add_argument("--batch", type=int, default=64 if cuda else 4)
    parser.add_argument("--bfloat16", action=argparse.BooleanOptionalAction, default=cuda)
    parser.add_argument("--only", nargs="+", default=list(METHODS), choices=METHODS, help="these methods, and no rivals")
    parser.add_argument("--to", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = torch.device("cuda" if cuda else "cpu")
    bench = Bench(arguments.depth, arguments.batch, device, half=arguments.bfloat16)

    arms = {FLOOR: bench.floor(), AGAIN: bench.floor()} | {name: bench.ours(METHODS[name]()) for name in arguments.only}
    if len(arguments.only) == len(METHODS):
        for name, (ours, theirs) in rivals(bench).items():
            arms |= {OURS + name: ours, THEIRS + name: theirs}
    operations = {name: flops(step) for name, step in arms.items()}
    table = list(rounds(arms, arguments.minutes, device))

    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads ({platform.machine()})"
    file = re.sub(r"\W+", "-", name.lower()) if cuda else "cpu"
    text = report(bench, f"{name}, torch {torch.__version__}", table, operations)
    (arguments.to / f"adapters-{file}.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
