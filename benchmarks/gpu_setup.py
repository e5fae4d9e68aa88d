"""What the sections of benchmarks/gpu.py share: the device, its models, and the timing of arms that run in turns."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer

from benchmarks.adapters import Bench

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


def one_line(text: object) -> str:
    """A text in one line of at most 300 characters."""
    return " ".join(str(text).split())[:300]


def device_name(device: torch.device) -> str:
    """The name of a device, as files and pages give it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
