"""`paretune doctor`: is everything there that a search needs, and if not, how is it mended?"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from search.arguments import DEFAULT_STORAGE, Json, Storage, print_json

if TYPE_CHECKING:
    from cluster.health import Finding

app = typer.Typer()


@app.command()
def doctor(
    *,
    storage: Storage = DEFAULT_STORAGE,
    address: Annotated[
        str | None, typer.Option(envvar="PARETUNE_ADDRESS", metavar="URL", help="Look at this cluster's nodes, too.")
    ] = None,
    pip: Annotated[bool, typer.Option("--pip", help="As of submit.")] = False,
    unprotected: Annotated[bool, typer.Option("--unprotected", help="As of submit.")] = False,
    as_json: Json = False,
) -> None:
    """Look at versions, packages, storage, MLflow and GPUs, here or on a cluster, and how to mend what is wrong (exit code 1)."""
    from cluster import health
    from search.mlflow_store import tracking_uri, without_secret

    if address is not None:
        raise typer.Exit(_on_cluster(address, storage, pip=pip, unprotected=unprotected, as_json=as_json))
    findings = [*health.machine(health.here()), health.storage(storage), health.tracking(without_secret(tracking_uri(storage)))]
    if os.environ.get("RAY_ADDRESS") and findings[-2].good:
        from cluster.connect import connected

        with connected():
            findings += health.nodes(storage.absolute())
    _show(findings, as_json=as_json)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _on_cluster(address: str, storage: Path, *, pip: bool, unprotected: bool, as_json: bool) -> int:
    """The same, as a short job there."""
    from cluster.jobs import Cargo
    from cluster.upload import requirements, stage
    from search.cluster_commands import connected
    from search.errors import RequestError

    if not storage.is_absolute():
        raise RequestError(
            f"--storage: {storage} is a path of this machine; give an absolute one that every node of the cluster has"
        )
    jobs = connected(address, unprotected=unprotected)
    with tempfile.TemporaryDirectory(prefix="paretune-job-") as folder:
        stage(Path(folder), {})
        cargo = Cargo(folder, {}, requirements() if pip else None)
        command = ["doctor", "--storage", str(storage), *(["--json"] if as_json else [])]
        return jobs.ask("doctor", command, storage=str(storage), cargo=cargo, say=sys.stdout.write)


def _show(findings: Iterable[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = "[green]good[/]" if finding.good else "[red]bad[/]"
        remedy = "" if finding.good else f"\n[bold]{finding.remedy}[/]"
        table.add_row(mark, finding.what, f"{finding.found}{remedy}")
    Console(highlight=False).print(table)
