"""What a search costs beside its training: `paretune run` against the script that Ray's documentation would have a user write.

Three arms, interleaved, each a process of its own, with the same 64 configurations (LoRA; ours goes first and draws them), the same
epochs, the same two slots, the same backbone and data, and the same training arithmetic (`trainables.make`), so that only what
surrounds the training differs:

    plain    tune.Tuner with a function trainable, OptunaSearch and MLflowLoggerCallback
    reuse    the same with reuse_actors=True
    ours     paretune run (which also trains the head-only anchor, writes a checkpoint every epoch and a durable ledger)

The plain arms write no checkpoint. Two walls are reported: the whole command, and the search alone (from Ray being up to the last
record written). `busy` is the share of search wall x slots that is training and evaluation.

A hand-written LoRA step, as the plain script would have it, is timed apart, one after the other in one process.

    python benchmarks/overhead.py [--repeats 3] [--trials 64] [--epochs 4]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

RANKS = (1, 2, 4, 8)
SLOTS = 2
MAKE = {"backbone": {"name": "vit_glyphs"}, "data": {"kind": "digits"}, "recipe": {"n_threads": 1}}


FIXED = {
    "lora.scale": 1.0,
    "lora.targets": "qv",
    "lora.layers": "all",
    "lora.dropout": 0.1,
    "optim.weight_decay": 1e-4,
    "optim.batch_size": 32,
    "recipe.drop_path": 0.1,
}


# -- the plain script ------------------------------------------------------------------------------------------------------------


def train(config: dict[str, Any]) -> None:
    """A function trainable: build everything, train, report every epoch."""
    from ray import tune

    from trainables import make, measure

    sizes = measure(MAKE["backbone"], MAKE["data"])
    epochs = config.pop("epochs")
    trial = make(**MAKE)
    trial.start(config, seed=0, epochs=epochs, folder=None)
    for _ in range(epochs):
        metrics = trial.step()
        busy = metrics["cost/train_seconds"] + metrics["cost/eval_seconds"]
        tune.report({"top1": metrics["val/top1"], "params": sizes.count(config)[0], "busy": busy})


def plain(folder: Path, points: list[dict[str, Any]], epochs: int, *, reuse: bool) -> dict[str, float]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False)
    begun = time.time()
    n_trials = len(points)
    space = {key: tune.choice(sorted({point[key] for point in points}, key=str)) for key in points[0]} | {
        "epochs": tune.choice([epochs])
    }
    search = OptunaSearch(
        metric=["top1", "params"], mode=["max", "min"], points_to_evaluate=[p | {"epochs": epochs} for p in points]
    )
    record = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="plain", save_artifact=False)
    tuner = tune.Tuner(
        tune.with_resources(train, {"cpu": 1}),
        param_space=None,
        tune_config=tune.TuneConfig(
            search_alg=_with_space(search, space), num_samples=n_trials, max_concurrent_trials=SLOTS, reuse_actors=reuse
        ),
        run_config=tune.RunConfig(storage_path=str(folder), name="plain", callbacks=[record], verbose=0),
    )
    results = tuner.fit()
    wall = time.time() - begun
    busy = sum(float(result.metrics_dataframe["busy"].sum()) for result in results)
    ray.shutdown()
    return {"search": wall, "busy": busy, "trials": len(results)}


def _with_space(search: Any, space: dict[str, Any]) -> Any:
    search.set_search_properties(None, None, space)
    return search


# -- ours ------------------------------------------------------------------------------------------------------------------------


def ours(folder: Path, n_trials: int, epochs: int) -> dict[str, Any]:
    study = {
        "study": "overhead",
        "data": {"kind": "digits"},
        "methods": ["lora"],
        "space": FIXED | {"lora.rank": list(RANKS), "optim.lr": {"low": 1e-4, "high": 1e-2, "log": True}},
        "budget": {"n_trials": n_trials + 1, "epochs": epochs},
        "search": {"sampler": "random"},
    }
    path = folder / "overhead.json"  # JSON is YAML
    path.write_text(json.dumps(study))
    command = [sys.executable, "-m", "search.cli", "run", str(path), "--storage", str(folder), "--cpus", str(SLOTS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    from search.storage.sql_ledger import SqlLedger

    ledger = SqlLedger.open(folder / "overhead" / "ledger.db")
    events, reports = ledger.events(), ledger.reports()
    busy = {(r.trial, r.epoch): r.metrics["cost/train_seconds"] + r.metrics["cost/eval_seconds"] for r in reports}
    started = {e.trial: e.time for e in events if e.kind == "started"}
    waited = sorted(r.time - started[r.trial] - busy[r.trial, 1] for r in reports if r.epoch == 1 and r.trial >= SLOTS)
    recorded = max((folder / "overhead" / name).stat().st_mtime for name in ("mlflow.json", "front.png"))
    return {
        "search": recorded - events[0].time,
        "busy": sum(busy.values()),
        "trials": len(started),
        "setup_ms": 1000 * statistics.median(waited),
        "points": [trial.config for trial in ledger.trials()[1:]],  # without the head-only anchor
    }


# -- a step by hand ----------------------------------------------------------------------------------------------------------------


def step_by_hand(epochs: int) -> dict[str, float]:
    """One process: epochs of our trial and of a hand-written LoRA in turn; seconds of training and evaluation per epoch."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from trainables import backbones, data, make

    class HandLoRA(nn.Module):
        def __init__(self, qkv: nn.Linear, rank: int) -> None:
            super().__init__()
            self.qkv, d = qkv, qkv.in_features
            self.a = nn.ModuleList(nn.Linear(d, rank, bias=False) for _ in range(2))
            self.b = nn.ModuleList(nn.Linear(rank, d, bias=False) for _ in range(2))
            self.drop = nn.Dropout(0.1)
            for b in self.b:
                nn.init.zeros_(b.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            d = self.qkv.in_features
            qkv = self.qkv(x)
            qkv[..., :d] += self.b[0](self.drop(self.a[0](x)))
            qkv[..., -d:] += self.b[1](self.drop(self.a[1](x)))
            return qkv

    config = FIXED | {"method": "lora", "lora.rank": 8, "optim.lr": 1e-3}
    trial = make(**MAKE)
    trial.start(config, seed=0, epochs=2 * epochs, folder=None)
    model = backbones.create("vit_glyphs")
    wanted = backbones.preprocessing(model)
    splits, normalise = data.load(MAKE["data"], wanted), data.Normaliser(wanted, torch.device("cpu"))
    model.requires_grad_(False)
    model.reset_classifier(10)
    for block in model.blocks:
        block.attn.qkv = HandLoRA(block.attn.qkv, 8)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3, weight_decay=1e-4)

    def epoch_by_hand() -> float:
        begun = time.perf_counter()
        model.train()
        images, labels = splits["train"].images, splits["train"].labels
        for index in torch.randperm(len(labels))[: len(labels) // 32 * 32].split(32):
            F.cross_entropy(model(normalise(images[index])), labels[index]).backward()
            optimiser.step()
            optimiser.zero_grad()
        model.eval()
        with torch.inference_mode():
            for images, labels in zip(splits["validation"].images.split(200), splits["validation"].labels.split(200), strict=True):
                (model(normalise(images)).argmax(1) == labels).sum().item()
        return time.perf_counter() - begun

    pairs = []
    for _ in range(2 * epochs):
        metrics = trial.step()
        pairs.append((metrics["cost/train_seconds"] + metrics["cost/eval_seconds"], epoch_by_hand()))
    ratios = sorted(hand / own for own, hand in pairs[2:])
    return {"ratio": statistics.median(ratios), "low": ratios[0], "high": ratios[-1]}


# -- the table ---------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--trials", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--arm", choices=["plain", "reuse", "ours", "step"], help="run one arm here and print its figures")
    options = parser.parse_args()
    if options.arm:
        points = json.loads(sys.stdin.read() or "[]") if options.arm in ("plain", "reuse") else []
        with tempfile.TemporaryDirectory() as folder:
            arms: dict[str, Callable[[], dict[str, Any]]] = {
                "plain": lambda: plain(Path(folder), points, options.epochs, reuse=False),
                "reuse": lambda: plain(Path(folder), points, options.epochs, reuse=True),
                "ours": lambda: ours(Path(folder), options.trials, options.epochs),
                "step": lambda: step_by_hand(10),
            }
            print(json.dumps(arms[options.arm]()))
        return
    runs: dict[str, list[dict[str, Any]]] = {"ours": [], "reuse": [], "plain": []}
    for _ in range(options.repeats):
        points: list[dict[str, Any]] = []
        for arm, results in runs.items():  # ours goes first: the others get its configurations
            results.append(_arm(arm, options, points))
            points = results[-1].pop("points", points)
            print(arm, results[-1], flush=True)
    step = _arm("step", options, [])
    table = _table(runs, step, options)
    print(table)
    (Path(__file__).parent / "results" / "overhead.md").write_text(table)


def _arm(arm: str, options: argparse.Namespace, points: list[dict[str, Any]]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--arm", arm, "--trials", str(options.trials), "--epochs", str(options.epochs)]
    begun = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, input=json.dumps(points))
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures | {"command": time.time() - begun}


def _table(runs: dict[str, list[dict[str, float]]], step: dict[str, float], options: argparse.Namespace) -> str:
    def spread(values: list[float], digits: int = 1) -> str:
        return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"

    columns = ["arm", "whole command, s", "search, s", "training + evaluation, s a trial", "busy", "overhead, s a trial"]
    columns += ["search, times ours", "command, times ours"]
    lines = [
        f"# Overhead of a search: {options.trials} LoRA trials of {options.epochs} epochs, {SLOTS} slots",
        "",
        f"Median (lowest to highest) of {options.repeats} interleaved runs on {os.cpu_count()} CPU cores. "
        "Made by `python benchmarks/overhead.py`.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    names = {"plain": "plain Tune script", "reuse": "the same, `reuse_actors=True`", "ours": "`paretune run`"}
    for arm, results in runs.items():
        busy = [r["busy"] / (SLOTS * r["search"]) for r in results]
        each = [r["busy"] / r["trials"] for r in results]
        overhead = [(SLOTS * r["search"] - r["busy"]) / r["trials"] for r in results]
        ratio = [r["search"] / o["search"] for r, o in zip(results, runs["ours"], strict=True)]
        whole = [r["command"] / o["command"] for r, o in zip(results, runs["ours"], strict=True)]
        figures = [
            spread([r["command"] for r in results]),
            spread([r["search"] for r in results]),
            spread(each, 2),
            spread(busy, 2),
            spread(overhead, 2),
            spread(ratio, 2),
            spread(whole, 2),
        ]
        lines.append(f"| {names[arm]} | " + " | ".join(figures) + " |")
    setup = spread([r["setup_ms"] for r in runs["ours"]], 0)
    lines += [
        "",
        f"From the decision to start a trial to its first epoch under way, second and later trials of a slot: {setup} ms.",
        f"A hand-written LoRA epoch (training and evaluation) takes {step['ratio']:.2f} times ours "
        f"({step['low']:.2f} to {step['high']:.2f}), one after the other in one process.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
