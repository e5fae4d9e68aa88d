"""How a search scales over nodes: `python benchmarks/scaling.py`.

Real raylets on this machine (`ray.cluster_utils.Cluster`), one slot each, and trials that sleep like epochs of 5 s on a GPU. For 1,
2, 4 and 8 nodes: trials per hour against ideal, from the first trial's start to the last one's end (with the start of workers) and
once every slot has reported; and the driver's CPU a result, in all and ours beyond Tune's own (ask, report, obey; with the ledger).

Each size is a process of its own. The result is results/scaling.md.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if Path(sys.path[0]) == Path(__file__).parent:
    sys.path.pop(0)  # where `search` would be benchmarks/search.py

RESULTS = Path(__file__).parent / "results" / "scaling.md"
NODES = (1, 2, 4, 8)
OURS = ("ask", "report", "left", "obey", "lost", "tell")


def one(n_nodes: int, rounds: int, epochs: int, seconds: float) -> dict[str, Any]:
    """A search on so many nodes, here."""
    import ray
    from ray.cluster_utils import Cluster

    import search
    from search.study.study import Study

    clock = _Clock()
    for name in OURS:
        setattr(Study, name, clock.timed(getattr(Study, name), tick=name == "report"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(n_nodes):
        cluster.add_node(num_cpus=1)
    os.environ["RAY_ADDRESS"] = cluster.address
    with tempfile.TemporaryDirectory() as folder:
        study = search.run(
            {
                "study": "scaling",
                "data": {"kind": "synthetic", "epoch_seconds": seconds},
                "methods": ["lora", "arc"],
                "budget": {"n_trials": rounds * n_nodes, "epochs": epochs, "max_params": 50_000},
                "search": {"sampler": "random"},
                "storage": folder,
            }
        )
        first = min(trial.started for trial in study.history)
        last = max(report.time for report in study.epochs)
        warm = sorted(report.time for report in study.epochs)[n_nodes - 1]  # every slot has reported once
        later = [report for report in study.epochs if report.time > warm]
    ray.shutdown()
    cluster.shutdown()
    n = len(study.epochs)
    (all_before, ours_before), (all_after, ours_after) = clock.ticks[n_nodes - 1], clock.ticks[-1]
    return {
        "nodes": n_nodes,
        "trials": len(study.history),
        "results": n,
        "trials_per_hour": 3600 * len(study.history) / (last - first),
        "ideal": 3600 * n_nodes / (epochs * seconds),
        "warm": len(later) * seconds / n_nodes / (last - warm),
        "driver_ms": 1000 * (all_after - all_before) / (n - n_nodes),
        "ours_ms": 1000 * (ours_after - ours_before) / (n - n_nodes),
    }


class _Clock:
    """CPU seconds of this process, and of the study's own methods in it, noted at each report."""

    def __init__(self) -> None:
        self.ticks: list[tuple[float, float]] = []
        self._ours = 0.0

    def timed(self, method: Callable[..., Any], *, tick: bool) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            begun = time.thread_time()
            try:
                return method(*args, **kwargs)
            finally:
                self._ours += time.thread_time() - begun
                if tick:
                    self.ticks.append((time.process_time(), self._ours))

        return timed


def table(rows: list[dict[str, Any]], asked: argparse.Namespace) -> str:
    lines = [
        "# A search on several nodes",
        "",
        f"Trials of {asked.epochs} epochs that sleep {asked.seconds:g} s each, {asked.rounds} for each slot, one slot a node; "
        f"raylets on one machine with {os.cpu_count()} cores. Made by `python benchmarks/scaling.py`.",
        "",
        "| nodes | trials | trials an hour | ideal | of ideal | of ideal, once warm | driver's CPU a result, ms | ours, ms |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        share = row["trials_per_hour"] / row["ideal"]
        lines.append(
            f"| {row['nodes']} | {row['trials']} | {row['trials_per_hour']:,.0f} | {row['ideal']:,.0f} | {share:.1%} "
            f"| {row['warm']:.1%} | {row['driver_ms']:.1f} | {row['ours_ms']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--one", type=int, metavar="NODES", help="one size, here, as JSON")
    parser.add_argument("--rounds", type=int, default=6, help="trials for each slot")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=5.0, help="of an epoch")
    asked = parser.parse_args()
    if asked.one is not None:
        print(json.dumps(one(asked.one, asked.rounds, asked.epochs, asked.seconds)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        token = Path(folder) / "token"
        token.write_text(secrets.token_hex(32))
        environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0"}
        for n_nodes in NODES:
            command = [sys.executable, __file__, "--one", str(n_nodes), "--rounds", str(asked.rounds)]
            command += ["--epochs", str(asked.epochs), "--seconds", str(asked.seconds)]
            done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    RESULTS.write_text(table(rows, asked))
    print(table(rows, asked))


if __name__ == "__main__":
    main()
