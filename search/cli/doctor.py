"""`paretune doctor`: checks of everything that a search needs, with remedies."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from search.cli.options import DEFAULT_STORAGE, Json, MaybeStorage, print_json
from search.cli.terminal import Terminal

if TYPE_CHECKING:
    from cluster.health import Finding

app = typer.Typer()


@app.command()
def doctor(
    *,
    storage: MaybeStorage = None,
    address: Annotated[
        str | None, typer.Option(envvar="PARETUNE_ADDRESS", metavar="URL", help="A Ray cluster whose nodes are checked as well.")
    ] = None,
    pip: Annotated[bool, typer.Option("--pip", help="See submit.")] = False,
    unprotected: Annotated[bool, typer.Option("--unprotected", help="See submit.")] = False,
    as_json: Json = False,
) -> None:
    """Check versions, packages, storage, MLflow and GPUs, here or on a cluster; print remedies (exit code 1 on a problem)."""
    from cluster import health
    from search.storage import checkpoints, object_store
    from search.tracking.mlflow_client import tracking_uri

    if address is not None:
        raise typer.Exit(_on_cluster(address, _checked(storage), pip=pip, unprotected=unprotected, as_json=as_json))
    named = _checked(storage)
    storage_folder = checkpoints.impatient(checkpoints.open_folder(named))
    home = DEFAULT_STORAGE if object_store.is_address(named) else Path(named)
    findings = [*health.machine(health.here()), health.storage(storage_folder), health.tracking(tracking_uri(home))]
    if os.environ.get("RAY_ADDRESS") and findings[-2].good:
        from cluster.connect import connected
        from cluster.nodes import MEND_OPEN, autoscales, open_to_anyone

        with connected():
            open_to = open_to_anyone()
            findings.append(
                health.Finding("token", open_to is None, open_to or "not needed, or required", MEND_OPEN if open_to else "")
            )
            if autoscales():
                findings.append(health.Finding("autoscaler", True, "starts nodes when trials wait for room; current nodes:"))
            findings += health.nodes(storage_folder.absolute() if isinstance(storage_folder, Path) else storage_folder)
    _show(findings, as_json=as_json)
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


def _on_cluster(address: str, storage: str, *, pip: bool, unprotected: bool, as_json: bool) -> int:
    """Run the checks on a cluster, as a short job."""
    from cluster.jobs import Cargo
    from cluster.upload import requirements, stage
    from search.cli.cluster import connected
    from search.errors import RequestError
    from search.storage import object_store

    if not object_store.is_address(storage) and not Path(storage).is_absolute():
        raise RequestError(
            f"--storage: {storage} is a path of this machine; give an absolute one that every node of the cluster has"
        )
    jobs = connected(address, unprotected=unprotected)
    with tempfile.TemporaryDirectory(prefix="paretune-job-") as folder:
        stage(Path(folder), {})
        cargo = Cargo(folder, {}, requirements() if pip else None)
        command = ["doctor", "--storage", storage, *(["--json"] if as_json else [])]
        return jobs.ask("doctor", command, storage=storage, cargo=cargo, say=sys.stdout.write)


def _checked(storage: str | None) -> str:
    """Check the storage of the command line, a path or an address.

    Raises:
        RequestError: If it may contain a secret.
    """
    from search.errors import RequestError
    from search.storage import object_store

    try:
        return object_store.check_address(storage or str(DEFAULT_STORAGE))
    except ValueError as error:
        raise RequestError(f"--storage: {error}") from None


def _show(findings: Iterable[Finding], *, as_json: bool) -> None:
    if as_json:
        print_json([asdict(finding) for finding in findings])
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark = Text("good", style="green") if finding.good else Text("bad", style="red")
        table.add_row(mark, finding.what, finding.found)
        if not finding.good:
            table.add_row("", "", finding.remedy, style="bold")
    Terminal().print(table)
