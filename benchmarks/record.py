"""Recording a study in MLflow: in batches as we do, against one call per metric; and what a study of 10,000 trials takes.

    python benchmarks/record.py [--trials 500] [--many 10000] [--browser]

Both sides record the same study into fresh SQLite stores, in one run, one after the other. One call per metric is what MLflow's
tutorials and Ray's logger do; it is measured on a part of the trials (`--sample`) and scaled, because it takes long.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

sys.path[0] = str(Path(__file__).parents[1])  # instead of this file's own folder, where `search` would be benchmarks/search.py

from mlflow import MlflowClient

from search import metrics
from search.storage.sql_ledger import SqlLedger
from search.storage.writer import LedgerWriter
from search.tracking.mlflow_client import RunStore
from search.tracking.sync import MlflowSync
from search.tracking.verify import differences
from search.trial import State, Trial

METRICS = ("val/top1", "val/loss", "train/loss", "cost/train_seconds", "cost/eval_seconds", "cost/peak_memory_bytes")


def study(folder: Path, n_trials: int, n_epochs: int) -> Path:
    """A ledger with so many finished trials."""
    tick = itertools.count(1_790_000_000.0, 0.25)
    facts = {
        "n_classes": 10,
        "backbone_params": 600_000,
        "max_params": 99_999,
        "reference_point": [0.1, 99_999],
        "n_validation": 800,
    }
    file = {
        "study": "many",
        "backbone": {"name": "vit_glyphs", "weights": None},
        "data": {"kind": "digits"},
        "methods": ["lora", "arc"],
        "budget": {"n_trials": n_trials, "epochs": n_epochs},
    }
    ledger = SqlLedger.create(folder / "many" / "ledger.db", name="many", file=file, facts=facts, now=lambda: next(tick))
    for first in range(0, n_trials, 100):
        with ledger.decision() as writer:  # as if in one moment: making the ledger is not measured
            for number in range(first, min(first + 100, n_trials)):
                finish(writer, number, n_epochs)
    ledger.close()
    return ledger.path


def finish(writer: LedgerWriter, number: int, n_epochs: int) -> None:
    """One trial, from its start to its end."""
    method, size = ("lora", "arc")[number % 2], 100 + (number * 7919) % 90_000
    config = {"method": method, f"{method}.rank": 1 + number % 32, "optim.lr": 1e-3, "optim.batch_size": 32}
    trial = writer.start(Trial(number, State.RUNNING, config, number, size, 650))
    for epoch in range(1, n_epochs + 1):
        top1 = 0.5 + 0.4 * ((number * 104_729) % 1_000) / 1_000 * epoch / n_epochs
        trial = writer.report(trial, epoch, dict.fromkeys(METRICS, 0.5) | {"val/top1": top1})
    writer.finish(trial, State.COMPLETE)


def one_by_one(path: Path, uri: str, sample: int) -> float:
    """Seconds that one call for each metric, parameter and tag takes, of the first trials."""
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("one-by-one")
    ledger = SqlLedger.open(path)
    trials, reports = ledger.trials()[:sample], [report for n in range(sample) for report in ledger.reports(trial=n)]
    ledger.close()
    began = time.perf_counter()
    for trial in trials:
        run = client.create_run(experiment, run_name=trial.label).info.run_id
        for key, value in trial.config.items():
            client.log_param(run, key, value)
        for report in (r for r in reports if r.trial == trial.number):
            for key, value in report.metrics.items():
                client.log_metric(run, key, value, step=report.epoch)
        client.set_terminated(run)
    return time.perf_counter() - began


def page(store: RunStore, path: Path) -> dict[str, float]:
    """Seconds that MLflow takes for what its pages ask of a study."""
    asked = {
        "the table, newest first": ("", ["attributes.start_time DESC"]),
        "the table by accuracy": ("", ["metrics.`val/top1` DESC"]),
        "the front by accuracy": ("tags.`paretune.front` = 'true'", ["metrics.`val/top1` DESC"]),
        "one method by accuracy": ("tags.`paretune.method` = 'lora'", ["metrics.`val/top1` DESC"]),
        "under 1,000 parameters": ("metrics.adapter_params <= 1000", ["metrics.`val/top1` DESC"]),
    }
    found = {}
    for what, (query, order) in asked.items():
        times = []
        for _ in range(3):
            began = time.perf_counter()
            store._client.search_runs([store.experiment_id], query, max_results=100, order_by=order)
            times.append(time.perf_counter() - began)
        found[what] = sorted(times)[1]
    return found


def in_a_browser(folder: Path, store: RunStore) -> None:
    """Seconds until Chromium shows what somebody came for, and how many of them are MLflow's answers, on a real server."""
    from tests.search.browser import Browser
    from tests.search.mlflow_server import server_in

    found = store._client.search_runs([store.experiment_id], "tags.`paretune.n_ended` != ''")
    best = store._client.search_runs([store.experiment_id], "", max_results=1, order_by=["metrics.`val/top1` DESC"])
    experiment = f"#/experiments/{store.experiment_id}/runs"
    by_accuracy = "orderByKey=metrics.%60val%2Ftop1%60&orderByAsc=false"
    front = "searchFilter=tags.%60paretune.front%60%20%3D%20%27true%27"
    name = f"document.body.innerText.includes('{best[0].info.run_name}')"
    shown = {
        "the study's page, its answer and its picture": (
            f"{experiment}/{found[0].info.run_id}",
            "document.body.innerText.includes('validation images') && [...document.images].some(i => "
            "i.src.includes('front-small.png') && i.complete && i.naturalWidth > 700)",
        ),
        "the table by accuracy": (f"{experiment}?{by_accuracy}", name),
        "the front by accuracy": (f"{experiment}?{front}&{by_accuracy}", name),
    }
    # of the calls to MLflow's interface: when the last one that the page needed was answered, and the sum of the slowest ones
    calls = "performance.getEntriesByType('resource').filter(e => e.name.includes('/ajax-api/') || e.name.includes('get-artifact'))"
    print("\n| in Chromium, a warm cache | seconds | of these MLflow's slowest answer |\n|:--|--:|--:|", flush=True)
    with server_in(folder) as server, Browser(1600, 1000) as browser:
        for what, (place, there) in shown.items():
            times = []
            for _ in range(4):  # the first fills the cache with MLflow's program
                began = time.perf_counter()
                browser.open(f"{server}/{place}")
                browser.wait(there, timeout=120)
                slowest = browser.evaluate(f"Math.max(...{calls}.map(e => e.duration))") / 1000
                times.append((time.perf_counter() - began, slowest))
            seconds, slowest = sorted(times[1:])[1]
            print(f"| {what} | {seconds:.2f} | {slowest:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--sample", type=int, default=25)
    parser.add_argument("--many", type=int, default=10_000)
    parser.add_argument("--browser", action="store_true", help="open MLflow's pages of the many in Chromium, too")
    options = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n")
    with tempfile.TemporaryDirectory() as folder:
        path, uri = study(Path(folder), options.trials, options.epochs), f"sqlite:///{folder}/mlflow.db"
        MlflowClient(tracking_uri=uri).search_experiments()  # makes the store: counts for neither side
        began = time.perf_counter()
        MlflowSync(path, uri).sync()
        ours = time.perf_counter() - began
        slow = one_by_one(path, uri, options.sample) * options.trials / options.sample
        MlflowSync(path, uri).sync(final=True)  # the artifacts, which the other side does not make
        n_points = options.trials * options.epochs * len(METRICS)
        print(f"{options.trials} trials x {options.epochs} epochs x {len(METRICS)} metrics = {n_points:,} points\n")
        print("| | seconds | points/s |\n|:--|--:|--:|")
        print(f"| paretune, in batches | {ours:.1f} | {n_points / ours:,.0f} |")
        print(f"| one call per metric (scaled from {options.sample} trials) | {slow:.1f} | {n_points / slow:,.0f} |")
        print(f"\n{slow / ours:.1f} times faster; {len(differences(path, uri))} differences to the ledger afterwards\n", flush=True)
    if not options.many:
        return
    with tempfile.TemporaryDirectory() as folder:
        path, uri = study(Path(folder), options.many, 2), f"sqlite:///{folder}/mlflow.db"
        MlflowClient(tracking_uri=uri).search_experiments()
        began = time.perf_counter()
        MlflowSync(path, uri).sync()
        print(f"{options.many:,} trials recorded in {time.perf_counter() - began:.0f} s\n", flush=True)
        store = RunStore.open(uri, "many", Path(folder), metrics.METRICS[metrics.TOP1], "adapter_params")
        plain = page(store, path)
        began = time.perf_counter()
        MlflowSync(path, uri).sync(final=True)  # with ANALYZE
        print(f"their last full sync, with nothing but artifacts to send: {time.perf_counter() - began:.0f} s\n")
        began = time.perf_counter()
        found = differences(path, uri)
        print(f"`paretune sync --check` of them: {time.perf_counter() - began:.0f} s, {len(found)} differences\n", flush=True)
        print("| what MLflow's pages ask, 100 rows | seconds | after ANALYZE |\n|:--|--:|--:|")
        for what, seconds in page(store, path).items():
            print(f"| {what} | {plain[what]:.3f} | {seconds:.3f} |")
        if options.browser:
            in_a_browser(Path(folder), store)


if __name__ == "__main__":
    main()
