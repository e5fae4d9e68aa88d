"""How long one ask of a sampler takes, and how large a study can be simulated: `python benchmarks/simulator.py asks` or `studies`.

asks     The sampler alone, on all methods: draws after 1,000 and 10,000 trials that were told (a third of them to the end);
         `auto, measured` weighs accuracy against a latency that only trials tell.
studies  Whole studies on imaginary workers (a member of the family `valley`, 30 epochs, rungs): 100,000 trials of `random` on 1,000
         workers, 10,000 of `auto` on 100. Each in a process of its own, whose largest memory is reported.

Both print a table and put it into results/ (Markdown).
"""

from __future__ import annotations

import argparse
import json
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the matrix products: an ask is too small for more

import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.pop(0)  # this file's own folder, where `search` would be benchmarks/search.py

import spaces
from search import pareto
from search.backends import simulated
from search.config.loading import check
from search.samplers.base import NewConfig, Result, SamplerContext
from search.samplers.random_sampler import draw_uniformly
from search.samplers.sampler import SeededSampler
from trainables.simulated.surfaces import Surface, SurfaceTrainable

RESULTS = Path(__file__).parent / "results"
METHODS = [method for method in spaces.SPACES if method not in ("head_only", "layer_norm", "bitfit", "full")]
N_TIMED = 30
LIMITS_MS = {1_000: 20, 10_000: 50}
STUDIES = {"random": (100_000, 1_000), "auto": (10_000, 100)}  # sampler: trials, workers


def asks(kind: str, n_trials: int) -> list[tuple[float, float]]:
    """Milliseconds (of a clock, of a core) of some draws after so many trials; what is drawn is told too, so that each has news."""
    space, surface, by = spaces.joint(METHODS), Surface("valley", 0), random.Random(0)  # noqa: S311
    kind, _, rest = kind.partition(", ")
    measured = rest == "measured"
    front = pareto.Front((0.1, 4.0) if measured else (0.1, 100_000.0), linear=measured)
    sizes = {"size": lambda c: surface.count(c)[0], "max_size": 100_000, "measured": measured}
    context = SamplerContext(space, **sizes, front=front, n_epochs=30)  # type: ignore[arg-type]
    sampler = SeededSampler.make(kind, context)

    def tell(ticket: Any, config: dict[str, Any], number: int) -> None:
        n_epochs, size = (30, 3, 9)[number % 3], surface.count(config)[0]
        if measured:
            size = surface.costs(config)["cost/latency_ms"]
        for epoch, top1 in enumerate(surface.curve(config, seed=number, epochs=30), 1):
            if epoch > n_epochs:
                break
            sampler.report(ticket, epoch, top1, size)
        if n_epochs == 30:
            front.add(top1, size, number)
            sampler.tell(ticket, Result.COMPLETE, top1=top1, size=size)
        else:
            sampler.tell(ticket, Result.PRUNED)

    for number in range(n_trials):
        config = draw_uniformly(space, by)
        tell(sampler.add(config, drawn=True), config, number)
    found = []
    for number in range(n_trials, n_trials + N_TIMED + 1):
        begun, busy = time.perf_counter(), time.process_time()
        answer = sampler.draw()
        found.append((1000 * (time.perf_counter() - begun), 1000 * (time.process_time() - busy)))
        if isinstance(answer, NewConfig):  # else a stopped trial resumes
            tell(answer.ticket, answer.config, number)
    return found[1:]  # the first one fits the hyperparameters, which a study of so many trials has long done


def study(kind: str, n_trials: int, n_workers: int) -> dict[str, Any]:
    """One simulated study, in this process."""
    budget = {"n_trials": n_trials, "epochs": 30, "max_params": 100_000}
    search = {"sampler": kind, "rungs": {"grace": 3, "factor": 3}}
    file = check({"study": "s", "data": {"kind": "synthetic"}, "methods": METHODS, "budget": budget, "search": search})
    surface, clock, begun = Surface("valley", 0), simulated.VirtualClock(), time.perf_counter()
    made = simulated.create(file, surface, clock)
    simulated.run(made, lambda: SurfaceTrainable(surface), clock, n_workers=n_workers)
    return {
        "sampler": kind,
        "n_trials": len(made.trials),
        "n_workers": n_workers,
        "n_epochs": sum(trial.epochs for trial in made.trials),
        "minutes": (time.perf_counter() - begun) / 60,
        "core": time.process_time() / 60,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("asks", "studies", "study"))
    parser.add_argument("--samplers", nargs="+", default=None)
    asked = parser.parse_args()
    if asked.verb == "study":
        print(json.dumps(study(asked.samplers[0], *STUDIES[asked.samplers[0]])))
        return
    if asked.verb == "asks":
        text = (
            "| sampler | trials told | one ask, median (ms) | slowest of 30 | of a core, median (ms) | slowest of 30 | aim (ms) |\n"
        )
        text += "|---|---:|---:|---:|---:|---:|---:|\n"
        for kind in asked.samplers or ("auto", "auto, measured", "random"):
            for n_trials, limit in LIMITS_MS.items():
                columns = list(zip(*asks(kind, n_trials), strict=True))
                cells = " | ".join(f"{statistics.median(column):.1f} | {max(column):.1f}" for column in columns)
                text += f"| {kind} | {n_trials:,} | {cells} | {limit} |\n"
    else:
        text = "| sampler | trials | workers | epochs | minutes (aim: 10) | of a core | largest memory, MiB (aim: 1,536) |\n"
        text += "|---|---:|---:|---:|---:|---:|---:|\n"
        for kind in asked.samplers or STUDIES:
            command = [sys.executable, __file__, "study", "--samplers", kind]
            one = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            text += (
                "| {sampler} | {n_trials:,} | {n_workers:,} | {n_epochs:,} | {minutes:.1f} | {core:.1f} | {mib:,.0f} |\n".format(
                    **one
                )
            )
    (RESULTS / f"simulator-{asked.verb}.md").write_text(
        f"{text}\n{os.cpu_count()} cores, shared with others while it ran; `python benchmarks/simulator.py {asked.verb}`.\n"
    )
    print(text)


if __name__ == "__main__":
    main()
