"""A table of real learning curves: `python benchmarks/table.py record`, then `collect` writes results/emoji-table.parquet and .md.

Configurations of every method's packaged space are trained on a packaged question, to full epochs, and every epoch is kept, so that
ways to search can be compared by anyone in seconds (`paretune simulate`, benchmarks/search.py) on what training really does. On the
emoji, batches and regularisation are those of the packaged study, learning rates those around its. `--question digits` is the older
table, of the methods of its time.

Which configurations: for each adapter its paper's default and seeded random draws, the same number for each; for the anchors
without knobs of their own (head_only, layer_norm, bitfit, full) fewer. A draw that repeats one, is impossible or exceeds MAX_PARAMS
adapter parameters is drawn again. `full` has more than that. All are trained with seed 0; the first few of each adapter with seeds
1 and 2 too.

`record` works in slices: every finished run is one line in a file of its worker, a second call goes on with what is missing, and
several workers share the runs (`--worker 0 --workers 2`). The order takes all methods in turn, so that a part is a fair sample.
`collect` may write a part; runs that the table in results/ has already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pyarrow as pa
import pyarrow.parquet as pq

import spaces
from trainables import make, measure
from trainables.data import n_images
from trainables.protocol import Sizes

RESULTS = Path(__file__).parent / "results"
MAX_PARAMS = 100_000  # of the adapter
ADAPTERS = tuple(method for method in spaces.SPACES if method not in ("head_only", "layer_norm", "bitfit", "full"))
LAYERS = ("all", "last-2", "last-4")  # values of the knob `layers`; the packaged spaces had no others when the table was begun
Run = tuple[str, dict[str, Any], tuple[int, int], int]  # method, configuration, (adapter, head) parameters, seed


@dataclass(frozen=True)
class Question:
    """What is trained for a table.

    Attributes:
        backbone: Name of the backbone.
        data: Kind of the data.
        epochs: Epochs of a run, as in the packaged study.
        anchors: Methods without knobs of their own.
        per_adapter: Configurations of each adapter.
        per_anchor: Configurations of each anchor.
        n_repeated: Configurations of each adapter that are trained with three seeds.
        space: Overrides of the shared knobs.
        curves: Metrics that are kept of every epoch.
    """

    backbone: str
    data: str
    epochs: int
    anchors: tuple[str, ...]
    per_adapter: int
    per_anchor: int
    n_repeated: int
    space: dict[str, Any]
    curves: tuple[str, ...]

    @property
    def make(self) -> dict[str, Any]:
        """The arguments of `trainables.make`."""
        return {"backbone": {"name": self.backbone}, "data": {"kind": self.data}, "recipe": {"n_threads": 1}}

    def sizes(self) -> Sizes:
        """What `trainables.measure` says of it."""
        return measure(self.make["backbone"], self.make["data"])


CURVES = ("val/top1", "val/loss", "train/loss", "cost/train_seconds", "cost/eval_seconds")
SHARED = {
    "optim.lr": {"low": 0.002, "high": 0.02, "log": True},
    "optim.weight_decay": 0.0001,
    "optim.batch_size": 32,
    "recipe.drop_path": 0.0,
}
ANCHORS = ("head_only", "layer_norm", "bitfit")
QUESTIONS = {
    "digits": Question("vit_glyphs", "digits", 30, ANCHORS, 50, 8, 5, {}, CURVES),
    "emoji": Question(
        "vit_emoji", "emoji", 6, (*ANCHORS, "full"), 34, 8, 2, SHARED, (*CURVES, "cost/gflops", "cost/peak_memory_bytes")
    ),
}


def draws(question: Question, method: str, n: int, sizes: Sizes) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """`n` different configurations of a method within the limit, the default first if it is, with their sizes."""
    space = spaces.joint([method]).with_overrides(question.space)
    if any(knob.key == f"{method}.layers" for knob in space.knobs(method)):
        space = space.with_overrides({f"{method}.layers": list(LAYERS)})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(method) + sum(map(ord, method))))
    config, seen = space.default(method), set()
    while len(seen) < n:
        key = json.dumps(config, sort_keys=True)
        try:
            params = sizes.count(config)
        except ValueError:
            params = (MAX_PARAMS + 1, 0)
        if key not in seen and (params[0] <= MAX_PARAMS or method == "full"):
            seen.add(key)
            yield dict(config), params
        config = space.suggest(study.ask())


def runs(question: Question) -> list[Run]:
    """All that is to be trained, in order."""
    sizes = question.sizes()
    of = {method: list(draws(question, method, question.per_adapter, sizes)) for method in ADAPTERS}
    of |= {method: list(draws(question, method, question.per_anchor, sizes)) for method in question.anchors}
    first = [(method, *of[method][i], 0) for i in range(question.per_adapter) for method in of if i < len(of[method])]
    again = [(method, *of[method][i], seed) for i in range(question.n_repeated) for seed in (1, 2) for method in ADAPTERS]
    return first + again


def key_of(run: Run) -> str:
    return json.dumps([run[1], run[3]], sort_keys=True)


def record(name: str, parts: Path, worker: int, n_workers: int, minutes: float) -> None:
    """Trains what is missing of this worker's share, for at most so many minutes."""
    question = QUESTIONS[name]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    parts.mkdir(parents=True, exist_ok=True)
    done = {json.dumps([line["config"], line["seed"]], sort_keys=True) for line in recorded(name, parts)}
    everything = enumerate(runs(question))
    # Turned by one each round: otherwise, with an even number of methods, one worker would get all runs of the slow ones.
    mine = [run for i, run in everything if (i + i // (len(ADAPTERS) + len(question.anchors))) % n_workers == worker]
    todo = [run for run in mine if key_of(run) not in done]
    trainable, begun = make(**question.make), time.monotonic()
    with (parts / f"worker-{worker}.jsonl").open("a") as file:
        file.write("\n")  # ends a line that a kill has torn
        for n, (method, config, (adapter_params, head_params), seed) in enumerate(todo):
            if time.monotonic() - begun > 60 * minutes:
                break
            epochs, problem = [], None
            try:
                trainable.start(config, seed=seed, epochs=question.epochs, folder=None)
                for _ in range(question.epochs):
                    epochs.append(trainable.step())  # noqa: PERF401 - what came before a failure is kept
            except FloatingPointError as error:  # diverged: a result too
                problem = str(error)
            trainable.finish()
            line = {"method": method, "config": config, "seed": seed, "adapter_params": adapter_params, "head_params": head_params}
            curves = {name: [epoch[name] for epoch in epochs] for name in question.curves}
            file.write(json.dumps(line | {"problem": problem} | curves) + "\n")
            file.flush()
            os.fsync(file.fileno())
            left = (time.monotonic() - begun) / (n + 1) * (len(todo) - n - 1)
            print(f"{n + 1} of {len(todo)}, {left / 60:.0f} min left", flush=True)


def recorded(name: str, parts: Path) -> list[dict[str, Any]]:
    """The runs of the table in results/, and every whole line that workers have written; a line torn by a kill is left out."""
    lines = in_results(name)
    known = {json.dumps([line["config"], line["seed"]], sort_keys=True) for line in lines}
    for part in sorted(parts.glob("worker-*.jsonl")):
        for text in part.read_text().splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if json.dumps([line["config"], line["seed"]], sort_keys=True) not in known:
                lines.append(line)
    return lines


def in_results(name: str) -> list[dict[str, Any]]:
    """The runs of the table in results/, if there is one of this question."""
    if not (path := RESULTS / f"{name}-table.parquet").is_file():
        return []
    table = pq.read_table(path)
    recipe, question = json.loads(table.schema.metadata[b"paretune.recipe"]), QUESTIONS[name]
    if any(
        recipe.get(key, {}) != value
        for key, value in (question.make | {"epochs": question.epochs, "space": question.space}).items()
    ):
        raise SystemExit(f"{path} is of another question; move it away")
    return [row | {"config": json.loads(row["config"])} for row in table.to_pylist()]


def collect(name: str, parts: Path) -> None:
    """Writes what is recorded as one Parquet with its recipe, and the summary beside it."""
    question = QUESTIONS[name]
    order = {key_of(run): i for i, run in enumerate(runs(question))}
    lines = sorted(recorded(name, parts), key=lambda line: order[json.dumps([line["config"], line["seed"]], sort_keys=True)])
    sizes = question.sizes()
    recipe = question.make | {
        "epochs": question.epochs,
        "max_params": MAX_PARAMS,
        "space": question.space,
        "backbone_params": sizes.backbone_params,
        "n_classes": sizes.n_classes,
        "n_validation": n_images(question.make["data"], "validation"),
        "n_runs_planned": len(order),
        "versions": {library: version(library) for library in ("torch", "timm", "optuna", "scikit-learn")},
        "machine": f"{platform.machine()}, {platform.system()}; one thread for each run, on two cores shared with others",
        "made_by": f"python benchmarks/table.py record --question {name}; python benchmarks/table.py collect --question {name}",
    }
    columns = {key: [line[key] for line in lines] for key in ("method", "seed", "adapter_params", "head_params", "problem")}
    columns["config"] = [json.dumps(line["config"], sort_keys=True) for line in lines]
    for curve in question.curves:
        kind = pa.float64() if curve == "val/top1" else pa.float32()
        columns[curve] = pa.array([line[curve] for line in lines], pa.list_(kind))
    table = pa.table(columns).replace_schema_metadata({"paretune.recipe": json.dumps(recipe)})
    pq.write_table(table, RESULTS / f"{name}-table.parquet", compression="zstd", compression_level=19)
    (RESULTS / f"{name}-table.md").write_text(summary(name, question, lines, recipe))
    print(f"{len(lines)} of {len(order)} runs")


def summary(name: str, question: Question, lines: list[dict[str, Any]], recipe: dict[str, Any]) -> str:
    """The Markdown beside the table."""
    configs = {json.dumps(line["config"], sort_keys=True) for line in lines}
    of_config: dict[str, list[float]] = {}
    for line in lines:
        if line["problem"] is None:
            of_config.setdefault(json.dumps(line["config"], sort_keys=True), []).append(line["val/top1"][-1])
    three = [tops for tops in of_config.values() if len(tops) == 3]
    n_methods, curves = len({line["method"] for line in lines}), ", ".join(f"`{curve}`" for curve in question.curves)
    versions = ", ".join(f"{library} {number}" for library, number in recipe["versions"].items())
    text = [
        "# The recorded table",
        "",
        f"{len(lines):,} runs of {len(configs):,} configurations over {n_methods} methods on the packaged {question.data},",
        f"{recipe['epochs']} epochs each, every epoch kept; {len(three)} configurations with three seeds.",
        f"`{name}-table.parquet` has one row for each run: `method`, `config` (JSON), `seed`, `adapter_params`, `head_params`,",
        f"`problem` (why it ended early) and the curves {curves}",
        "(lists over the epochs; seconds of a shared machine). The recipe is in the file's metadata (`paretune.recipe`).",
        f"Adapters have at most {recipe['max_params']:,} parameters; `full` fine-tuning has more. {recipe['machine']};",
        f"{versions}. Made by `{recipe['made_by']}`.",
        "",
    ]
    if three:
        spread = statistics.mean(statistics.stdev(tops) for tops in three)
        text += [f"Spread over three seeds (mean of the standard deviations): {100 * spread:.2f} points of `val/top1`.", ""]
    text += [
        "| method | runs | ended early | sizes | val/top1: lowest, median, highest (%) | seconds, median |",
        "|---|---:|---:|---|---|---:|",
    ]
    for method in (*question.anchors, *ADAPTERS):
        mine = [line for line in lines if line["method"] == method]
        if not mine:
            continue
        tops = sorted(100 * line["val/top1"][-1] for line in mine if line["problem"] is None)
        sizes = [line["adapter_params"] for line in mine]
        seconds = statistics.median(sum(line["cost/train_seconds"]) + sum(line["cost/eval_seconds"]) for line in mine)
        text.append(
            f"| {method} | {len(mine)} | {len(mine) - len(tops)} | {min(sizes):,} to {max(sizes):,} | "
            f"{tops[0]:.1f}, {statistics.median(tops):.1f}, {tops[-1]:.1f} | {seconds:.1f} |"
        )
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("record", "collect"))
    parser.add_argument("--parts", type=Path, help="where the workers write; paretune-studies/QUESTION-table")
    parser.add_argument("--question", choices=tuple(QUESTIONS), default="emoji")
    parser.add_argument("--worker", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=24 * 60.0)
    asked = parser.parse_args()
    parts = asked.parts or Path("paretune-studies") / f"{asked.question}-table"
    if asked.verb == "record":
        record(asked.question, parts, asked.worker, asked.workers, asked.minutes)
    else:
        collect(asked.question, parts)


if __name__ == "__main__":
    main()
